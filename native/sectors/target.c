#include "target.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define PROBLEM_BYTES 256u

static int fail(char *problem, int rc, const char *path, const char *hint)
{
	snprintf(problem, PROBLEM_BYTES, "%.120s: %s%s", path, strerror(-rc), hint);
	return rc;
}

static const char *hint_for(int error)
{
	switch (error) {
	case EINVAL:
		return " (no O_DIRECT there? try --buffered)";
	case EBUSY:
		return " (a block device that is mounted or in use is never written)";
	case EROFS:
	case EACCES:
	case EPERM:
		return " (a read-only device needs --read-only)";
	default:
		return "";
	}
}

/* Positions in a file must fit the device below it; only since Linux 6.1 it can be asked for. */
static uint32_t file_unit_bytes(int fd)
{
	struct statx status;

	if (statx(fd, "", AT_EMPTY_PATH, 0x2000 /* STATX_DIOALIGN */, &status) < 0)
		return 0;
#ifdef STATX_DIOALIGN
	return status.stx_mask & STATX_DIOALIGN ? status.stx_dio_offset_align : 0;
#else
	return 0;
#endif
}

static int look_at(struct obd_target *target, const char *path, bool is_read_only, char *problem)
{
	struct stat status;
	uint32_t unit_bytes = 0;
	int is_protected = 0;

	if (fstat(target->fd, &status) < 0)
		return fail(problem, -errno, path, "");
	target->is_block = S_ISBLK(status.st_mode);
	if (target->is_block) {
		if (ioctl(target->fd, BLKGETSIZE64, &target->size_bytes) < 0 ||
		    ioctl(target->fd, BLKSSZGET, &unit_bytes) < 0 ||
		    ioctl(target->fd, BLKROGET, &is_protected) < 0)
			return fail(problem, -errno, path, "");
		if (is_protected && !is_read_only)
			return fail(problem, -EROFS, path, hint_for(EROFS));
	} else {
		target->size_bytes = (uint64_t)status.st_size;
		unit_bytes = target->is_direct ? file_unit_bytes(target->fd) : 0;
	}
	target->unit_sectors =
		unit_bytes > OBD_TARGET_SECTOR_BYTES ? unit_bytes / OBD_TARGET_SECTOR_BYTES : 1;
	return 0;
}

int obd_target_open(struct obd_target *target, const char *path, bool is_read_only,
		    bool is_buffered, char *problem)
{
	int flags = O_CLOEXEC | (is_read_only ? O_RDONLY : O_RDWR) | (is_buffered ? 0 : O_DIRECT);
	struct stat status;
	int rc;

	*target = (struct obd_target){.fd = -1, .is_direct = !is_buffered};
	if (stat(path, &status) < 0)
		return fail(problem, -errno, path, "");
	if (!S_ISBLK(status.st_mode) && !S_ISREG(status.st_mode))
		return fail(problem, -ENOTBLK, path, ", and not a file either");
	if (S_ISBLK(status.st_mode) && !is_read_only)
		flags |= O_EXCL;
	target->fd = open(path, flags);
	if (target->fd < 0)
		return fail(problem, -errno, path, hint_for(errno));
	rc = look_at(target, path, is_read_only, problem);
	if (rc)
		obd_target_close(target);
	return rc;
}

void obd_target_close(struct obd_target *target)
{
	if (target->fd >= 0)
		close(target->fd);
	target->fd = -1;
}

/* Of one transfer that should have moved so many bytes. */
static int result(ssize_t moved, uint32_t bytes)
{
	if (moved < 0)
		return -errno;
	return (uint32_t)moved == bytes ? 0 : -ENODATA;
}

int obd_target_read(const struct obd_target *target, uint64_t at_bytes, uint32_t bytes,
		    uint8_t *data)
{
	return result(pread(target->fd, data, bytes, (off_t)(target->offset_bytes + at_bytes)),
		      bytes);
}

int obd_target_write(const struct obd_target *target, uint64_t at_bytes, uint32_t bytes,
		     const uint8_t *data, bool is_fua)
{
	struct iovec iov = {(void *)data, bytes};

	return result(pwritev2(target->fd, &iov, 1, (off_t)(target->offset_bytes + at_bytes),
			       is_fua ? RWF_DSYNC : 0),
		      bytes);
}

int obd_target_discard(const struct obd_target *target, uint64_t at_bytes, uint64_t bytes)
{
	uint64_t range[2] = {target->offset_bytes + at_bytes, bytes};
	int rc;

	if (target->is_block)
		rc = ioctl(target->fd, BLKDISCARD, range);
	else
		rc = fallocate(target->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			       (off_t)range[0], (off_t)range[1]);
	return rc < 0 ? -errno : 0;
}

int obd_target_flush(const struct obd_target *target)
{
	return fdatasync(target->fd) < 0 ? -errno : 0;
}

int obd_target_drop_cache(const struct obd_target *target)
{
	int rc = fdatasync(target->fd) < 0 ? -errno : 0;

	/* Invalidates clean pages of a block device too. */
	if (rc == 0)
		rc = -posix_fadvise(target->fd, 0, 0, POSIX_FADV_DONTNEED);
	return rc;
}
