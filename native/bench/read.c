/*
 * Random 4 KiB reads, one thread, queue depth 1, through obd_image_read: three merged lz4 4k layers
 * in the page cache. Beside it: lookups alone, and lz4 alone on the same blocks in memory.
 *
 *	read [SECONDS [LOWER...]]	without LOWERs it makes its own, 64 MiB, in the current
 *directory
 */
#include <dirent.h>
#include <fcntl.h>
#include <lz4.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "obd_image.h"
#include "obd_index.h"
#include "support_image_files.h"

#define DISK_BYTES (64ull << 20)
#define SECTORS	   (DISK_BYTES / 512)
#define LAYERS	   3u
#define EXTENT	   256u /* sectors: a layer holds runs of this length */

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* What images hold: this host's libraries, repeated to fill the disk. */
static void fill_disk(uint8_t *disk)
{
	const char *folder = "/usr/lib/x86_64-linux-gnu";
	DIR *dir = opendir(folder);
	struct dirent *entry;
	uint64_t done = 0;
	uint64_t unique;

	REQUIRE(dir);
	while (done < DISK_BYTES && (entry = readdir(dir))) {
		int fd = openat(dirfd(dir), entry->d_name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
		ssize_t got = fd < 0 ? -1 : pread(fd, disk + done, DISK_BYTES - done, 0);

		if (got > 0)
			done += ((uint64_t)got + 4095) & ~4095ull;
		if (fd >= 0)
			close(fd);
	}
	closedir(dir);
	done = done < DISK_BYTES ? done : DISK_BYTES;
	REQUIRE(done > 0);
	unique = done;
	for (; done < DISK_BYTES; done += 4096)
		memcpy(disk + done, disk + done % unique, 4096);
	printf("image:             %llu MiB, %llu MiB of them unique\n", DISK_BYTES >> 20,
	       (unsigned long long)unique >> 20);
}

static void make_layers(const char *dir, uint8_t *disk, char paths[LAYERS][96])
{
	const struct image_zfile_options options = {.block_size = 4096,
						    .algo = 1,
						    .verify = true,
						    .is_overwritten = true,
						    .has_digest = true};
	struct obd_segment *segments = calloc(SECTORS / EXTENT, sizeof(*segments));
	uint64_t state = 11;

	REQUIRE(segments);
	fill_disk(disk);
	for (uint32_t l = 0; l < LAYERS; l++) {
		struct image_bytes layer;
		struct image_bytes zfile;
		size_t cnt = 0;

		for (uint64_t lba = 0; lba < SECTORS; lba += EXTENT) {
			if (l && image_random(&state) % 3)
				continue;
			segments[cnt++] = obd_segment_make(lba, EXTENT, 0, false, 0);
		}
		layer = image_layer_make(disk, SECTORS, segments, cnt);
		zfile = image_zfile_make(layer.at, layer.length, &options);
		snprintf(paths[l], sizeof(paths[l]), "%s/layer%u", dir, l);
		image_file_write(paths[l], zfile.at, zfile.length);
		free(layer.at);
		free(zfile.at);
	}
	free(segments);
}

static int compare_u32(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a;
	uint32_t y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

static void bench_reads(struct obd_image *image, double seconds, uint32_t flags)
{
	uint64_t blocks = obd_image_virtual_size_bytes(image) / 4096;
	uint32_t *took = malloc(sizeof(*took) << 24);
	uint8_t buffer[4096];
	struct iovec iov = {.iov_base = buffer, .iov_len = sizeof(buffer)};
	uint64_t state = 21;
	uint64_t begin = now_ns();
	uint64_t last = begin;
	uint32_t cnt = 0;

	REQUIRE(took);
	while (last - begin < (uint64_t)(seconds * 1e9) && cnt < 1u << 24) {
		uint64_t lba = image_random(&state) % blocks * 8;
		uint64_t now;

		REQUIRE(obd_image_read(image, lba, 8, &iov, 1, flags, NULL) == 0);
		now = now_ns();
		took[cnt++] = (uint32_t)(now - last);
		last = now;
	}
	qsort(took, cnt, sizeof(*took), compare_u32);
	printf("%s %.0f reads/s  p50 %.2f us  p99 %.2f us  p99.9 %.2f us\n",
	       flags ? "read, no waiting: " : "read:             ",
	       cnt / ((double)(last - begin) / 1e9), took[cnt / 2] / 1e3,
	       took[(uint64_t)cnt * 99 / 100] / 1e3, took[(uint64_t)cnt * 999 / 1000] / 1e3);
	free(took);
}

static void bench_lz4(const uint8_t *disk, double seconds)
{
	const uint64_t blocks = DISK_BYTES / 4096;
	const int room = LZ4_COMPRESSBOUND(4096);
	uint8_t *packed = malloc((size_t)blocks * (size_t)room);
	int *length = malloc(blocks * sizeof(*length));
	uint64_t state = 21;
	char plain[4096];
	uint64_t cnt = 0;
	uint64_t begin;

	REQUIRE(packed && length);
	for (uint64_t i = 0; i < blocks; i++)
		length[i] = LZ4_compress_default((const char *)disk + i * 4096,
						 (char *)packed + i * (uint64_t)room, 4096, room);
	begin = now_ns();
	while (now_ns() - begin < (uint64_t)(seconds * 1e9)) {
		uint64_t i = image_random(&state) % blocks;

		REQUIRE(LZ4_decompress_safe((const char *)packed + i * (uint64_t)room, plain,
					    length[i], 4096) == 4096);
		cnt++;
	}
	printf("lz4 in memory:     %.0f blocks/s\n", (double)cnt / seconds);
	free(packed);
	free(length);
}

/* A merged index of a million segments, as a large image has. */
static void bench_lookup(double seconds)
{
	const size_t cnt = 1000000;
	struct obd_segment_list list = {.segments = malloc(cnt * sizeof(struct obd_segment)),
					.cnt = cnt};
	struct obd_index index;
	uint64_t state = 31;
	uint64_t done = 0;
	uint64_t begin;
	size_t sum = 0;

	REQUIRE(list.segments);
	for (size_t i = 0; i < cnt; i++)
		list.segments[i] = obd_segment_make(i * 16, 12, 8 + i * 12, false, 0);
	REQUIRE(obd_index_init(&index, &list, 1) == 0);
	begin = now_ns();
	while (now_ns() - begin < (uint64_t)(seconds * 1e9))
		for (int i = 0; i < 1000; i++, done++)
			sum += obd_index_find(&index, image_random(&state) % (cnt * 16));
	printf("lookup in 10^6:    %.0f lookups/s (sum %zu)\n", (double)done / seconds, sum);
	obd_index_deinit(&index);
}

int main(int argc, char **argv)
{
	double seconds = argc > 1 ? atof(argv[1]) : 3;
	char paths[LAYERS][96];
	const char *list[LAYERS] = {paths[0], paths[1], paths[2]};
	struct obd_image_spec spec = {.lower_paths = list, .lower_cnt = LAYERS};
	uint8_t *disk = calloc(1, DISK_BYTES);
	struct obd_image *image;
	struct obd_errinfo info;
	char dir[64];

	REQUIRE(disk);
	if (argc > 2) {
		spec.lower_paths = (const char *const *)argv + 2;
		spec.lower_cnt = (uint32_t)(argc - 2);
	} else {
		strcpy(dir, "bench-read-XXXXXX"); /* a disk, not the memory image_dir_make likes */
		REQUIRE(mkdtemp(dir));
		make_layers(dir, disk, paths);
	}
	if (obd_image_create(&spec, &info, &image)) {
		fprintf(stderr, "%s %s\n", info.what, info.path);
		return 1;
	}
	if (argc <= 2)
		image_dir_remove(dir); /* the open files live on */
	bench_reads(image, seconds, 0);
	bench_reads(image, seconds, OBD_READ_NOWAIT);
	if (argc <= 2)
		bench_lz4(disk, seconds);
	bench_lookup(seconds);
	obd_image_destroy(image);
	free(disk);
	return 0;
}
