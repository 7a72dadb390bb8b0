/*
 * Reads an image through obd_image.h for the tests in Python.
 *
 *	prog_image scan  [-u DATA INDEX] [LOWER...]   bottom to top
 *		virtual size (u64), then for each 64 KiB chunk that is not all zeros: its offset
 *		(u64) and the bytes (fewer in a last, short chunk)
 *	prog_image read  [-u DATA INDEX] [LOWER...]
 *		for each line "LBA COUNT" on stdin: that many sectors, raw
 *
 *	prog_image zfile FILE
 *		what a ZFile, in a tar or not, decompresses to
 *
 * A LOWER is a path, or for turboOCI three, a line each: its own, its target's, the gzip index's.
 *
 * Exit status: 0, or 1 with the error on stderr: NAME what path offset expected got.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "obd_image.h"
#include "obd_tarwrap.h"
#include "obd_zfile.h"

#define CHUNK_SECTORS 128u
#define CHUNK_BYTES   (CHUNK_SECTORS * OBD_SECTOR_BYTES)
#define READ_SECTORS  (16u * CHUNK_SECTORS)

static int report(const struct obd_errinfo *info)
{
	fprintf(stderr, "%s %s %s offset=%llu expected=%llu got=%llu errno=%d\n",
		obd_err_name(info->code), info->what, info->path,
		(unsigned long long)info->offset_bytes, (unsigned long long)info->expected,
		(unsigned long long)info->got, info->sys_errno);
	return 1;
}

static int read_to(struct obd_image *image, uint64_t lba, uint32_t cnt, uint8_t *buffer)
{
	struct iovec iov = {.iov_base = buffer, .iov_len = (size_t)cnt * OBD_SECTOR_BYTES};
	struct obd_errinfo info;

	return obd_image_read(image, lba, cnt, &iov, 1, 0, &info) ? report(&info) : 0;
}

static int scan(struct obd_image *image, uint8_t *buffer)
{
	static const uint8_t zeros[CHUNK_BYTES];
	uint64_t size = obd_image_virtual_size_bytes(image);
	uint64_t sectors = size / OBD_SECTOR_BYTES;

	fwrite(&size, sizeof(size), 1, stdout);
	for (uint64_t lba = 0; lba < sectors; lba += READ_SECTORS) {
		uint32_t cnt =
			sectors - lba < READ_SECTORS ? (uint32_t)(sectors - lba) : READ_SECTORS;

		if (read_to(image, lba, cnt, buffer))
			return 1;
		for (uint32_t at = 0; at < cnt; at += CHUNK_SECTORS) {
			uint32_t length = cnt - at < CHUNK_SECTORS ? cnt - at : CHUNK_SECTORS;
			uint64_t offset = (lba + at) * OBD_SECTOR_BYTES;
			uint8_t *chunk = buffer + (size_t)at * OBD_SECTOR_BYTES;

			if (memcmp(chunk, zeros, (size_t)length * OBD_SECTOR_BYTES) == 0)
				continue;
			fwrite(&offset, sizeof(offset), 1, stdout);
			fwrite(chunk, OBD_SECTOR_BYTES, length, stdout);
		}
	}
	return 0;
}

static int read_ranges(struct obd_image *image)
{
	unsigned long long lba;
	unsigned int cnt;

	while (scanf("%llu %u", &lba, &cnt) == 2) {
		uint8_t *buffer = malloc((size_t)cnt * OBD_SECTOR_BYTES);
		int rc = !buffer || read_to(image, lba, cnt, buffer);

		if (!rc)
			fwrite(buffer, OBD_SECTOR_BYTES, cnt, stdout);
		free(buffer);
		if (rc)
			return 1;
	}
	return 0;
}

static int dump_zfile(const char *path, uint8_t *buffer)
{
	const uint64_t step = (uint64_t)READ_SECTORS * OBD_SECTOR_BYTES - 333;
	struct obd_zfile *zfile;
	struct obd_file file;
	struct obd_errinfo info;
	uint64_t size;
	int rc = obd_file_open(path, O_RDONLY, &info, &file);

	if (rc)
		return report(&info);
	rc = obd_tarwrap_enter(&file, &info);
	if (!rc)
		rc = obd_zfile_create(&file, &info, &zfile);
	if (!rc) {
		size = obd_zfile_size_bytes(zfile);
		for (uint64_t at = 0; at < size && !rc; at += step) {
			uint64_t length = size - at < step ? size - at : step;
			struct iovec iov = {.iov_base = buffer, .iov_len = length};
			struct obd_cursor cursor;

			obd_cursor_init(&cursor, &iov, 1);
			rc = obd_zfile_read(zfile, at, length, &cursor, 0, &info);
			if (!rc)
				fwrite(buffer, 1, length, stdout);
		}
		obd_zfile_destroy(zfile);
	}
	obd_file_close(&file);
	return rc ? report(&info) : 0;
}

/* The lines of each LOWER, in place; those that are not there or empty are NULL. */
static const char **split_lowers(char **lowers, uint32_t cnt)
{
	const char **columns = calloc(3 * (size_t)cnt + 1, sizeof(*columns));

	for (uint32_t i = 0; i < cnt && columns; i++) {
		char *rest = lowers[i];

		for (uint32_t column = 0; column < 3 && rest; column++) {
			char *line = strsep(&rest, "\n");

			columns[column * cnt + i] = *line ? line : NULL;
		}
	}
	return columns;
}

int main(int argc, char **argv)
{
	struct obd_image_spec spec = {0};
	struct obd_image *image;
	struct obd_errinfo info;
	const char **columns;
	uint8_t *buffer = malloc((size_t)READ_SECTORS * OBD_SECTOR_BYTES);
	int at = 2;
	int rc;

	if (argc < 2 || !buffer) {
		free(buffer);
		return 2;
	}
	if (argc == 3 && strcmp(argv[1], "zfile") == 0) {
		rc = dump_zfile(argv[2], buffer);
		free(buffer);
		return rc || fflush(stdout) ? 1 : 0;
	}
	if (argc >= 5 && strcmp(argv[2], "-u") == 0) {
		spec.upper_data = argv[3];
		spec.upper_index = argv[4];
		at = 5;
	}
	spec.lower_cnt = (uint32_t)(argc - at);
	columns = split_lowers(argv + at, spec.lower_cnt);
	if (!columns) {
		free(buffer);
		return 2;
	}
	spec.lower_paths = columns;
	spec.target_paths = columns + spec.lower_cnt;
	spec.gzip_index_paths = columns + (size_t)2 * spec.lower_cnt;
	if (obd_image_create(&spec, &info, &image)) {
		free(buffer);
		free(columns);
		return report(&info);
	}
	rc = strcmp(argv[1], "scan") == 0 ? scan(image, buffer) : read_ranges(image);
	obd_image_destroy(image);
	free(buffer);
	free(columns);
	return rc || fflush(stdout) ? 1 : 0;
}
