/*
 * What a compiler or a machine that reorders stores may have left in memory.
 *
 * Of two stores to different places the younger may be there without the older, unless it is a
 * release store or a fence lies between them. So what is there is everything up to some release
 * store or fence, and any of the plain stores behind it that no further fence holds back.
 */
#ifndef SUPPORT_CRASH_REORDER_H
#define SUPPORT_CRASH_REORDER_H

#include "support_crash_state.h"
#include "support_crash_stores.h"

/* Stores one store into `shared`. */
void crash_apply(struct crash_shared *shared, const struct crash_store *store);

typedef void crash_leftover_fn(void *context, const struct crash_store *stores,
			       const bool *is_there, uint32_t cnt);

/*
 * Calls `each` with what may be there of the stores: all of it where at most CRASH_ALL_PLAIN
 * plain stores have the choice, else none, all, each alone, each missing and some at random.
 */
#define CRASH_ALL_PLAIN 8u
void crash_reorder(const struct crash_store *stores, uint32_t cnt, crash_leftover_fn *each,
		   void *context);

#endif
