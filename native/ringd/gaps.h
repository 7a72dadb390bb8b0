/*
 * Completion gaps: how long commands were in flight while none completed.
 *
 * A gap runs from the last completion (or from the moment the first command became in flight, if
 * that was later) to the next completion. Gaps below OBD_GAP_MIN_NS are only counted for the
 * longest. Before the very first completion nothing is measured: nobody served yet.
 */
#ifndef OBD_RINGD_GAPS_H
#define OBD_RINGD_GAPS_H

#include <stdint.h>

#define OBD_GAP_MIN_NS	    UINT64_C(1000000)
#define OBD_GAP_LIST_MAX    1024u  /* since the list was last asked for */
#define OBD_GAP_SUMMARY_MAX 65536u /* durations kept for the percentiles */

struct obd_gap {
	uint64_t start_ns; /* CLOCK_MONOTONIC */
	uint64_t end_ns;
};

struct obd_gaps {
	uint64_t since_ns; /* start of the gap that is open; 0: no completion yet */
	uint64_t longest_ns;
	uint64_t cnt; /* gaps of OBD_GAP_MIN_NS and more, ever */
	uint32_t list_cnt;
	uint32_t duration_cnt;
	uint64_t list_dropped; /* did not fit into the list since last asked */
	struct obd_gap list[OBD_GAP_LIST_MAX];
	uint64_t duration_ns[OBD_GAP_SUMMARY_MAX];
};

struct obd_gap_summary {
	uint64_t cnt;
	uint64_t p50_ns;
	uint64_t p99_ns;
	uint64_t max_ns;
};

/* The first command became in flight while none was. */
void obd_gaps_begin(struct obd_gaps *gaps, uint64_t now_ns);
/* At least one command completed. */
void obd_gaps_completed(struct obd_gaps *gaps, uint64_t now_ns);
/* Sorts a copy of the durations: milliseconds at most, not for the I/O path. */
void obd_gaps_summary(const struct obd_gaps *gaps, struct obd_gap_summary *ret);

uint64_t obd_now_ns(void); /* CLOCK_MONOTONIC */

#endif
