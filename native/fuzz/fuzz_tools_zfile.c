/*
 * Round trip: any bytes, compressed with any options by one thread, two, or from a pipe, are the
 * same file, and reading, extracting and checking it give the bytes back.
 */
#include "fuzz_image.h"

#include <fcntl.h>

#include "obd_zfile.h"
#include "obd_zfile_read.h"
#include "obd_zfile_write.h"

#define HEAD_BYTES 4u

static void require(bool holds)
{
	if (!holds)
		abort();
}

static int empty_file(void)
{
	int fd = memfd_create("out", MFD_CLOEXEC);

	require(fd >= 0);
	return fd;
}

static void require_content(int fd, const uint8_t *expected, size_t length)
{
	uint8_t *got = malloc(length + 1);

	require(got && pread(fd, got, length + 1, 0) == (ssize_t)length);
	require(length == 0 || memcmp(got, expected, length) == 0);
	free(got);
}

static void require_read(const char *path, const uint8_t *expected, size_t length)
{
	uint8_t *got = malloc(length + 1);
	struct iovec iov = {.iov_base = got, .iov_len = length};
	struct obd_errinfo info;
	struct obd_cursor cursor;
	struct obd_zfile *zfile;
	struct obd_file file;

	require(got && !obd_file_open(path, O_RDONLY, &info, &file));
	require(!obd_zfile_create(&file, &info, &zfile));
	require(obd_zfile_size_bytes(zfile) == length);
	obd_cursor_init(&cursor, &iov, 1);
	require(!length || !obd_zfile_read(zfile, 0, length, &cursor, 0, &info));
	require(!length || memcmp(got, expected, length) == 0);
	obd_zfile_destroy(zfile);
	obd_file_close(&file);
	free(got);
}

/* The content is the input, several times over: short inputs make many blocks, too. */
static uint8_t *repeat(const uint8_t *data, size_t size, uint32_t times, size_t *ret)
{
	size_t length = size * times;
	uint8_t *content;

	if (length > (1u << 20))
		length = 1u << 20;
	content = malloc(length + 1);
	require(content != NULL);
	for (size_t at = 0; at < length; at += size)
		memcpy(content + at, data, length - at < size ? length - at : size);
	*ret = length;
	return content;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct obd_zfile_options options = {.thread_cnt = 1};
	struct obd_zfile_written one;
	struct obd_zfile_written two;
	struct obd_zfile_checked checked;
	struct obd_zfile_damage damage;
	struct obd_errinfo info;
	uint64_t extracted = 0;
	uint8_t *content;
	size_t length;
	char path[64];
	int source;
	int out;
	int again;
	int plain;

	if (size < HEAD_BYTES)
		return 0;
	options.algorithm = data[0] & 1 ? OBD_ALGORITHM_LZ4 : OBD_ALGORITHM_ZSTD;
	options.has_crc = data[0] >> 1 & 1;
	options.overwrites_header = data[0] >> 2 & 1;
	options.block_bytes = 4096u << data[1] % 5;
	content = repeat(data + HEAD_BYTES, size - HEAD_BYTES, 1u + data[2] * (data[3] & 15u),
			 &length);
	source = fuzz_file(content, length, path);
	require(lseek(source, 0, SEEK_SET) == 0);
	out = empty_file();
	require(!obd_zfile_write_fd(source, "source", out, "out", 0, &options, NULL, &info, &one));
	require(one.content_bytes == length);

	options.thread_cnt = 2;
	again = empty_file();
	require(!obd_zfile_write_fd(source, "source", again, "out", 0, &options, NULL, &info,
				    &two));
	require(two.file_bytes == one.file_bytes && two.longest_bytes == one.longest_bytes);
	uint8_t *first = malloc(one.file_bytes);

	require(first && pread(out, first, one.file_bytes, 0) == (ssize_t)one.file_bytes);
	require_content(again, first, one.file_bytes);
	free(first);

	snprintf(path, sizeof(path), "/proc/self/fd/%d", out);
	require_read(path, content, length);
	plain = empty_file();
	require(!obd_zfile_extract(path, plain, "plain", 1, NULL, &info, &extracted));
	require(extracted == length);
	require_content(plain, content, length);
	require(!obd_zfile_check(path, 1, NULL, &info, &damage, 1, &checked));
	require(checked.damage_cnt == 0 && checked.block_cnt == one.block_cnt);
	close(source);
	close(out);
	close(again);
	close(plain);
	free(content);
	return 0;
}
