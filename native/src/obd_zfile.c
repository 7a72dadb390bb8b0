#include "obd_zfile.h"

#include <lz4.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "obd_barrier.h"
#include "obd_bytes.h"
#include "obd_crc.h"
#include "obd_scratch.h"

#define AREA_BYTES	512u
#define DIGEST_AT	28u
#define FLAGS_AT	32u
#define INDEX_OFFSET_AT 40u
#define INDEX_SIZE_AT	48u
#define ORIGINAL_AT	56u
#define INDEX_CRC_AT	64u
#define BLOCK_SIZE_AT	72u
#define ALGO_AT		76u
#define USE_DICT_AT	78u
#define DICT_SIZE_AT	84u
#define VERIFY_AT	88u

#define FLAG_HEADER    1u
#define FLAG_DATA      2u
#define FLAG_SEALED    4u
#define FLAG_OVERWRITE 8u
#define FLAG_DIGEST    16u

#define ALGO_LZ4  1u
#define ALGO_ZSTD 2u

#define BLOCK_SEED	100007u
#define CRC_BYTES	4u
#define MIN_BLOCK_SHIFT 9u
#define MAX_BLOCK_SHIFT 16u

/* The jump table: one 64-bit position per group, 32-bit distances from it inside the group. */
#define GROUP_SHIFT  6u
#define GROUP_BLOCKS (1u << GROUP_SHIFT)
#define CHUNK_BYTES  (64u << 10)

struct obd_zfile {
	struct obd_file *file;
	uint64_t id; /* unique in this process */
	uint64_t size_bytes;
	uint64_t block_cnt;
	uint64_t *group_at; /* file position of the first block of each group */
	uint32_t *within;   /* of each block: distance from its group's position */
	uint64_t blocks_end;
	uint32_t block_shift;
	uint32_t algo;
	uint32_t trailing_crc_bytes; /* 4 with verify, else 0 */
};

struct header {
	uint64_t flags;
	uint64_t index_offset;
	uint64_t index_entries;
	uint64_t original_bytes;
	uint32_t index_crc;
	uint32_t block_size;
	uint32_t dict_bytes;
	uint8_t algo;
	uint8_t use_dict;
	uint8_t verify;
};

static const uint8_t magic[24] = "ZFile\0\1\0tuji.yyf@Alibaba";
static uint64_t last_id;

int obd_zfile_detect(struct obd_file *file, struct obd_errinfo *info, bool *ret)
{
	uint8_t head[sizeof(magic)];
	int rc;

	*ret = false;
	if (file->size_bytes < AREA_BYTES)
		return 0;
	rc = obd_file_read_buffer(file, 0, head, sizeof(head), 0, info);
	if (!rc)
		*ret = memcmp(head, magic, sizeof(magic)) == 0;
	return rc;
}

static void decode(const uint8_t *area, struct header *ret)
{
	ret->flags = obd_le64(area + FLAGS_AT);
	ret->index_offset = obd_le64(area + INDEX_OFFSET_AT);
	ret->index_entries = obd_le64(area + INDEX_SIZE_AT);
	ret->original_bytes = obd_le64(area + ORIGINAL_AT);
	ret->index_crc = obd_le32(area + INDEX_CRC_AT);
	ret->block_size = obd_le32(area + BLOCK_SIZE_AT);
	ret->dict_bytes = obd_le32(area + DICT_SIZE_AT);
	ret->algo = area[ALGO_AT];
	ret->use_dict = area[USE_DICT_AT];
	ret->verify = area[VERIFY_AT];
}

static int read_header(struct obd_file *file, struct obd_errinfo *info, struct header *ret)
{
	uint8_t area[AREA_BYTES];
	uint32_t stored;
	uint32_t digest;
	int rc;

	if (file->size_bytes < AREA_BYTES)
		return obd_fail_value(info, OBD_E_SHORT, file->path, "zfile header", 0, AREA_BYTES,
				      file->size_bytes);
	rc = obd_file_read_buffer(file, 0, area, sizeof(area), 0, info);
	if (rc)
		return rc;
	if (memcmp(area, magic, sizeof(magic)) != 0)
		return obd_fail_value(info, OBD_E_FORMAT, file->path, "zfile magic", 0,
				      obd_le64(magic), obd_le64(area));
	decode(area, ret);
	if (!(ret->flags & FLAG_HEADER))
		return obd_fail_value(info, OBD_E_FORMAT, file->path, "zfile header flags",
				      FLAGS_AT, FLAG_HEADER, ret->flags);
	if (ret->flags & FLAG_DIGEST) {
		stored = obd_le32(area + DIGEST_AT);
		memset(area + DIGEST_AT, 0, sizeof(stored));
		digest = obd_crc32c_raw(0, area, sizeof(area));
		if (digest != stored)
			return obd_fail_value(info, OBD_E_CHECKSUM, file->path,
					      "zfile header digest", DIGEST_AT, stored, digest);
	}
	return 0;
}

/* Takes the index fields from the trailer when the header does not hold them. */
static int read_trailer(struct obd_file *file, struct obd_errinfo *info, struct header *head)
{
	uint8_t area[AREA_BYTES];
	uint64_t at = file->size_bytes - AREA_BYTES;
	struct header tail;
	int rc;

	if (file->size_bytes < 2 * AREA_BYTES)
		return obd_fail_value(info, OBD_E_SHORT, file->path, "zfile trailer", 0,
				      2 * AREA_BYTES, file->size_bytes);
	rc = obd_file_read_buffer(file, at, area, sizeof(area), 0, info);
	if (rc)
		return rc;
	if (memcmp(area, magic, sizeof(magic)) != 0)
		return obd_fail_value(info, OBD_E_FORMAT, file->path, "zfile trailer magic", at,
				      obd_le64(magic), obd_le64(area));
	decode(area, &tail);
	if ((tail.flags & (FLAG_HEADER | FLAG_DATA | FLAG_SEALED)) != (FLAG_DATA | FLAG_SEALED))
		return obd_fail_value(info, OBD_E_FORMAT, file->path, "zfile trailer flags",
				      at + FLAGS_AT, FLAG_DATA | FLAG_SEALED, tail.flags);
	if (tail.block_size != head->block_size)
		return obd_fail_value(info, OBD_E_FORMAT, file->path, "zfile trailer block size",
				      at + BLOCK_SIZE_AT, head->block_size, tail.block_size);
	head->index_offset = tail.index_offset;
	head->index_entries = tail.index_entries;
	head->original_bytes = tail.original_bytes;
	head->index_crc = tail.index_crc;
	return 0;
}

static int check_header(const struct obd_file *file, const struct header *head,
			struct obd_errinfo *info, struct obd_zfile *zfile)
{
	uint32_t shift = MIN_BLOCK_SHIFT;
	uint64_t table;

	while (shift < MAX_BLOCK_SHIFT && 1u << shift != head->block_size)
		shift++;
	if (1u << shift != head->block_size)
		return obd_fail_value(info, OBD_E_UNSUPPORTED, file->path, "zfile block size",
				      BLOCK_SIZE_AT, 1u << MAX_BLOCK_SHIFT, head->block_size);
	if (head->algo != ALGO_LZ4 && head->algo != ALGO_ZSTD)
		return obd_fail_value(info, OBD_E_UNSUPPORTED, file->path, "zfile algorithm",
				      ALGO_AT, ALGO_LZ4, head->algo);
	if (head->use_dict)
		return obd_fail_value(info, OBD_E_UNSUPPORTED, file->path, "zfile dictionary",
				      USE_DICT_AT, 0, head->use_dict);
	zfile->block_shift = shift;
	zfile->algo = head->algo;
	zfile->trailing_crc_bytes = head->verify ? CRC_BYTES : 0;
	zfile->size_bytes = head->original_bytes;
	zfile->block_cnt = (head->original_bytes >> shift) +
			   ((head->original_bytes & (head->block_size - 1)) != 0);
	if (zfile->block_cnt != head->index_entries)
		return obd_fail_value(info, OBD_E_FORMAT, file->path, "zfile index size",
				      INDEX_SIZE_AT, zfile->block_cnt, head->index_entries);
	/* the table must be in the file: this bounds what we allocate for it */
	if (head->index_offset > file->size_bytes)
		return obd_fail_value(info, OBD_E_SHORT, file->path, "zfile index offset",
				      INDEX_OFFSET_AT, head->index_offset, file->size_bytes);
	if (__builtin_mul_overflow(head->index_entries, (uint64_t)4, &table) ||
	    table > file->size_bytes - head->index_offset)
		return obd_fail_value(info, OBD_E_SHORT, file->path, "zfile index",
				      head->index_offset, head->index_entries * 4,
				      file->size_bytes - head->index_offset);
	if (head->index_offset < AREA_BYTES + (uint64_t)head->dict_bytes)
		return obd_fail_value(info, OBD_E_FORMAT, file->path, "zfile index offset",
				      INDEX_OFFSET_AT, AREA_BYTES + (uint64_t)head->dict_bytes,
				      head->index_offset);
	return 0;
}

/* Longest stored block either algorithm may need for a full block. */
static uint32_t stored_max(uint32_t block_shift)
{
	size_t lz4 = (size_t)LZ4_COMPRESSBOUND(1u << block_shift);
	size_t zstd = ZSTD_COMPRESSBOUND((size_t)1 << block_shift);

	return (uint32_t)(lz4 > zstd ? lz4 : zstd) + CRC_BYTES;
}

static int load_table(struct obd_zfile *zfile, const struct header *head, uint8_t *chunk,
		      struct obd_errinfo *info)
{
	struct obd_file *file = zfile->file;
	uint64_t at = AREA_BYTES + (uint64_t)head->dict_bytes;
	uint32_t max = stored_max(zfile->block_shift);
	uint32_t crc = 0;
	uint64_t done = 0;

	while (done < zfile->block_cnt) {
		uint64_t left = zfile->block_cnt - done;
		uint32_t cnt = left < CHUNK_BYTES / 4 ? (uint32_t)left : CHUNK_BYTES / 4;
		int rc = obd_file_read_buffer(file, head->index_offset + done * 4, chunk,
					      (size_t)cnt * 4, 0, info);
		if (rc)
			return rc;
		crc = obd_crc32c_raw(crc, chunk, (size_t)cnt * 4);
		for (uint32_t i = 0; i < cnt; i++, done++) {
			uint32_t stored = obd_le32(chunk + (size_t)i * 4);

			if (stored <= zfile->trailing_crc_bytes || stored > max)
				return obd_fail_value(info, OBD_E_FORMAT, file->path,
						      "zfile index entry",
						      head->index_offset + done * 4, max, stored);
			if (!(done & (GROUP_BLOCKS - 1)))
				zfile->group_at[done >> GROUP_SHIFT] = at;
			zfile->within[done] = (uint32_t)(at - zfile->group_at[done >> GROUP_SHIFT]);
			at += stored;
		}
	}
	zfile->blocks_end = at;
	if (at > head->index_offset)
		return obd_fail_value(info, OBD_E_FORMAT, file->path, "zfile blocks overlap index",
				      INDEX_OFFSET_AT, head->index_offset, at);
	if ((head->flags & FLAG_DIGEST) && crc != head->index_crc)
		return obd_fail_value(info, OBD_E_CHECKSUM, file->path, "zfile index crc",
				      head->index_offset, head->index_crc, crc);
	return 0;
}

int obd_zfile_create(struct obd_file *file, struct obd_errinfo *info, struct obd_zfile **ret)
{
	struct obd_zfile *zfile = calloc(1, sizeof(*zfile));
	uint8_t *chunk = malloc(CHUNK_BYTES);
	struct header head;
	size_t groups;
	int rc = OBD_E_NOMEM;

	if (!zfile || !chunk) {
		obd_fail(info, rc, file->path, "zfile");
		goto out;
	}
	zfile->file = file;
	zfile->id = obd_add_relaxed(&last_id, 1) + 1;
	rc = read_header(file, info, &head);
	if (!rc && !(head.flags & FLAG_OVERWRITE))
		rc = read_trailer(file, info, &head);
	if (!rc)
		rc = check_header(file, &head, info, zfile);
	if (rc)
		goto out;
	groups = (size_t)((zfile->block_cnt + GROUP_BLOCKS - 1) >> GROUP_SHIFT);
	zfile->group_at = malloc((groups + 1) * sizeof(*zfile->group_at));
	zfile->within = malloc((size_t)(zfile->block_cnt + 1) * sizeof(*zfile->within));
	if (!zfile->group_at || !zfile->within) {
		rc = obd_fail(info, OBD_E_NOMEM, file->path, "zfile jump table");
		goto out;
	}
	rc = load_table(zfile, &head, chunk, info);
out:
	free(chunk);
	if (rc) {
		obd_zfile_destroy(zfile);
		return rc;
	}
	*ret = zfile;
	return 0;
}

void obd_zfile_destroy(struct obd_zfile *zfile)
{
	if (!zfile)
		return;
	free(zfile->group_at);
	free(zfile->within);
	free(zfile);
}

uint64_t obd_zfile_size_bytes(const struct obd_zfile *zfile)
{
	return zfile->size_bytes;
}

uint32_t obd_zfile_block_bytes(const struct obd_zfile *zfile)
{
	return 1u << zfile->block_shift;
}

uint64_t obd_zfile_memory_bytes(const struct obd_zfile *zfile)
{
	uint64_t groups = (zfile->block_cnt + GROUP_BLOCKS - 1) >> GROUP_SHIFT;

	return sizeof(*zfile) + (groups + 1) * 8 + (zfile->block_cnt + 1) * 4;
}

/* File position of a block; of block_cnt: the end of the last one. */
static uint64_t block_at(const struct obd_zfile *zfile, uint64_t block)
{
	if (block == zfile->block_cnt)
		return zfile->blocks_end;
	return zfile->group_at[block >> GROUP_SHIFT] + zfile->within[block];
}

void obd_zfile_stored_range(const struct obd_zfile *zfile, uint64_t begin, uint64_t end,
			    uint64_t *ret_begin, uint64_t *ret_end)
{
	uint64_t last = (end + (1u << zfile->block_shift) - 1) >> zfile->block_shift;

	*ret_begin = block_at(zfile, begin >> zfile->block_shift);
	*ret_end = block_at(zfile, last);
}

static uint32_t plain_length(const struct obd_zfile *zfile, uint64_t block)
{
	uint64_t left = zfile->size_bytes - (block << zfile->block_shift);
	uint64_t full = 1ull << zfile->block_shift;

	return (uint32_t)(left < full ? left : full);
}

/* Decompresses exactly want bytes; the number it got, or -1, otherwise. */
static int64_t unpack(const struct obd_zfile *zfile, struct obd_scratch *scratch,
		      const uint8_t *packed, uint32_t length, void *plain, uint32_t want)
{
	size_t got;

	if (zfile->algo == ALGO_LZ4)
		return LZ4_decompress_safe((const char *)packed, plain, (int)length, (int)want);
	if (!scratch->zstd) {
		scratch->zstd = ZSTD_createDCtx();
		if (!scratch->zstd)
			return OBD_E_NOMEM;
	}
	got = ZSTD_decompressDCtx(scratch->zstd, plain, want, packed, length);
	return ZSTD_isError(got) ? -1 : (int64_t)got;
}

static int read_block(const struct obd_zfile *zfile, struct obd_scratch *scratch, uint64_t block,
		      const uint8_t *packed, uint32_t stored, void *plain, struct obd_errinfo *info)
{
	uint32_t length = stored - zfile->trailing_crc_bytes;
	uint32_t want = plain_length(zfile, block);
	int64_t got;

	if (zfile->trailing_crc_bytes) {
		uint32_t crc = obd_crc32c_raw(BLOCK_SEED, packed, length);

		if (crc != obd_le32(packed + length))
			return obd_fail_value(info, OBD_E_CHECKSUM, zfile->file->path,
					      "zfile block crc", block_at(zfile, block),
					      obd_le32(packed + length), crc);
	}
	got = unpack(zfile, scratch, packed, length, plain, want);
	if (got == OBD_E_NOMEM && zfile->algo == ALGO_ZSTD && !scratch->zstd)
		return obd_fail(info, OBD_E_NOMEM, zfile->file->path, "zstd context");
	if (got != want)
		return obd_fail_value(info, OBD_E_FORMAT, zfile->file->path,
				      "zfile block decompresses to another length",
				      block_at(zfile, block), want, (uint64_t)got);
	return 0;
}

/* Delivers bytes [from, to) of one block whose stored form is at packed. */
static int deliver(struct obd_zfile *zfile, struct obd_scratch *scratch, uint64_t block,
		   uint32_t from, uint32_t to, const uint8_t *packed, uint32_t stored,
		   struct obd_cursor *cursor, struct obd_errinfo *info)
{
	uint32_t whole = plain_length(zfile, block);
	void *direct = NULL;
	int rc;

	if (from == 0 && to == whole)
		direct = obd_cursor_contiguous(cursor, whole);
	if (direct) {
		rc = read_block(zfile, scratch, block, packed, stored, direct, info);
		if (!rc)
			obd_cursor_skip(cursor, whole);
		return rc;
	}
	scratch->plain_zfile_id = 0;
	rc = read_block(zfile, scratch, block, packed, stored, scratch->plain, info);
	if (rc)
		return rc;
	scratch->plain_zfile_id = zfile->id;
	scratch->plain_block = block;
	obd_cursor_put(cursor, scratch->plain + from, to - from);
	return 0;
}

int obd_zfile_read(struct obd_zfile *zfile, uint64_t offset_bytes, uint64_t length,
		   struct obd_cursor *cursor, uint32_t flags, struct obd_errinfo *info)
{
	struct obd_scratch *scratch = obd_scratch_get();
	uint64_t end;
	uint64_t block;

	if (!scratch)
		return obd_fail(info, OBD_E_NOMEM, zfile->file->path, "thread scratch");
	if (__builtin_add_overflow(offset_bytes, length, &end) || end > zfile->size_bytes)
		return obd_fail_value(info, OBD_E_SHORT, zfile->file->path, "zfile read beyond end",
				      offset_bytes, length, zfile->size_bytes);
	block = offset_bytes >> zfile->block_shift;
	while (offset_bytes < end) {
		uint64_t last = (end - 1) >> zfile->block_shift;
		uint64_t at = block_at(zfile, block);
		uint64_t stop = block + 1;
		const uint8_t *packed = scratch->packed;
		int rc;

		if (scratch->plain_zfile_id == zfile->id && scratch->plain_block == block) {
			uint64_t begin = block << zfile->block_shift;
			uint64_t to = begin + plain_length(zfile, block);

			to = to < end ? to : end;
			obd_cursor_put(cursor, scratch->plain + (offset_bytes - begin),
				       (size_t)(to - offset_bytes));
			offset_bytes = to;
			block++;
			continue;
		}
		while (stop <= last && block_at(zfile, stop + 1) - at <= OBD_SCRATCH_PACKED_BYTES)
			stop++;
		rc = obd_file_read_buffer(zfile->file, at, scratch->packed,
					  (size_t)(block_at(zfile, stop) - at), flags, info);
		if (rc)
			return rc;
		for (; block < stop; block++) {
			uint64_t begin = block << zfile->block_shift;
			uint64_t to = begin + plain_length(zfile, block);
			uint32_t stored =
				(uint32_t)(block_at(zfile, block + 1) - block_at(zfile, block));

			to = to < end ? to : end;
			rc = deliver(zfile, scratch, block, (uint32_t)(offset_bytes - begin),
				     (uint32_t)(to - begin), packed, stored, cursor, info);
			if (rc)
				return rc;
			packed += stored;
			offset_bytes = to;
		}
	}
	return 0;
}
