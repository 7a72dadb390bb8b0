#include "obd_gzip_points.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include "obd_bytes.h"
#include "obd_crc.h"
#include "obd_file.h"
#include "obd_gzindex.h"

#define CHUNK_BYTES   (128u << 10)
#define WINDOW_BYTES  OBD_GZINDEX_WINDOW_BYTES
#define PLAIN_BYTES   (4 * WINDOW_BYTES)
#define WINDOW_LEVEL  6
#define GZIP_BITS     (MAX_WBITS + 16) /* zlib reads header and trailer, and checks the latter */
#define AT_BOUNDARY   128	       /* z_stream.data_type, see inflate() */
#define IN_LAST_BLOCK 64
#define BITS_LEFT     7

struct point {
	uint64_t plain_at;
	uint64_t packed_at;
	uint64_t window_at;
	uint32_t window_bytes;
	uint8_t bits;
};

/* A block boundary that may become a point, with the 32 KiB before it. */
struct boundary {
	uint64_t plain_at;
	uint64_t packed_at;
	uint8_t bits;
	bool is_set;
	uint8_t window[WINDOW_BYTES];
};

struct maker {
	struct obd_file file;
	const char *out_path;
	int out_fd;
	uint64_t out_bytes;
	uint32_t span;
	uint64_t next_span; /* the next multiple that needs a point */
	z_stream z;
	uint64_t read_at;  /* of the gzip file */
	uint64_t plain_at; /* produced so far */
	uint64_t members;
	uint64_t zeros_bytes; /* of a window of zeros, the first in the file */
	struct point *points;
	size_t point_cnt;
	size_t point_cap;
	struct boundary last;
	uint8_t packed[CHUNK_BYTES];
	uint8_t window[WINDOW_BYTES]; /* the last 32 KiB, zeros before the first byte of a member */
	uint8_t plain[PLAIN_BYTES];
};

static int put(struct maker *maker, const void *data, size_t length, struct obd_errinfo *info)
{
	const uint8_t *at = data;

	while (length) {
		ssize_t done = pwrite(maker->out_fd, at, length, (off_t)maker->out_bytes);

		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0)
			return obd_fail_errno(info, errno == ENOSPC ? OBD_E_NOSPACE : OBD_E_IO,
					      errno, maker->out_path, "write gzip index");
		at += done;
		length -= (size_t)done;
		maker->out_bytes += (uint64_t)done;
	}
	return 0;
}

/* A zlib stream of `data` at the end of the output. */
static int put_packed(struct maker *maker, const uint8_t *data, size_t length, uint64_t *ret_bytes,
		      struct obd_errinfo *info)
{
	uLongf packed = compressBound(length);
	uint8_t *buffer = malloc(packed);
	int rc;

	if (!buffer || compress2(buffer, &packed, data, length, WINDOW_LEVEL) != Z_OK) {
		free(buffer);
		return obd_fail(info, OBD_E_NOMEM, maker->out_path, "gzip index");
	}
	rc = put(maker, buffer, packed, info);
	free(buffer);
	*ret_bytes = packed;
	return rc;
}

static int add_point(struct maker *maker, struct point point, struct obd_errinfo *info)
{
	if (maker->point_cnt == maker->point_cap) {
		size_t cap = maker->point_cap ? maker->point_cap * 2 : 64;
		struct point *grown = realloc(maker->points, cap * sizeof(*grown));

		if (!grown)
			return obd_fail(info, OBD_E_NOMEM, maker->out_path, "gzip index");
		maker->points = grown;
		maker->point_cap = cap;
	}
	/* an empty member in between: two points of one place, of which the later has the data */
	if (maker->point_cnt && maker->points[maker->point_cnt - 1].plain_at == point.plain_at)
		maker->point_cnt--;
	maker->points[maker->point_cnt++] = point;
	return 0;
}

/* Where a member's data begins: nothing before it counts, all share one window of zeros. */
static int add_member(struct maker *maker, uint64_t packed_at, struct obd_errinfo *info)
{
	struct point point = {.plain_at = maker->plain_at, .packed_at = packed_at};
	int rc = 0;

	memset(maker->window, 0, sizeof(maker->window));
	if (maker->members++ == 0)
		rc = put_packed(maker, maker->window, WINDOW_BYTES, &maker->zeros_bytes, info);
	point.window_at = OBD_GZINDEX_HEADER_BYTES;
	point.window_bytes = (uint32_t)maker->zeros_bytes;
	maker->last.is_set = false;
	return rc ? rc : add_point(maker, point, info);
}

static int add_last(struct maker *maker, struct obd_errinfo *info)
{
	struct point point = {
		.plain_at = maker->last.plain_at,
		.packed_at = maker->last.packed_at,
		.bits = maker->last.bits,
		.window_at = maker->out_bytes,
	};
	uint64_t stored = 0;
	int rc = put_packed(maker, maker->last.window, WINDOW_BYTES, &stored, info);

	point.window_bytes = (uint32_t)stored;
	maker->last.is_set = false;
	return rc ? rc : add_point(maker, point, info);
}

/* Output went beyond a multiple of the span: the boundary before it is a point. */
static int pass_spans(struct maker *maker, struct obd_errinfo *info)
{
	int rc = 0;

	if (maker->plain_at <= maker->next_span)
		return 0;
	if (maker->last.is_set)
		rc = add_last(maker, info);
	while (maker->next_span < maker->plain_at)
		maker->next_span += maker->span;
	return rc;
}

static void keep_window(struct maker *maker, const uint8_t *made, size_t length)
{
	if (length >= WINDOW_BYTES) {
		memcpy(maker->window, made + length - WINDOW_BYTES, WINDOW_BYTES);
		return;
	}
	memmove(maker->window, maker->window + length, WINDOW_BYTES - length);
	memcpy(maker->window + WINDOW_BYTES - length, made, length);
}

static int fill(struct maker *maker, struct obd_progress *progress, struct obd_errinfo *info)
{
	uint64_t left = maker->file.size_bytes - maker->read_at;
	uint32_t chunk = left < CHUNK_BYTES ? (uint32_t)left : CHUNK_BYTES;
	int rc;

	if (obd_progress_is_cancelled(progress))
		return obd_fail(info, OBD_E_CANCELLED, maker->file.path, "gzip index");
	rc = obd_file_read_buffer(&maker->file, maker->read_at, maker->packed, chunk, 0, info);
	maker->read_at += chunk;
	maker->z.next_in = maker->packed;
	maker->z.avail_in = chunk;
	obd_progress_add(progress, chunk);
	return rc;
}

static int bad_stream(const struct maker *maker, int zrc, uint64_t at, struct obd_errinfo *info)
{
	const char *message = maker->z.msg ? maker->z.msg : "";

	if (zrc == Z_MEM_ERROR)
		return obd_fail(info, OBD_E_NOMEM, maker->file.path, "inflate");
	/* what zlib says of a member's trailer */
	if (strstr(message, "data check"))
		return obd_fail_value(info, OBD_E_CHECKSUM, maker->file.path, "gzip crc", at, 0, 0);
	if (strstr(message, "length check"))
		return obd_fail_value(info, OBD_E_CHECKSUM, maker->file.path, "gzip length", at, 0,
				      0);
	return obd_fail_value(info, OBD_E_FORMAT, maker->file.path, "gzip data", at, 0, 0);
}

/* Between two blocks, or between a member's header and its first. */
static int at_boundary(struct maker *maker, bool is_first, uint64_t packed_at,
		       struct obd_errinfo *info)
{
	if (is_first)
		return add_member(maker, packed_at, info);
	maker->last.plain_at = maker->plain_at;
	maker->last.packed_at = packed_at;
	maker->last.bits = (uint8_t)(maker->z.data_type & BITS_LEFT);
	maker->last.is_set = true;
	memcpy(maker->last.window, maker->window, WINDOW_BYTES);
	return 0;
}

/* One member, from its header to its checksum. */
static int read_member(struct maker *maker, struct obd_progress *progress, struct obd_errinfo *info)
{
	bool is_first = true;
	int zrc = Z_OK;
	int rc = 0;

	if (inflateReset(&maker->z) != Z_OK)
		return bad_stream(maker, Z_STREAM_ERROR, maker->read_at, info);
	while (zrc != Z_STREAM_END && !rc) {
		size_t made;
		uint64_t at;

		if (!maker->z.avail_in && maker->read_at == maker->file.size_bytes)
			return obd_fail_value(info, OBD_E_SHORT, maker->file.path, "gzip data",
					      maker->read_at, 1, 0);
		if (!maker->z.avail_in)
			rc = fill(maker, progress, info);
		if (rc)
			return rc;
		maker->z.next_out = maker->plain;
		maker->z.avail_out = PLAIN_BYTES;
		zrc = inflate(&maker->z, Z_BLOCK);
		at = maker->read_at - maker->z.avail_in;
		if (zrc != Z_OK && zrc != Z_STREAM_END && zrc != Z_BUF_ERROR)
			return bad_stream(maker, zrc, at, info);
		made = PLAIN_BYTES - maker->z.avail_out;
		keep_window(maker, maker->plain, made);
		maker->plain_at += made;
		rc = pass_spans(maker, info);
		if (!rc && zrc == Z_OK && (maker->z.data_type & AT_BOUNDARY) &&
		    !(maker->z.data_type & IN_LAST_BLOCK)) {
			rc = at_boundary(maker, is_first, at, info);
			is_first = false;
		}
	}
	return rc;
}

/* Whether another member follows: only zeros may stand behind the last. */
static int has_member(struct maker *maker, struct obd_progress *progress, bool *ret,
		      struct obd_errinfo *info)
{
	*ret = false;
	for (;;) {
		if (!maker->z.avail_in && maker->read_at == maker->file.size_bytes)
			return 0;
		if (!maker->z.avail_in) {
			int rc = fill(maker, progress, info);

			if (rc)
				return rc;
		}
		if (*maker->z.next_in == 0x1f) {
			*ret = true;
			return 0;
		}
		if (*maker->z.next_in)
			return obd_fail_value(info, OBD_E_FORMAT, maker->file.path,
					      "data behind the last gzip member",
					      maker->read_at - maker->z.avail_in, 0x1f,
					      *maker->z.next_in);
		maker->z.next_in++;
		maker->z.avail_in--;
	}
}

static int put_table(struct maker *maker, uint64_t *ret_bytes, struct obd_errinfo *info)
{
	size_t length = maker->point_cnt * OBD_GZINDEX_POINT_BYTES;
	uint8_t *table = malloc(length + 1);
	int rc;

	if (!table)
		return obd_fail(info, OBD_E_NOMEM, maker->out_path, "gzip index");
	for (size_t i = 0; i < maker->point_cnt; i++) {
		const struct point *point = &maker->points[i];
		uint8_t *at = table + i * OBD_GZINDEX_POINT_BYTES;

		obd_put_le64(at, point->plain_at);
		obd_put_le64(at + 8, point->packed_at);
		obd_put_le64(at + 16, point->window_at);
		at[24] = point->bits;
		obd_put_le32(at + 25, point->window_bytes);
	}
	rc = put_packed(maker, table, length, ret_bytes, info);
	free(table);
	return rc;
}

static int put_header(struct maker *maker, uint64_t table_at, uint64_t table_bytes,
		      struct obd_errinfo *info)
{
	uint8_t header[OBD_GZINDEX_HEADER_BYTES] = OBD_GZINDEX_MAGIC;
	uint64_t index_bytes = maker->out_bytes;
	int rc;

	header[8] = 1;
	header[10] = 1;
	header[11] = WINDOW_LEVEL;
	obd_put_le32(header + 13, maker->span);
	obd_put_le32(header + 17, WINDOW_BYTES);
	obd_put_le32(header + 21, OBD_GZINDEX_POINT_BYTES);
	obd_put_le64(header + 25, maker->point_cnt);
	obd_put_le64(header + 33, maker->file.size_bytes);
	obd_put_le64(header + 41, index_bytes);
	obd_put_le64(header + 49, maker->plain_at);
	obd_put_le64(header + 313, table_at);
	obd_put_le64(header + 321, table_bytes);
	obd_put_le32(header + 329, obd_crc32c_raw(0, header, 329));
	maker->out_bytes = 0;
	rc = put(maker, header, sizeof(header), info);
	maker->out_bytes = index_bytes;
	return rc;
}

static int make(struct maker *maker, struct obd_progress *progress, struct obd_errinfo *info)
{
	bool has_more = true;
	uint64_t table_bytes = 0;
	uint64_t table_at;
	int rc = 0;

	obd_progress_total(progress, maker->file.size_bytes);
	maker->out_bytes = OBD_GZINDEX_HEADER_BYTES;
	maker->next_span = maker->span;
	while (has_more && !rc) {
		rc = read_member(maker, progress, info);
		if (!rc)
			rc = has_member(maker, progress, &has_more, info);
	}
	table_at = maker->out_bytes;
	if (!rc)
		rc = put_table(maker, &table_bytes, info);
	return rc ? rc : put_header(maker, table_at, table_bytes, info);
}

int obd_gzip_index_write(const char *path, int out_fd, const char *out_path, uint32_t span_bytes,
			 struct obd_progress *progress, struct obd_errinfo *info,
			 struct obd_gzip_indexed *ret)
{
	struct maker *maker = calloc(1, sizeof(*maker));
	int rc;

	if (!maker || inflateInit2(&maker->z, GZIP_BITS) != Z_OK) {
		free(maker);
		return obd_fail(info, OBD_E_NOMEM, path, "gzip index");
	}
	maker->out_fd = out_fd;
	maker->out_path = out_path;
	maker->span = span_bytes;
	rc = obd_file_open(path, O_RDONLY, info, &maker->file);
	if (!rc) {
		rc = make(maker, progress, info);
		if (!rc)
			*ret = (struct obd_gzip_indexed){
				.gzip_bytes = maker->file.size_bytes,
				.plain_bytes = maker->plain_at,
				.index_bytes = maker->out_bytes,
				.point_cnt = maker->point_cnt,
				.member_cnt = maker->members,
			};
		obd_file_close(&maker->file);
	}
	inflateEnd(&maker->z);
	free(maker->points);
	free(maker);
	return rc;
}
