/* The upper's in-memory index, and the merged index, against a plain array of sectors. */
#include <string.h>

#include "obd_index.h"
#include "obd_map.h"
#include "support_image_files.h"

#define SECTORS 200000u

/* Per sector: 0 not mapped, 1 zeroed, else the sector in the file + 2. */
static uint64_t model[SECTORS];

static void model_put(struct obd_segment segment)
{
	uint64_t at = obd_segment_offset(segment);

	for (uint64_t i = 0; i < obd_segment_length(segment); i++)
		model[at + i] =
			obd_segment_zeroed(segment) ? 1 : obd_segment_moffset(segment) + i + 2;
}

/* That segments cover exactly what the model says about [begin, end). */
static void compare(const struct obd_segment *segments, size_t cnt, uint64_t begin, uint64_t end)
{
	for (size_t i = 0; i < cnt; i++) {
		REQUIRE(obd_segment_offset(segments[i]) >= begin);
		for (; begin < obd_segment_offset(segments[i]); begin++)
			REQUIRE(model[begin] == 0);
		for (uint64_t k = 0; k < obd_segment_length(segments[i]); k++, begin++)
			REQUIRE(model[begin] ==
				(obd_segment_zeroed(segments[i])
					 ? 1
					 : obd_segment_moffset(segments[i]) + k + 2));
	}
	REQUIRE(begin <= end);
	for (; begin < end; begin++)
		REQUIRE(model[begin] == 0);
}

static void collect_and_compare(const struct obd_map *map, uint64_t begin, uint64_t end)
{
	size_t cnt = obd_map_collect(map, begin, end, NULL, 0);
	struct obd_segment *out = calloc(cnt + 1, sizeof(*out));

	REQUIRE(out && obd_map_collect(map, begin, end, out, cnt) == cnt);
	compare(out, cnt, begin, end);
	free(out);
}

/* Random overwrites: small ones make the tree grow, rare huge ones empty whole leaves. */
static void run_map(uint64_t seed, unsigned int rounds, uint64_t usual, unsigned int huge_every)
{
	struct obd_map map;
	uint64_t moffset = 8;

	memset(model, 0, sizeof(model));
	REQUIRE(obd_map_init(&map) == 0);
	for (unsigned int i = 0; i < rounds; i++) {
		uint64_t r = image_random(&seed);
		uint64_t length = 1 + r % usual;
		uint64_t at;
		struct obd_segment segment;

		if (i % huge_every == huge_every - 1)
			length = 1 + r % OBD_SEGMENT_MAX_SECTORS;
		at = image_random(&seed) % (SECTORS - length);
		segment = obd_segment_make(at, length, moffset, r >> 62 == 0, 3);
		moffset += length;
		REQUIRE(obd_map_reserve(&map, 1) == 0);
		obd_map_insert(&map, segment);
		model_put(segment);
		if (i % 64 == 0) {
			obd_map_check(&map);
			at = image_random(&seed) % (SECTORS - 2000);
			collect_and_compare(&map, at, at + 2000);
		}
	}
	obd_map_check(&map);
	collect_and_compare(&map, 0, SECTORS);
	obd_map_clear(&map);
	obd_map_check(&map);
	REQUIRE(map.segment_cnt == 0);
	obd_map_deinit(&map);
}

static void sequential_inserts_coalesce(void)
{
	struct obd_map map;

	memset(model, 0, sizeof(model));
	REQUIRE(obd_map_init(&map) == 0);
	for (uint64_t at = 0; at + 8 <= 40000; at += 8) {
		struct obd_segment segment = obd_segment_make(at, 8, at + 8, false, 0);

		REQUIRE(obd_map_reserve(&map, 1) == 0);
		obd_map_insert(&map, segment);
		model_put(segment);
	}
	REQUIRE(map.segment_cnt == 3); /* 16383 sectors do not hold more */
	collect_and_compare(&map, 0, SECTORS);
	obd_map_deinit(&map);
}

/* One reservation for a run of adjacent inserts must be enough, whatever is there. */
static void run_of_inserts_needs_one_reservation(void)
{
	struct obd_map map;
	uint64_t moffset = 8;
	uint64_t state = 9;

	memset(model, 0, sizeof(model));
	REQUIRE(obd_map_init(&map) == 0);
	for (int round = 0; round < 20; round++) {
		uint64_t at = image_random(&state) % 1000;
		size_t run = 1 + (size_t)image_random(&state) % 8000;

		REQUIRE(obd_map_reserve(&map, run) == 0);
		for (size_t i = 0; i < run; i++, at += 3, moffset += 100) {
			struct obd_segment segment = obd_segment_make(at, 3, moffset, false, 0);

			obd_map_insert(&map, segment);
			model_put(segment);
		}
		obd_map_check(&map);
	}
	collect_and_compare(&map, 0, SECTORS);
	obd_map_deinit(&map);
}

static void run_index(uint64_t seed, size_t layers, size_t per_layer)
{
	struct obd_segment_list *lists = calloc(layers, sizeof(*lists));
	struct obd_index index;

	REQUIRE(lists);
	memset(model, 0, sizeof(model));
	for (size_t l = 0; l < layers; l++) {
		uint64_t at = 0;

		lists[l].segments = calloc(per_layer, sizeof(struct obd_segment));
		REQUIRE(lists[l].segments);
		for (size_t i = 0; i < per_layer; i++) {
			uint64_t r = image_random(&seed);
			uint64_t length = 1 + r % 40;
			struct obd_segment segment;

			at += (r >> 32) % (2 * SECTORS / (per_layer + 1));
			if (at + length > SECTORS)
				break;
			segment = obd_segment_make(at, length, 8 + (r >> 16) % 100000,
						   (r >> 60) == 0, (uint8_t)l);
			lists[l].segments[lists[l].cnt++] = segment;
			model_put(segment);
			at += length;
		}
	}
	REQUIRE(obd_index_init(&index, lists, layers) == 0);
	free(lists);
	compare(index.segments, index.segment_cnt, 0, SECTORS);
	for (uint64_t lba = 0; lba < SECTORS; lba++) {
		size_t at = obd_index_find(&index, lba);

		REQUIRE(at <= index.segment_cnt);
		if (at < index.segment_cnt)
			REQUIRE(obd_segment_end(index.segments[at]) > lba);
		if (at)
			REQUIRE(obd_segment_end(index.segments[at - 1]) <= lba);
	}
	obd_index_deinit(&index);
}

int main(void)
{
	run_map(1, 20000, 16, 1000);
	run_map(2, 3000, 300, 50);
	run_map(3, 30000, 2, 30000);
	sequential_inserts_coalesce();
	run_of_inserts_needs_one_reservation();
	for (size_t layers = 0; layers <= 9; layers++)
		run_index(layers + 20, layers, 40 * layers);
	run_index(40, 3, 5000);
	run_index(41, 255, 60);
	return 0;
}
