#include "obd_map.h"

#include <stdlib.h>
#include <string.h>

#include "obd_err.h"

#define LEAF_CAP      61u
#define INNER_CAP     60u
#define MAX_HEIGHT    16u /* 30^16 segments: never reached */
#define CHUNK_NODES   32u
#define SPLIT_AT_LEAF (LEAF_CAP / 2)

struct leaf {
	union obd_map_node *prev;
	union obd_map_node *next;
	uint64_t cnt;
	struct obd_segment segments[LEAF_CAP];
};

/*
 * keys[i] is a lower bound of all offsets below children[i]; keys[0] is never looked at (the
 * separator above bounds that child). A segment may reach beyond the next child's key, so a
 * lookup also asks the last segment of the leaf before.
 */
struct inner {
	uint64_t cnt;
	uint64_t keys[INNER_CAP];
	union obd_map_node *children[INNER_CAP];
};

union obd_map_node {
	struct leaf leaf;
	struct inner inner;
	union obd_map_node *next_free;
};

struct obd_map_chunk {
	struct obd_map_chunk *next;
	union obd_map_node nodes[CHUNK_NODES];
};

struct path {
	struct inner *node[MAX_HEIGHT];
	uint64_t idx[MAX_HEIGHT];
};

static union obd_map_node *node_take(struct obd_map *map)
{
	union obd_map_node *node = map->free_nodes;

	if (!node)
		abort(); /* obd_map_reserve was not called or counts wrongly: a bug */
	map->free_nodes = node->next_free;
	map->free_cnt--;
	return node;
}

static void node_give(struct obd_map *map, union obd_map_node *node)
{
	node->next_free = map->free_nodes;
	map->free_nodes = node;
	map->free_cnt++;
}

int obd_map_reserve(struct obd_map *map, size_t inserts)
{
	/*
	 * One split of each level for the remainder of a segment that is cut, one for the first
	 * insert, then a new leaf (and its share of inner nodes) every LEAF_CAP / 2 inserts.
	 */
	size_t need = 2 * (map->height + 4) + inserts / 15;

	while (map->free_cnt < need) {
		struct obd_map_chunk *chunk = malloc(sizeof(*chunk));

		if (!chunk)
			return OBD_E_NOMEM;
		chunk->next = map->chunks;
		map->chunks = chunk;
		map->node_cnt += CHUNK_NODES;
		for (size_t i = 0; i < CHUNK_NODES; i++)
			node_give(map, &chunk->nodes[i]);
	}
	return 0;
}

static void start_empty(struct obd_map *map)
{
	map->root = node_take(map);
	map->root->leaf.prev = NULL;
	map->root->leaf.next = NULL;
	map->root->leaf.cnt = 0;
	map->height = 0;
	map->segment_cnt = 0;
}

int obd_map_init(struct obd_map *map)
{
	memset(map, 0, sizeof(*map));
	if (obd_map_reserve(map, 1))
		return OBD_E_NOMEM;
	start_empty(map);
	return 0;
}

void obd_map_deinit(struct obd_map *map)
{
	while (map->chunks) {
		struct obd_map_chunk *chunk = map->chunks;

		map->chunks = chunk->next;
		free(chunk);
	}
	memset(map, 0, sizeof(*map));
}

void obd_map_clear(struct obd_map *map)
{
	map->free_nodes = NULL;
	map->free_cnt = 0;
	for (struct obd_map_chunk *chunk = map->chunks; chunk; chunk = chunk->next)
		for (size_t i = 0; i < CHUNK_NODES; i++)
			node_give(map, &chunk->nodes[i]);
	start_empty(map);
}

/* The leaf whose range of keys holds lba, and the way to it (path may be NULL). */
static union obd_map_node *descend(const struct obd_map *map, uint64_t lba, struct path *path)
{
	union obd_map_node *node = map->root;

	for (uint32_t level = 0; level < map->height; level++) {
		struct inner *inner = &node->inner;
		uint64_t low = 0;
		uint64_t high = inner->cnt;

		while (high - low > 1) { /* keys[low] <= lba < keys[high] */
			uint64_t mid = (low + high) / 2;

			if (inner->keys[mid] <= lba)
				low = mid;
			else
				high = mid;
		}
		if (path) {
			path->node[level] = inner;
			path->idx[level] = low;
		}
		node = inner->children[low];
	}
	return node;
}

/* Position of the first segment in the leaf with an offset >= lba. */
static uint64_t leaf_lower_bound(const struct leaf *leaf, uint64_t lba)
{
	uint64_t low = 0;
	uint64_t high = leaf->cnt;

	while (low < high) {
		uint64_t mid = (low + high) / 2;

		if (obd_segment_offset(leaf->segments[mid]) < lba)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

/* The last segment that begins before lba, given where lba belongs; NULL if there is none. */
static struct obd_segment *predecessor(union obd_map_node *node, uint64_t pos)
{
	if (pos)
		return &node->leaf.segments[pos - 1];
	node = node->leaf.prev;
	return node && node->leaf.cnt ? &node->leaf.segments[node->leaf.cnt - 1] : NULL;
}

static void inner_insert(struct inner *inner, uint64_t at, uint64_t key, union obd_map_node *child)
{
	memmove(&inner->keys[at + 1], &inner->keys[at], (inner->cnt - at) * sizeof(inner->keys[0]));
	memmove(&inner->children[at + 1], &inner->children[at],
		(inner->cnt - at) * sizeof(inner->children[0]));
	inner->keys[at] = key;
	inner->children[at] = child;
	inner->cnt++;
}

/* Hangs a new node, right of the one the path leads to, into its parents; splits upwards. */
static void insert_child(struct obd_map *map, struct path *path, uint64_t key,
			 union obd_map_node *child)
{
	union obd_map_node *root;

	for (uint32_t level = map->height; level-- > 0;) {
		struct inner *inner = path->node[level];
		uint64_t at = path->idx[level] + 1;
		union obd_map_node *right;
		uint64_t half = inner->cnt / 2;

		if (inner->cnt < INNER_CAP) {
			inner_insert(inner, at, key, child);
			return;
		}
		right = node_take(map);
		right->inner.cnt = inner->cnt - half;
		memcpy(right->inner.keys, &inner->keys[half],
		       right->inner.cnt * sizeof(inner->keys[0]));
		memcpy(right->inner.children, &inner->children[half],
		       right->inner.cnt * sizeof(inner->children[0]));
		inner->cnt = half;
		if (at > half)
			inner_insert(&right->inner, at - half, key, child);
		else
			inner_insert(inner, at, key, child);
		key = right->inner.keys[0];
		child = right;
	}
	root = node_take(map);
	root->inner.cnt = 2;
	root->inner.keys[0] = 0;
	root->inner.children[0] = map->root;
	root->inner.keys[1] = key;
	root->inner.children[1] = child;
	map->root = root;
	map->height++;
}

/* Inserts a segment that overlaps nothing. */
static void insert_disjoint(struct obd_map *map, struct obd_segment segment)
{
	struct path path;
	uint64_t offset = obd_segment_offset(segment);
	union obd_map_node *node = descend(map, offset, &path);
	struct leaf *leaf = &node->leaf;
	uint64_t pos = leaf_lower_bound(leaf, offset);

	map->segment_cnt++;
	if (leaf->cnt == LEAF_CAP) {
		union obd_map_node *right = node_take(map);
		/* appending at the far end is common: leave full leaves behind */
		uint64_t half = pos == LEAF_CAP && !leaf->next ? LEAF_CAP : SPLIT_AT_LEAF;

		right->leaf.cnt = LEAF_CAP - half;
		memcpy(right->leaf.segments, &leaf->segments[half],
		       right->leaf.cnt * sizeof(segment));
		leaf->cnt = half;
		right->leaf.prev = node;
		right->leaf.next = leaf->next;
		if (leaf->next)
			leaf->next->leaf.prev = right;
		leaf->next = right;
		insert_child(map, &path,
			     right->leaf.cnt ? obd_segment_offset(right->leaf.segments[0]) : offset,
			     right);
		if (pos > half || half == LEAF_CAP) {
			leaf = &right->leaf;
			pos -= half;
		}
	}
	memmove(&leaf->segments[pos + 1], &leaf->segments[pos],
		(leaf->cnt - pos) * sizeof(segment));
	leaf->segments[pos] = segment;
	leaf->cnt++;
}

/* Takes an empty leaf out of the tree, and parents that become empty with it. */
static void remove_leaf(struct obd_map *map, struct path *path, union obd_map_node *node)
{
	union obd_map_node *gone = node;
	uint32_t level = map->height;

	if (!node->leaf.prev && !node->leaf.next)
		return; /* the last leaf stays, empty */
	if (node->leaf.prev)
		node->leaf.prev->leaf.next = node->leaf.next;
	if (node->leaf.next)
		node->leaf.next->leaf.prev = node->leaf.prev;
	while (level-- > 0) {
		struct inner *inner = path->node[level];
		uint64_t at = path->idx[level];

		node_give(map, gone);
		inner->cnt--;
		memmove(&inner->keys[at], &inner->keys[at + 1],
			(inner->cnt - at) * sizeof(inner->keys[0]));
		memmove(&inner->children[at], &inner->children[at + 1],
			(inner->cnt - at) * sizeof(inner->children[0]));
		if (inner->cnt)
			break;
		gone = (union obd_map_node *)inner;
	}
	while (map->height && map->root->inner.cnt == 1) {
		union obd_map_node *root = map->root;

		map->root = root->inner.children[0];
		map->height--;
		node_give(map, root);
	}
}

/* Removes segments [first, last) of a leaf, and the leaf if nothing is left. */
static void remove_segments(struct obd_map *map, struct path *path, union obd_map_node *node,
			    uint64_t first, uint64_t last)
{
	struct leaf *leaf = &node->leaf;

	memmove(&leaf->segments[first], &leaf->segments[last],
		(leaf->cnt - last) * sizeof(leaf->segments[0]));
	leaf->cnt -= last - first;
	map->segment_cnt -= last - first;
	if (!leaf->cnt)
		remove_leaf(map, path, node);
}

/* Unmaps [begin, end). */
static void punch(struct obd_map *map, uint64_t begin, uint64_t end)
{
	union obd_map_node *node = descend(map, begin, NULL);
	struct obd_segment *before = predecessor(node, leaf_lower_bound(&node->leaf, begin));
	uint64_t from = begin;

	if (before && obd_segment_end(*before) > begin) {
		struct obd_segment cut = *before;

		*before = obd_segment_clip(cut, 0, begin);
		if (obd_segment_end(cut) > end) {
			insert_disjoint(map, obd_segment_clip(cut, end, UINT64_MAX));
			return;
		}
	}
	for (;;) {
		struct path path;
		struct leaf *leaf;
		uint64_t first;
		uint64_t last;
		bool more;

		node = descend(map, from, &path);
		leaf = &node->leaf;
		first = leaf_lower_bound(leaf, from);
		if (first == leaf->cnt) { /* what follows is in the next leaf: go there */
			if (!leaf->next)
				return;
			from = obd_segment_offset(leaf->next->leaf.segments[0]);
			if (from >= end)
				return;
			continue;
		}
		last = first;
		while (last < leaf->cnt && obd_segment_end(leaf->segments[last]) <= end)
			last++;
		if (last < leaf->cnt && obd_segment_offset(leaf->segments[last]) < end) {
			struct obd_segment rest =
				obd_segment_clip(leaf->segments[last], end, UINT64_MAX);

			if (descend(map, end, NULL) == node) {
				leaf->segments[last] = rest;
				remove_segments(map, &path, node, first, last);
				return;
			}
			/* its new offset belongs to the next leaf */
			remove_segments(map, &path, node, first, last + 1);
			insert_disjoint(map, rest);
			return;
		}
		more = last == leaf->cnt; /* else something of this leaf lies beyond */
		remove_segments(map, &path, node, first, last);
		if (!more)
			return;
	}
}

/* Whether b goes on where a ends, in both spaces, and one entry can hold both. */
static bool continues(struct obd_segment a, struct obd_segment b)
{
	if (obd_segment_end(a) != obd_segment_offset(b) ||
	    obd_segment_zeroed(a) != obd_segment_zeroed(b) ||
	    obd_segment_length(a) + obd_segment_length(b) > OBD_SEGMENT_MAX_SECTORS)
		return false;
	return obd_segment_zeroed(a) ||
	       obd_segment_moffset(a) + obd_segment_length(a) == obd_segment_moffset(b);
}

void obd_map_insert(struct obd_map *map, struct obd_segment segment)
{
	uint64_t begin = obd_segment_offset(segment);
	union obd_map_node *node;
	struct obd_segment *before;

	punch(map, begin, obd_segment_end(segment));
	node = descend(map, begin, NULL);
	before = predecessor(node, leaf_lower_bound(&node->leaf, begin));
	if (before && continues(*before, segment))
		before->low += obd_segment_length(segment) << OBD_SEGMENT_LENGTH_SHIFT;
	else
		insert_disjoint(map, segment);
}

size_t obd_map_collect(const struct obd_map *map, uint64_t begin, uint64_t end,
		       struct obd_segment *out, size_t cap)
{
	union obd_map_node *node = descend(map, begin, NULL);
	uint64_t pos = leaf_lower_bound(&node->leaf, begin);
	struct obd_segment *before = predecessor(node, pos);
	size_t cnt = 0;

	if (before && obd_segment_end(*before) > begin) {
		if (cnt < cap)
			out[cnt] = obd_segment_clip(*before, begin, end);
		cnt++;
	}
	for (; node; node = node->leaf.next, pos = 0) {
		for (; pos < node->leaf.cnt; pos++) {
			struct obd_segment segment = node->leaf.segments[pos];

			if (obd_segment_offset(segment) >= end)
				return cnt;
			if (cnt < cap)
				out[cnt] = obd_segment_clip(segment, begin, end);
			cnt++;
		}
	}
	return cnt;
}

uint64_t obd_map_memory_bytes(const struct obd_map *map)
{
	return map->node_cnt * sizeof(union obd_map_node);
}

static void must(bool holds)
{
	if (!holds)
		abort();
}

void obd_map_check(const struct obd_map *map)
{
	const union obd_map_node *node = descend(map, 0, NULL);
	const union obd_map_node *prev = NULL;
	uint64_t end = 0;
	size_t cnt = 0;

	for (; node; prev = node, node = node->leaf.next) {
		must(node->leaf.prev == prev);
		must(node->leaf.cnt || (!node->leaf.prev && !node->leaf.next));
		for (uint64_t i = 0; i < node->leaf.cnt; i++, cnt++) {
			struct obd_segment segment = node->leaf.segments[i];

			must(obd_segment_offset(segment) >= end);
			must(obd_segment_length(segment) > 0);
			must(descend(map, obd_segment_offset(segment), NULL) == node);
			end = obd_segment_end(segment);
		}
	}
	must(cnt == map->segment_cnt);
}
