#include "obd_index.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "obd_err.h"

#define LINE_BYTES 64u
#define HUGE_BYTES ((size_t)2 << 20)

/* Appends the parts of *low's segments in [low_from, until), consuming what ends there. */
static size_t take_below(struct obd_segment_list *low, uint64_t low_from, uint64_t until,
			 struct obd_segment *out)
{
	size_t cnt = 0;

	while (low->cnt && obd_segment_offset(*low->segments) < until) {
		struct obd_segment segment = *low->segments;
		uint64_t end = obd_segment_end(segment);

		if (end > low_from && low_from < until)
			out[cnt++] = obd_segment_clip(segment, low_from, until);
		if (end > until)
			break; /* the rest of it is for the next gap */
		low->segments++;
		low->cnt--;
	}
	return cnt;
}

/* Gap fill: all of `high`, and of `low` what high leaves free. Frees both. */
static int merge_two(struct obd_segment_list *low, struct obd_segment_list *high,
		     struct obd_segment_list *ret)
{
	/* each segment of high splits at most one of low */
	size_t cap = low->cnt + 2 * high->cnt;
	struct obd_segment *out = malloc((cap + 1) * sizeof(*out));
	struct obd_segment_list rest = *low;
	uint64_t low_from = 0;
	size_t cnt = 0;

	if (out) {
		for (size_t i = 0; i < high->cnt; i++) {
			cnt += take_below(&rest, low_from, obd_segment_offset(high->segments[i]),
					  out + cnt);
			out[cnt++] = high->segments[i];
			low_from = obd_segment_end(high->segments[i]);
			while (rest.cnt && obd_segment_end(*rest.segments) <= low_from) {
				rest.segments++;
				rest.cnt--;
			}
		}
		cnt += take_below(&rest, low_from, UINT64_MAX, out + cnt);
	}
	free(low->segments);
	free(high->segments);
	low->segments = high->segments = NULL;
	low->cnt = high->cnt = 0;
	if (!out)
		return OBD_E_NOMEM;
	ret->segments = out;
	ret->cnt = cnt;
	return 0;
}

static size_t nodes_above(size_t cnt)
{
	return (cnt + OBD_INDEX_FANOUT - 1) / OBD_INDEX_FANOUT;
}

int obd_index_reserve(struct obd_index *index, size_t cnt)
{
	size_t groups = (cnt + OBD_INDEX_GROUP - 1) / OBD_INDEX_GROUP;
	size_t slots = groups * OBD_INDEX_GROUP;
	size_t bytes = slots * sizeof(*index->segments);
	void *memory;

	memset(index, 0, sizeof(*index));
	if (!cnt)
		return 0;
	/* a large page is one miss of the TLB where small ones are two of memory */
	if (posix_memalign(&memory, bytes < HUGE_BYTES ? LINE_BYTES : HUGE_BYTES, bytes))
		return OBD_E_NOMEM;
	index->segments = memory;
	if (bytes >= HUGE_BYTES)
		madvise(index->segments, bytes, MADV_HUGEPAGE);
	for (size_t i = cnt; i < slots; i++)
		index->segments[i] = (struct obd_segment){.low = UINT64_MAX}; /* ends last */
	index->segment_cnt = cnt;
	return 0;
}

static void put_key(const struct obd_index *index, uint8_t *level, size_t i, uint64_t key)
{
	if (index->is_wide)
		((uint64_t *)level)[i] = key;
	else
		((uint32_t *)level)[i] = (uint32_t)key; /* the maximum, cut, is the maximum */
}

/*
 * Slot i of a node holds the first offset of child i + 1, the last slot the maximum: so the number
 * of keys not above an lba is the child to go to. Level k stands over the nodes of level k - 1.
 */
static void fill_level(struct obd_index *index, uint32_t level, size_t children, size_t slots)
{
	size_t step = OBD_INDEX_GROUP; /* segments from one child to the next */

	for (uint32_t below = 0; below < level; below++)
		step *= OBD_INDEX_FANOUT;
	for (size_t i = 0; i < slots; i++) {
		bool is_last = (i + 1) % OBD_INDEX_FANOUT == 0 || i + 1 >= children;

		put_key(index, index->level[level], i,
			is_last ? UINT64_MAX : obd_segment_offset(index->segments[(i + 1) * step]));
	}
}

int obd_index_build(struct obd_index *index)
{
	size_t groups = (index->segment_cnt + OBD_INDEX_GROUP - 1) / OBD_INDEX_GROUP;
	size_t key_bytes;
	size_t total = 0;
	uint8_t *at;

	index->path = obd_index_best_path();
	if (index->segment_cnt)
		index->end = obd_segment_end(index->segments[index->segment_cnt - 1]);
	index->is_wide = index->end >= UINT32_MAX;
	key_bytes = index->is_wide ? sizeof(uint64_t) : sizeof(uint32_t);
	for (size_t cnt = groups; cnt > 1; cnt = nodes_above(cnt)) {
		total += nodes_above(cnt) * OBD_INDEX_FANOUT * key_bytes;
		index->levels++;
	}
	if (!total)
		return 0;
	index->keys = aligned_alloc(LINE_BYTES, total);
	if (!index->keys)
		return OBD_E_NOMEM;
	index->key_bytes = total;
	at = index->keys;
	for (uint32_t level = 0; level < index->levels; level++) {
		size_t slots = nodes_above(groups) * OBD_INDEX_FANOUT;

		index->level[level] = at;
		fill_level(index, level, groups, slots);
		at += slots * key_bytes;
		groups = nodes_above(groups);
	}
	return 0;
}

/* The tree over a list, which is copied: what it is in may be larger than it, and is not aligned.
 */
static int init_from(struct obd_index *index, const struct obd_segment_list *list)
{
	int rc = obd_index_reserve(index, list->cnt);

	if (rc)
		return rc;
	if (list->cnt)
		memcpy(index->segments, list->segments, list->cnt * sizeof(*index->segments));
	return obd_index_build(index);
}

int obd_index_init(struct obd_index *index, struct obd_segment_list *lists, size_t list_cnt)
{
	int rc = 0;

	memset(index, 0, sizeof(*index));
	/* neighbours in pairs, then the results in pairs: n log(layers), and order is kept */
	while (list_cnt > 1 && !rc) {
		size_t kept = 0;

		for (size_t i = 0; i < list_cnt && !rc; i += 2) {
			struct obd_segment_list merged = lists[i];

			if (i + 1 < list_cnt) {
				rc = merge_two(&lists[i], &lists[i + 1], &merged);
				if (rc)
					break;
			}
			lists[i].segments = NULL;
			lists[kept++] = merged;
		}
		if (rc)
			break;
		for (size_t i = kept; i < list_cnt; i++)
			lists[i].segments = NULL;
		list_cnt = kept;
	}
	if (!rc && list_cnt)
		rc = init_from(index, &lists[0]);
	for (size_t i = 0; i < list_cnt; i++)
		free(lists[i].segments);
	if (rc)
		obd_index_deinit(index);
	return rc;
}

void obd_index_deinit(struct obd_index *index)
{
	free(index->segments);
	free(index->keys);
	memset(index, 0, sizeof(*index));
}

uint64_t obd_index_memory_bytes(const struct obd_index *index)
{
	return index->segment_cnt * sizeof(*index->segments) + index->key_bytes;
}
