#include "job.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"

#define SECTOR_BYTES OBD_TARGET_SECTOR_BYTES

int obd_job_init(struct obd_job *job, uint32_t max_sectors)
{
	*job = (struct obd_job){.floor = calloc(max_sectors, sizeof(*job->floor))};
	if (!job->floor || posix_memalign((void **)&job->data, OBD_TARGET_ALIGN_BYTES,
					  (size_t)max_sectors * SECTOR_BYTES))
		return -ENOMEM;
	return 0;
}

void obd_job_deinit(struct obd_job *job)
{
	free(job->floor);
	free(job->data);
}

void obd_job_begin(struct obd_run *run, struct obd_job *job)
{
	const struct obd_pick *pick = &job->pick;

	job->generation = obd_owner_generation(run->owner, job->begun_ns);
	if (pick->op == OBD_OP_READ)
		obd_model_start_read(run->model, pick->lba, pick->sector_cnt, job->floor);
	else if (pick->op == OBD_OP_WRITE)
		job->sequence = obd_model_start_write(run->model, pick->lba, pick->sector_cnt,
						      job->generation);
	else if (pick->op == OBD_OP_DISCARD)
		obd_model_start_discard(run->model, pick->lba, pick->sector_cnt, job->generation);
	else
		job->flush_started = obd_model_start_flush(run->model);
}

int obd_job_carry_out(const struct obd_run *run, struct obd_job *job)
{
	const struct obd_pick *pick = &job->pick;
	uint64_t at_bytes = pick->lba * SECTOR_BYTES;
	uint32_t bytes = pick->sector_cnt * SECTOR_BYTES;

	switch (pick->op) {
	case OBD_OP_READ:
		return obd_target_read(run->target, at_bytes, bytes, job->data);
	case OBD_OP_WRITE:
		obd_model_fill(run->model, pick->lba, pick->sector_cnt, job->sequence,
			       job->generation, job->data);
		return obd_target_write(run->target, at_bytes, bytes, job->data, pick->is_fua);
	case OBD_OP_DISCARD:
		return obd_target_discard(run->target, at_bytes, bytes);
	case OBD_OP_FLUSH:
		return obd_target_flush(run->target);
	}
	return 0;
}

/* A line about it for stderr and report: what, in which operation, which worker answered. */
static void complain(struct obd_run *run, enum obd_wrong wrong, const char *what,
		     const struct obd_job *job)
{
	struct obd_counts *counts = &run->counts;
	const struct obd_pick *pick = &job->pick;
	char *line = obd_tally_line(&counts->tally, wrong);

	snprintf(line, OBD_TALLY_LINE_BYTES,
		 "%s; %s of %u sectors at %lu, sent to generation %u, answered by generation %u%s",
		 what, obd_op_names[pick->op], pick->sector_cnt, pick->lba, job->generation,
		 obd_owner_generation(run->owner, obd_clock_ns()),
		 run->phase == OBD_READING_BACK ? ", final read-back" : "");
	fprintf(stderr, "obdsup-sectors: %s\n", line);
}

static enum obd_wrong wrong_of(const struct obd_run *run, enum obd_verdict verdict)
{
	if (verdict == OBD_SECTOR_MISPLACED)
		return OBD_WRONG_MISPLACED;
	if (verdict == OBD_SECTOR_CORRUPT)
		return OBD_WRONG_CORRUPT;
	return run->phase == OBD_READING_BACK ? OBD_WRONG_LOST : OBD_WRONG_STALE;
}

static void check(struct obd_run *run, const struct obd_job *job)
{
	char text[384];

	for (uint32_t i = 0; i < job->pick.sector_cnt; i++) {
		const uint8_t *sector = job->data + i * SECTOR_BYTES;
		uint64_t lba = job->pick.lba + i;
		enum obd_verdict verdict = obd_model_check(run->model, lba, job->floor[i], sector);

		run->counts.sectors_checked++;
		if (verdict == OBD_SECTOR_GOOD ||
		    !obd_tally_count(&run->counts.tally, wrong_of(run, verdict)))
			continue;
		obd_model_describe(run->model, lba, job->floor[i], sector, text, sizeof(text));
		complain(run, wrong_of(run, verdict), text, job);
	}
}

static void note_error(struct obd_run *run, const struct obd_job *job, int error)
{
	struct obd_counts *counts = &run->counts;
	char text[384];

	counts->errnos[(uint32_t)error < OBD_ERRNO_MAX ? (uint32_t)error : 0]++;
	if (!obd_tally_count(&counts->tally, OBD_WRONG_ERROR))
		return;
	snprintf(text, sizeof(text), "device %s lba %lu: errno %d (%s)", run->ledger->header->name,
		 job->pick.lba, error,
		 error == ENODATA ? "fewer bytes than asked for" : strerror(error));
	complain(run, OBD_WRONG_ERROR, text, job);
}

void obd_job_end(struct obd_run *run, struct obd_job *job, int rc, uint64_t ended_ns)
{
	struct obd_counts *counts = &run->counts;
	const struct obd_pick *pick = &job->pick;
	enum obd_outcome outcome = pick->is_fua ? OBD_DURABLE : OBD_ACKNOWLEDGED;

	counts->operations++;
	obd_slices_add(run->slices, job->begun_ns, ended_ns);
	if (pick->op == OBD_OP_DISCARD && (rc == -EOPNOTSUPP || rc == -ENOSYS))
		counts->is_discard_refused = true;
	else if (rc)
		note_error(run, job, -rc);
	switch (pick->op) {
	case OBD_OP_READ:
		counts->reads++;
		if (rc == 0)
			check(run, job);
		break;
	case OBD_OP_WRITE:
	case OBD_OP_DISCARD:
		counts->writes += pick->op == OBD_OP_WRITE;
		counts->discards += pick->op == OBD_OP_DISCARD;
		obd_model_end_write(run->model, pick->lba, pick->sector_cnt,
				    rc == 0 ? outcome : OBD_FAILED);
		break;
	case OBD_OP_FLUSH:
		counts->flushes++;
		if (rc == 0)
			obd_model_end_flush(run->model, job->flush_started);
		break;
	}
}
