/* Fuzz targets give the bytes as files in memory and read all that opens. */
#ifndef FUZZ_IMAGE_H
#define FUZZ_IMAGE_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "obd_image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A memfd with these bytes; its path is good until it is closed. */
static inline int fuzz_file(const uint8_t *data, size_t size, char path[64])
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC);

	if (fd < 0 || (size && write(fd, data, size) != (ssize_t)size))
		abort();
	snprintf(path, 64, "/proc/self/fd/%d", fd);
	return fd;
}

/* Reads the first and the last megabyte and places in between. */
static inline void fuzz_read(struct obd_image *image)
{
	static uint8_t buffer[1 << 20];
	const uint32_t cnt = sizeof(buffer) / OBD_SECTOR_BYTES;
	uint64_t sectors = obd_image_virtual_size_bytes(image) / OBD_SECTOR_BYTES;
	uint64_t lba[] = {0, sectors / 3, sectors / 2 + 1, sectors > cnt ? sectors - cnt : 0};
	struct obd_image_stat stat;

	for (size_t i = 0; i < sizeof(lba) / sizeof(lba[0]) && sectors; i++) {
		uint64_t left = sectors - lba[i];
		uint32_t now = left < cnt ? (uint32_t)left : cnt;
		struct iovec iov = {.iov_base = buffer, .iov_len = (size_t)now * OBD_SECTOR_BYTES};
		struct obd_errinfo info;
		int rc = obd_image_read(image, lba[i], now, &iov, 1, 0, &info);

		if (rc && (info.code != rc || !info.what[0]))
			abort(); /* every failure says what it is */
	}
	obd_image_stat(image, &stat);
}

#endif
