/*
 * How far a long call is, and the wish to stop it: shared with another thread of the caller.
 *
 * The call stores, the other thread reads; `is_cancelled` the other way round. A cancelled call
 * ends with OBD_E_CANCELLED at its next step and leaves no half output behind a final name.
 */
#ifndef OBD_PROGRESS_H
#define OBD_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct obd_progress {
	uint64_t done_bytes;
	uint64_t total_bytes; /* 0: not known (yet) */
	uint32_t is_cancelled;
	uint32_t reserved;
};

/* NULL is allowed everywhere: nobody watches. */
static inline void obd_progress_total(struct obd_progress *progress, uint64_t total_bytes)
{
	if (progress)
		__atomic_store_n(&progress->total_bytes, total_bytes, __ATOMIC_RELAXED);
}

static inline void obd_progress_add(struct obd_progress *progress, uint64_t bytes)
{
	if (progress)
		__atomic_fetch_add(&progress->done_bytes, bytes, __ATOMIC_RELAXED);
}

static inline bool obd_progress_is_cancelled(const struct obd_progress *progress)
{
	return progress && __atomic_load_n(&progress->is_cancelled, __ATOMIC_RELAXED);
}

#endif
