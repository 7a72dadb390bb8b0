/*
 * An index of any content over a gzip file of any content: [u16 length of the index][index][gzip].
 * Sizes and checksum of the index's header are set right, so that what is behind them is reached.
 */
#include <fcntl.h>

#include "fuzz_image.h"
#include "obd_bytes.h"
#include "obd_crc.h"
#include "obd_gzindex.h"

static void set_right(uint8_t *index, size_t length, size_t gzip_bytes)
{
	if (length < OBD_GZINDEX_HEADER_BYTES)
		return;
	memcpy(index, OBD_GZINDEX_MAGIC, 8);
	obd_put_le64(index + 33, gzip_bytes);
	obd_put_le64(index + 41, length);
	obd_put_le32(index + 329, obd_crc32c_raw(0, index, 329));
}

static void read_some(struct obd_gzip *gzip)
{
	static uint8_t buffer[1 << 16];
	uint64_t size = obd_gzip_size_bytes(gzip);
	uint64_t places[] = {0, size / 3, size / 2, size > 4096 ? size - 4096 : 0, 1};

	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		uint64_t left = size > places[i] ? size - places[i] : 0;
		struct iovec iov = {.iov_base = buffer,
				    .iov_len = left < sizeof(buffer) ? left : sizeof(buffer)};
		struct obd_errinfo info;
		struct obd_cursor cursor;
		int rc;

		if (places[i] > 1u << 24)
			continue; /* a gigabyte of zeros takes long, and is right */
		obd_cursor_init(&cursor, &iov, 1);
		rc = obd_gzip_read(gzip, places[i], iov.iov_len, &cursor, 0, &info);
		if (rc && (info.code != rc || !info.what[0]))
			abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t length = size < 2 ? 0 : (size_t)data[0] + (size_t)data[1] * 256;
	struct obd_errinfo info;
	struct obd_gzip *gzip;
	struct obd_file file;
	char path[64];
	char index_path[64];
	uint8_t *index;
	int gzip_fd;
	int index_fd;

	if (size < 2 || length > size - 2)
		return 0;
	index = malloc(length + 1);
	if (!index)
		return 0;
	memcpy(index, data + 2, length);
	set_right(index, length, size - 2 - length);
	index_fd = fuzz_file(index, length, index_path);
	gzip_fd = fuzz_file(data + 2 + length, size - 2 - length, path);
	if (obd_file_open(path, O_RDONLY, &info, &file) == 0) {
		if (obd_gzip_create(&file, index_path, &info, &gzip) == 0) {
			read_some(gzip);
			obd_gzip_destroy(gzip);
		}
		obd_file_close(&file);
	}
	close(index_fd);
	close(gzip_fd);
	free(index);
	return 0;
}
