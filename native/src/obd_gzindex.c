#include "obd_gzindex.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "obd_bytes.h"
#include "obd_crc.h"
#include "obd_image.h"

#define CHUNK_BYTES   32768u
#define TRAILER_BYTES 8u
#define MAX_RATIO     1100u /* deflate makes at most 1032 bytes of one */
#define SLOTS	      4u    /* streams kept: so many readers at once go on where they were */

struct point {
	uint64_t plain_at;
	uint64_t packed_at;
	uint64_t window_at;
	uint32_t window_bytes; /* as stored; 0: none */
	uint32_t bits;
};

struct stream {
	z_stream z;
	uint64_t plain_at;  /* the uncompressed byte it stands at */
	uint64_t packed_at; /* behind what was read of the file, `z.avail_in` of it not taken yet */
	uint64_t sum_bytes;
	uint32_t sum;
	bool is_summed; /* from the member's beginning on */
	bool is_ended;	/* behind the last byte of a member */
	bool is_good;	/* may be gone on with */
	bool is_busy;
	uint64_t used_at; /* larger: more recently */
	uint8_t packed[CHUNK_BYTES];
	uint8_t plain[CHUNK_BYTES]; /* what is skipped, and windows */
};

struct obd_gzip {
	struct obd_file *packed;
	struct obd_file index;
	uint64_t plain_bytes;
	bool is_stored; /* windows as they are */
	struct point *points;
	size_t point_cnt;
	pthread_mutex_t lock; /* slots: which is busy, and the clock */
	uint64_t clock;
	struct stream *slots[SLOTS];
};

int obd_gzip_detect(struct obd_file *file, struct obd_errinfo *info, bool *ret)
{
	uint8_t magic[2] = {0};
	int rc = 0;

	if (file->size_bytes >= sizeof(magic))
		rc = obd_file_read_buffer(file, 0, magic, sizeof(magic), 0, info);
	if (!rc)
		*ret = magic[0] == 0x1f && magic[1] == 0x8b;
	return rc;
}

/* ---- index ---- */

/* A zlib stream of the index that must give exactly `length` bytes. */
static int inflate_exact(struct obd_gzip *gzip, uint64_t at, uint64_t stored, uint8_t *ret,
			 uint64_t length, const char *what, struct obd_errinfo *info)
{
	uint8_t *raw = malloc(stored + 1);
	uLongf plain = length;
	uLong taken = stored;
	int rc = raw ? obd_file_read_buffer(&gzip->index, at, raw, stored, 0, info) : OBD_E_NOMEM;
	int zrc;

	if (!raw)
		return obd_fail(info, OBD_E_NOMEM, gzip->index.path, what);
	if (!rc) {
		zrc = uncompress2(ret, &plain, raw, &taken);
		if (zrc == Z_MEM_ERROR)
			rc = obd_fail(info, OBD_E_NOMEM, gzip->index.path, what);
		else if (zrc != Z_OK || plain != length || taken != stored)
			rc = obd_fail_value(info, OBD_E_FORMAT, gzip->index.path, what, at, length,
					    plain);
	}
	free(raw);
	return rc;
}

static int wrong(const struct obd_gzip *gzip, const char *what, uint64_t at, uint64_t expected,
		 uint64_t got, struct obd_errinfo *info)
{
	return obd_fail_value(info, OBD_E_FORMAT, gzip->index.path, what, at, expected, got);
}

static int check_header(const struct obd_gzip *gzip, const uint8_t *header,
			struct obd_errinfo *info)
{
	uint64_t index_bytes = gzip->index.size_bytes;
	uint64_t table_at = obd_le64(header + 313);
	uint64_t stored = obd_le64(header + 321);
	uint32_t crc;

	if (memcmp(header, OBD_GZINDEX_MAGIC, 8) != 0)
		return wrong(gzip, "gzip index magic", 0,
			     obd_le64((const uint8_t *)OBD_GZINDEX_MAGIC), obd_le64(header), info);
	crc = obd_crc32c_raw(0, header, 329);
	if (obd_le32(header + 329) != crc)
		return obd_fail_value(info, OBD_E_CHECKSUM, gzip->index.path, "gzip index crc", 329,
				      crc, obd_le32(header + 329));
	if (header[8] != 1)
		return wrong(gzip, "gzip index major version", 8, 1, header[8], info);
	if (header[10] > 1)
		return wrong(gzip, "gzip index window compression", 10, 1, header[10], info);
	if (obd_le32(header + 17) != OBD_GZINDEX_WINDOW_BYTES)
		return wrong(gzip, "gzip index window", 17, OBD_GZINDEX_WINDOW_BYTES,
			     obd_le32(header + 17), info);
	if (obd_le32(header + 21) != OBD_GZINDEX_POINT_BYTES)
		return wrong(gzip, "gzip index entry size", 21, OBD_GZINDEX_POINT_BYTES,
			     obd_le32(header + 21), info);
	if (obd_le64(header + 33) != gzip->packed->size_bytes)
		return wrong(gzip, "size of the gzip file in its index", 33,
			     gzip->packed->size_bytes, obd_le64(header + 33), info);
	if (obd_le64(header + 41) != index_bytes)
		return wrong(gzip, "size of the gzip index", 41, index_bytes, obd_le64(header + 41),
			     info);
	if (table_at < OBD_GZINDEX_HEADER_BYTES || table_at > index_bytes ||
	    stored > index_bytes - table_at)
		return wrong(gzip, "gzip index table", 313, index_bytes, table_at, info);
	if (obd_le64(header + 25) == 0 ||
	    obd_le64(header + 25) > stored * MAX_RATIO / OBD_GZINDEX_POINT_BYTES)
		return wrong(gzip, "gzip index entries", 25,
			     stored * MAX_RATIO / OBD_GZINDEX_POINT_BYTES, obd_le64(header + 25),
			     info);
	if (obd_le64(header + 49) > INT64_MAX)
		return wrong(gzip, "gzip index uncompressed size", 49, INT64_MAX,
			     obd_le64(header + 49), info);
	return 0;
}

/* Points ascend in both files, and their windows lie in front of the table. */
static int check_points(const struct obd_gzip *gzip, uint64_t table_at, struct obd_errinfo *info)
{
	for (size_t i = 0; i < gzip->point_cnt; i++) {
		const struct point *point = &gzip->points[i];
		bool is_good = point->plain_at <= gzip->plain_bytes && point->bits < 8 &&
			       point->packed_at > 0 &&
			       point->packed_at <= gzip->packed->size_bytes &&
			       point->window_at >= OBD_GZINDEX_HEADER_BYTES &&
			       point->window_at <= table_at &&
			       point->window_bytes <= table_at - point->window_at;

		if (i == 0)
			is_good = is_good && point->plain_at == 0;
		else
			is_good = is_good && point->plain_at > point[-1].plain_at &&
				  point->packed_at > point[-1].packed_at;
		if (!is_good)
			return wrong(gzip, "gzip index entry", 313, i, point->plain_at, info);
	}
	return 0;
}

static int load_index(struct obd_gzip *gzip, struct obd_errinfo *info)
{
	uint8_t header[OBD_GZINDEX_HEADER_BYTES];
	uint64_t table_at;
	uint8_t *table;
	size_t cnt;
	int rc;

	if (gzip->index.size_bytes < sizeof(header))
		return obd_fail_value(info, OBD_E_SHORT, gzip->index.path, "gzip index", 0,
				      sizeof(header), gzip->index.size_bytes);
	rc = obd_file_read_buffer(&gzip->index, 0, header, sizeof(header), 0, info);
	if (!rc)
		rc = check_header(gzip, header, info);
	if (rc)
		return rc;
	gzip->is_stored = header[10] == 0;
	gzip->plain_bytes = obd_le64(header + 49);
	table_at = obd_le64(header + 313);
	cnt = obd_le64(header + 25);
	table = malloc(cnt * OBD_GZINDEX_POINT_BYTES);
	gzip->points = table ? malloc(cnt * sizeof(*gzip->points)) : NULL;
	if (!gzip->points)
		rc = obd_fail(info, OBD_E_NOMEM, gzip->index.path, "gzip index table");
	if (!rc)
		rc = inflate_exact(gzip, table_at, obd_le64(header + 321), table,
				   cnt * OBD_GZINDEX_POINT_BYTES, "gzip index table", info);
	for (size_t i = 0; i < cnt && !rc; i++) {
		const uint8_t *at = table + i * OBD_GZINDEX_POINT_BYTES;

		gzip->points[i] = (struct point){
			.plain_at = obd_le64(at),
			.packed_at = obd_le64(at + 8),
			.window_at = obd_le64(at + 16),
			.bits = at[24],
			.window_bytes = obd_le32(at + 25),
		};
	}
	free(table);
	gzip->point_cnt = cnt;
	return rc ? rc : check_points(gzip, table_at, info);
}

int obd_gzip_create(struct obd_file *packed, const char *index_path, struct obd_errinfo *info,
		    struct obd_gzip **ret)
{
	struct obd_gzip *gzip = calloc(1, sizeof(*gzip));
	int rc;

	if (!gzip)
		return obd_fail(info, OBD_E_NOMEM, index_path, "gzip index");
	gzip->packed = packed;
	rc = obd_file_open(index_path, O_RDONLY, info, &gzip->index);
	if (rc) {
		free(gzip);
		return rc;
	}
	pthread_mutex_init(&gzip->lock, NULL);
	rc = load_index(gzip, info);
	if (rc) {
		obd_gzip_destroy(gzip);
		return rc;
	}
	*ret = gzip;
	return 0;
}

static void stream_free(struct stream *stream)
{
	if (!stream)
		return;
	inflateEnd(&stream->z);
	free(stream);
}

void obd_gzip_destroy(struct obd_gzip *gzip)
{
	if (!gzip)
		return;
	for (uint32_t i = 0; i < SLOTS; i++)
		stream_free(gzip->slots[i]);
	pthread_mutex_destroy(&gzip->lock);
	obd_file_close(&gzip->index);
	free(gzip->points);
	free(gzip);
}

uint64_t obd_gzip_size_bytes(const struct obd_gzip *gzip)
{
	return gzip->plain_bytes;
}

uint64_t obd_gzip_memory_bytes(const struct obd_gzip *gzip)
{
	return gzip->point_cnt * sizeof(*gzip->points);
}

/* ---- streams ---- */

static const struct point *point_before(const struct obd_gzip *gzip, uint64_t plain_at)
{
	size_t low = 0;
	size_t high = gzip->point_cnt;

	while (high - low > 1) {
		size_t middle = low + (high - low) / 2;

		if (gzip->points[middle].plain_at <= plain_at)
			low = middle;
		else
			high = middle;
	}
	return &gzip->points[low];
}

static struct stream *stream_make(void)
{
	struct stream *stream = calloc(1, sizeof(*stream));

	if (stream && inflateInit2(&stream->z, -MAX_WBITS) != Z_OK) {
		free(stream);
		return NULL;
	}
	return stream;
}

/* The one that stands nearest before the place, if behind `point`; else the least recently used. */
static struct stream *stream_take(struct obd_gzip *gzip, const struct point *point,
				  uint64_t plain_at)
{
	struct stream *best = NULL;
	struct stream *oldest = NULL;

	pthread_mutex_lock(&gzip->lock);
	for (uint32_t i = 0; i < SLOTS; i++) {
		struct stream *one = gzip->slots[i];

		if (!one)
			one = gzip->slots[i] = stream_make();
		if (!one || one->is_busy)
			continue;
		if (one->is_good && one->plain_at <= plain_at && one->plain_at >= point->plain_at &&
		    (!best || one->plain_at > best->plain_at))
			best = one;
		if (!oldest || one->used_at < oldest->used_at)
			oldest = one;
		if (!one->used_at)
			break; /* no need to make more than were ever used at once */
	}
	if (!best && oldest) {
		best = oldest;
		best->is_good = false;
	}
	if (best)
		best->is_busy = true;
	pthread_mutex_unlock(&gzip->lock);
	return best ? best : stream_make(); /* all are busy: one for this read */
}

static void stream_put(struct obd_gzip *gzip, struct stream *stream)
{
	bool is_kept;

	pthread_mutex_lock(&gzip->lock);
	is_kept = stream->is_busy;
	stream->is_busy = false;
	stream->used_at = ++gzip->clock;
	pthread_mutex_unlock(&gzip->lock);
	if (!is_kept)
		stream_free(stream);
}

static int bad_deflate(const struct obd_gzip *gzip, const struct stream *stream,
		       struct obd_errinfo *info)
{
	return obd_fail_value(info, OBD_E_FORMAT, gzip->packed->path, "gzip data",
			      stream->packed_at - stream->z.avail_in, 0, 0);
}

static int load_window(struct obd_gzip *gzip, struct stream *stream, const struct point *point,
		       struct obd_errinfo *info)
{
	uint32_t length = OBD_GZINDEX_WINDOW_BYTES;
	int rc;

	if (!point->window_bytes)
		return 0;
	if (!gzip->is_stored) {
		rc = inflate_exact(gzip, point->window_at, point->window_bytes, stream->plain,
				   length, "gzip index window", info);
	} else {
		if (point->window_bytes > length)
			return wrong(gzip, "gzip index window", point->window_at, length,
				     point->window_bytes, info);
		length = point->window_bytes;
		rc = obd_file_read_buffer(&gzip->index, point->window_at, stream->plain, length, 0,
					  info);
	}
	if (!rc && inflateSetDictionary(&stream->z, stream->plain, length) != Z_OK)
		rc = bad_deflate(gzip, stream, info);
	return rc;
}

static int stream_start(struct obd_gzip *gzip, struct stream *stream, const struct point *point,
			bool is_member, struct obd_errinfo *info)
{
	uint8_t first;
	int rc = 0;

	stream->is_good = false;
	stream->is_ended = false;
	stream->is_summed = is_member;
	stream->sum = 0;
	stream->sum_bytes = 0;
	stream->plain_at = point->plain_at;
	stream->packed_at = point->packed_at;
	stream->z.avail_in = 0;
	if (inflateReset2(&stream->z, -MAX_WBITS) != Z_OK)
		return bad_deflate(gzip, stream, info);
	if (point->bits) {
		rc = obd_file_read_buffer(gzip->packed, point->packed_at - 1, &first, 1, 0, info);
		if (!rc &&
		    inflatePrime(&stream->z, (int)point->bits, first >> (8 - point->bits)) != Z_OK)
			rc = bad_deflate(gzip, stream, info);
	}
	return rc ? rc : load_window(gzip, stream, point, info);
}

/* The checksum and length behind a member, if we saw all of it. */
static int check_sum(struct obd_gzip *gzip, struct stream *stream, struct obd_errinfo *info)
{
	uint64_t at = stream->packed_at - stream->z.avail_in;
	uint8_t trailer[TRAILER_BYTES];
	int rc;

	if (!stream->is_summed)
		return 0;
	rc = obd_file_read_buffer(gzip->packed, at, trailer, sizeof(trailer), 0, info);
	if (rc)
		return rc;
	if (obd_le32(trailer) != stream->sum)
		return obd_fail_value(info, OBD_E_CHECKSUM, gzip->packed->path, "gzip crc", at,
				      stream->sum, obd_le32(trailer));
	if (obd_le32(trailer + 4) != (uint32_t)stream->sum_bytes)
		return obd_fail_value(info, OBD_E_CHECKSUM, gzip->packed->path, "gzip length",
				      at + 4, (uint32_t)stream->sum_bytes, obd_le32(trailer + 4));
	return 0;
}

/* Some of the next bytes, at most `length`, to `out`; the member may end before the first one. */
static int stream_inflate(struct obd_gzip *gzip, struct stream *stream, uint8_t *out,
			  uint32_t length, uint32_t *ret_bytes, struct obd_errinfo *info)
{
	uint32_t made;
	int zrc;

	if (!stream->z.avail_in) {
		uint64_t left = gzip->packed->size_bytes - stream->packed_at;
		uint32_t chunk = left < CHUNK_BYTES ? (uint32_t)left : CHUNK_BYTES;
		int rc;

		if (!chunk)
			return obd_fail_value(info, OBD_E_SHORT, gzip->packed->path, "gzip data",
					      stream->packed_at, 1, 0);
		rc = obd_file_read_buffer(gzip->packed, stream->packed_at, stream->packed, chunk, 0,
					  info);
		if (rc)
			return rc;
		stream->z.next_in = stream->packed;
		stream->z.avail_in = chunk;
		stream->packed_at += chunk;
	}
	stream->z.next_out = out;
	stream->z.avail_out = length;
	zrc = inflate(&stream->z, Z_NO_FLUSH);
	if (zrc == Z_MEM_ERROR)
		return obd_fail(info, OBD_E_NOMEM, gzip->packed->path, "inflate");
	if (zrc != Z_OK && zrc != Z_STREAM_END && zrc != Z_BUF_ERROR)
		return bad_deflate(gzip, stream, info);
	made = length - stream->z.avail_out;
	if (stream->is_summed) {
		stream->sum = (uint32_t)crc32(stream->sum, out, made);
		stream->sum_bytes += made;
	}
	stream->plain_at += made;
	*ret_bytes = made;
	if (zrc != Z_STREAM_END)
		return 0;
	stream->is_ended = true;
	return check_sum(gzip, stream, info);
}

static int next_member(struct obd_gzip *gzip, struct stream *stream, struct obd_errinfo *info)
{
	const struct point *point = point_before(gzip, stream->plain_at);
	uint64_t at = stream->packed_at - stream->z.avail_in;

	if (point->plain_at != stream->plain_at || point->packed_at <= at)
		return obd_fail_value(info, OBD_E_SHORT, gzip->packed->path, "gzip content", at,
				      gzip->plain_bytes, stream->plain_at);
	return stream_start(gzip, stream, point, true, info);
}

/* Behind the last byte of the content: the member must end there, and its checksum is compared. */
static int finish(struct obd_gzip *gzip, struct stream *stream, struct obd_errinfo *info)
{
	uint32_t made = 0;

	while (!stream->is_ended) {
		int rc = stream_inflate(gzip, stream, stream->plain, CHUNK_BYTES, &made, info);

		if (rc)
			return rc;
		if (made)
			return wrong(gzip, "gzip index uncompressed size", 49, stream->plain_at,
				     gzip->plain_bytes, info);
	}
	return 0;
}

static int stream_read(struct obd_gzip *gzip, struct stream *stream, uint64_t offset,
		       uint64_t length, struct obd_cursor *cursor, struct obd_errinfo *info)
{
	while (length) {
		uint64_t skipped = offset - stream->plain_at;
		struct iovec slot = {.iov_base = stream->plain};
		uint32_t made = 0;
		uint32_t cnt;
		int rc;

		if (stream->is_ended) {
			rc = next_member(gzip, stream, info);
			if (rc)
				return rc;
			continue;
		}
		if (skipped)
			slot.iov_len = skipped < CHUNK_BYTES ? skipped : CHUNK_BYTES;
		else if (!obd_cursor_slice(cursor, length < UINT32_MAX ? length : UINT32_MAX, &slot,
					   1, &cnt))
			return obd_fail(info, OBD_E_INVAL, gzip->packed->path, "iovecs too short");
		rc = stream_inflate(gzip, stream, slot.iov_base, (uint32_t)slot.iov_len, &made,
				    info);
		if (rc)
			return rc;
		if (!skipped) {
			obd_cursor_skip(cursor, made);
			offset += made;
			length -= made;
		}
	}
	return stream->plain_at == gzip->plain_bytes ? finish(gzip, stream, info) : 0;
}

int obd_gzip_read(struct obd_gzip *gzip, uint64_t offset_bytes, uint64_t length,
		  struct obd_cursor *cursor, uint32_t flags, struct obd_errinfo *info)
{
	const struct point *point;
	struct stream *stream;
	int rc = 0;

	if (offset_bytes > gzip->plain_bytes || length > gzip->plain_bytes - offset_bytes)
		return obd_fail_value(info, OBD_E_RANGE, gzip->packed->path, "gzip read",
				      offset_bytes, gzip->plain_bytes, offset_bytes + length);
	if (flags & OBD_READ_NOWAIT)
		return obd_fail_value(info, OBD_E_AGAIN, gzip->packed->path, "read without waiting",
				      offset_bytes, 0, 0);
	if (!length)
		return 0;
	point = point_before(gzip, offset_bytes);
	stream = stream_take(gzip, point, offset_bytes);
	if (!stream)
		return obd_fail(info, OBD_E_NOMEM, gzip->packed->path, "inflate");
	if (!stream->is_good)
		rc = stream_start(gzip, stream, point, point->plain_at == 0, info);
	if (!rc)
		rc = stream_read(gzip, stream, offset_bytes, length, cursor, info);
	stream->is_good = !rc;
	stream_put(gzip, stream);
	return rc;
}
