#include "gaps.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

uint64_t obd_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

void obd_gaps_begin(struct obd_gaps *gaps, uint64_t now_ns)
{
	if (gaps->since_ns != 0)
		gaps->since_ns = now_ns;
}

void obd_gaps_completed(struct obd_gaps *gaps, uint64_t now_ns)
{
	uint64_t start_ns = gaps->since_ns;
	uint64_t duration_ns = start_ns ? now_ns - start_ns : 0;

	gaps->since_ns = now_ns;
	if (duration_ns > gaps->longest_ns)
		gaps->longest_ns = duration_ns;
	if (duration_ns < OBD_GAP_MIN_NS)
		return;
	gaps->cnt++;
	if (gaps->duration_cnt < OBD_GAP_SUMMARY_MAX)
		gaps->duration_ns[gaps->duration_cnt++] = duration_ns;
	if (gaps->list_cnt < OBD_GAP_LIST_MAX)
		gaps->list[gaps->list_cnt++] = (struct obd_gap){start_ns, now_ns};
	else
		gaps->list_dropped++;
}

static int compare_u64(const void *left, const void *right)
{
	uint64_t a = *(const uint64_t *)left;
	uint64_t b = *(const uint64_t *)right;

	return (a > b) - (a < b);
}

void obd_gaps_summary(const struct obd_gaps *gaps, struct obd_gap_summary *ret)
{
	uint32_t cnt = gaps->duration_cnt;
	uint64_t *sorted;

	*ret = (struct obd_gap_summary){.cnt = gaps->cnt, .max_ns = gaps->longest_ns};
	sorted = cnt ? malloc(cnt * sizeof(*sorted)) : NULL;
	if (!sorted)
		return;
	memcpy(sorted, gaps->duration_ns, cnt * sizeof(*sorted));
	qsort(sorted, cnt, sizeof(*sorted), compare_u64);
	ret->p50_ns = sorted[(cnt - 1) / 2];
	ret->p99_ns = sorted[(uint64_t)(cnt - 1) * 99 / 100];
	free(sorted);
}
