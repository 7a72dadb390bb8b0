/*
 * Random lookups in a merged index, one thread: one at a time, and in batches.
 *
 *	index [SECONDS]		a row per number of segments and way to compare, SECONDS each
 *
 * Time is the thread's own, and the best of many short rounds counts, so that what else the host
 * does is left out as far as that goes.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "obd_index.h"
#include "support_image_files.h"

#define PROBES 65536u

static uint64_t probes[PROBES];
static size_t found[PROBES];
static size_t sum; /* of what was found, so that no lookup is left out by the compiler */

static double thread_seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* Runs of 12 sectors, each with a gap of 4 behind it. */
static void make_index(struct obd_index *index, size_t cnt)
{
	REQUIRE(obd_index_reserve(index, cnt) == 0);
	for (size_t i = 0; i < cnt; i++)
		index->segments[i] = obd_segment_make(i * 16, 12, 8 + i * 12, false, 0);
	REQUIRE(obd_index_build(index) == 0);
}

static void one_by_one(const struct obd_index *index)
{
	for (size_t i = 0; i < PROBES; i++)
		sum += obd_index_find(index, probes[i]);
}

static void in_batches(const struct obd_index *index)
{
	obd_index_find_batch(index, probes, PROBES, found);
	sum += found[PROBES / 2];
}

/* Million lookups a second. */
static double rate(const struct obd_index *index, double seconds,
		   void (*look_up)(const struct obd_index *))
{
	double begin = thread_seconds();
	double best = 0;
	double from;

	while ((from = thread_seconds()) - begin < seconds) {
		double now;

		look_up(index);
		now = PROBES / (thread_seconds() - from) / 1e6;
		best = now > best ? now : best;
	}
	return best;
}

int main(int argc, char **argv)
{
	const char *const names[] = {"plain", "avx2", "avx512"};
	const size_t cnts[] = {1000, 10000, 100000, 1000000};
	double seconds = argc > 1 ? atof(argv[1]) : 1;
	uint64_t state = 31;

	printf("segments  compare  one by one      in batches      memory of a segment\n");
	for (size_t c = 0; c < sizeof(cnts) / sizeof(cnts[0]); c++) {
		struct obd_index index;

		make_index(&index, cnts[c]);
		for (size_t i = 0; i < PROBES; i++)
			probes[i] = image_random(&state) % (cnts[c] * 16);
		for (uint32_t path = 0; path <= obd_index_best_path(); path++) {
			index.path = path;
			printf("%-9zu %-8s %6.1f million/s %6.1f million/s %.2f bytes\n", cnts[c],
			       names[path], rate(&index, seconds, one_by_one),
			       rate(&index, seconds, in_batches),
			       (double)obd_index_memory_bytes(&index) / (double)cnts[c]);
		}
		obd_index_deinit(&index);
	}
	fprintf(stderr, "(sum %zu)\n", sum);
	return 0;
}
