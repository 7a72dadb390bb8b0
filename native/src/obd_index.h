/*
 * The merged index of all lowers: sorted, disjoint, made once, read by any number of threads.
 *
 * Lookup goes down a static tree of 64-byte nodes (8 keys each), then along 8 segments: about
 * log8(n) cache lines. The tree adds one byte per segment.
 */
#ifndef OBD_INDEX_H
#define OBD_INDEX_H

#include <stddef.h>

#include "obd_lsmt.h"

#define OBD_INDEX_MAX_LEVELS 22

struct obd_index {
	struct obd_segment *segments;
	size_t segment_cnt;
	uint64_t *keys; /* all levels, one allocation */
	size_t key_cnt;
	uint64_t *level[OBD_INDEX_MAX_LEVELS]; /* 0: over the segments */
	uint32_t levels;
};

struct obd_segment_list {
	struct obd_segment *segments; /* sorted, disjoint; malloc'ed */
	size_t cnt;
};

/*
 * Merges lists, bottom to top: where they overlap the upper one wins, its zeroed segments too.
 * Takes every list's memory, also on failure. OBD_E_NOMEM.
 */
int obd_index_init(struct obd_index *index, struct obd_segment_list *lists, size_t list_cnt);
void obd_index_deinit(struct obd_index *index);

/* Position of the first segment that ends beyond lba; segment_cnt if there is none. */
size_t obd_index_find(const struct obd_index *index, uint64_t lba);

uint64_t obd_index_memory_bytes(const struct obd_index *index);

#endif
