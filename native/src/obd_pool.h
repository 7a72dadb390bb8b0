/*
 * Threads for work that may sleep. They are started when there is work and nobody idle, and end
 * after some idle seconds.
 *
 * Each device has a lane; threads take from the lanes in turn, and while there are several, no
 * lane may have more than three quarters of the threads: a device whose storage hangs can not
 * stop the others.
 */
#ifndef OBD_POOL_H
#define OBD_POOL_H

#include <stdbool.h>
#include <stdint.h>

#include "obd_err.h"

struct obd_pool;

struct obd_task {
	struct obd_task *next;
	struct obd_lane *lane;
	void (*run)(struct obd_task *task);
};

struct obd_lane { /* zero-initialised by its owner; everything in it belongs to the pool */
	struct obd_lane *next;
	struct obd_task *first;
	struct obd_task *last;
	uint32_t running;
};

int obd_pool_create(uint32_t threads_max, struct obd_errinfo *info, struct obd_pool **ret);
/* Ends the threads: drops what was not started, waits for what was. Nothing may be submitted
 * afterwards; lanes may still be removed. */
void obd_pool_stop(struct obd_pool *pool);
/* Stops it and frees it; every lane must be gone. NULL is fine. */
void obd_pool_destroy(struct obd_pool *pool);

void obd_pool_add_lane(struct obd_pool *pool, struct obd_lane *lane);
/* The lane must be empty. */
void obd_pool_remove_lane(struct obd_pool *pool, struct obd_lane *lane);

/* The task must stay where it is until it comes back from obd_pool_take_finished. When no thread
 * can be started at all it is run by the caller, so that it is never lost. */
void obd_pool_submit(struct obd_pool *pool, struct obd_lane *lane, struct obd_task *task);

/* Readable (an eventfd) when something is finished; the list, oldest first, or NULL. */
int obd_pool_finished_fd(const struct obd_pool *pool);
struct obd_task *obd_pool_take_finished(struct obd_pool *pool);

/* Threads alive, for tests. */
uint32_t obd_pool_thread_cnt(struct obd_pool *pool);

#endif
