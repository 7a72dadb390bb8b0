/* Threads for work that may sleep: whatever is submitted finds one, also beside work that hangs. */
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "obd_pool.h"
#include "support_image_files.h"

#define THREADS	 8u
#define TOGETHER 3u
#define ROUNDS	 200u
#define WAIT_MS	 20000

static atomic_uint running;

/* Ends only when all of a round are running at once. */
static void meet(struct obd_task *task)
{
	uint32_t now = atomic_fetch_add(&running, 1) + 1;

	(void)task;
	for (int i = 0; now < TOGETHER && i < WAIT_MS; i++) {
		poll(NULL, 0, 1);
		now = atomic_load(&running);
	}
	REQUIRE(now >= TOGETHER);
}

static void take(struct obd_pool *pool, uint32_t cnt)
{
	struct pollfd finished = {.fd = obd_pool_finished_fd(pool), .events = POLLIN};

	while (cnt) {
		REQUIRE(poll(&finished, 1, 2 * WAIT_MS) == 1);
		for (struct obd_task *task = obd_pool_take_finished(pool); task; task = task->next)
			cnt--;
	}
}

/* One idle thread does not stand for three tasks: it is still asleep when the last is submitted. */
static void test_tasks_do_not_wait_for_the_same_idle_thread(void)
{
	struct obd_task tasks[TOGETHER];
	struct obd_lane lane = {0};
	struct obd_pool *pool;

	for (uint32_t round = 0; round < ROUNDS; round++) {
		REQUIRE(!obd_pool_create(THREADS, NULL, &pool));
		obd_pool_add_lane(pool, &lane);
		atomic_store(&running, TOGETHER); /* the first meets nobody */
		tasks[0] = (struct obd_task){.run = meet};
		obd_pool_submit(pool, &lane, &tasks[0]);
		take(pool, 1);
		atomic_store(&running, 0);
		for (uint32_t i = 0; i < TOGETHER; i++) {
			tasks[i] = (struct obd_task){.run = meet};
			obd_pool_submit(pool, &lane, &tasks[i]);
		}
		take(pool, TOGETHER);
		REQUIRE(obd_pool_thread_cnt(pool) <= TOGETHER + 1);
		obd_pool_stop(pool);
		obd_pool_remove_lane(pool, &lane);
		obd_pool_destroy(pool);
	}
}

int main(void)
{
	test_tasks_do_not_wait_for_the_same_idle_thread();
	return 0;
}
