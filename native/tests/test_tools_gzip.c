/*
 * gzip files of one and many members: indexed, then read at random through the index by several
 * threads; damaged files and indexes give an error or the right bytes.
 */
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include "obd_crc.h"
#include "obd_bytes.h"
#include "obd_gzindex.h"
#include "obd_gzip_points.h"
#include "obd_image.h"
#include "support_image_files.h"

#define PLAIN_BYTES (3u << 20)
#define SPAN	    (64u << 10)

static uint8_t plain[PLAIN_BYTES];
static char dir[64];

/* Members end at random places; some are empty. Levels differ: stored, fixed, dynamic blocks. */
static struct image_bytes pack(uint32_t members, uint64_t *state)
{
	struct image_bytes out = {.at = malloc(PLAIN_BYTES + (PLAIN_BYTES >> 3) + members * 64u)};
	size_t from = 0;

	REQUIRE(out.at);
	for (uint32_t i = 0; i < members; i++) {
		size_t to = i + 1 == members ? PLAIN_BYTES : from + image_random(state) % 90000;
		int level = i % 4 == 3 ? 0 : (int)(image_random(state) % 10);
		z_stream z = {0};

		if (to > PLAIN_BYTES || image_random(state) % 8 == 0)
			to = i + 1 == members ? PLAIN_BYTES : from;
		REQUIRE(deflateInit2(&z, level, Z_DEFLATED, MAX_WBITS + 16, 8,
				     i % 3 ? Z_DEFAULT_STRATEGY : Z_FIXED) == Z_OK);
		z.next_in = plain + from;
		z.avail_in = (uint32_t)(to - from);
		z.next_out = out.at + out.length;
		z.avail_out = (uint32_t)(to - from + ((to - from) >> 3) + 64);
		REQUIRE(deflate(&z, Z_FINISH) == Z_STREAM_END);
		out.length += z.total_out;
		deflateEnd(&z);
		from = to;
	}
	return out;
}

static int make_index(const char *path, const char *index_path, struct obd_errinfo *info,
		      struct obd_gzip_indexed *ret)
{
	int fd = open(index_path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	int rc;

	REQUIRE(fd >= 0);
	rc = obd_gzip_index_write(path, fd, index_path, SPAN, NULL, info, ret);
	close(fd);
	return rc;
}

struct reader {
	struct obd_gzip *gzip;
	uint64_t seed;
};

static void *read_at_random(void *argument)
{
	struct reader *reader = argument;
	uint8_t *got = malloc(200000);
	uint64_t state = reader->seed;
	uint64_t at = 0;

	REQUIRE(got);
	for (int i = 0; i < 60; i++) {
		uint64_t length = 1 + image_random(&state) % (i % 10 ? 9000 : 199999);
		struct iovec iov[2];
		struct obd_cursor cursor;

		/* half of the reads go on where the last one stopped */
		if (i % 2 || at + length > PLAIN_BYTES)
			at = image_random(&state) % (PLAIN_BYTES - length + 1);
		iov[0] = (struct iovec){.iov_base = got, .iov_len = length / 3};
		iov[1] = (struct iovec){.iov_base = got + length / 3,
					.iov_len = length - length / 3};
		obd_cursor_init(&cursor, iov, 2);
		REQUIRE(obd_gzip_read(reader->gzip, at, length, &cursor, 0, NULL) == 0);
		REQUIRE(memcmp(got, plain + at, length) == 0);
		at += length;
	}
	free(got);
	return NULL;
}

static void whole(struct obd_gzip *gzip)
{
	uint8_t *got = malloc(PLAIN_BYTES);
	struct iovec iov = {.iov_base = got, .iov_len = PLAIN_BYTES};
	struct obd_cursor cursor;

	REQUIRE(got);
	obd_cursor_init(&cursor, &iov, 1);
	REQUIRE(obd_gzip_read(gzip, 0, PLAIN_BYTES, &cursor, 0, NULL) == 0);
	REQUIRE(memcmp(got, plain, PLAIN_BYTES) == 0);
	obd_cursor_init(&cursor, &iov, 1);
	REQUIRE(obd_gzip_read(gzip, 1, PLAIN_BYTES, &cursor, 0, NULL) == OBD_E_RANGE);
	REQUIRE(obd_gzip_read(gzip, 1, 1, &cursor, OBD_READ_NOWAIT, NULL) == OBD_E_AGAIN);
	free(got);
}

static void round_trip(uint32_t members, uint64_t *state)
{
	struct image_bytes packed = pack(members, state);
	struct obd_gzip_indexed done;
	struct obd_errinfo info;
	struct obd_gzip *gzip;
	struct obd_file file;
	pthread_t threads[6]; /* more than streams are kept */
	struct reader readers[6];
	char path[80];
	char index_path[80];

	snprintf(path, sizeof(path), "%s/x.gz", dir);
	snprintf(index_path, sizeof(index_path), "%s/x.idx", dir);
	image_file_write(path, packed.at, packed.length);
	REQUIRE(make_index(path, index_path, &info, &done) == 0);
	REQUIRE(done.plain_bytes == PLAIN_BYTES && done.member_cnt == members);
	REQUIRE(done.point_cnt >= 2);
	REQUIRE(obd_file_open(path, O_RDONLY, &info, &file) == 0);
	REQUIRE(obd_gzip_create(&file, index_path, &info, &gzip) == 0);
	whole(gzip);
	for (int i = 0; i < 6; i++) {
		readers[i] = (struct reader){.gzip = gzip, .seed = (uint64_t)i};
		REQUIRE(!pthread_create(&threads[i], NULL, read_at_random, &readers[i]));
	}
	for (int i = 0; i < 6; i++)
		pthread_join(threads[i], NULL);
	obd_gzip_destroy(gzip);
	obd_file_close(&file);
	free(packed.at);
}

/* Opens and reads all in pieces: wrong bytes are never given without an error before their end. */
static void survive(const char *path, const char *index_path)
{
	static uint8_t got[PLAIN_BYTES];
	struct obd_errinfo info;
	struct obd_gzip *gzip;
	struct obd_file file;
	struct iovec iov = {.iov_base = got, .iov_len = sizeof(got)};
	struct obd_cursor cursor;
	int rc;

	REQUIRE(obd_file_open(path, O_RDONLY, &info, &file) == 0);
	rc = obd_gzip_create(&file, index_path, &info, &gzip);
	if (!rc) {
		uint64_t length = obd_gzip_size_bytes(gzip);

		length = length < PLAIN_BYTES ? length : PLAIN_BYTES;
		obd_cursor_init(&cursor, &iov, 1);
		rc = obd_gzip_read(gzip, 0, length, &cursor, 0, &info);
		/* a whole member was read and compared with its checksum */
		REQUIRE(rc || memcmp(got, plain, length) == 0);
		for (uint64_t at = 1000; at + 5000 < length; at += length / 9 + 1) {
			iov.iov_len = 5000;
			obd_cursor_init(&cursor, &iov, 1);
			rc = obd_gzip_read(gzip, at, 5000, &cursor, 0, &info);
			REQUIRE(!rc || (rc == info.code && info.what[0]));
		}
		obd_gzip_destroy(gzip);
	} else {
		REQUIRE(rc == info.code && info.what[0] && info.path[0]);
	}
	obd_file_close(&file);
}

static void damage(bool is_index, uint64_t *state)
{
	struct image_bytes packed = pack(3, state);
	struct image_bytes file;
	struct obd_gzip_indexed done;
	struct obd_errinfo info;
	char path[80];
	char index_path[80];
	const char *target = is_index ? index_path : path;

	snprintf(path, sizeof(path), "%s/d.gz", dir);
	snprintf(index_path, sizeof(index_path), "%s/d.idx", dir);
	image_file_write(path, packed.at, packed.length);
	REQUIRE(make_index(path, index_path, &info, &done) == 0);
	file = image_file_read(target);
	for (int i = 0; i < 40; i++) {
		uint64_t r = image_random(state);
		size_t at = (size_t)(r >> 8) % file.length;

		if (is_index && i < 20)
			at %= OBD_GZINDEX_HEADER_BYTES - 4;
		file.at[at] ^= (uint8_t)(1u << (r & 7));
		if (is_index && i % 2) /* past the checksum, to what is behind it */
			obd_put_le32(file.at + 329, obd_crc32c_raw(0, file.at, 329));
		image_file_write(target, file.at, file.length);
		survive(path, index_path);
		file.at[at] ^= (uint8_t)(1u << (r & 7));
		obd_put_le32(file.at + 329,
			     is_index ? obd_crc32c_raw(0, file.at, 329) : obd_le32(file.at + 329));
	}
	for (size_t length = 0; is_index && length < file.length; length += 1 + file.length / 20) {
		image_file_write(target, file.at, length);
		survive(path, index_path);
	}
	free(file.at);
	free(packed.at);
}

static void what_is_no_gzip_is_refused(uint64_t *state)
{
	struct image_bytes packed = pack(2, state);
	struct obd_gzip_indexed done;
	struct obd_errinfo info;
	char path[80];
	char index_path[80];

	snprintf(path, sizeof(path), "%s/n.gz", dir);
	snprintf(index_path, sizeof(index_path), "%s/n.idx", dir);
	image_file_write(path, packed.at, packed.length - 5);
	REQUIRE(make_index(path, index_path, &info, &done) == OBD_E_SHORT);
	packed.at[packed.length - 6] ^= 1;
	image_file_write(path, packed.at, packed.length);
	REQUIRE(make_index(path, index_path, &info, &done) == OBD_E_CHECKSUM);
	packed.at[packed.length - 6] ^= 1;
	memset(packed.at + packed.length, 0, 40); /* there is room */
	image_file_write(path, packed.at, packed.length + 40);
	REQUIRE(make_index(path, index_path, &info, &done) == 0 && done.member_cnt == 2);
	packed.at[packed.length + 30] = 'x';
	image_file_write(path, packed.at, packed.length + 40);
	REQUIRE(make_index(path, index_path, &info, &done) == OBD_E_FORMAT);
	REQUIRE(info.offset_bytes == packed.length + 30);
	image_file_write(path, plain, 5000);
	REQUIRE(make_index(path, index_path, &info, &done) == OBD_E_FORMAT);
	image_file_write(path, plain, 0);
	REQUIRE(make_index(path, index_path, &info, &done) == OBD_E_SHORT);
	free(packed.at);
}

int main(void)
{
	uint64_t state = 9;

	image_dir_make(dir);
	image_fill(plain, sizeof(plain), &state);
	for (uint32_t members = 1; members < 40; members = members * 2 + 1)
		round_trip(members, &state);
	what_is_no_gzip_is_refused(&state);
	damage(true, &state);
	damage(false, &state);
	image_dir_remove(dir);
	return 0;
}
