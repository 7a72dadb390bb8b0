/*
 * Commit of a writable layer of 218 MB, by kind of output and number of threads: the call itself,
 * and the fsync behind it. Medians.
 *
 *	tools_commit [DIR [ROUNDS [DATA INDEX]]]	DIR: where the layers go (here); without
 *DATA and INDEX it makes a pair of this host's libraries
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "obd_commit.h"
#include "obd_image.h"
#include "support_image_files.h"

#define DISK_BYTES   (1ull << 30)
#define LAYER_BYTES  (218ull * 1000 * 1000)
#define EXTENT_BYTES (128u << 10)
#define MAX_ROUNDS   100

struct times {
	double call_s[MAX_ROUNDS];
	double sync_s[MAX_ROUNDS];
};

static double now_s(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a;
	double y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static double median(double *values, int cnt)
{
	qsort(values, (size_t)cnt, sizeof(*values), compare);
	return values[cnt / 2];
}

/* Extents of this host's libraries, with gaps, over and over until there are enough. */
static void fill_pair(struct obd_image *image)
{
	static uint8_t extent[EXTENT_BYTES];
	const char *folder = "/usr/lib/x86_64-linux-gnu";
	uint64_t done = 0;
	uint64_t lba = 0;

	while (done < LAYER_BYTES) {
		DIR *dir = opendir(folder);
		struct dirent *entry;

		REQUIRE(dir);
		while (done < LAYER_BYTES && (entry = readdir(dir))) {
			int fd = openat(dirfd(dir), entry->d_name,
					O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
			ssize_t got;

			if (fd < 0)
				continue;
			while (done < LAYER_BYTES && (got = read(fd, extent, EXTENT_BYTES)) > 0) {
				uint32_t sectors = ((uint32_t)got + 4095) / 4096 * 8;
				struct iovec iov = {.iov_base = extent,
						    .iov_len = (size_t)sectors * 512};

				memset(extent + got, 0, iov.iov_len - (size_t)got);
				REQUIRE(!obd_image_write(image, lba, sectors, &iov, 1, 0, NULL));
				lba += sectors;
				done += iov.iov_len;
			}
			lba += 8;
			close(fd);
		}
		closedir(dir);
	}
}

static void make_pair(const char *data, const char *index)
{
	struct obd_image_spec spec = {.upper_data = data, .upper_index = index};
	struct obd_image *image;
	uint64_t reserved = 0;

	image_upper_make(data, index, DISK_BYTES);
	REQUIRE(!obd_image_create(&spec, NULL, &image));
	REQUIRE(!obd_image_start_writing(image, &reserved, NULL));
	fill_pair(image);
	REQUIRE(!obd_image_flush(image, NULL));
	obd_image_stop_writing(image);
	REQUIRE(!obd_image_settle(image, NULL));
	obd_image_destroy(image);
}

static void commit_once(const struct obd_commit_spec *spec, const char *path, double *call_s,
			double *sync_s, struct obd_committed *ret)
{
	struct obd_errinfo info;
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	double begin;
	double called;

	REQUIRE(fd >= 0);
	begin = now_s();
	if (obd_commit(spec, fd, path, 0, NULL, &info, ret)) {
		fprintf(stderr, "%s: %s\n", info.path, info.what);
		exit(1);
	}
	called = now_s();
	REQUIRE(!fsync(fd));
	*call_s = called - begin;
	*sync_s = now_s() - called;
	close(fd);
	REQUIRE(!unlink(path));
}

int main(int argc, char **argv)
{
	static const char *const names[] = {"raw", "lz4", "zstd"};
	static struct times times;
	const char *out_dir = argc > 1 ? argv[1] : ".";
	int rounds = argc > 2 ? atoi(argv[2]) : 5;
	char dir[64];
	char data[96];
	char index[96];
	char out[300];
	struct obd_commit_spec spec = {.upper_data = data, .upper_index = index};

	REQUIRE(rounds > 0 && rounds <= MAX_ROUNDS && (argc <= 3 || argc == 5));
	image_dir_make(dir);
	snprintf(data, sizeof(data), "%s/data", dir);
	snprintf(index, sizeof(index), "%s/index", dir);
	if (argc == 5) {
		spec.upper_data = argv[3];
		spec.upper_index = argv[4];
	} else {
		make_pair(data, index);
	}
	snprintf(out, sizeof(out), "%s/commit.%d", out_dir, (int)getpid());
	printf("%-6s %-8s %9s %9s %9s %12s\n", "kind", "threads", "call s", "fsync s", "both s",
	       "bytes");
	for (uint32_t algorithm = 0; algorithm < 3; algorithm++) {
		for (uint32_t threads = 1; threads <= 2; threads++) {
			struct obd_committed done;

			spec.zfile = (struct obd_zfile_options){
				.algorithm = algorithm,
				.block_bytes = 4096,
				.has_crc = 1,
				.overwrites_header = 1,
				.thread_cnt = threads,
			};
			for (int i = 0; i < rounds; i++)
				commit_once(&spec, out, &times.call_s[i], &times.sync_s[i], &done);
			double call_s = median(times.call_s, rounds);
			double sync_s = median(times.sync_s, rounds);

			printf("%-6s %-8u %9.3f %9.3f %9.3f %12llu\n", names[algorithm], threads,
			       call_s, sync_s, call_s + sync_s,
			       (unsigned long long)done.file_bytes);
		}
	}
	image_dir_remove(dir);
	return 0;
}
