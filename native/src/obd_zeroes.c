#include "obd_zeroes.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "obd_bytes.h"
#include "obd_crash.h"
#include "obd_crc.h"

#define VERSION	      1u
#define VERSION_AT    8u
#define UUID_AT	      16u
#define CRC_AT	      12u
#define CHUNK_RECORDS 256u

static const uint8_t magic[8] = "OBDZERO";

int obd_zeroes_init(struct obd_zeroes *zeroes, const char *data_path, const char *uuid,
		    struct obd_errinfo *info)
{
	size_t length = strlen(data_path);

	zeroes->path = malloc(length + sizeof(OBD_ZEROES_SUFFIX));
	if (!zeroes->path || obd_map_init(&zeroes->set))
		return obd_fail(info, OBD_E_NOMEM, data_path, "record of zeroes");
	memcpy(zeroes->path, data_path, length);
	memcpy(zeroes->path + length, OBD_ZEROES_SUFFIX, sizeof(OBD_ZEROES_SUFFIX));
	memcpy(zeroes->header, magic, sizeof(magic));
	obd_put_le32(zeroes->header + VERSION_AT, VERSION);
	memcpy(zeroes->header + UUID_AT, uuid, strnlen(uuid, OBD_LSMT_UUID_BYTES - 1));
	zeroes->seed = obd_crc32c_raw(0, zeroes->header, sizeof(zeroes->header));
	zeroes->end = OBD_ZEROES_HEADER_BYTES;
	return 0;
}

void obd_zeroes_deinit(struct obd_zeroes *zeroes)
{
	if (zeroes->fd >= 0)
		close(zeroes->fd);
	zeroes->fd = -1;
	if (zeroes->path)
		obd_map_deinit(&zeroes->set);
	free(zeroes->path);
	zeroes->path = NULL;
}

static int fail_at(struct obd_zeroes *zeroes, const char *what, int err, uint64_t at,
		   struct obd_errinfo *info)
{
	int code = err == ENOSPC || err == EDQUOT ? OBD_E_NOSPACE : OBD_E_IO;

	obd_fail_errno(info, code, err, zeroes->path, what);
	if (info)
		info->offset_bytes = at;
	return code;
}

static bool is_good(const struct obd_zeroes *zeroes, const uint8_t *record)
{
	struct obd_segment segment = {.low = obd_le64(record)};

	return obd_segment_length(segment) && !obd_lsmt_is_padding(segment) &&
	       obd_le32(record + CRC_AT) == obd_crc32c_raw(zeroes->seed, record, CRC_AT);
}

static int insert(struct obd_map *set, uint64_t begin, uint64_t end)
{
	while (begin < end) {
		uint64_t length = end - begin < OBD_SEGMENT_MAX_SECTORS ? end - begin
									: OBD_SEGMENT_MAX_SECTORS;

		if (obd_map_reserve(set, 1))
			return OBD_E_NOMEM;
		obd_map_insert(set, obd_segment_make(begin, length, begin + OBD_LSMT_FIRST_SECTOR,
						     true, 0));
		begin += length;
	}
	return 0;
}

/* Records until the end of the file; those behind the last good one are left out. */
static int load_records(struct obd_zeroes *zeroes, struct obd_file *file, struct obd_errinfo *info)
{
	uint8_t chunk[CHUNK_RECORDS * OBD_ZEROES_RECORD_BYTES];
	uint64_t at = OBD_ZEROES_HEADER_BYTES;
	uint64_t bad = 0;

	while (file->size_bytes - at >= OBD_ZEROES_RECORD_BYTES) {
		uint64_t left = (file->size_bytes - at) / OBD_ZEROES_RECORD_BYTES;
		uint32_t cnt = left < CHUNK_RECORDS ? (uint32_t)left : CHUNK_RECORDS;
		int rc = obd_file_read_buffer(file, at, chunk,
					      (size_t)cnt * OBD_ZEROES_RECORD_BYTES, 0, info);

		if (rc)
			return rc;
		for (uint32_t i = 0; i < cnt; i++, at += OBD_ZEROES_RECORD_BYTES) {
			const uint8_t *record = chunk + (size_t)i * OBD_ZEROES_RECORD_BYTES;
			struct obd_segment segment = {.low = obd_le64(record)};

			if (!is_good(zeroes, record)) {
				bad = bad ? bad : at;
				continue;
			}
			if (bad)
				return obd_fail_value(info, OBD_E_FORMAT, zeroes->path,
						      "damaged record of zeroes before a good one",
						      bad, 0, at);
			if (insert(&zeroes->set, obd_segment_offset(segment),
				   obd_segment_end(segment)))
				return obd_fail(info, OBD_E_NOMEM, zeroes->path,
						"record of zeroes");
			zeroes->end = at + OBD_ZEROES_RECORD_BYTES;
		}
	}
	return 0;
}

int obd_zeroes_load(struct obd_zeroes *zeroes, struct obd_errinfo *info)
{
	uint8_t header[OBD_ZEROES_HEADER_BYTES];
	struct obd_file file;
	int rc = 0;

	obd_map_clear(&zeroes->set);
	zeroes->end = OBD_ZEROES_HEADER_BYTES;
	if (access(zeroes->path, F_OK) < 0 && errno == ENOENT)
		return 0;
	rc = obd_file_open(zeroes->path, O_RDONLY, info, &file);
	if (rc)
		return rc;
	if (file.size_bytes >= sizeof(header))
		rc = obd_file_read_buffer(&file, 0, header, sizeof(header), 0, info);
	else
		memset(header, 0, sizeof(header));
	/* of another data file, or torn before its first record: nothing was discarded yet */
	if (!rc && memcmp(header, zeroes->header, sizeof(header)) == 0)
		rc = load_records(zeroes, &file, info);
	else if (!rc && memcmp(header, magic, sizeof(magic)) == 0 &&
		 obd_le32(header + VERSION_AT) > VERSION)
		rc = obd_fail_value(info, OBD_E_UNSUPPORTED, zeroes->path,
				    "version of the record of zeroes", VERSION_AT, VERSION,
				    obd_le32(header + VERSION_AT));
	obd_file_close(&file);
	return rc;
}

static int put(struct obd_zeroes *zeroes, const uint8_t *from, size_t length, uint64_t at,
	       struct obd_errinfo *info)
{
	while (length) {
		ssize_t done = pwrite(zeroes->fd, from, length, (off_t)at);

		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return fail_at(zeroes, "append a record of zeroes", done ? errno : EIO, at,
				       info);
		from += done;
		at += (uint64_t)done;
		length -= (size_t)done;
	}
	return 0;
}

/* The name must be as durable as what it holds. */
static int sync_directory(struct obd_zeroes *zeroes, struct obd_errinfo *info)
{
	char *slash = strrchr(zeroes->path, '/');
	char *name =
		slash ? strndup(zeroes->path, (size_t)(slash - zeroes->path) + 1) : strdup(".");
	int fd = name ? open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	int rc = fd >= 0 && fsync(fd) == 0 ? 0
					   : fail_at(zeroes, "sync the directory", errno, 0, info);

	if (fd >= 0)
		close(fd);
	free(name);
	return rc;
}

/* The first record of this writer: opens or makes the file, cuts what load left out. */
static int begin(struct obd_zeroes *zeroes, struct obd_errinfo *info)
{
	int rc = 0;

	zeroes->fd = open(zeroes->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (zeroes->fd < 0)
		return fail_at(zeroes, "open", errno, 0, info);
	if (zeroes->end == OBD_ZEROES_HEADER_BYTES) {
		if (ftruncate(zeroes->fd, 0) < 0)
			rc = fail_at(zeroes, "cut", errno, 0, info);
		if (!rc)
			rc = put(zeroes, zeroes->header, sizeof(zeroes->header), 0, info);
		if (!rc)
			rc = sync_directory(zeroes, info);
	} else if (ftruncate(zeroes->fd, (off_t)zeroes->end) < 0) {
		rc = fail_at(zeroes, "cut a torn record", errno, zeroes->end, info);
	}
	if (rc) {
		close(zeroes->fd);
		zeroes->fd = -1;
	}
	return rc;
}

static bool holds(const struct obd_map *set, uint64_t begin, uint64_t end)
{
	struct obd_segment first;

	while (begin < end) {
		/* a piece at a time: the count of a range is linear in what it holds */
		uint64_t piece = end - begin < OBD_SEGMENT_MAX_SECTORS
					 ? end
					 : begin + OBD_SEGMENT_MAX_SECTORS;

		if (!obd_map_collect(set, begin, piece, &first, 1) ||
		    obd_segment_offset(first) > begin)
			return false;
		begin = obd_segment_end(first);
	}
	return true;
}

static int append(struct obd_zeroes *zeroes, uint64_t begin, uint64_t end, struct obd_errinfo *info)
{
	while (begin < end) {
		uint64_t length = end - begin < OBD_SEGMENT_MAX_SECTORS ? end - begin
									: OBD_SEGMENT_MAX_SECTORS;
		uint8_t record[OBD_ZEROES_RECORD_BYTES] = {0};
		int rc;

		obd_put_le64(record, obd_segment_make(begin, length, 0, false, 0).low);
		obd_put_le32(record + CRC_AT, obd_crc32c_raw(zeroes->seed, record, CRC_AT));
		OBD_CRASH_POINT("zeroes.record");
		rc = put(zeroes, record, sizeof(record), zeroes->end, info);
		if (rc)
			return rc;
		zeroes->end += sizeof(record);
		begin += length;
	}
	return 0;
}

int obd_zeroes_add(struct obd_zeroes *zeroes, uint64_t begin_sector, uint64_t end_sector,
		   bool must_sync, struct obd_errinfo *info)
{
	int rc = 0;

	if (holds(&zeroes->set, begin_sector, end_sector))
		return 0;
	if (zeroes->fd < 0)
		rc = begin(zeroes, info);
	if (!rc)
		rc = append(zeroes, begin_sector, end_sector, info);
	OBD_CRASH_POINT("zeroes.sync");
	if (!rc && must_sync && fdatasync(zeroes->fd) < 0)
		rc = fail_at(zeroes, "sync", errno, zeroes->end, info);
	if (!rc && insert(&zeroes->set, begin_sector, end_sector))
		rc = obd_fail(info, OBD_E_NOMEM, zeroes->path, "record of zeroes");
	return rc;
}
