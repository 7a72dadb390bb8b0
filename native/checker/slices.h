/*
 * Latency over time, written while it is measured: a line per 20 ms in which operations ended,
 * "begin_ns operation_cnt total_ns worst_begun_ns worst_ended_ns", times of CLOCK_MONOTONIC. The
 * worst is the longest operation that ended in it, with its own times.
 */
#ifndef OBD_CHECKER_SLICES_H
#define OBD_CHECKER_SLICES_H

#include <stdint.h>
#include <stdio.h>

#define OBD_SLICE_NS UINT64_C(20000000)

struct obd_slices {
	FILE *file; /* NULL: not written */
	uint64_t begin_ns;
	uint64_t operation_cnt;
	uint64_t total_ns;
	uint64_t worst_begun_ns;
	uint64_t worst_ended_ns;
	uint64_t flushed_ns;
};

/* path NULL: nothing is written. The file is made anew. Returns 0 or a negative errno. */
int obd_slices_open(struct obd_slices *slices, const char *path);
/* Returns 0, or a negative errno: something could not be written. */
int obd_slices_close(struct obd_slices *slices);
/* An operation ended; in order of time but for the little that threads disagree. */
void obd_slices_add(struct obd_slices *slices, uint64_t begun_ns, uint64_t ended_ns);
/* Time went on: what is complete reaches the file within a second. */
void obd_slices_tick(struct obd_slices *slices, uint64_t now_ns);

#endif
