/*
 * Every order of everything that can happen to a ring, with crashes before every store.
 *
 * A node is a whole state (support_crash_state.h), an edge is one step: the kernel queues a
 * command or takes completions, the server picks up, executes, publishes, skips, a successor
 * attaches, or the server dies before one of the stores of its step. A state that was met before
 * is not entered again. That is sound: the state is all that the code under test and the judge
 * can see, both are deterministic, so what follows from it was gone through at the first visit.
 *
 * Steps of the kernel lie between those of the server, not inside them: a step of the server
 * reads what the kernel writes once, as its first access, so that a later step of the kernel
 * commutes with the rest of it. `is_fine` does without that argument.
 */
#ifndef SUPPORT_CRASH_SEARCH_H
#define SUPPORT_CRASH_SEARCH_H

#include "support_crash_state.h"

struct crash_search {
	uint32_t crashes;  /* at most so many on a path */
	bool is_fine;	   /* the kernel also steps in before every single store */
	bool is_reordered; /* a death leaves any stores that a reordering machine might */
	bool is_proving;   /* that every change of shared memory went through a hook */
	/* counts */
	uint64_t steps;	    /* executed */
	uint64_t states;    /* different ones */
	uint64_t deaths;    /* (state, store) pairs a server died at */
	uint64_t leftovers; /* memory that reordered stores might leave, all tried */
	double orders;	    /* different paths to an end */
	uint32_t longest;   /* path, in steps */
};

/* From the world as it is; false at the first violation, which is printed with its path. */
bool crash_search_run(struct crash_search *search);

#endif
