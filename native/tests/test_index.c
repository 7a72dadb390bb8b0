/*
 * Lookups in the merged index against a walk over all segments: every size of tree from none to
 * four levels, keys of both widths, every way to compare that this processor has, one by one and
 * in batches of every length.
 */
#include <string.h>

#include "obd_index.h"
#include "support_image_files.h"

#define BATCH_MAX 40u

/* The definition, in the simplest form. */
static size_t walk(const struct obd_segment *segments, size_t cnt, uint64_t lba)
{
	size_t at = 0;

	while (at < cnt && obd_segment_end(segments[at]) <= lba)
		at++;
	return at;
}

/* Segments of 1 to 16383 sectors with and without gaps, ending near or beyond 2^32. */
static void make_segments(struct obd_index *index, size_t cnt, uint64_t first, uint64_t *state)
{
	uint64_t at = first;

	REQUIRE(obd_index_reserve(index, cnt) == 0);
	for (size_t i = 0; i < cnt; i++) {
		uint64_t r = image_random(state);
		uint64_t length =
			r % 4 ? 1 + (r >> 8) % 40 : 1 + (r >> 8) % OBD_SEGMENT_MAX_SECTORS;

		at += (r >> 40) % 3 * ((r >> 44) % 50);
		index->segments[i] = obd_segment_make(at, length, 8, r >> 63, 0);
		at += length;
	}
	REQUIRE(obd_index_build(index) == 0);
	REQUIRE(index->end == (cnt ? at : 0));
}

static void check(const struct obd_index *index, const uint64_t *lbas, size_t cnt)
{
	size_t found[BATCH_MAX];

	obd_index_find_batch(index, lbas, cnt, found);
	for (size_t i = 0; i < cnt; i++) {
		size_t expected = walk(index->segments, index->segment_cnt, lbas[i]);

		REQUIRE(obd_index_find(index, lbas[i]) == expected);
		REQUIRE(found[i] == expected);
	}
}

/* At the edges of segments and nodes, where mistakes are, and anywhere. */
static uint64_t pick(const struct obd_index *index, uint64_t *state)
{
	uint64_t r = image_random(state);
	struct obd_segment segment;

	if (!index->segment_cnt || r % 16 == 0)
		return r % 32 == 0 ? r : index->end + r % 3 - 1;
	segment = index->segments[(r >> 8) % index->segment_cnt];
	return (r & 1 ? obd_segment_offset(segment) : obd_segment_end(segment)) + (r >> 4) % 3 - 1;
}

static void run(size_t cnt, uint64_t first, int rounds, uint64_t *state)
{
	struct obd_index index;
	uint64_t lbas[BATCH_MAX];

	make_segments(&index, cnt, first, state);
	for (uint32_t path = 0; path <= obd_index_best_path(); path++) {
		index.path = path;
		for (int round = 0; round < rounds; round++) {
			size_t batch = (size_t)round % (BATCH_MAX + 1);

			for (size_t i = 0; i < batch; i++)
				lbas[i] = pick(&index, state);
			check(&index, lbas, batch);
		}
	}
	obd_index_deinit(&index);
}

/* Every node of every level is entered at its first key, before it, and behind its last. */
static void every_edge(size_t cnt, uint64_t first)
{
	struct obd_index index;

	REQUIRE(obd_index_reserve(&index, cnt) == 0);
	for (size_t i = 0; i < cnt; i++)
		index.segments[i] = obd_segment_make(first + i * 4, 2, 8, false, 0);
	REQUIRE(obd_index_build(&index) == 0);
	for (uint32_t path = 0; path <= obd_index_best_path(); path++) {
		index.path = path;
		for (size_t i = 0; i < cnt; i++) {
			uint64_t at = first + i * 4;

			REQUIRE(at == 0 || obd_index_find(&index, at - 1) == i);
			REQUIRE(obd_index_find(&index, at) == i);
			REQUIRE(obd_index_find(&index, at + 1) == i);
			REQUIRE(obd_index_find(&index, at + 2) == i + 1);
			REQUIRE(obd_index_find(&index, at + 3) == i + 1);
		}
	}
	obd_index_deinit(&index);
}

int main(void)
{
	uint64_t state = 17;

	for (size_t cnt = 0; cnt < 70; cnt++) {
		run(cnt, 0, 60, &state);
		run(cnt, 1ull << 49, 60, &state);
		run(cnt, UINT32_MAX - 100ull, 60, &state); /* around where keys get wider */
	}
	run(1025, 5, 300, &state);
	run(1500, 1ull << 33, 300, &state);
	for (int i = 0; i < 20; i++)
		run(image_random(&state) % 20000, 0, 60, &state);
	every_edge(64, 0);
	every_edge(65, 1);
	every_edge(70000, 3);
	every_edge(70000, 1ull << 32);
	every_edge(5, (1ull << 50) - 30); /* the last one ends at the last sector there can be */
	for (uint64_t end = UINT32_MAX - 2ull; end <= UINT32_MAX + 2ull; end++)
		every_edge(100, end - 398); /* the last end is exactly this */
	return 0;
}
