#include "obd_pipeline.h"

#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdlib.h>

#define SLOTS_PER_THREAD 3u

enum slot_state { SLOT_FREE, SLOT_BUSY, SLOT_MADE };

struct run {
	const struct obd_pipeline *pipeline;
	const struct obd_progress *progress;
	uint32_t slot_cnt;
	void **slots; /* job n is in slot n % slot_cnt */

	pthread_mutex_t take; /* in front of `lock`: held across take() */
	uint64_t next_job;    /* to be taken */

	pthread_mutex_t lock;
	pthread_cond_t changed; /* a slot is free, or it is over */
	enum slot_state *state;
	uint64_t next_put;
	bool is_putting;
	bool is_over; /* an error, or no job left to take */
	uint64_t failed_job;
	int code;
	struct obd_errinfo info;
};

uint32_t obd_thread_cnt(uint32_t wish)
{
	cpu_set_t set;
	uint32_t cnt = wish;

	if (!cnt)
		cnt = sched_getaffinity(0, sizeof(set), &set) ? 1u : (uint32_t)CPU_COUNT(&set);
	return cnt > OBD_MAX_THREADS ? OBD_MAX_THREADS : cnt;
}

/* With `lock` held: of several failures the one of the earliest job is kept. */
static void fail_locked(struct run *run, uint64_t job, int code, const struct obd_errinfo *info)
{
	if (!run->code || job < run->failed_job) {
		run->code = code;
		run->failed_job = job;
		run->info = *info;
	}
	run->is_over = true;
	pthread_cond_broadcast(&run->changed);
}

/* With `take` held, and `lock`: until the slot of the next job is free; false if it is over. */
static bool wait_for_slot(struct run *run, uint64_t job)
{
	while (!run->is_over && run->state[job % run->slot_cnt] != SLOT_FREE)
		pthread_cond_wait(&run->changed, &run->lock);
	return !run->is_over;
}

/* The next job, taken; false if there is none. */
static bool take_job(struct run *run, struct obd_errinfo *info, uint64_t *ret)
{
	const struct obd_pipeline *pipeline = run->pipeline;
	uint64_t job;
	bool is_there;
	int rc = 0;

	pthread_mutex_lock(&run->take);
	job = run->next_job;
	pthread_mutex_lock(&run->lock);
	is_there = wait_for_slot(run, job);
	if (is_there && job == pipeline->job_cnt) {
		run->is_over = true;
		is_there = false;
	}
	if (is_there && obd_progress_is_cancelled(run->progress)) {
		fail_locked(run, job, obd_fail(info, OBD_E_CANCELLED, NULL, "cancelled"), info);
		is_there = false;
	}
	if (is_there)
		run->state[job % run->slot_cnt] = SLOT_BUSY;
	pthread_mutex_unlock(&run->lock);
	if (is_there && pipeline->take)
		rc = pipeline->take(pipeline->ctx, job, run->slots[job % run->slot_cnt], info);
	if (rc) {
		is_there = false;
		pthread_mutex_lock(&run->lock);
		if (rc == OBD_PIPELINE_END)
			run->is_over = true;
		else
			fail_locked(run, job, rc, info);
		pthread_mutex_unlock(&run->lock);
	}
	if (is_there)
		run->next_job = job + 1;
	pthread_mutex_unlock(&run->take);
	*ret = job;
	return is_there;
}

/* With `lock` held: puts what is made and due, unless another thread is doing it. */
static void put_jobs(struct run *run, struct obd_errinfo *info)
{
	const struct obd_pipeline *pipeline = run->pipeline;

	if (run->is_putting)
		return;
	run->is_putting = true;
	for (;;) {
		uint64_t job = run->next_put;
		uint32_t slot = (uint32_t)(job % run->slot_cnt);
		int rc = 0;

		if (run->state[slot] != SLOT_MADE || (run->code && job >= run->failed_job))
			break;
		pthread_mutex_unlock(&run->lock);
		if (pipeline->put)
			rc = pipeline->put(pipeline->ctx, job, run->slots[slot], info);
		pthread_mutex_lock(&run->lock);
		if (rc) {
			fail_locked(run, job, rc, info);
			break;
		}
		run->state[slot] = SLOT_FREE;
		run->next_put = job + 1;
		pthread_cond_broadcast(&run->changed);
	}
	run->is_putting = false;
}

static void *work(void *arg)
{
	struct run *run = arg;
	const struct obd_pipeline *pipeline = run->pipeline;
	struct obd_errinfo info = {0};
	uint64_t job;

	while (take_job(run, &info, &job)) {
		uint32_t slot = (uint32_t)(job % run->slot_cnt);
		int rc = 0;

		if (pipeline->make)
			rc = pipeline->make(pipeline->ctx, job, run->slots[slot], &info);
		pthread_mutex_lock(&run->lock);
		if (rc) {
			fail_locked(run, job, rc, &info);
		} else {
			run->state[slot] = SLOT_MADE;
			put_jobs(run, &info);
		}
		pthread_mutex_unlock(&run->lock);
	}
	return NULL;
}

static int make_slots(struct run *run)
{
	run->state = calloc(run->slot_cnt, sizeof(*run->state));
	run->slots = calloc(run->slot_cnt, sizeof(*run->slots));
	if (!run->state || !run->slots)
		return OBD_E_NOMEM;
	for (uint32_t i = 0; i < run->slot_cnt; i++) {
		run->slots[i] = calloc(1, run->pipeline->slot_bytes + 1);
		if (!run->slots[i])
			return OBD_E_NOMEM;
	}
	return 0;
}

static void free_slots(struct run *run)
{
	for (uint32_t i = 0; run->slots && i < run->slot_cnt; i++) {
		if (run->slots[i] && run->pipeline->drop)
			run->pipeline->drop(run->slots[i]);
		free(run->slots[i]);
	}
	free(run->slots);
	free(run->state);
}

int obd_pipeline_run(const struct obd_pipeline *pipeline, uint32_t thread_cnt,
		     const struct obd_progress *progress, struct obd_errinfo *info)
{
	struct run run = {.pipeline = pipeline, .progress = progress};
	pthread_t threads[OBD_MAX_THREADS];
	uint32_t started = 0;

	thread_cnt = thread_cnt ? obd_thread_cnt(thread_cnt) : 1;
	run.slot_cnt = thread_cnt * SLOTS_PER_THREAD;
	if (make_slots(&run)) {
		free_slots(&run);
		return obd_fail(info, OBD_E_NOMEM, NULL, "buffers of the threads");
	}
	pthread_mutex_init(&run.take, NULL);
	pthread_mutex_init(&run.lock, NULL);
	pthread_cond_init(&run.changed, NULL);
	/* fewer threads than wished for are slower, nothing else */
	while (started + 1 < thread_cnt && pthread_create(&threads[started], NULL, work, &run) == 0)
		started++;
	work(&run);
	for (uint32_t i = 0; i < started; i++)
		pthread_join(threads[i], NULL);
	pthread_cond_destroy(&run.changed);
	pthread_mutex_destroy(&run.lock);
	pthread_mutex_destroy(&run.take);
	free_slots(&run);
	if (run.code && info)
		*info = run.info;
	return run.code;
}
