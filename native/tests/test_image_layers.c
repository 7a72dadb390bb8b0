/*
 * Sealed layers through obd_image.h: every form of ZFile, tar wrapper, stacks, damage.
 * Damaged files may refuse to open or to read; they never crash and, with checksums, never lie.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "obd_image.h"
#include "support_image_files.h"

#define SECTORS 1024u
#define BYTES	(SECTORS * 512u)

static uint8_t disk[BYTES];
static uint8_t got[BYTES];
static char dir[64];

static int open_paths(const char *const *paths, uint32_t cnt, struct obd_errinfo *info,
		      struct obd_image **ret)
{
	struct obd_image_spec spec = {.lower_paths = paths, .lower_cnt = cnt};

	return obd_image_create(&spec, info, ret);
}

static int read_at(struct obd_image *image, uint64_t lba, uint32_t cnt, uint8_t *to, uint32_t flags,
		   struct obd_errinfo *info)
{
	struct iovec iov = {.iov_base = to, .iov_len = (size_t)cnt * 512};

	return obd_image_read(image, lba, cnt, &iov, 1, flags, info);
}

/* Random ranges into random pieces of memory. */
static void read_scattered(struct obd_image *image, uint64_t *state)
{
	for (int round = 0; round < 200; round++) {
		uint32_t cnt = 1 + (uint32_t)image_random(state) % 200;
		uint64_t lba = image_random(state) % (SECTORS - cnt + 1);
		struct iovec iov[64];
		uint32_t pieces = 0;
		size_t left = (size_t)cnt * 512;
		uint8_t *at = got;

		memset(got, 0xa5, (size_t)cnt * 512 + 1);
		while (left) {
			size_t piece = 1 + (size_t)image_random(state) % 9000;

			if (piece > left || pieces == 63)
				piece = left;
			iov[pieces++] = (struct iovec){.iov_base = at, .iov_len = piece};
			at += piece;
			left -= piece;
		}
		REQUIRE(obd_image_read(image, lba, cnt, iov, pieces, 0, NULL) == 0);
		REQUIRE(memcmp(got, disk + lba * 512, (size_t)cnt * 512) == 0);
	}
}

/* Alternating data, holes and zeroed ranges; what is not data is zero on the disk. */
static size_t make_disk(struct obd_segment *segments, uint64_t *state)
{
	uint64_t lba = 0;
	size_t cnt = 0;

	memset(disk, 0, sizeof(disk));
	while (lba < SECTORS) {
		uint64_t r = image_random(state);
		uint64_t length = 1 + r % 90;

		if (length > SECTORS - lba)
			length = SECTORS - lba;
		if (r >> 61 < 5) {
			segments[cnt++] = obd_segment_make(lba, length, 0, false, 0);
			image_fill(disk + lba * 512, length * 512, state);
		} else if (r >> 61 == 5) {
			segments[cnt++] = obd_segment_make(lba, length, 0, true, 0);
		}
		lba += length;
	}
	return cnt;
}

static void check_file(const char *path, uint64_t *state)
{
	const char *paths[] = {path};
	struct obd_image *image;
	struct obd_errinfo info;

	if (open_paths(paths, 1, &info, &image)) {
		fprintf(stderr, "%s %s %lu\n", info.what, info.path, info.offset_bytes);
		exit(1);
	}
	REQUIRE(obd_image_virtual_size_bytes(image) == BYTES);
	REQUIRE(read_at(image, 0, SECTORS, got, 0, NULL) == 0);
	REQUIRE(memcmp(got, disk, BYTES) == 0);
	read_scattered(image, state);
	REQUIRE(read_at(image, SECTORS, 1, got, 0, &info) == OBD_E_RANGE);
	REQUIRE(read_at(image, UINT64_MAX, 1, got, 0, &info) == OBD_E_RANGE);
	REQUIRE(read_at(image, SECTORS, 0, got, 0, &info) == 0);
	obd_image_destroy(image);
}

static void every_form(void)
{
	struct obd_segment segments[SECTORS];
	char path[80];
	uint64_t state = 5;

	snprintf(path, sizeof(path), "%s/layer", dir);
	for (int form = 0; form < 80; form++) {
		struct image_zfile_options options = {
			.block_size = 4096u << form % 5,
			.algo = (uint8_t)(1 + form / 5 % 2),
			.verify = form / 10 % 2,
			.is_overwritten = form / 20 % 2,
			.has_digest = form / 40 % 2,
		};
		size_t cnt = make_disk(segments, &state);
		struct image_bytes layer = image_layer_make(disk, SECTORS, segments, cnt);
		struct image_bytes zfile;
		struct image_bytes tar;

		/* as files of 2021: garbage in what nobody defined then */
		options.garbage_flags = options.has_digest ? 0 : 0xdeadbeef00000040ull;
		zfile = image_zfile_make(layer.at, layer.length, &options);
		tar = image_tar_make(zfile.at, zfile.length, form % 2);
		image_file_write(path, layer.at, layer.length);
		check_file(path, &state);
		image_file_write(path, zfile.at, zfile.length);
		check_file(path, &state);
		image_file_write(path, tar.at, tar.length);
		check_file(path, &state);
		free(layer.at);
		free(zfile.at);
		free(tar.at);
	}
}

/* Incompressible 64 KiB blocks are longer packed than plain. */
static void incompressible_block_of_64k(void)
{
	struct image_zfile_options options = {.block_size = 65536, .algo = 1, .verify = true};
	struct obd_segment whole = obd_segment_make(0, SECTORS, 0, false, 0);
	struct image_bytes layer;
	struct image_bytes zfile;
	uint64_t state = 77;
	char path[80];

	for (size_t i = 0; i < BYTES; i += 8) {
		uint64_t noise = image_random(&state);

		memcpy(disk + i, &noise, 8);
	}
	layer = image_layer_make(disk, SECTORS, &whole, 1);
	zfile = image_zfile_make(layer.at, layer.length, &options);
	REQUIRE(zfile.length > BYTES + BYTES / 65536 * 100);
	snprintf(path, sizeof(path), "%s/layer", dir);
	image_file_write(path, zfile.at, zfile.length);
	check_file(path, &state);
	free(layer.at);
	free(zfile.at);
}

/* Opens and reads a damaged file: an error or (if `is_protected`) the right bytes. */
static bool survive(const char *path, bool is_protected)
{
	const char *paths[] = {path};
	struct obd_errinfo info;
	struct obd_image *image;
	bool is_right = true;
	int rc = open_paths(paths, 1, &info, &image);

	if (rc) {
		REQUIRE(rc == info.code && info.what[0] && strcmp(info.path, path) == 0);
		return true;
	}
	if (obd_image_virtual_size_bytes(image) == BYTES) {
		rc = read_at(image, 0, SECTORS, got, 0, &info);
		is_right = !is_protected || rc || memcmp(got, disk, BYTES) == 0;
		for (uint64_t lba = 0; lba < SECTORS && is_right; lba += 16) {
			rc = read_at(image, lba, 16, got, 0, &info);
			is_right = !is_protected || rc ||
				   memcmp(got, disk + lba * 512, (size_t)16 * 512) == 0;
		}
	} else {
		is_right = !is_protected;
	}
	obd_image_destroy(image);
	return is_right;
}

static void damage(uint8_t algo, bool is_overwritten, bool is_zfile)
{
	struct image_zfile_options options = {
		.block_size = 4096,
		.algo = algo,
		.verify = true,
		.is_overwritten = is_overwritten,
		.has_digest = true,
	};
	struct obd_segment segments[SECTORS];
	struct image_bytes layer;
	struct image_bytes file;
	uint64_t state = 3;
	char path[80];
	size_t cnt;

	cnt = make_disk(segments, &state);
	layer = image_layer_make(disk, SECTORS, segments, cnt);
	file = is_zfile ? image_zfile_make(layer.at, layer.length, &options)
			: (struct image_bytes){.at = malloc(layer.length), .length = layer.length};
	REQUIRE(file.at);
	if (!is_zfile)
		memcpy(file.at, layer.at, layer.length);
	snprintf(path, sizeof(path), "%s/damaged", dir);
	for (int i = 0; i < 800; i++) {
		uint64_t r = image_random(&state);
		size_t at = (size_t)(r >> 8) % file.length;

		if (i < 400) /* the first and last kilobyte hold the fields */
			at = i % 2 ? (size_t)(r >> 8) % 600
				   : file.length - 1 - (size_t)(r >> 8) % 600;
		file.at[at] ^= (uint8_t)(1u << (r & 7));
		image_file_write(path, file.at, file.length);
		if (!survive(path, is_zfile)) {
			fprintf(stderr, "wrong data: bit %d of byte %zu of %zu\n", (int)(r & 7), at,
				file.length);
			exit(1);
		}
		file.at[at] ^= (uint8_t)(1u << (r & 7));
	}
	for (size_t length = 0; length < file.length; length += 1 + file.length / 150) {
		image_file_write(path, file.at, length);
		REQUIRE(survive(path, true));
	}
	free(layer.at);
	free(file.at);
}

/* What the file can not hold is refused before memory is asked for it. */
static void absurd_counts_are_refused(void)
{
	struct image_zfile_options options = {.block_size = 4096, .algo = 1, .verify = true};
	struct obd_segment whole = obd_segment_make(0, 16, 0, false, 0);
	struct image_bytes layer = image_layer_make(disk, SECTORS, &whole, 1);
	struct image_bytes zfile = image_zfile_make(layer.at, layer.length, &options);
	const uint64_t absurd[] = {1u << 20, 100u << 20, 1ull << 40, UINT64_MAX, UINT64_MAX / 16};
	char path[80];
	const char *paths[] = {path};
	struct obd_errinfo info;
	struct obd_image *image;

	snprintf(path, sizeof(path), "%s/absurd", dir);
	for (size_t i = 0; i < sizeof(absurd) / sizeof(absurd[0]); i++) {
		memcpy(layer.at + layer.length - 4096 + 40, &absurd[i], 8);
		image_file_write(path, layer.at, layer.length);
		REQUIRE(open_paths(paths, 1, &info, &image) == OBD_E_FORMAT);
		REQUIRE(info.got == absurd[i] && info.offset_bytes == layer.length - 4096 + 40);
		memcpy(zfile.at + zfile.length - 512 + 48, &absurd[i], 8);
		image_file_write(path, zfile.at, zfile.length);
		REQUIRE(open_paths(paths, 1, &info, &image) == OBD_E_FORMAT);
	}
	free(layer.at);
	free(zfile.at);
}

static void other_files_are_refused(void)
{
	char path[80];
	const char *paths[] = {path};
	struct obd_image_spec none = {0};
	struct obd_errinfo info;
	struct obd_image *image;

	snprintf(path, sizeof(path), "%s/none", dir);
	REQUIRE(open_paths(paths, 1, &info, &image) == OBD_E_IO && info.sys_errno == ENOENT);
	snprintf(path, sizeof(path), "%s", dir);
	REQUIRE(open_paths(paths, 1, &info, &image) == OBD_E_FORMAT);
	snprintf(path, sizeof(path), "%s/fifo", dir);
	REQUIRE(mkfifo(path, 0600) == 0);
	REQUIRE(open_paths(paths, 1, &info, &image) == OBD_E_FORMAT);
	REQUIRE(obd_image_create(&none, &info, &image) == OBD_E_INVAL);
	REQUIRE(open_paths(paths, 256, &info, &image) == OBD_E_INVAL);
	none.upper_data = path;
	REQUIRE(obd_image_create(&none, &info, &image) == OBD_E_INVAL);
}

/* Not waiting gives the same bytes or OBD_E_AGAIN, and waiting then works. */
static void reads_without_waiting(void)
{
	static const char *const places[] = {"/tmp", "/dev/shm"};
	struct obd_segment whole = obd_segment_make(0, SECTORS, 0, false, 0);
	struct image_bytes layer = image_layer_make(disk, SECTORS, &whole, 1);
	uint32_t again = 0;

	for (size_t i = 0; i < 2; i++) {
		char path[80];
		const char *paths[] = {path};
		struct obd_errinfo info;
		struct obd_image *image;
		int fd;

		snprintf(path, sizeof(path), "%s/obd-nowait-%d", places[i], (int)getpid());
		image_file_write(path, layer.at, layer.length);
		REQUIRE(open_paths(paths, 1, &info, &image) == 0);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		REQUIRE(fd >= 0 && unlink(path) == 0);
		for (int round = 0; round < 2; round++) {
			for (uint64_t lba = 0; lba < SECTORS; lba += 64) {
				int rc = read_at(image, lba, 64, got, OBD_READ_NOWAIT, &info);

				REQUIRE(rc == 0 || rc == OBD_E_AGAIN);
				again += rc == OBD_E_AGAIN;
				if (rc)
					rc = read_at(image, lba, 64, got, 0, &info);
				REQUIRE(rc == 0);
				REQUIRE(memcmp(got, disk + lba * 512, (size_t)64 * 512) == 0);
			}
			REQUIRE(fsync(fd) == 0);
			posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
		}
		close(fd);
		obd_image_destroy(image);
	}
	free(layer.at);
	fprintf(stderr, "reads that would have waited: %u\n", again);
}

/* 255 layers, each with some sectors; the upper one wins. */
static void deepest_stack(void)
{
	static char paths[OBD_MAX_LOWERS][80];
	const char *list[OBD_MAX_LOWERS];
	static uint8_t merged[BYTES];
	struct obd_segment segments[SECTORS];
	struct obd_errinfo info;
	struct obd_image *image;
	uint64_t state = 99;

	memset(merged, 0, BYTES);
	for (size_t l = 0; l < OBD_MAX_LOWERS; l++) {
		struct image_bytes layer;
		size_t cnt = 0;

		image_fill(disk, BYTES, &state);
		for (uint64_t lba = image_random(&state) % 200; lba < SECTORS - 10;
		     lba += 10 + image_random(&state) % 300) {
			uint64_t length = 1 + image_random(&state) % 10;
			bool is_zeroed = image_random(&state) % 4 == 0;

			segments[cnt++] = obd_segment_make(lba, length, 0, is_zeroed, 0);
			if (is_zeroed)
				memset(merged + lba * 512, 0, length * 512);
			else
				memcpy(merged + lba * 512, disk + lba * 512, length * 512);
		}
		layer = image_layer_make(disk, SECTORS, segments, cnt);
		snprintf(paths[l], sizeof(paths[l]), "%s/layer%zu", dir, l);
		list[l] = paths[l];
		image_file_write(paths[l], layer.at, layer.length);
		free(layer.at);
	}
	REQUIRE(open_paths(list, OBD_MAX_LOWERS, &info, &image) == 0);
	REQUIRE(read_at(image, 0, SECTORS, got, 0, NULL) == 0);
	REQUIRE(memcmp(got, merged, BYTES) == 0);
	memcpy(disk, merged, BYTES);
	read_scattered(image, &state);
	obd_image_destroy(image);
}

int main(void)
{
	image_dir_make(dir);
	every_form();
	incompressible_block_of_64k();
	absurd_counts_are_refused();
	other_files_are_refused();
	reads_without_waiting();
	damage(1, true, true);
	damage(2, false, true);
	damage(1, false, false);
	deepest_stack();
	image_dir_remove(dir);
	return 0;
}
