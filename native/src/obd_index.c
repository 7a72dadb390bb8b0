#include "obd_index.h"

#include <stdlib.h>
#include <string.h>

#include "obd_err.h"

#define FANOUT_SHIFT 3u
#define FANOUT	     (1u << FANOUT_SHIFT)
#define LINE_BYTES   64u

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

static uint64_t key_of(const struct obd_index *index, uint32_t level, size_t i)
{
	if (level == 0)
		return i < index->segment_cnt ? obd_segment_offset(index->segments[i]) : UINT64_MAX;
	return index->level[level - 1][i];
}

static size_t nodes_above(size_t cnt)
{
	return (cnt + FANOUT - 1) >> FANOUT_SHIFT;
}

/* Level k holds the first key of each node of level k-1, padded to whole nodes with the maximum. */
static int build_tree(struct obd_index *index)
{
	size_t total = 0;
	size_t cnt = index->segment_cnt;
	uint64_t *at;

	index->levels = 0;
	while (cnt > FANOUT) {
		cnt = nodes_above(cnt);
		total += nodes_above(cnt) << FANOUT_SHIFT;
		index->levels++;
	}
	index->key_cnt = total;
	if (!total)
		return 0;
	index->keys = aligned_alloc(LINE_BYTES, total * sizeof(*index->keys));
	if (!index->keys)
		return OBD_E_NOMEM;
	at = index->keys;
	cnt = index->segment_cnt;
	for (uint32_t level = 0; level < index->levels; level++) {
		size_t nodes = nodes_above(cnt);
		size_t padded = nodes_above(nodes) << FANOUT_SHIFT;

		index->level[level] = at;
		for (size_t i = 0; i < padded; i++)
			at[i] = i < nodes ? key_of(index, level, i << FANOUT_SHIFT) : UINT64_MAX;
		at += padded;
		cnt = nodes;
	}
	return 0;
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
	if (!rc && list_cnt) {
		index->segments = lists[0].segments;
		index->segment_cnt = lists[0].cnt;
		lists[0].segments = NULL;
		rc = build_tree(index);
	}
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

size_t obd_index_find(const struct obd_index *index, uint64_t lba)
{
	size_t node = 0;
	size_t at;

	for (uint32_t level = index->levels; level-- > 0;) {
		const uint64_t *keys = index->level[level] + (node << FANOUT_SHIFT);
		size_t below = 0;

		for (uint32_t i = 0; i < FANOUT; i++)
			below += keys[i] <= lba;
		/* before the first key: its node, where the scan stops at once */
		node = (node << FANOUT_SHIFT) + below - (below != 0);
	}
	at = node << FANOUT_SHIFT;
	while (at < index->segment_cnt && obd_segment_end(index->segments[at]) <= lba)
		at++;
	return at;
}

uint64_t obd_index_memory_bytes(const struct obd_index *index)
{
	return index->segment_cnt * sizeof(*index->segments) +
	       index->key_cnt * sizeof(*index->keys);
}
