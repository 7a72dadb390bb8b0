/*
 * The merged index of all lowers: sorted, disjoint, made once, read by any number of threads.
 *
 * Four segments are one line of 64 bytes, a group. Above the groups stands a static tree whose
 * nodes are a line of 16 keys, 32 bits each; of 64 bits, two lines, when the disk is so large
 * (2 TiB and more). A lookup costs one line per level and the line of the group, has no branch
 * that depends on data, and compares a node at once where the processor can (AVX2, AVX-512). The
 * tree adds 1.07 bytes to the 16 of a segment.
 */
#ifndef OBD_INDEX_H
#define OBD_INDEX_H

#include <stddef.h>

#include "obd_lsmt.h"

#define OBD_INDEX_MAX_LEVELS 14u /* 16^14 groups of 4: more than memory holds */
#define OBD_INDEX_GROUP	     4u
#define OBD_INDEX_FANOUT     16u

/* How a node is compared. All give the same positions. */
enum obd_index_path {
	OBD_INDEX_PLAIN = 0,
	OBD_INDEX_AVX2 = 1,
	OBD_INDEX_AVX512 = 2,
};

struct obd_index {
	struct obd_segment *segments; /* aligned; the last group is filled up with empty ones */
	size_t segment_cnt;
	uint64_t end; /* of the last segment, 0 without any */
	void *keys;   /* all levels, one allocation */
	size_t key_bytes;
	uint8_t *level[OBD_INDEX_MAX_LEVELS]; /* where its keys begin; 0: over the groups */
	uint32_t levels;
	bool is_wide; /* keys of 64 bits */
	enum obd_index_path path;
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

/*
 * In two steps, for segments that are merged already: room for cnt of them, to be filled by the
 * caller (sorted, disjoint), then the tree above. OBD_E_NOMEM; deinit in any case.
 */
int obd_index_reserve(struct obd_index *index, size_t cnt);
int obd_index_build(struct obd_index *index);

/* Position of the first segment that ends beyond lba; segment_cnt if there is none. */
size_t obd_index_find(const struct obd_index *index, uint64_t lba);

/*
 * The same for many at once, in any order: the memory of one is fetched while others are compared,
 * so that where an index is larger than the caches each costs a fraction of a lookup alone.
 */
void obd_index_find_batch(const struct obd_index *index, const uint64_t *lbas, size_t cnt,
			  size_t *ret);

/* The best this processor has; obd_index_build chooses it. `path` may be set to a lesser one. */
enum obd_index_path obd_index_best_path(void);

uint64_t obd_index_memory_bytes(const struct obd_index *index);

#endif
