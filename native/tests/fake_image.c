#include "fake_image.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct obd_image {
	struct fake_image_options options;
	uint8_t *disk;
	uint64_t *reserved;
	pthread_rwlock_t lock; /* a sector is never seen half written */
};

struct obd_image *fake_image_create(const struct fake_image_options *options)
{
	struct obd_image *image = calloc(1, sizeof(*image));
	int fd = options->path ? open(options->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600)
			       : memfd_create("fake disk", MFD_CLOEXEC);

	if (!image || fd < 0 || ftruncate(fd, (off_t)options->bytes)) {
		perror("fake image");
		exit(1);
	}
	image->options = *options;
	pthread_rwlock_init(&image->lock, NULL);
	image->disk = mmap(NULL, options->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (image->disk == MAP_FAILED) {
		perror("fake image");
		exit(1);
	}
	return image;
}

int obd_image_create(const struct obd_image_spec *spec, struct obd_errinfo *info,
		     struct obd_image **ret)
{
	(void)spec;
	(void)ret;
	return obd_fail(info, OBD_E_UNSUPPORTED, NULL, "a fake image has no files");
}

void obd_image_destroy(struct obd_image *image)
{
	if (!image)
		return;
	munmap(image->disk, image->options.bytes);
	pthread_rwlock_destroy(&image->lock);
	free(image);
}

uint8_t *fake_image_bytes(struct obd_image *image)
{
	return image->disk;
}

bool fake_image_is_writer(const struct obd_image *image)
{
	return image->reserved;
}

uint64_t obd_image_virtual_size_bytes(const struct obd_image *image)
{
	return image->options.bytes;
}

bool obd_image_has_upper(const struct obd_image *image)
{
	return !image->options.is_read_only;
}

static int before(struct obd_image *image, char operation, uint64_t lba, uint64_t sectors)
{
	uint64_t end = image->options.bytes / OBD_SECTOR_BYTES;

	if (lba > end || sectors > end - lba)
		return OBD_E_RANGE;
	if (!image->options.before)
		return 0;
	return image->options.before(image->options.context, operation, lba, sectors);
}

int obd_image_read(struct obd_image *image, uint64_t lba, uint32_t sector_cnt,
		   const struct iovec *iov, uint32_t iov_cnt, uint32_t flags,
		   struct obd_errinfo *info)
{
	const uint8_t *at = image->disk + lba * OBD_SECTOR_BYTES;
	int rc;

	(void)info;
	if ((flags & OBD_READ_NOWAIT) && image->options.needs_waiting)
		return OBD_E_AGAIN;
	rc = before(image, 'r', lba, sector_cnt);
	pthread_rwlock_rdlock(&image->lock);
	for (uint32_t i = 0; !rc && i < iov_cnt; i++) {
		memcpy(iov[i].iov_base, at, iov[i].iov_len);
		at += iov[i].iov_len;
	}
	pthread_rwlock_unlock(&image->lock);
	return rc;
}

int obd_image_start_writing(struct obd_image *image, uint64_t *reserved, struct obd_errinfo *info)
{
	(void)info;
	image->reserved = reserved;
	return 0;
}

void obd_image_stop_writing(struct obd_image *image)
{
	image->reserved = NULL;
}

int obd_image_follow(struct obd_image *image, struct obd_errinfo *info)
{
	(void)image;
	(void)info;
	return 0;
}

int obd_image_write(struct obd_image *image, uint64_t lba, uint32_t sector_cnt,
		    const struct iovec *iov, uint32_t iov_cnt, uint32_t flags,
		    struct obd_errinfo *info)
{
	uint8_t *at = image->disk + lba * OBD_SECTOR_BYTES;
	int rc = image->reserved ? 0 : OBD_E_READONLY;

	(void)info;
	if (!rc)
		rc = before(image, flags & OBD_WRITE_FUA ? 'W' : 'w', lba, sector_cnt);
	pthread_rwlock_wrlock(&image->lock);
	for (uint32_t i = 0; !rc && i < iov_cnt; i++) {
		memcpy(at, iov[i].iov_base, iov[i].iov_len);
		at += iov[i].iov_len;
	}
	pthread_rwlock_unlock(&image->lock);
	return rc;
}

int obd_image_discard(struct obd_image *image, uint64_t lba, uint64_t sector_cnt,
		      struct obd_errinfo *info)
{
	int rc = before(image, 'd', lba, sector_cnt);

	(void)info;
	pthread_rwlock_wrlock(&image->lock);
	if (!rc)
		memset(image->disk + lba * OBD_SECTOR_BYTES, 0, sector_cnt * OBD_SECTOR_BYTES);
	pthread_rwlock_unlock(&image->lock);
	return rc;
}

int obd_image_flush(struct obd_image *image, struct obd_errinfo *info)
{
	(void)info;
	return before(image, 'f', 0, 0);
}

void obd_image_stat(const struct obd_image *image, struct obd_image_stat *ret)
{
	(void)image;
	memset(ret, 0, sizeof(*ret));
}
