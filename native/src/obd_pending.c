#include "obd_pending.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "obd_bytes.h"

#define VERSION	      1u
#define VERSION_AT    8u
#define BOOT_ID_AT    16u
#define BOOT_ID_BYTES 36u
#define UUID_AT	      56u

static const uint8_t magic[8] = "OBDPEND";

static int read_boot_id(uint8_t *to, struct obd_errinfo *info)
{
	static const char path[] = "/proc/sys/kernel/random/boot_id";
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got = fd < 0 ? -1 : read(fd, to, BOOT_ID_BYTES);
	int err = errno;

	if (fd >= 0)
		close(fd);
	if (got != (ssize_t)BOOT_ID_BYTES)
		return obd_fail_errno(info, OBD_E_IO, got < 0 ? err : EIO, path, "boot id");
	return 0;
}

int obd_pending_init(struct obd_pending *pending, const char *index_path, const char *uuid,
		     struct obd_errinfo *info)
{
	size_t length = strlen(index_path);

	pending->path = malloc(length + sizeof(OBD_PENDING_SUFFIX));
	if (!pending->path)
		return obd_fail(info, OBD_E_NOMEM, index_path, "name of the pending file");
	memcpy(pending->path, index_path, length);
	memcpy(pending->path + length, OBD_PENDING_SUFFIX, sizeof(OBD_PENDING_SUFFIX));
	memcpy(pending->header, magic, sizeof(magic));
	obd_put_le32(pending->header + VERSION_AT, VERSION);
	memcpy(pending->header + UUID_AT, uuid, OBD_LSMT_UUID_BYTES);
	return read_boot_id(pending->header + BOOT_ID_AT, info);
}

static void forget(struct obd_pending *pending)
{
	obd_file_close(&pending->file);
	pending->file.fd = -1;
}

void obd_pending_deinit(struct obd_pending *pending)
{
	forget(pending);
	free(pending->path);
	pending->path = NULL;
}

static int stat_it(struct obd_pending *pending, struct obd_errinfo *info, struct stat *ret)
{
	if (fstat(pending->file.fd, ret) < 0)
		return obd_fail_errno(info, OBD_E_IO, errno, pending->path, "stat");
	return 0;
}

/* Whether it begins with the header of this boot and pair. */
static bool is_ours(struct obd_pending *pending)
{
	uint8_t header[OBD_PENDING_HEADER_BYTES];
	ssize_t got = pread(pending->file.fd, header, sizeof(header), 0);

	return got == (ssize_t)sizeof(header) &&
	       memcmp(header, pending->header, sizeof(header)) == 0;
}

/* Opens it if it is there now; fd stays -1 if it is not, or is not ours. */
static int look(struct obd_pending *pending, struct obd_errinfo *info)
{
	struct obd_errinfo found = {0};
	struct stat st;
	int rc;

	if (pending->file.fd >= 0) {
		rc = stat_it(pending, info, &st);
		if (rc || st.st_nlink)
			return rc;
		forget(pending); /* taken away by a writer that ended cleanly */
	}
	rc = obd_file_open(pending->path, O_RDONLY, &found, &pending->file);
	if (rc) {
		pending->file.fd = -1;
		if (found.sys_errno == ENOENT)
			return 0;
		if (info)
			*info = found;
		return rc;
	}
	if (!is_ours(pending))
		forget(pending);
	return 0;
}

int obd_pending_end(struct obd_pending *pending, struct obd_file *index, uint64_t indexed,
		    struct obd_errinfo *info, uint64_t *ret)
{
	uint8_t here[OBD_LSMT_ENTRY_BYTES];
	uint8_t there[OBD_LSMT_ENTRY_BYTES];
	uint64_t end;
	struct stat st;
	int rc = look(pending, info);

	*ret = 0;
	if (rc || pending->file.fd < 0)
		return rc;
	rc = stat_it(pending, info, &st);
	if (rc)
		return rc;
	end = (uint64_t)st.st_size / OBD_LSMT_ENTRY_BYTES * OBD_LSMT_ENTRY_BYTES;
	if (end <= indexed)
		return 0;
	if (indexed > OBD_LSMT_SPACE_BYTES) {
		rc = obd_file_read_buffer(&pending->file, indexed - sizeof(here), here,
					  sizeof(here), 0, info);
		if (!rc)
			rc = obd_file_read_buffer(index, indexed - sizeof(there), there,
						  sizeof(there), 0, info);
		if (rc || memcmp(here, there, sizeof(here)) != 0)
			return rc;
	}
	*ret = end;
	return 0;
}

static int fail_writing(struct obd_pending *pending, struct obd_errinfo *info)
{
	int code = errno == ENOSPC || errno == EDQUOT ? OBD_E_NOSPACE : OBD_E_IO;

	obd_fail_errno(info, code, errno, pending->path, "set up the pending file");
	forget(pending);
	return code;
}

static bool put(int fd, const uint8_t *from, size_t length, uint64_t at)
{
	return pwrite(fd, from, length, (off_t)at) == (ssize_t)length;
}

int obd_pending_begin(struct obd_pending *pending, uint64_t end, const uint8_t *last,
		      struct obd_errinfo *info)
{
	int rc;
	int fd;

	forget(pending);
	fd = open(pending->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return fail_writing(pending, info);
	close(fd);
	rc = obd_file_open(pending->path, O_RDWR, info, &pending->file);
	if (rc) {
		pending->file.fd = -1;
		return rc;
	}
	fd = pending->file.fd;
	if (!is_ours(pending) &&
	    (ftruncate(fd, 0) < 0 || !put(fd, pending->header, sizeof(pending->header), 0)))
		return fail_writing(pending, info);
	if (ftruncate(fd, (off_t)end) < 0 ||
	    (last && !put(fd, last, OBD_LSMT_ENTRY_BYTES, end - OBD_LSMT_ENTRY_BYTES)))
		return fail_writing(pending, info);
	return 0;
}

int obd_pending_remove(struct obd_pending *pending, struct obd_errinfo *info)
{
	forget(pending);
	if (unlink(pending->path) < 0 && errno != ENOENT)
		return obd_fail_errno(info, OBD_E_IO, errno, pending->path, "remove");
	return 0;
}
