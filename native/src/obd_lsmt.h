/*
 * LSMT on disk: header, trailer, index entries. Nothing here reads files.
 *
 * Header at 0 and trailer at end - 4096, the same layout, 4096 bytes, little-endian:
 * | off | size | field        | value                                                          |
 * |-----|------|--------------|----------------------------------------------------------------|
 * | 0   | 8    | magic0       | "LSMT" 00 01 02 00                                             |
 * | 8   | 16   | magic1       | 657e63d2 9444084c a2d2c8ec 4fcfae8a                            |
 * | 24  | 4    | size         | 390, not checked                                               |
 * | 28  | 4    | flags        | bit 0 header, bit 1 data file, bit 2 sealed, bit 4 sparse       |
 * | 32  | 8    | index_offset | bytes                                                          |
 * | 40  | 8    | index_size   | entries, padding entries included                              |
 * | 48  | 8    | virtual_size | bytes                                                          |
 * | 56  | 37   | uuid         | text                                                           |
 *
 * Index entry, 16 bytes, two little-endian words:
 * | word | bits  | field                                                                       |
 * |------|-------|-----------------------------------------------------------------------------|
 * | low  | 0-49  | offset, sectors in the virtual disk; 2^50-1 marks a padding entry            |
 * | low  | 50-63 | length, sectors, 1..16383                                                    |
 * | high | 0-54  | moffset, sectors in the file, absolute                                       |
 * | high | 55    | zeroed                                                                      |
 * | high | 56-63 | tag; ignored by readers. In memory: the layer, 0 = the bottom one            |
 *
 * Source: overlaybd-formats 1.1 to 1.5.
 */
#ifndef OBD_LSMT_H
#define OBD_LSMT_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>

#include "obd_err.h"

#define OBD_LSMT_SPACE_BYTES	     4096u
#define OBD_LSMT_FIRST_SECTOR	     8u
#define OBD_SEGMENT_MAX_SECTORS	     16383u
#define OBD_SEGMENT_OFFSET_MASK	     ((1ull << 50) - 1)
#define OBD_SEGMENT_MOFFSET_MASK     ((1ull << 55) - 1)
#define OBD_SEGMENT_ZEROED	     (1ull << 55)
#define OBD_SEGMENT_TAG_SHIFT	     56
#define OBD_SEGMENT_LENGTH_SHIFT     50
#define OBD_LSMT_ENTRY_BYTES	     16u
#define OBD_LSMT_FLAG_HEADER	     1u
#define OBD_LSMT_FLAG_DATA	     2u
#define OBD_LSMT_FLAG_SEALED	     4u
#define OBD_LSMT_FLAG_SPARSE	     16u
#define OBD_LSMT_UUID_BYTES	     37u
#define OBD_LSMT_MAX_VIRTUAL_SECTORS (1ull << 50)

/* A mapping, in memory as on disk but in host byte order. */
struct obd_segment {
	uint64_t low;
	uint64_t high;
};
static_assert(sizeof(struct obd_segment) == OBD_LSMT_ENTRY_BYTES, "index entry is 16 bytes");

static inline struct obd_segment obd_segment_make(uint64_t offset, uint64_t length,
						  uint64_t moffset, bool zeroed, uint8_t tag)
{
	return (struct obd_segment){
		.low = offset | length << OBD_SEGMENT_LENGTH_SHIFT,
		.high = moffset | (zeroed ? OBD_SEGMENT_ZEROED : 0) |
			(uint64_t)tag << OBD_SEGMENT_TAG_SHIFT,
	};
}

static inline uint64_t obd_segment_offset(struct obd_segment segment)
{
	return segment.low & OBD_SEGMENT_OFFSET_MASK;
}

static inline uint64_t obd_segment_length(struct obd_segment segment)
{
	return segment.low >> OBD_SEGMENT_LENGTH_SHIFT;
}

static inline uint64_t obd_segment_end(struct obd_segment segment)
{
	return obd_segment_offset(segment) + obd_segment_length(segment);
}

static inline uint64_t obd_segment_moffset(struct obd_segment segment)
{
	return segment.high & OBD_SEGMENT_MOFFSET_MASK;
}

static inline bool obd_segment_zeroed(struct obd_segment segment)
{
	return segment.high & OBD_SEGMENT_ZEROED;
}

static inline uint8_t obd_segment_tag(struct obd_segment segment)
{
	return (uint8_t)(segment.high >> OBD_SEGMENT_TAG_SHIFT);
}

/* The part of segment inside [begin, end), which it must intersect. */
static inline struct obd_segment obd_segment_clip(struct obd_segment segment, uint64_t begin,
						  uint64_t end)
{
	uint64_t from = obd_segment_offset(segment);
	uint64_t to = obd_segment_end(segment);

	if (from < begin) {
		if (!obd_segment_zeroed(segment))
			segment.high += begin - from;
		from = begin;
	}
	if (to > end)
		to = end;
	segment.low = from | (to - from) << OBD_SEGMENT_LENGTH_SHIFT;
	return segment;
}

/* A header or trailer, decoded. */
struct obd_lsmt_ht {
	uint32_t flags;
	uint64_t index_offset_bytes;
	uint64_t index_entries;
	uint64_t virtual_size_bytes;
	char uuid[OBD_LSMT_UUID_BYTES];
};

bool obd_lsmt_has_magic(const uint8_t *area);

/*
 * Decodes a 4096-byte area. OBD_E_FORMAT if the magic is wrong, or the bits of `mask` in flags are
 * not `flags`; path and at_bytes (where the area is) go into the error.
 */
int obd_lsmt_decode_ht(const uint8_t *area, uint32_t mask, uint32_t flags, const char *path,
		       uint64_t at_bytes, struct obd_errinfo *info, struct obd_lsmt_ht *ret);

struct obd_segment obd_lsmt_decode_entry(const uint8_t *at);
void obd_lsmt_encode_entry(struct obd_segment segment, uint8_t *at);

/* A padding entry, of which only the offset counts. */
static inline bool obd_lsmt_is_padding(struct obd_segment segment)
{
	return obd_segment_offset(segment) == OBD_SEGMENT_OFFSET_MASK;
}

#endif
