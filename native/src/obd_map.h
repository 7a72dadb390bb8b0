/*
 * The in-memory index of the writable layer: an ordered map of disjoint segments, a B+ tree with
 * linked leaves. Insert overwrites what it overlaps. O(log n) insert and lookup.
 *
 * Not synchronised: the owner holds a lock. Allocation is separate from insertion, so that an
 * insert can not fail once its record is on disk.
 */
#ifndef OBD_MAP_H
#define OBD_MAP_H

#include <stddef.h>

#include "obd_lsmt.h"

union obd_map_node;
struct obd_map_chunk;

struct obd_map {
	union obd_map_node *root;
	union obd_map_node *free_nodes;
	struct obd_map_chunk *chunks;
	size_t free_cnt;
	size_t node_cnt; /* allocated, free ones included */
	size_t segment_cnt;
	uint32_t height; /* 0: the root is a leaf */
};

int obd_map_init(struct obd_map *map); /* OBD_E_NOMEM */
void obd_map_deinit(struct obd_map *map);
void obd_map_clear(struct obd_map *map);

/* Makes sure that `inserts` inserts of adjacent, ascending ranges succeed. OBD_E_NOMEM. */
int obd_map_reserve(struct obd_map *map, size_t inserts);

/* Maps the segment's range, over whatever was there. Needs obd_map_reserve before. */
void obd_map_insert(struct obd_map *map, struct obd_segment segment);

/*
 * Copies the segments that intersect [begin, end), clipped to it, in order: at most cap of them.
 * Returns how many there are, which may be more than cap.
 */
size_t obd_map_collect(const struct obd_map *map, uint64_t begin, uint64_t end,
		       struct obd_segment *out, size_t cap);

uint64_t obd_map_memory_bytes(const struct obd_map *map);

/* Walks everything and aborts if an invariant does not hold; for tests. */
void obd_map_check(const struct obd_map *map);

#endif
