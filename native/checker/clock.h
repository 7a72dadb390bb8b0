/* The clock of all times that are measured: CLOCK_MONOTONIC, as in the journal's counters. */
#ifndef OBD_CHECKER_CLOCK_H
#define OBD_CHECKER_CLOCK_H

#include <stdint.h>
#include <time.h>

#define OBD_SECOND_NS UINT64_C(1000000000)

static inline uint64_t obd_clock_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * OBD_SECOND_NS + (uint64_t)now.tv_nsec;
}

#endif
