/* The two files of a writable layer: opened, checked, written; errors name the place. */
#include "obd_upper_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "obd_bytes.h"

int obd_upper_fail_at(const struct obd_file *file, const char *what, int code, int err, uint64_t at,
		      struct obd_errinfo *info)
{
	obd_fail_errno(info, code, err, file->path, what);
	if (info)
		info->offset_bytes = at;
	return code;
}

int obd_upper_code_of_write(int err)
{
	return err == ENOSPC || err == EDQUOT ? OBD_E_NOSPACE : OBD_E_IO;
}

int obd_upper_open_pair(struct obd_upper *upper, const char *data_path, const char *index_path,
			struct obd_errinfo *info)
{
	struct obd_errinfo first = {0};
	int rc = obd_file_open(data_path, O_RDWR, &first, &upper->data);

	if (!rc)
		rc = obd_file_open(index_path, O_RDWR, &first, &upper->index);
	if (rc && (first.sys_errno == EACCES || first.sys_errno == EROFS)) {
		/* good enough to follow */
		obd_file_close(&upper->data);
		upper->is_read_only = true;
		rc = obd_file_open(data_path, O_RDONLY, &first, &upper->data);
		if (!rc)
			rc = obd_file_open(index_path, O_RDONLY, &first, &upper->index);
	}
	if (rc && info)
		*info = first;
	return rc;
}

/* The index file of a sparse layer holds nothing: records in it are another layer's. */
static int begin_sparse(struct obd_upper *upper, const struct obd_lsmt_ht *data,
			struct obd_errinfo *info)
{
	if (upper->index.size_bytes > OBD_LSMT_SPACE_BYTES)
		return obd_fail_value(info, OBD_E_FORMAT, upper->index.path,
				      "index records beside a sparse data file",
				      OBD_LSMT_SPACE_BYTES, 0, upper->index.size_bytes);
	if (!data->virtual_size_bytes)
		return obd_fail_value(info, OBD_E_FORMAT, upper->data.path,
				      "virtual size of a sparse layer", 48, 512, 0);
	upper->is_sparse = true;
	upper->virtual_size_bytes = data->virtual_size_bytes;
	return obd_zeroes_init(&upper->zeroes, upper->data.path, data->uuid, info);
}

int obd_upper_read_headers(struct obd_upper *upper, struct obd_errinfo *info)
{
	const uint32_t kind = OBD_LSMT_FLAG_HEADER | OBD_LSMT_FLAG_DATA;
	uint8_t area[OBD_LSMT_SPACE_BYTES];
	struct obd_lsmt_ht data;
	struct obd_lsmt_ht index;
	int rc = obd_file_read_buffer(&upper->data, 0, area, sizeof(area), 0, info);

	if (!rc)
		rc = obd_lsmt_decode_ht(area, kind, kind, upper->data.path, 0, info, &data);
	if (rc)
		return rc;
	if (data.flags & OBD_LSMT_FLAG_SPARSE)
		return begin_sparse(upper, &data, info);
	rc = obd_file_read_buffer(&upper->index, 0, area, sizeof(area), 0, info);
	if (!rc)
		rc = obd_lsmt_decode_ht(area, kind | OBD_LSMT_FLAG_SEALED, OBD_LSMT_FLAG_HEADER,
					upper->index.path, 0, info, &index);
	if (rc)
		return rc;
	if (index.index_offset_bytes != OBD_LSMT_SPACE_BYTES)
		return obd_fail_value(info, OBD_E_FORMAT, upper->index.path, "lsmt index offset",
				      32, OBD_LSMT_SPACE_BYTES, index.index_offset_bytes);
	if (strncasecmp(data.uuid, index.uuid, sizeof(data.uuid)) != 0)
		return obd_fail_value(info, OBD_E_FORMAT, upper->index.path,
				      "uuid of index and data differ", 56, 0, 0);
	if (data.virtual_size_bytes != index.virtual_size_bytes)
		return obd_fail_value(info, OBD_E_FORMAT, upper->index.path,
				      "virtual size of index and data differ", 48,
				      data.virtual_size_bytes, index.virtual_size_bytes);
	upper->virtual_size_bytes = data.virtual_size_bytes;
	return obd_pending_init(&upper->pending, upper->index.path, index.uuid, info);
}

int obd_upper_size_of(struct obd_file *file, struct obd_errinfo *info, uint64_t *ret)
{
	struct stat st;

	if (fstat(file->fd, &st) < 0)
		return obd_fail_errno(info, OBD_E_IO, errno, file->path, "stat");
	*ret = (uint64_t)st.st_size;
	return 0;
}

int obd_upper_write_all(int fd, const uint8_t *from, size_t length, uint64_t at)
{
	while (length) {
		ssize_t put = pwrite(fd, from, length, (off_t)at);

		if (put < 0 && errno == EINTR)
			continue;
		if (put <= 0)
			return put ? errno : EIO;
		from += put;
		at += (uint64_t)put;
		length -= (size_t)put;
	}
	return 0;
}

bool obd_upper_set_aside(int fd, uint64_t at, uint64_t length)
{
	return fallocate(fd, FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)length) == 0 ||
	       obd_upper_code_of_write(errno) != OBD_E_NOSPACE;
}
