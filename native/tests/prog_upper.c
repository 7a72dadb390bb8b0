/*
 * Opens a writable layer as a worker does after a restart, for tests and for chaos.power.
 *
 *	prog_upper open DATA INDEX OUT
 *		becomes the writer (which cuts a torn tail), copies the whole disk to the file OUT,
 *		writes one stamped sector with FUA, reads it back, puts the old content back.
 *		Prints one line of JSON: what obd_image_stat says after opening.
 *
 *	prog_upper write DATA INDEX LBA SECTORS COUNT
 *		writes COUNT times SECTORS sectors from LBA on, each time one sector further, filled
 *		with the LBA's low byte, and ends without a flush, as if it had been killed
 *
 * Exit status: 0, or 1 with the error on stderr: NAME what path offset expected got.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "obd_image.h"

#define CHUNK_SECTORS 2048u

static int report(const struct obd_errinfo *info)
{
	fprintf(stderr,
		"%s %s %s offset=%" PRIu64 " expected=%" PRIu64 " got=%" PRIu64 " errno=%d\n",
		obd_err_name(info->code), info->what, info->path, info->offset_bytes,
		info->expected, info->got, info->sys_errno);
	return 1;
}

static int copy_out(struct obd_image *image, const char *path)
{
	uint64_t sectors = obd_image_virtual_size_bytes(image) / OBD_SECTOR_BYTES;
	uint8_t *buffer = malloc((size_t)CHUNK_SECTORS * OBD_SECTOR_BYTES);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	struct obd_errinfo info;
	int rc = buffer && fd >= 0 ? 0 : 1;

	for (uint64_t lba = 0; lba < sectors && !rc; lba += CHUNK_SECTORS) {
		uint64_t left = sectors - lba;
		uint32_t cnt = left < CHUNK_SECTORS ? (uint32_t)left : CHUNK_SECTORS;
		size_t bytes = (size_t)cnt * OBD_SECTOR_BYTES;
		struct iovec iov = {.iov_base = buffer, .iov_len = bytes};

		if (obd_image_read(image, lba, cnt, &iov, 1, 0, &info))
			rc = report(&info);
		else if (write(fd, buffer, bytes) != (ssize_t)bytes)
			rc = 1;
	}
	if (fd >= 0)
		close(fd);
	free(buffer);
	return rc;
}

static int write_and_read_back(struct obd_image *image)
{
	uint64_t lba = obd_image_virtual_size_bytes(image) / OBD_SECTOR_BYTES - 1;
	uint8_t old[OBD_SECTOR_BYTES];
	uint8_t probe[OBD_SECTOR_BYTES];
	uint8_t got[OBD_SECTOR_BYTES];
	struct iovec iov = {.iov_base = old, .iov_len = sizeof(old)};
	struct obd_errinfo info;

	if (obd_image_read(image, lba, 1, &iov, 1, 0, &info))
		return report(&info);
	for (size_t i = 0; i < sizeof(probe); i++)
		probe[i] = (uint8_t)~old[i];
	iov.iov_base = probe;
	if (obd_image_write(image, lba, 1, &iov, 1, OBD_WRITE_FUA, &info))
		return report(&info);
	iov.iov_base = got;
	if (obd_image_read(image, lba, 1, &iov, 1, 0, &info))
		return report(&info);
	if (memcmp(got, probe, sizeof(got)) != 0) {
		fprintf(stderr, "a sector written after opening reads differently\n");
		return 1;
	}
	iov.iov_base = old;
	return obd_image_write(image, lba, 1, &iov, 1, OBD_WRITE_FUA, &info) ? report(&info) : 0;
}

static int write_unflushed(struct obd_image *image, char **argv)
{
	uint64_t lba = strtoull(argv[0], NULL, 10);
	uint32_t sectors = (uint32_t)strtoul(argv[1], NULL, 10);
	uint64_t cnt = strtoull(argv[2], NULL, 10);
	size_t bytes = (size_t)sectors * OBD_SECTOR_BYTES;
	uint8_t *buffer = malloc(bytes);
	struct iovec iov = {.iov_base = buffer, .iov_len = bytes};
	struct obd_errinfo info;
	int rc = buffer ? 0 : 1;

	for (uint64_t i = 0; i < cnt && !rc; i++) {
		memset(buffer, (uint8_t)(lba + i), bytes);
		if (obd_image_write(image, lba + i, sectors, &iov, 1, 0, &info))
			rc = report(&info);
	}
	free(buffer);
	return rc;
}

static int open_and_copy(struct obd_image *image, const char *path)
{
	struct obd_image_stat stat;
	int rc;

	obd_image_stat(image, &stat);
	printf("{\"records\": %" PRIu64 ", \"data_bytes\": %" PRIu64
	       ", \"torn_bytes_cut\": %" PRIu64 "}\n",
	       stat.upper_records, stat.upper_data_bytes, stat.torn_bytes_cut);
	rc = copy_out(image, path);
	return rc ? rc : write_and_read_back(image);
}

int main(int argc, char **argv)
{
	struct obd_image_spec spec = {0};
	struct obd_image *image;
	struct obd_errinfo info;
	uint64_t reserved = 0;
	bool is_open = argc == 5 && strcmp(argv[1], "open") == 0;
	int rc;

	if (!is_open && (argc != 7 || strcmp(argv[1], "write") != 0))
		return 2;
	spec.upper_data = argv[2];
	spec.upper_index = argv[3];
	if (obd_image_create(&spec, &info, &image))
		return report(&info);
	rc = obd_image_start_writing(image, &reserved, &info) ? report(&info) : 0;
	if (!rc)
		rc = is_open ? open_and_copy(image, argv[4]) : write_unflushed(image, argv + 4);
	obd_image_destroy(image);
	return rc || fflush(stdout) ? 1 : 0;
}
