#include "run.h"

#include <errno.h>
#include <pthread.h>

#include "clock.h"
#include "job.h"

#define STACK_BYTES    (256u << 10)
#define TICK_NS	       UINT64_C(100000000)
#define ERROR_PAUSE_NS 5000000 /* a device that is gone answers very fast */

/* What the threads of one phase share. */
struct crew {
	struct obd_run *run;
	struct obd_generator generator;
	pthread_mutex_t lock;
	pthread_cond_t ended; /* CLOCK_MONOTONIC; a thread ended */
	uint64_t next_lba;    /* of reading everything */
	uint64_t phase_ns;    /* when the phase began */
	uint64_t due_ns;      /* when the next operation may be sent, with a limit of iops */
	uint64_t progress_ns; /* when an operation last came back */
	uint32_t thread_cnt;  /* still running */
	uint32_t in_flight;
};

static int must_stop;

void obd_run_stop(void)
{
	__atomic_store_n(&must_stop, 1, __ATOMIC_RELEASE); /* pairs with is_over */
}

static bool is_over(const struct crew *crew, uint64_t now_ns)
{
	const struct obd_sectors_options *o = crew->run->options;
	const struct obd_counts *counts = &crew->run->counts;

	return __atomic_load_n(&must_stop, __ATOMIC_ACQUIRE) ||
	       (o->seconds && now_ns - crew->phase_ns >= o->seconds * OBD_SECOND_NS) ||
	       (o->operations && counts->generated >= o->operations) ||
	       crew->run->ledger->header->sequence >= OBD_SEQUENCE_MAX;
}

static bool next_of_all(struct crew *crew, struct obd_pick *pick)
{
	uint64_t left = crew->run->sector_cnt - crew->next_lba;

	if (left == 0)
		return false;
	*pick = (struct obd_pick){.op = OBD_OP_READ, .lba = crew->next_lba};
	pick->sector_cnt = crew->run->options->mix.max_sectors;
	if (pick->sector_cnt > left)
		pick->sector_cnt = (uint32_t)left;
	crew->next_lba += pick->sector_cnt;
	if (crew->run->phase == OBD_READING_BACK)
		crew->run->counts.read_back += pick->sector_cnt;
	return true;
}

/* Decides what this thread does next; false: nothing, the phase is over. Holds the lock. */
static bool begin(struct crew *crew, struct obd_job *job)
{
	struct obd_run *run = crew->run;
	struct obd_pick *pick = &job->pick;

	job->begun_ns = obd_clock_ns();
	if (run->phase == OBD_GENERATING) {
		if (is_over(crew, job->begun_ns))
			return false;
		obd_generator_next(&crew->generator, run->model, pick);
		run->counts.generated++;
	} else if ((run->phase == OBD_SURVEYING && __atomic_load_n(&must_stop, __ATOMIC_ACQUIRE)) ||
		   !next_of_all(crew, pick)) {
		return false;
	}
	obd_job_begin(run, job);
	crew->in_flight++;
	return true;
}

static struct timespec at(uint64_t time_ns)
{
	return (struct timespec){(time_t)(time_ns / OBD_SECOND_NS),
				 (long)(time_ns % OBD_SECOND_NS)};
}

/* Waits until the limit lets one more operation be sent. Holds the lock, but not meanwhile. */
static void wait_due(struct crew *crew)
{
	uint64_t iops = crew->run->options->iops, now_ns = obd_clock_ns();
	struct timespec until;

	if (iops == 0 || crew->run->phase != OBD_GENERATING)
		return;
	if (crew->due_ns < now_ns)
		crew->due_ns = now_ns;
	until = at(crew->due_ns);
	crew->due_ns += OBD_SECOND_NS / iops;
	pthread_mutex_unlock(&crew->lock);
	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
	pthread_mutex_lock(&crew->lock);
}

static void *work(void *context)
{
	const struct timespec pause = {.tv_nsec = ERROR_PAUSE_NS};
	struct crew *crew = context;
	struct obd_job job;
	int rc = obd_job_init(&job, crew->run->options->mix.max_sectors);

	pthread_mutex_lock(&crew->lock);
	for (;;) {
		uint64_t ended_ns;
		int error;

		if (rc == 0)
			wait_due(crew);
		if (rc || !begin(crew, &job))
			break;
		pthread_mutex_unlock(&crew->lock);
		error = obd_job_carry_out(crew->run, &job);
		ended_ns = obd_clock_ns();
		if (error)
			nanosleep(&pause, NULL);
		pthread_mutex_lock(&crew->lock);
		crew->in_flight--;
		crew->progress_ns = ended_ns;
		obd_job_end(crew->run, &job, error, ended_ns);
		if (crew->run->counts.is_discard_refused)
			crew->generator.mix.discard_percent = 0;
	}
	crew->thread_cnt--;
	pthread_cond_signal(&crew->ended);
	pthread_mutex_unlock(&crew->lock);
	obd_job_deinit(&job);
	return rc ? crew : NULL; /* only whether it is NULL counts */
}

/* Waits until all threads ended; false: an operation did not within the bound. */
static bool wait_ended(struct crew *crew)
{
	uint64_t patience_ns = crew->run->options->drain_seconds * OBD_SECOND_NS;
	uint64_t over_ns = 0; /* since when nothing new is sent */

	pthread_mutex_lock(&crew->lock);
	while (crew->thread_cnt) {
		uint64_t now_ns = obd_clock_ns();
		uint64_t since_ns = crew->progress_ns;
		struct timespec until = at(now_ns + TICK_NS);

		obd_slices_tick(crew->run->slices, now_ns);
		if (over_ns == 0 && (crew->run->phase != OBD_GENERATING || is_over(crew, now_ns)))
			over_ns = now_ns;
		if (since_ns < over_ns)
			since_ns = over_ns;
		if (over_ns && now_ns > since_ns && now_ns - since_ns > patience_ns)
			break;
		pthread_cond_timedwait(&crew->ended, &crew->lock, &until);
	}
	if (crew->run->phase == OBD_GENERATING)
		crew->run->counts.elapsed_ns = obd_clock_ns() - crew->phase_ns;
	crew->run->counts.unfinished = crew->in_flight;
	if (crew->thread_cnt)
		return false; /* the lock stays taken: nobody touches the counts any more */
	pthread_mutex_unlock(&crew->lock);
	return true;
}

static int start_threads(struct crew *crew, pthread_t *thread, uint32_t cnt, uint32_t *ret)
{
	pthread_attr_t attributes;
	int rc = 0;

	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, STACK_BYTES);
	pthread_mutex_lock(&crew->lock);
	for (*ret = 0; *ret < cnt && rc == 0; *ret += rc == 0)
		rc = pthread_create(&thread[*ret], &attributes, work, crew);
	crew->thread_cnt = *ret;
	pthread_mutex_unlock(&crew->lock);
	pthread_attr_destroy(&attributes);
	return -rc;
}

/* Returns 0, -ETIME when an operation did not end, or another negative errno. */
static int do_phase(struct crew *crew, enum obd_phase phase)
{
	pthread_t thread[256];
	uint32_t cnt;
	void *failed;
	int rc;

	crew->run->phase = phase;
	crew->next_lba = 0;
	crew->phase_ns = crew->progress_ns = obd_clock_ns();
	rc = start_threads(crew, thread, crew->run->options->queue_depth, &cnt);
	if (rc)
		obd_run_stop();
	if (!wait_ended(crew))
		return -ETIME;
	for (uint32_t i = 0; i < cnt; i++) {
		pthread_join(thread[i], &failed);
		if (failed)
			rc = -ENOMEM;
	}
	return rc;
}

static int do_phases(struct crew *crew)
{
	const struct obd_sectors_options *o = crew->run->options;
	int rc = 0;

	if (o->is_surveying)
		rc = do_phase(crew, OBD_SURVEYING);
	if (rc == 0 && !o->is_verifying)
		rc = do_phase(crew, OBD_GENERATING);
	if (rc == 0 && o->is_reading_back) {
		if (!crew->run->target->is_direct)
			rc = obd_target_drop_cache(crew->run->target);
		if (rc == 0)
			rc = do_phase(crew, OBD_READING_BACK);
	}
	return rc;
}

int obd_run_all(struct obd_run *run)
{
	static struct crew crew; /* outlives a thread that does not end */
	pthread_condattr_t monotonic;
	int rc;

	crew = (struct crew){.run = run};
	pthread_mutex_init(&crew.lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&crew.ended, &monotonic);
	obd_generator_init(&crew.generator, &run->options->mix, run->sector_cnt,
			   run->options->seed);
	rc = do_phases(&crew);
	run->counts.is_complete = rc == 0;
	return rc == -ETIME ? 0 : rc;
}
