#include "obd_sealed_write.h"

#include <stdlib.h>
#include <string.h>

#include "obd_bytes.h"

#define PADDED_ENTRIES 256u
#define NULL_UUID      "00000000-0000-0000-0000-000000000000"
#define STRUCT_BYTES   390u
#define UUID_AT	       56u
#define PARENT_UUID_AT 93u
#define VERSION_AT     132u
#define SUB_VERSION_AT 133u
#define USER_TAG_AT    134u

void obd_lsmt_encode_ht(const struct obd_lsmt_facts *facts, uint32_t flags,
			uint64_t index_offset_bytes, uint64_t index_entries, uint8_t *area)
{
	static const uint8_t magic[24] = {'L',	'S',  'M',  'T',  0,	1,    2,    0,
					  0x65, 0x7e, 0x63, 0xd2, 0x94, 0x44, 0x08, 0x4c,
					  0xa2, 0xd2, 0xc8, 0xec, 0x4f, 0xcf, 0xae, 0x8a};
	const char *uuid = facts->uuid ? facts->uuid : NULL_UUID;
	const char *parent = facts->parent_uuid ? facts->parent_uuid : NULL_UUID;
	const char *tag = facts->user_tag ? facts->user_tag : "";

	memset(area, 0, OBD_LSMT_SPACE_BYTES);
	memcpy(area, magic, sizeof(magic));
	obd_put_le32(area + 24, STRUCT_BYTES);
	obd_put_le32(area + 28, flags);
	obd_put_le64(area + 32, index_offset_bytes);
	obd_put_le64(area + 40, index_entries);
	obd_put_le64(area + 48, facts->virtual_size_bytes);
	memcpy(area + UUID_AT, uuid, strnlen(uuid, OBD_LSMT_UUID_BYTES - 1));
	memcpy(area + PARENT_UUID_AT, parent, strnlen(parent, OBD_LSMT_UUID_BYTES - 1));
	area[VERSION_AT] = 1;
	area[SUB_VERSION_AT] = 1;
	memcpy(area + USER_TAG_AT, tag, strnlen(tag, OBD_USER_TAG_BYTES));
}

/* ---- the payload: pieces of the source, one behind the other ---- */

static size_t piece_at(const struct obd_sealed *sealed, uint64_t sector)
{
	size_t low = 0;
	size_t high = sealed->piece_cnt;

	while (high - low > 1) {
		size_t middle = low + (high - low) / 2;

		if (sealed->starts[middle] <= sector)
			low = middle;
		else
			high = middle;
	}
	return low;
}

/* Sectors [begin, end) of the payload. What lies together in the source is read together. */
static int read_payload(struct obd_sealed *sealed, uint64_t begin, uint64_t end, uint8_t *to,
			struct obd_errinfo *info)
{
	size_t i = piece_at(sealed, begin);

	while (begin < end) {
		struct obd_segment piece = sealed->pieces[i];
		uint64_t moffset = obd_segment_moffset(piece) + (begin - sealed->starts[i]);
		uint64_t stop = sealed->starts[i] + obd_segment_length(piece);
		uint8_t tag = obd_segment_tag(piece);
		uint64_t length;
		int rc;

		for (i++; stop < end && i < sealed->piece_cnt; i++) {
			piece = sealed->pieces[i];
			if (obd_segment_tag(piece) != tag ||
			    obd_segment_moffset(piece) != moffset + (stop - begin))
				break;
			stop += obd_segment_length(piece);
		}
		length = (stop < end ? stop : end) - begin;
		rc = sealed->source.read(sealed->source.ctx, tag, moffset, length, to, info);
		if (rc)
			return rc;
		begin += length;
		to += length * 512;
	}
	return 0;
}

/* The part of [offset, offset + length) inside [from, from + size), as offset in it and length. */
static size_t overlap(uint64_t offset, size_t length, uint64_t from, uint64_t size, uint64_t *ret)
{
	uint64_t begin = offset > from ? offset : from;
	uint64_t end = offset + length < from + size ? offset + length : from + size;

	*ret = begin - from;
	return end > begin ? (size_t)(end - begin) : 0;
}

/* Callers ask in multiples of 512, except for the end. */
static int read_content(void *ctx, uint64_t offset_bytes, uint8_t *to, size_t length,
			struct obd_errinfo *info)
{
	struct obd_sealed *sealed = ctx;
	uint64_t payload_bytes = sealed->payload_sectors * 512;
	uint64_t at;
	size_t part = overlap(offset_bytes, length, 0, OBD_LSMT_SPACE_BYTES, &at);
	int rc = 0;

	memcpy(to, sealed->head + at, part);
	to += part;
	part = overlap(offset_bytes, length, OBD_LSMT_SPACE_BYTES, payload_bytes, &at);
	if (part)
		rc = read_payload(sealed, at / 512, (at + part) / 512, to, info);
	if (rc)
		return rc;
	to += part;
	part = overlap(offset_bytes, length, OBD_LSMT_SPACE_BYTES + payload_bytes,
		       sealed->tail_bytes, &at);
	if (part)
		memcpy(to, sealed->tail + at, part);
	return 0;
}

/* ---- the index ---- */

/* Whether `next`, which will be put right behind it in the file, can become part of `last`. */
static bool can_join(struct obd_segment last, struct obd_segment next)
{
	return obd_segment_end(last) == obd_segment_offset(next) &&
	       obd_segment_tag(last) == obd_segment_tag(next) &&
	       obd_segment_zeroed(last) == obd_segment_zeroed(next) &&
	       obd_segment_length(last) + obd_segment_length(next) < OBD_SEGMENT_MAX_SECTORS;
}

/* Fills pieces, starts and the counts; entries of the index go to `out`. */
static size_t lay_out(struct obd_sealed *sealed, const struct obd_segment *segments, size_t cnt,
		      const uint8_t *tags, struct obd_segment *out)
{
	uint64_t payload = 0;
	size_t kept = 0;

	for (size_t i = 0; i < cnt; i++) {
		struct obd_segment from = segments[i];
		bool is_zeroed = obd_segment_zeroed(from);
		uint64_t length = obd_segment_length(from);
		struct obd_segment to = obd_segment_make(obd_segment_offset(from), length,
							 OBD_LSMT_FIRST_SECTOR + payload, is_zeroed,
							 tags ? tags[obd_segment_tag(from)] : 0);

		if (kept && can_join(out[kept - 1], to))
			out[kept - 1].low += length << OBD_SEGMENT_LENGTH_SHIFT;
		else
			out[kept++] = to;
		if (is_zeroed) {
			sealed->zeroed_sectors += length;
			continue;
		}
		sealed->pieces[sealed->piece_cnt] = from;
		sealed->starts[sealed->piece_cnt++] = payload;
		payload += length;
	}
	sealed->payload_sectors = payload;
	return kept;
}

static int make_tail(struct obd_sealed *sealed, const struct obd_lsmt_facts *facts,
		     const struct obd_segment *segments, size_t cnt, struct obd_errinfo *info)
{
	const struct obd_segment padding = {.low = OBD_SEGMENT_OFFSET_MASK};
	size_t padded = (cnt + PADDED_ENTRIES - 1) / PADDED_ENTRIES * PADDED_ENTRIES;
	uint64_t index_at = OBD_LSMT_SPACE_BYTES + sealed->payload_sectors * 512;

	if (padded > OBD_SEALED_MAX_ENTRIES)
		return obd_fail_value(info, OBD_E_UNSUPPORTED, NULL,
				      "more extents than a layer may have", 0,
				      OBD_SEALED_MAX_ENTRIES, padded);
	sealed->tail_bytes = padded * OBD_LSMT_ENTRY_BYTES + OBD_LSMT_SPACE_BYTES;
	sealed->head = malloc(OBD_LSMT_SPACE_BYTES);
	sealed->tail = malloc(sealed->tail_bytes);
	if (!sealed->head || !sealed->tail)
		return obd_fail(info, OBD_E_NOMEM, NULL, "index of the layer");
	for (size_t i = 0; i < padded; i++)
		obd_lsmt_encode_entry(i < cnt ? segments[i] : padding,
				      sealed->tail + i * OBD_LSMT_ENTRY_BYTES);
	obd_lsmt_encode_ht(facts, OBD_LSMT_FLAG_HEADER | OBD_LSMT_FLAG_DATA | OBD_LSMT_FLAG_SEALED,
			   0, 0, sealed->head);
	obd_lsmt_encode_ht(facts, OBD_LSMT_FLAG_DATA | OBD_LSMT_FLAG_SEALED, index_at, padded,
			   sealed->tail + padded * OBD_LSMT_ENTRY_BYTES);
	return 0;
}

int obd_sealed_init(struct obd_sealed *sealed, const struct obd_lsmt_facts *facts,
		    const struct obd_segment *segments, size_t cnt, const uint8_t *tags,
		    const struct obd_sealed_source *source, struct obd_errinfo *info)
{
	struct obd_segment *entries = malloc((cnt + 1) * sizeof(*entries));
	int rc;

	memset(sealed, 0, sizeof(*sealed));
	sealed->source = *source;
	sealed->pieces = malloc((cnt + 1) * sizeof(*sealed->pieces));
	sealed->starts = malloc((cnt + 1) * sizeof(*sealed->starts));
	if (entries && sealed->pieces && sealed->starts) {
		sealed->segment_cnt = lay_out(sealed, segments, cnt, tags, entries);
		rc = make_tail(sealed, facts, entries, sealed->segment_cnt, info);
	} else {
		rc = obd_fail(info, OBD_E_NOMEM, NULL, "index of the layer");
	}
	free(entries);
	if (rc) {
		obd_sealed_deinit(sealed);
		return rc;
	}
	sealed->content = (struct obd_content){
		.ctx = sealed,
		.size_bytes =
			OBD_LSMT_SPACE_BYTES + sealed->payload_sectors * 512 + sealed->tail_bytes,
		.read = read_content,
	};
	return 0;
}

void obd_sealed_deinit(struct obd_sealed *sealed)
{
	free(sealed->pieces);
	free(sealed->starts);
	free(sealed->head);
	free(sealed->tail);
	sealed->pieces = NULL;
	sealed->starts = NULL;
	sealed->head = sealed->tail = NULL;
}
