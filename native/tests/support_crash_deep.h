/*
 * Long random runs: thousands of commands, hundreds of deaths, the journal in a file that every
 * successor locks, maps and checks anew. A seed replays a run.
 */
#ifndef SUPPORT_CRASH_DEEP_H
#define SUPPORT_CRASH_DEEP_H

#include <stdbool.h>
#include <stdint.h>

#define CRASH_DEEP_RING	  (12u * 128u + 64u)
#define CRASH_DEEP_BLOCKS 32u

struct crash_deep {
	uint64_t seed;
	uint32_t chance;   /* to die: one in so many stores */
	uint32_t commands; /* how many, at least */
	uint32_t crashes;  /* counted */
};

/* The world must have been made with CRASH_DEEP_RING. False: violated, and said so. */
bool crash_deep_run(struct crash_deep *deep);

#endif
