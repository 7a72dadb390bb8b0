/*
 * The operations of one run: a thread per operation at a time.
 *
 * Threads, not io_uring or kernel AIO: discard, flush and the O_DIRECT transfers are then all done
 * alike, nothing depends on what the kernel was configured with, and a context switch per operation
 * is small beside what a fuse or tcmu device costs. One lock guards everything but the transfers.
 */
#ifndef OBD_SECTORS_RUN_H
#define OBD_SECTORS_RUN_H

#include "ledger.h"
#include "model.h"
#include "options.h"
#include "owner.h"
#include "slices.h"
#include "tally.h"
#include "target.h"

#define OBD_ERRNO_MAX 134u

enum obd_phase { OBD_SURVEYING, OBD_GENERATING, OBD_READING_BACK };

struct obd_counts {
	struct obd_tally tally;
	uint64_t operations; /* that came back, in all phases */
	uint64_t reads;
	uint64_t writes;
	uint64_t discards;
	uint64_t flushes;
	uint64_t sectors_checked;
	uint64_t read_back;  /* sectors read back at the end */
	uint64_t unfinished; /* operations that did not come back */
	uint64_t generated;  /* operations of the generating phase */
	uint64_t elapsed_ns; /* of that phase */
	uint64_t errnos[OBD_ERRNO_MAX];
	bool is_discard_refused; /* the device has none: they were left out */
	bool is_complete;	 /* all phases came to their end */
};

struct obd_run {
	const struct obd_sectors_options *options;
	const struct obd_target *target;
	struct obd_model *model; /* of sector_cnt sectors */
	struct obd_ledger *ledger;
	struct obd_owner *owner;
	struct obd_slices *slices;
	uint64_t sector_cnt;
	enum obd_phase phase;
	struct obd_counts counts;
};

/* Carries out all phases. Returns 0, or a negative errno: no memory, no threads. When an operation
 * does not end, counts.unfinished is not 0 and threads still use everything: only report and exit.
 */
int obd_run_all(struct obd_run *run);
/* Ends the generating; from a signal handler or any thread. */
void obd_run_stop(void);

#endif
