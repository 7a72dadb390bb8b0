#include "obd_pool.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define STACK_BYTES (256u << 10)
#define IDLE_S	    5

struct obd_pool {
	pthread_mutex_t mutex;
	pthread_cond_t work;
	pthread_cond_t ended;
	uint32_t threads_max;
	uint32_t threads;
	uint32_t idle;	 /* waiting for work, or called and not awake yet */
	uint32_t queued; /* tasks that no thread has taken */
	uint32_t lane_cnt;
	struct obd_lane *lanes; /* the one whose turn it is next comes first */
	struct obd_task *finished_first;
	struct obd_task *finished_last;
	int finished_fd;
	bool is_ending;
};

int obd_pool_create(uint32_t threads_max, struct obd_errinfo *info, struct obd_pool **ret)
{
	pthread_condattr_t monotonic;
	struct obd_pool *pool = calloc(1, sizeof(*pool));

	if (!pool)
		return obd_fail(info, OBD_E_NOMEM, NULL, "thread pool");
	pool->threads_max = threads_max;
	pool->finished_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (pool->finished_fd < 0) {
		free(pool);
		return obd_fail_errno(info, OBD_E_IO, errno, NULL, "eventfd");
	}
	pthread_mutex_init(&pool->mutex, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&pool->work, &monotonic);
	pthread_cond_init(&pool->ended, &monotonic);
	pthread_condattr_destroy(&monotonic);
	*ret = pool;
	return 0;
}

void obd_pool_stop(struct obd_pool *pool)
{
	pthread_mutex_lock(&pool->mutex);
	pool->is_ending = true;
	pthread_cond_broadcast(&pool->work);
	while (pool->threads)
		pthread_cond_wait(&pool->ended, &pool->mutex);
	pthread_mutex_unlock(&pool->mutex);
}

void obd_pool_destroy(struct obd_pool *pool)
{
	if (!pool)
		return;
	obd_pool_stop(pool);
	pthread_cond_destroy(&pool->work);
	pthread_cond_destroy(&pool->ended);
	pthread_mutex_destroy(&pool->mutex);
	close(pool->finished_fd);
	free(pool);
}

void obd_pool_add_lane(struct obd_pool *pool, struct obd_lane *lane)
{
	pthread_mutex_lock(&pool->mutex);
	lane->next = pool->lanes;
	pool->lanes = lane;
	pool->lane_cnt++;
	pthread_mutex_unlock(&pool->mutex);
}

static struct obd_lane **find_lane(struct obd_pool *pool, const struct obd_lane *lane)
{
	struct obd_lane **at = &pool->lanes;

	while (*at && *at != lane)
		at = &(*at)->next;
	return at;
}

static void unlink_lane(struct obd_pool *pool, struct obd_lane *lane)
{
	struct obd_lane **at = find_lane(pool, lane);

	if (*at)
		*at = lane->next;
	lane->next = NULL;
}

void obd_pool_remove_lane(struct obd_pool *pool, struct obd_lane *lane)
{
	pthread_mutex_lock(&pool->mutex);
	unlink_lane(pool, lane);
	pool->lane_cnt--;
	pthread_mutex_unlock(&pool->mutex);
}

static uint32_t lane_limit(const struct obd_pool *pool)
{
	uint32_t limit = pool->lane_cnt > 1 ? pool->threads_max * 3 / 4 : pool->threads_max;

	return limit ? limit : 1;
}

/* The next task that may run; its lane goes to the end of the row. */
static struct obd_task *take_task(struct obd_pool *pool)
{
	struct obd_lane *lane = pool->lanes, **last;
	struct obd_task *task;

	while (lane && (!lane->first || lane->running >= lane_limit(pool)))
		lane = lane->next;
	if (!lane)
		return NULL;
	task = lane->first;
	lane->first = task->next;
	if (!lane->first)
		lane->last = NULL;
	task->next = NULL;
	lane->running++;
	pool->queued--;
	unlink_lane(pool, lane);
	last = find_lane(pool, NULL);
	*last = lane;
	return task;
}

static void finish_task(struct obd_pool *pool, struct obd_task *task)
{
	task->lane->running--;
	task->next = NULL;
	if (pool->finished_last) {
		pool->finished_last->next = task;
		pool->finished_last = task;
		return;
	}
	pool->finished_first = pool->finished_last = task;
	(void)!write(pool->finished_fd, &(uint64_t){1}, sizeof(uint64_t));
}

/* False: nothing came for so long that the thread should end. */
static bool wait_for_work(struct obd_pool *pool)
{
	struct timespec until;
	int rc;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += IDLE_S;
	pool->idle++;
	rc = pthread_cond_timedwait(&pool->work, &pool->mutex, &until);
	pool->idle--;
	return rc != ETIMEDOUT;
}

static void *pool_thread(void *argument)
{
	struct obd_pool *pool = argument;
	struct obd_task *task;
	bool is_wanted = true;

	pthread_mutex_lock(&pool->mutex);
	while (!pool->is_ending) {
		task = take_task(pool);
		if (task) {
			is_wanted = true;
			pthread_mutex_unlock(&pool->mutex);
			task->run(task);
			pthread_mutex_lock(&pool->mutex);
			finish_task(pool, task);
		} else if (is_wanted) {
			is_wanted = wait_for_work(pool); /* and look once more */
		} else {
			break;
		}
	}
	pool->threads--;
	if (!pool->threads)
		pthread_cond_broadcast(&pool->ended);
	pthread_mutex_unlock(&pool->mutex);
	return NULL;
}

/* With the mutex held. All signals are blocked in the new thread. */
static void start_thread(struct obd_pool *pool)
{
	pthread_attr_t attr;
	sigset_t all, before;
	pthread_t thread;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	if (!pthread_create(&thread, &attr, pool_thread, pool))
		pool->threads++;
	pthread_attr_destroy(&attr);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void obd_pool_submit(struct obd_pool *pool, struct obd_lane *lane, struct obd_task *task)
{
	struct obd_task *own = NULL;

	task->lane = lane;
	task->next = NULL;
	pthread_mutex_lock(&pool->mutex);
	if (lane->last)
		lane->last->next = task;
	else
		lane->first = task;
	lane->last = task;
	pool->queued++;
	/* Each idle thread takes one task: who is called may still be asleep when the next comes.
	 */
	if (pool->queued > pool->idle && lane->running < lane_limit(pool) &&
	    pool->threads < pool->threads_max)
		start_thread(pool);
	if (!pool->threads)
		own = take_task(pool);
	pthread_cond_signal(&pool->work);
	pthread_mutex_unlock(&pool->mutex);
	if (!own)
		return;
	own->run(own);
	pthread_mutex_lock(&pool->mutex);
	finish_task(pool, own);
	pthread_mutex_unlock(&pool->mutex);
}

int obd_pool_finished_fd(const struct obd_pool *pool)
{
	return pool->finished_fd;
}

struct obd_task *obd_pool_take_finished(struct obd_pool *pool)
{
	struct obd_task *list;
	uint64_t cnt;

	(void)!read(pool->finished_fd, &cnt, sizeof(cnt));
	pthread_mutex_lock(&pool->mutex);
	list = pool->finished_first;
	pool->finished_first = pool->finished_last = NULL;
	pthread_mutex_unlock(&pool->mutex);
	return list;
}

uint32_t obd_pool_thread_cnt(struct obd_pool *pool)
{
	uint32_t cnt;

	pthread_mutex_lock(&pool->mutex);
	cnt = pool->threads;
	pthread_mutex_unlock(&pool->mutex);
	return cnt;
}
