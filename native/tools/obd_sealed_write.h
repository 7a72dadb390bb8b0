/*
 * A sealed layer that is being made, as a content: its bytes follow from a list of segments, so
 * that any thread may ask for any part.
 *
 *	[4096 header][payload in the order of the disk][index, padded to 256 entries][4096 trailer]
 *
 * Neighbours on the disk become one segment when they have the same tag, are both zeroed or both
 * not, and together are shorter than the longest segment, as the reference does it.
 *
 * Source: overlaybd-formats 1.5.
 */
#ifndef OBD_SEALED_WRITE_H
#define OBD_SEALED_WRITE_H

#include "obd_content.h"
#include "obd_lsmt.h"

#define OBD_SEALED_MAX_ENTRIES 1000000u /* what readers take */
#define OBD_USER_TAG_BYTES     256u

/* What the header and trailer say. Texts are NUL-terminated; NULL stands for "none". */
struct obd_lsmt_facts {
	uint64_t virtual_size_bytes;
	const char *uuid;
	const char *parent_uuid;
	const char *user_tag; /* at most OBD_USER_TAG_BYTES */
};

/* Encodes the 4096 bytes of a header or trailer. */
void obd_lsmt_encode_ht(const struct obd_lsmt_facts *facts, uint32_t flags,
			uint64_t index_offset_bytes, uint64_t index_entries, uint8_t *area);

/* Where the data of segments is: `source` is the tag of the segment it was asked for. */
struct obd_sealed_source {
	void *ctx;
	int (*read)(void *ctx, uint8_t source, uint64_t moffset, uint64_t length, uint8_t *to,
		    struct obd_errinfo *info); /* sectors */
};

struct obd_sealed {
	struct obd_content content; /* its ctx is this struct: it must not move */
	struct obd_sealed_source source;
	struct obd_segment *pieces; /* of the source, sorted, disjoint */
	uint64_t *starts;	    /* sector of the payload at which each piece begins */
	size_t piece_cnt;
	uint64_t payload_sectors;
	uint8_t *head; /* 4096 */
	uint8_t *tail; /* index and trailer */
	size_t tail_bytes;
	uint64_t segment_cnt; /* in the index */
	uint64_t zeroed_sectors;
};

/*
 * `segments` are sorted and disjoint; borrowed for the call. tags: the tag that the index gets for
 * each tag of a segment, 256 of them; NULL: 0 for all.
 * OBD_E_UNSUPPORTED: more extents than any reader takes. Free it with obd_sealed_deinit.
 */
int obd_sealed_init(struct obd_sealed *sealed, const struct obd_lsmt_facts *facts,
		    const struct obd_segment *segments, size_t cnt, const uint8_t *tags,
		    const struct obd_sealed_source *source, struct obd_errinfo *info);
void obd_sealed_deinit(struct obd_sealed *sealed);

#endif
