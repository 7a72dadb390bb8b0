/*
 * The sparse writable layer under deaths: at every system call and named point of a writer, and
 * again in its successor, with a layer below. A sector holds what was acknowledged; one that is
 * being written or discarded holds that or what was there before, each sector for itself, as on a
 * disk. Nothing else may change, though blocks are larger than sectors.
 *
 * A write is cut between pages only: memory that is there is copied a page at a time, and a kill is
 * noticed between two. The last thread of a dead process is gone before its successor begins: no
 * data lands late.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "obd_image.h"
#include "support_image_files.h"
#include "support_upper_deaths.h"

#define SECTORS 61u /* the last block is not whole */
#define BELOW	0x7e

static const struct operation operations[] = {
	{WRITE, 3, 30},			      /* a part, whole blocks, a part */
	{DISCARD, 6, 20},		      /* likewise, of what is data */
	{WRITE, 17, 1},			      /* into a discarded block */
	{FLUSH, 0, 0},	    {DISCARD, 40, 3}, /* a part of a block from below */
	{WRITE_FUA, 43, 2},		      /* and beside it */
	{DISCARD, 48, 13},		      /* to the end */
	{WRITE, 57, 4},	    {DISCARD, 0, 61}, {WRITE, 30, 20},
};
#define OPERATIONS (sizeof(operations) / sizeof(*operations))
#define ALL	   ((1u << OPERATIONS) - 1)

static char dir[64];
static char data_path[96];
static char index_path[96];
static char lower_path[96];

static bool touches(uint32_t i, uint64_t lba)
{
	return lba >= operations[i].lba && lba < operations[i].lba + operations[i].cnt;
}

static uint8_t value_of(uint32_t i)
{
	return operations[i].kind == DISCARD ? 0 : (uint8_t)(i + 1);
}

/* What a sector holds when these operations (bits) are done. */
static uint8_t expected(uint32_t done, uint64_t lba)
{
	uint8_t value = BELOW;

	for (uint32_t i = 0; i < OPERATIONS; i++)
		if ((done >> i & 1) && touches(i, lba))
			value = value_of(i);
	return value;
}

static struct obd_image *open_image(void)
{
	const char *lowers[] = {lower_path};
	struct obd_image_spec spec = {.lower_paths = lowers,
				      .lower_cnt = 1,
				      .upper_data = data_path,
				      .upper_index = index_path};
	struct obd_errinfo info = {0};
	struct obd_image *image;

	if (obd_image_create(&spec, &info, &image))
		deaths_wrong(info.what, info.offset_bytes);
	return image;
}

static void check(struct obd_image *image)
{
	static uint8_t bytes[SECTORS * 512];
	struct iovec iov = {bytes, sizeof(bytes)};
	uint32_t under_way = deaths->under_way;

	if (obd_image_read(image, 0, SECTORS, &iov, 1, 0, NULL))
		deaths_wrong("a read failed", 0);
	for (uint64_t lba = 0; lba < SECTORS; lba++) {
		const uint8_t *sector = bytes + lba * 512;
		uint8_t before = expected(deaths->done, lba);
		uint8_t after = expected(deaths->done | under_way, lba);

		for (uint32_t i = 1; i < 512; i++)
			if (sector[i] != sector[0])
				deaths_wrong("half a sector", lba);
		if (sector[0] != before && sector[0] != after)
			deaths_wrong("other data than was acknowledged", lba);
	}
}

static void live(void *context)
{
	struct obd_image *image = open_image();
	struct obd_errinfo info = {0};

	(void)context;
	check(image);
	if (obd_image_start_writing(image, &deaths->reserved, &info))
		deaths_wrong(info.what, info.offset_bytes);
	check(image);
	while (deaths->done != ALL) {
		uint32_t i = (uint32_t)__builtin_ctz(~deaths->done);

		deaths->under_way = 1u << i;
		deaths_operate(image, &operations[i], value_of(i));
		__atomic_store_n(&deaths->done, deaths->done | 1u << i, __ATOMIC_RELEASE);
		deaths->under_way = 0;
		check(image);
	}
	obd_image_stop_writing(image);
	obd_image_destroy(image);
}

static void look(void *context)
{
	struct obd_image *image = open_image();

	(void)context;
	if (deaths->done != ALL)
		deaths_wrong("an operation is missing", 0);
	check(image);
	obd_image_destroy(image);
}

static bool run_lives(uint32_t first, uint32_t second, enum death_kind kind)
{
	bool is_beyond;

	image_sparse_make(data_path, index_path, SECTORS * 512);
	memset(deaths, 0, sizeof(*deaths));
	is_beyond = deaths_run(live, NULL, first, kind);
	if (!is_beyond && second)
		is_beyond = deaths_run(live, NULL, second, kind);
	if (!deaths->what[0])
		deaths_run(live, NULL, 0, DEATH_BEFORE);
	if (!deaths->what[0])
		deaths_run(look, NULL, 0, DEATH_BEFORE);
	if (deaths->what[0])
		fprintf(stderr, "    %s: died at call %u, then at %u (kind %u)\n", deaths->what,
			first, second, kind);
	REQUIRE(!deaths->what[0]);
	return is_beyond;
}

int main(void)
{
	static const enum death_kind kinds[] = {DEATH_BEFORE, DEATH_PAGES};
	struct obd_segment all = obd_segment_make(0, SECTORS, 0, false, 0);
	static uint8_t below[SECTORS * 512];
	struct image_bytes layer;
	uint32_t runs = 0, most = 0;

	image_dir_make(dir);
	snprintf(data_path, sizeof(data_path), "%s/data", dir);
	snprintf(index_path, sizeof(index_path), "%s/index", dir);
	snprintf(lower_path, sizeof(lower_path), "%s/lower", dir);
	memset(below, BELOW, sizeof(below));
	layer = image_layer_make(below, SECTORS, &all, 1);
	image_file_write(lower_path, layer.at, layer.length);
	free(layer.at);
	deaths_init();
	for (uint32_t k = 0; k < 2; k++) {
		bool is_beyond = false;

		for (uint32_t first = 1; !is_beyond; first++, runs++) {
			is_beyond = run_lives(first, 0, kinds[k]);
			most = first;
		}
		for (uint32_t first = 1; first < most; first += 2 + k) {
			bool is_second_beyond = false;

			for (uint32_t second = 1; !is_second_beyond; second += 5, runs++)
				is_second_beyond = run_lives(first, second, kinds[k]);
		}
	}
	printf("%u runs, up to call %u\n", runs, most);
	image_dir_remove(dir);
	return 0;
}
