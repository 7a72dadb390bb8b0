#include "obd_engine.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "obd_barrier.h"
#include "obd_crash.h"
#include "obd_device.h"
#include "obd_pool.h"

#define IO_THREADS_DEFAULT 32u
#define IO_THREADS_LIMIT   1024u
#define EVENTS_MAX	   64
#define BUSY_TURN_MS	   250 /* the heartbeat of an engine that waits for storage */
#define IDLE_TURN_MS	   1000
#define RESET_TURN_MS	   1 /* until a ring that somebody reset is served again */

struct obd_engine {
	int epoll_fd;
	int control_fd; /* eventfd: something below changed */
	struct obd_pool *pool;

	pthread_mutex_t mutex;
	pthread_cond_t drained;
	struct obd_device *arriving; /* attached, not yet seen by the engine thread */
	struct obd_device *devices;  /* changed by the engine thread, with the mutex */
	uint32_t last_id;
	bool should_stop;
};

static void wake(struct obd_engine *engine)
{
	(void)!write(engine->control_fd, &(uint64_t){1}, sizeof(uint64_t));
}

static int watch(struct obd_engine *engine, int fd, void *what)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = what};

	return epoll_ctl(engine->epoll_fd, EPOLL_CTL_ADD, fd, &event) ? -errno : 0;
}

static int open_fds(struct obd_engine *engine, struct obd_errinfo *info)
{
	engine->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	engine->control_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (engine->epoll_fd < 0 || engine->control_fd < 0 ||
	    watch(engine, engine->control_fd, &engine->control_fd) ||
	    watch(engine, obd_pool_finished_fd(engine->pool), engine->pool))
		return obd_fail_errno(info, OBD_E_IO, errno, NULL, "fds of the engine");
	return 0;
}

int obd_engine_create(const struct obd_engine_options *options, struct obd_errinfo *info,
		      struct obd_engine **ret)
{
	uint32_t threads_max = options ? options->io_threads_max : 0;
	pthread_condattr_t monotonic;
	struct obd_engine *engine;
	int rc;

	if (!threads_max)
		threads_max = IO_THREADS_DEFAULT;
	if (threads_max > IO_THREADS_LIMIT)
		return obd_fail_value(info, OBD_E_INVAL, NULL, "io_threads_max", 0,
				      IO_THREADS_LIMIT, threads_max);
	engine = calloc(1, sizeof(*engine));
	if (!engine)
		return obd_fail(info, OBD_E_NOMEM, NULL, "engine");
	pthread_mutex_init(&engine->mutex, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&engine->drained, &monotonic);
	pthread_condattr_destroy(&monotonic);
	engine->epoll_fd = engine->control_fd = -1;
	rc = obd_pool_create(threads_max, info, &engine->pool);
	if (!rc)
		rc = open_fds(engine, info);
	if (rc) {
		obd_engine_destroy(engine);
		return rc;
	}
	*ret = engine;
	return 0;
}

static void destroy_list(struct obd_device *list)
{
	while (list) {
		struct obd_device *next = list->next;

		obd_device_destroy(list);
		list = next;
	}
}

void obd_engine_destroy(struct obd_engine *engine)
{
	if (!engine)
		return;
	if (engine->pool)
		obd_pool_stop(engine->pool); /* first: its threads use rings and images */
	destroy_list(engine->arriving);
	destroy_list(engine->devices);
	obd_pool_destroy(engine->pool);
	pthread_cond_destroy(&engine->drained);
	pthread_mutex_destroy(&engine->mutex);
	if (engine->epoll_fd >= 0)
		close(engine->epoll_fd);
	if (engine->control_fd >= 0)
		close(engine->control_fd);
	free(engine);
}

void obd_engine_stop(struct obd_engine *engine)
{
	pthread_mutex_lock(&engine->mutex);
	engine->should_stop = true;
	pthread_mutex_unlock(&engine->mutex);
	wake(engine);
}

/* ---- any thread ---- */

int obd_engine_attach(struct obd_engine *engine, const struct obd_attach_spec *spec,
		      struct obd_errinfo *info, struct obd_attach_result *ret)
{
	struct obd_attach_result result = {0};
	struct obd_device *device;
	int rc;

	/* Here, not on the engine thread: slow files of this device must not stop the others. The
	 * engine does not know it yet, so that nobody else can touch it. */
	rc = obd_device_create(spec, engine->pool, info, &result, &device);
	if (rc)
		return rc;
	pthread_mutex_lock(&engine->mutex);
	device->id = ++engine->last_id;
	device->next = engine->arriving;
	engine->arriving = device;
	result.device_id = device->id;
	pthread_mutex_unlock(&engine->mutex);
	wake(engine);
	*ret = result;
	return 0;
}

/* With the mutex held. */
static struct obd_device *find(struct obd_engine *engine, uint32_t device_id)
{
	struct obd_device *device;

	for (device = engine->devices; device; device = device->next)
		if (device->id == device_id)
			return device;
	for (device = engine->arriving; device; device = device->next)
		if (device->id == device_id)
			return device;
	return NULL;
}

static struct timespec deadline_in(uint32_t timeout_ms)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += timeout_ms / 1000;
	until.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
	if (until.tv_nsec >= 1000000000) {
		until.tv_nsec -= 1000000000;
		until.tv_sec++;
	}
	return until;
}

int obd_engine_detach(struct obd_engine *engine, uint32_t device_id, uint32_t timeout_ms,
		      struct obd_errinfo *info)
{
	struct timespec until = deadline_in(timeout_ms);
	struct obd_device *device;
	bool is_drained;

	pthread_mutex_lock(&engine->mutex);
	device = find(engine, device_id);
	if (!device || device->wants_detach) {
		pthread_mutex_unlock(&engine->mutex);
		return obd_fail_value(info, OBD_E_INVAL, NULL, "no such device to detach", 0, 0,
				      device_id);
	}
	if (OBD_CHEAT(half_detach)) {
		pthread_mutex_unlock(&engine->mutex);
		return 0;
	}
	device->wants_detach = true;
	wake(engine);
	OBD_CRASH_POINT("drain.asked");
	while (device->phase != OBD_DEVICE_DRAINED)
		if (pthread_cond_timedwait(&engine->drained, &engine->mutex, &until) == ETIMEDOUT)
			break;
	is_drained = device->phase == OBD_DEVICE_DRAINED;
	device->wants_detach = is_drained;
	if (!is_drained)
		obd_fail(info, OBD_E_TIMEOUT, device->name, "commands still in flight");
	pthread_mutex_unlock(&engine->mutex);
	if (!is_drained) {
		wake(engine);
		return OBD_E_TIMEOUT;
	}
	obd_device_destroy(device);
	OBD_CRASH_POINT("detach.done");
	return 0;
}

int obd_engine_stat(struct obd_engine *engine, uint32_t device_id, struct obd_device_stat *ret)
{
	struct obd_device *device;

	pthread_mutex_lock(&engine->mutex);
	device = find(engine, device_id);
	if (device) {
		const struct obd_journal *journal = &device->flight.journal;

		*ret = (struct obd_device_stat){
			.device_id = device_id,
			.failed = obd_load_acquire(&device->failed),
			.in_flight = (uint32_t)obd_load_relaxed(
				&obd_journal_counters(journal)->in_flight),
			.generation = journal->generation,
		};
	}
	pthread_mutex_unlock(&engine->mutex);
	return device ? 0 : OBD_E_INVAL;
}

/* ---- the engine thread ---- */

static void begin(struct obd_engine *engine, struct obd_device *device)
{
	if (watch(engine, device->fds.wait_fd, device))
		return obd_device_fail(device, OBD_E_IO);
	device->is_polled = true;
	obd_device_begin(device);
}

static void take_arriving(struct obd_engine *engine)
{
	for (;;) {
		struct obd_device *device;

		pthread_mutex_lock(&engine->mutex);
		device = engine->arriving;
		if (device) {
			engine->arriving = device->next;
			device->next = engine->devices;
			engine->devices = device;
		}
		pthread_mutex_unlock(&engine->mutex);
		if (!device)
			return;
		begin(engine, device);
	}
}

static void unpoll(struct obd_engine *engine, struct obd_device *device)
{
	if (device->is_polled)
		epoll_ctl(engine->epoll_fd, EPOLL_CTL_DEL, device->fds.wait_fd, NULL);
	device->is_polled = false;
}

static bool is_at_boundary(const struct obd_device *device)
{
	return !device->running && ((device->is_attached && !device->is_reset) || device->failed);
}

/* Follows what detaching threads want; a drained device is theirs when the mutex is released. */
static void drain(struct obd_engine *engine)
{
	struct obd_device **at = &engine->devices, *device;

	pthread_mutex_lock(&engine->mutex);
	while ((device = *at)) {
		if (!device->wants_detach) {
			device->is_ready |= device->phase == OBD_DEVICE_DRAINING;
			device->phase = OBD_DEVICE_SERVING;
		} else if (is_at_boundary(device)) {
			OBD_CRASH_POINT("drain.kick");
			obd_device_kick(device);
			unpoll(engine, device);
			OBD_CRASH_POINT("drain.done");
			device->phase = OBD_DEVICE_DRAINED;
			*at = device->next;
			pthread_cond_broadcast(&engine->drained);
			continue;
		} else {
			device->phase = OBD_DEVICE_DRAINING;
		}
		at = &device->next;
	}
	pthread_mutex_unlock(&engine->mutex);
}

static void finish_all(struct obd_engine *engine)
{
	struct obd_task *task = obd_pool_take_finished(engine->pool), *next;
	uint64_t now_ns = obd_now_ns();

	for (; task; task = next) {
		next = task->next;
		obd_device_finish((struct obd_command *)task, now_ns);
	}
}

/* Serves every device once; returns how long the engine may sleep, in ms. */
static int serve_all(struct obd_engine *engine)
{
	uint64_t now_ns = obd_now_ns();
	int sleep_ms = IDLE_TURN_MS;

	for (struct obd_device *device = engine->devices; device; device = device->next) {
		obd_device_restart(device, now_ns);
		if (device->is_ready && device->phase == OBD_DEVICE_SERVING)
			obd_device_serve(device, now_ns);
		obd_device_kick(device);
		obd_device_beat(device, now_ns);
		if (device->failed) {
			unpoll(engine, device);
			continue;
		}
		if (device->is_ready && device->phase == OBD_DEVICE_SERVING)
			sleep_ms = 0;
		if (device->is_reset && !device->running && sleep_ms > RESET_TURN_MS)
			sleep_ms = RESET_TURN_MS;
		if (device->running && sleep_ms > BUSY_TURN_MS)
			sleep_ms = BUSY_TURN_MS;
	}
	return sleep_ms;
}

static void take_event(struct obd_engine *engine, const struct epoll_event *event)
{
	struct obd_device *device = event->data.ptr;
	uint64_t cnt;

	if (event->data.ptr == &engine->control_fd) {
		(void)!read(engine->control_fd, &cnt, sizeof(cnt));
		return;
	}
	if (event->data.ptr == engine->pool)
		return; /* finish_all reads it */
	if (event->events & EPOLLIN)
		obd_device_read_event(device);
	else
		obd_device_fail(device, OBD_E_IO); /* the ring went away */
}

static bool should_stop(struct obd_engine *engine)
{
	bool stop;

	pthread_mutex_lock(&engine->mutex);
	stop = engine->should_stop;
	pthread_mutex_unlock(&engine->mutex);
	return stop;
}

int obd_engine_run(struct obd_engine *engine)
{
	struct epoll_event events[EVENTS_MAX];
	int cnt, sleep_ms;
	sigset_t all;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, NULL);
	while (!should_stop(engine)) {
		take_arriving(engine);
		finish_all(engine);
		drain(engine);
		sleep_ms = serve_all(engine);
		cnt = epoll_wait(engine->epoll_fd, events, EVENTS_MAX, sleep_ms);
		if (cnt < 0 && errno != EINTR)
			return OBD_E_IO;
		for (int i = 0; i < cnt; i++)
			take_event(engine, &events[i]);
	}
	return 0;
}
