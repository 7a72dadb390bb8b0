/* One operation: from the pick to the verdict on its answer. */
#ifndef OBD_SECTORS_JOB_H
#define OBD_SECTORS_JOB_H

#include "run.h"

struct obd_job {
	struct obd_pick pick;
	uint64_t begun_ns;
	uint64_t flush_started; /* of a flush: what it covers */
	uint32_t sequence;	/* of a write */
	uint32_t generation;	/* that served when it was sent */
	uint32_t *floor;	/* of each sector when the read was sent */
	uint8_t *data;
};

/* Returns 0 or -ENOMEM; deinit in any case. */
int obd_job_init(struct obd_job *job, uint32_t max_sectors);
void obd_job_deinit(struct obd_job *job);

/* It is about to be sent: pick and begun_ns are filled in. With the run's lock held. */
void obd_job_begin(struct obd_run *run, struct obd_job *job);
/* The transfer itself, from any thread without the lock. Returns 0 or a negative errno. */
int obd_job_carry_out(const struct obd_run *run, struct obd_job *job);
/* It came back: counts it, checks what was read. With the lock held. */
void obd_job_end(struct obd_run *run, struct obd_job *job, int rc, uint64_t ended_ns);

#endif
