/*
 * Jobs made by several threads at once and put in order: what makes long work use all processors
 * while its output stays that of one thread.
 *
 *	take (in order, one at a time)  ->  make (any order, in parallel)  ->  put (as take)
 *
 * A job lives in a slot, memory that is reused; there are a few per thread, so that a slow job
 * holds nobody up. The first error (of the earliest job that failed) ends everything; nothing is
 * put behind a job that failed.
 */
#ifndef OBD_PIPELINE_H
#define OBD_PIPELINE_H

#include <stddef.h>
#include <stdint.h>

#include "obd_err.h"
#include "obd_progress.h"

#define OBD_PIPELINE_END 1 /* of take: there was nothing left, this job does not exist */
#define OBD_MAX_THREADS	 64u

struct obd_pipeline {
	void *ctx;
	size_t slot_bytes; /* zeroed before first use, then left as they are */
	uint64_t job_cnt;  /* UINT64_MAX when take says where the end is */
	/* Each may be NULL. All return 0 or an enum obd_err, and fill info. */
	int (*take)(void *ctx, uint64_t job, void *slot, struct obd_errinfo *info);
	int (*make)(void *ctx, uint64_t job, void *slot, struct obd_errinfo *info);
	int (*put)(void *ctx, uint64_t job, void *slot, struct obd_errinfo *info);
	/* Frees what make keeps in a slot. */
	void (*drop)(void *slot);
};

/* The processors this process may use, at most OBD_MAX_THREADS; `wish` if it is not 0. */
uint32_t obd_thread_cnt(uint32_t wish);

/*
 * Runs all jobs; the calling thread works too, so thread_cnt 1 starts none.
 * OBD_E_CANCELLED when the caller wished it, otherwise what a step returned.
 */
int obd_pipeline_run(const struct obd_pipeline *pipeline, uint32_t thread_cnt,
		     const struct obd_progress *progress, struct obd_errinfo *info);

#endif
