#include "obd_file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "obd_barrier.h"
#include "obd_image.h"

#define SLOTS 64u

int obd_file_open(const char *path, int access, struct obd_errinfo *info, struct obd_file *ret)
{
	struct obd_file file = {.fd = -1};
	struct stat st;

	/* O_NONBLOCK: a FIFO by that name must not hang us; it means nothing to a regular file */
	file.fd = open(path, access | O_CLOEXEC | O_NONBLOCK);
	if (file.fd < 0)
		return obd_fail_errno(info, OBD_E_IO, errno, path, "open");
	if (fstat(file.fd, &st) < 0) {
		int err = errno;

		close(file.fd);
		return obd_fail_errno(info, OBD_E_IO, err, path, "stat");
	}
	if (!S_ISREG(st.st_mode)) {
		close(file.fd);
		return obd_fail_value(info, OBD_E_FORMAT, path, "file type: not a regular file", 0,
				      S_IFREG, st.st_mode & S_IFMT);
	}
	file.size_bytes = (uint64_t)st.st_size;
	file.path = strdup(path);
	if (!file.path) {
		close(file.fd);
		return obd_fail(info, OBD_E_NOMEM, path, "path");
	}
	*ret = file;
	return 0;
}

void obd_file_close(struct obd_file *file)
{
	if (file->fd >= 0)
		close(file->fd);
	free(file->path);
	file->fd = -1;
	file->path = NULL;
}

static uint32_t probe_memory(const struct obd_file *file)
{
	struct statfs fs;

	if (fstatfs(file->fd, &fs) == 0 && (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC))
		return OBD_NOWAIT_MEMORY;
	return OBD_NOWAIT_NEVER;
}

/* One preadv; *ret_bytes may be short. */
static int read_some(struct obd_file *file, const struct iovec *iov, uint32_t cnt, uint64_t at,
		     uint32_t flags, struct obd_errinfo *info, size_t *ret_bytes)
{
	uint32_t nowait = OBD_NOWAIT_MEMORY; /* a read that may wait is a plain one */
	ssize_t got;

	if (flags & OBD_READ_NOWAIT)
		nowait = obd_load_relaxed(&file->nowait);
	if (nowait == OBD_NOWAIT_NEVER)
		return obd_fail_value(info, OBD_E_AGAIN, file->path, "read without waiting", at, 0,
				      0);
	do {
		if (nowait == OBD_NOWAIT_FLAG)
			got = preadv2(file->fd, iov, (int)cnt, (off_t)at, RWF_NOWAIT);
		else if (cnt == 1)
			got = pread(file->fd, iov->iov_base, iov->iov_len, (off_t)at);
		else
			got = preadv(file->fd, iov, (int)cnt, (off_t)at);
	} while (got < 0 && errno == EINTR);
	if (got >= 0) {
		*ret_bytes = (size_t)got;
		return 0;
	}
	if (nowait == OBD_NOWAIT_FLAG && errno == EOPNOTSUPP) {
		obd_store_relaxed(&file->nowait, probe_memory(file));
		return read_some(file, iov, cnt, at, flags, info, ret_bytes);
	}
	if (nowait == OBD_NOWAIT_FLAG && errno == EAGAIN)
		return obd_fail_value(info, OBD_E_AGAIN, file->path, "read without waiting", at, 0,
				      0);
	obd_fail_errno(info, OBD_E_IO, errno, file->path, "read");
	if (info)
		info->offset_bytes = at;
	return OBD_E_IO;
}

int obd_file_read(struct obd_file *file, uint64_t offset_bytes, uint64_t length,
		  struct obd_cursor *cursor, uint32_t flags, struct obd_errinfo *info)
{
	struct iovec slot[SLOTS];
	uint64_t at;

	if (__builtin_add_overflow(file->base_bytes, offset_bytes, &at) || at > INT64_MAX - length)
		return obd_fail_value(info, OBD_E_RANGE, file->path, "read", offset_bytes, 0,
				      length);
	while (length) {
		uint32_t cnt;
		size_t got = 0;
		size_t want = obd_cursor_slice(cursor, length, slot, SLOTS, &cnt);
		int rc;

		if (!want)
			return obd_fail_value(info, OBD_E_INVAL, file->path, "iovecs too short", at,
					      length, 0);
		rc = read_some(file, slot, cnt, at, flags, info, &got);
		if (rc)
			return rc;
		/* part of it is not cached, or the end of the file: a waiting read tells which */
		if (got < want && (flags & OBD_READ_NOWAIT))
			return obd_fail_value(info, OBD_E_AGAIN, file->path, "read without waiting",
					      at, want, got);
		if (!got)
			return obd_fail_value(info, OBD_E_SHORT, file->path, "end of file", at,
					      length, 0);
		obd_cursor_skip(cursor, got);
		at += got;
		length -= got;
	}
	return 0;
}

int obd_file_read_buffer(struct obd_file *file, uint64_t offset_bytes, void *buffer, size_t length,
			 uint32_t flags, struct obd_errinfo *info)
{
	struct iovec iov = {.iov_base = buffer, .iov_len = length};
	struct obd_cursor cursor;

	obd_cursor_init(&cursor, &iov, 1);
	return obd_file_read(file, offset_bytes, length, &cursor, flags, info);
}
