/*
 * Somebody else resets the ring under a serving engine, as a second daemon's start does: what was
 * in flight is sent again by the kernel, and everything is answered once, with the right data.
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "obd_barrier.h"
#include "obd_journal.h"
#include "support_image_files.h"
#include "support_site.h"

#define BUSY	8
#define DEPTH	24u
#define RESETS	400u /* as many as SECONDS allow: each waits for two threads to be scheduled */
#define SECONDS 20

/* Commands that the kernel has to send again. */
static struct {
	uint32_t tags[FAKE_MAX_COMMANDS];
	uint32_t cnt;
	uint32_t busy;
} again;

static bool is_in_flight[DISK_SECTORS];
static void (*judge)(void *context, const struct fake_completion *completion);

static uint32_t lba_of(uint32_t tag)
{
	return tag >> 18 & 0xfff;
}

static void keep_or_judge(void *context, const struct fake_completion *completion)
{
	if (completion->status == BUSY) {
		again.busy++;
		again.tags[again.cnt++] = completion->tag;
		return;
	}
	is_in_flight[lba_of(completion->tag)] = false;
	judge(context, completion);
}

static void site_start(struct site *site, const struct fake_image_options *options)
{
	site_init(site, options);
	judge = site->kernel.on_complete;
	site->kernel.on_complete = keep_or_judge;
	memset(&again, 0, sizeof(again));
	memset(is_in_flight, 0, sizeof(is_in_flight));
}

/* What action/reset_ring does: all in flight get BUSY, ring and ids start anew. */
static void reset_ring(struct site *site)
{
	struct fake_kernel *kernel = &site->kernel;

	for (uint32_t id = 0; id < kernel->id_end; id++)
		if (kernel->commands[id].is_queued)
			again.tags[again.cnt++] = kernel->commands[id].tag;
	fake_kernel_reset(kernel, 0);
}

static bool send(struct site *site, uint32_t tag)
{
	return tag >> 30 == 1 ? queue_write(site, lba_of(tag), tag & 0x3ffff)
			      : queue_read(site, lba_of(tag));
}

/* The last first: other ids, other data blocks than before. */
static void send_again(struct site *site)
{
	while (again.cnt && send(site, again.tags[again.cnt - 1]))
		again.cnt--;
	fake_kernel_notify(&site->kernel);
}

static void settle_all(struct site *site)
{
	do {
		send_again(site);
		settle(site);
	} while (again.cnt);
}

static struct obd_journal_counters counters_of(const struct site *site)
{
	struct obd_journal_counters counters;

	REQUIRE(pread(site->journal_fd, &counters, sizeof(counters), 256) == sizeof(counters));
	return counters;
}

/* Read through the ring, all that was ever acknowledged is there. */
static void check_disk(struct site *site)
{
	for (uint32_t lba = 0; lba < DISK_SECTORS; lba++) {
		while (!queue_read(site, lba))
			settle(site);
	}
	settle(site);
	REQUIRE(site->wrong == 0 && site->failed == 0);
}

static void end(struct site *site, struct obd_engine *engine, pthread_t thread, uint32_t id)
{
	struct obd_errinfo info;
	struct obd_device_stat stat;

	check_disk(site);
	REQUIRE(!obd_engine_stat(engine, id, &stat) && !stat.failed && !stat.in_flight);
	REQUIRE(stat.generation == site->generation);
	REQUIRE(!obd_engine_detach(engine, id, WAIT_MS, &info));
	engine_stop(engine, thread);
	site_deinit(site);
}

static struct gate gate;
static uint32_t wanted_at_gate;

static bool are_at_gate(void *context)
{
	return atomic_load(&((struct gate *)context)->waiting) == (int)wanted_at_gate;
}

static void wait_at_gate(uint32_t cnt)
{
	wanted_at_gate = cnt;
	eventually(are_at_gate, &gate);
}

static void shut_gate(void)
{
	atomic_store(&gate.peak, 0);
	atomic_store(&gate.is_shut, 1);
}

static const struct fake_image_options gated = {
	.bytes = DISK_SECTORS * 512ull,
	.needs_waiting = true,
	.before = at_gate,
	.context = &gate,
};

/* Threads are at work when it happens, one of them about to fill a block that is a write's now. */
static void test_what_runs_ends_before_anything_new(bool is_at_start, uint32_t sent_again)
{
	struct site site;
	pthread_t thread;
	struct obd_engine *engine = engine_start(8, &thread);
	uint32_t id;

	site_start(&site, &gated);
	id = attach(engine, &site, OBD_ATTACH_FRESH, NULL);
	if (!is_at_start)
		random_load(&site, 50, 8, 1);
	shut_gate();
	REQUIRE(queue_read(&site, 1) && queue_write(&site, 2, 7) && queue_write(&site, 3, 8));
	fake_kernel_notify(&site.kernel);
	wait_at_gate(3);
	reset_ring(&site);
	for (uint32_t i = 0; i < sent_again; i++)
		REQUIRE(send(&site, again.tags[--again.cnt]));
	fake_kernel_notify(&site.kernel);
	poll(NULL, 0, 20); /* whoever does not wait has picked them up by now */
	REQUIRE(atomic_load(&gate.peak) == 3);
	atomic_store(&gate.is_shut, 0);
	settle_all(&site);
	REQUIRE(counters_of(&site).foreign_resets == 1 && again.busy > 0);
	REQUIRE(site.stamp_of[2] == 7 && site.stamp_of[3] == 8);
	end(&site, engine, thread, id);
}

/* Nobody is at work: it shows at the next command. */
static void test_idle(void)
{
	struct fake_image_options options = {.bytes = DISK_SECTORS * 512ull};
	struct site site;
	pthread_t thread;
	struct obd_engine *engine = engine_start(4, &thread);
	uint32_t id;

	site_start(&site, &options);
	id = attach(engine, &site, OBD_ATTACH_FRESH, NULL);
	for (uint32_t i = 1; i <= 5; i++) {
		random_load(&site, 10, 5, i);
		reset_ring(&site);
		REQUIRE(queue_write(&site, i, i) && queue_read(&site, i + 100));
		settle_all(&site);
		REQUIRE(counters_of(&site).foreign_resets == i);
	}
	end(&site, engine, thread, id);
}

/* Recovered commands are not answered into a ring that knows nothing of them. */
static void test_during_replay(void)
{
	struct obd_attach_result result;
	struct site site;
	pthread_t thread;
	struct obd_engine *engine = engine_start(8, &thread);
	uint32_t id;

	site_start(&site, &gated);
	attach(engine, &site, OBD_ATTACH_FRESH, NULL);
	random_load(&site, 50, 8, 1);
	shut_gate();
	REQUIRE(queue_write(&site, 2, 7) && queue_read(&site, 1) && queue_write(&site, 3, 8));
	fake_kernel_notify(&site.kernel);
	wait_at_gate(3);
	obd_engine_stop(engine);
	pthread_join(thread, NULL); /* nobody publishes any more */
	atomic_store(&gate.is_shut, 0);
	obd_engine_destroy(engine);
	shut_gate();
	engine = engine_start(8, &thread);
	id = attach(engine, &site, OBD_ATTACH_RECOVER, &result);
	REQUIRE(result.recovered == 3);
	wait_at_gate(2); /* the read and the first write */
	reset_ring(&site);
	send_again(&site);
	atomic_store(&gate.is_shut, 0);
	settle_all(&site);
	REQUIRE(counters_of(&site).foreign_resets == 1);
	REQUIRE(site.stamp_of[2] == 7 && site.stamp_of[3] == 8);
	end(&site, engine, thread, id);
}

/* A drain waits until the ring is in order. */
static void test_while_draining(void)
{
	struct obd_attach_result result;
	struct obd_errinfo info;
	struct site site;
	pthread_t thread;
	struct obd_engine *engine = engine_start(8, &thread);
	uint32_t id;

	site_start(&site, &gated);
	id = attach(engine, &site, OBD_ATTACH_FRESH, NULL);
	random_load(&site, 50, 8, 1);
	shut_gate();
	REQUIRE(queue_write(&site, 2, 7));
	fake_kernel_notify(&site.kernel);
	wait_at_gate(1);
	reset_ring(&site);
	send_again(&site);
	REQUIRE(obd_engine_detach(engine, id, 10, &info) == OBD_E_TIMEOUT);
	atomic_store(&gate.is_shut, 0);
	REQUIRE(!obd_engine_detach(engine, id, WAIT_MS, &info));
	id = attach(engine, &site, OBD_ATTACH_RECOVER, &result);
	settle_all(&site);
	REQUIRE(site.stamp_of[2] == 7);
	end(&site, engine, thread, id);
}

#ifndef __SANITIZE_THREAD__ /* the ring is rewritten under the engine's eyes: that is the point */
static void fill(struct site *site, uint64_t *seed)
{
	static uint32_t stamp = 1;

	while (site->kernel.queued < DEPTH && !again.cnt) {
		uint32_t lba = (uint32_t)(image_random(seed) % DISK_SECTORS);
		uint32_t operation = image_random(seed) & 1 ? 1 : 2;
		uint32_t tag =
			operation << 30 | lba << 18 | (operation == 1 ? stamp++ & 0x3ffff : 0);

		if (is_in_flight[lba])
			continue;
		if (!send(site, tag))
			return;
		is_in_flight[lba] = true;
	}
}

/*
 * Nothing is sent again before the engine has passed a turn. A publication that began before the
 * reset takes some 100 ns, unless its thread loses the processor there; then it may still fall on
 * an entry that was queued since. That is the one gap (native/DESIGN.md), not what is tested.
 */
static void wait_a_turn(struct site *site)
{
	uint64_t turns = counters_of(site).heartbeat_cnt;

	while (counters_of(site).heartbeat_cnt < turns + 2) {
		fake_kernel_notify(&site->kernel);
		poll(NULL, 0, 1); /* asleep: on a crowded machine the engine needs the processor */
	}
}

static time_t now_s(void)
{
	struct timespec now;

	REQUIRE(!clock_gettime(CLOCK_MONOTONIC, &now));
	return now.tv_sec;
}

static void test_at_any_moment(bool needs_waiting)
{
	struct fake_image_options options = {.bytes = DISK_SECTORS * 512ull,
					     .needs_waiting = needs_waiting};
	uint64_t seed = needs_waiting;
	struct site site;
	pthread_t thread;
	struct obd_engine *engine = engine_start(8, &thread);
	uint32_t id, resets = 0;
	time_t end_s = now_s() + SECONDS;

	site_start(&site, &options);
	id = attach(engine, &site, OBD_ATTACH_FRESH, NULL);
	while (resets < RESETS && (now_s() < end_s || !counters_of(&site).foreign_resets)) {
		struct pollfd kicked = {.fd = site.kernel.kick_fd, .events = POLLIN};

		send_again(&site);
		fill(&site, &seed);
		fake_kernel_notify(&site.kernel);
		if (image_random(&seed) % 8 == 0) {
			for (uint64_t spins = image_random(&seed) % 4096; spins; spins--)
				__asm__ volatile("" ::: "memory");
			reset_ring(&site);
			wait_a_turn(&site);
			resets++;
		} else if (poll(&kicked, 1, 1) == 1) {
			fake_kernel_complete(&site.kernel);
			REQUIRE(!site.kernel.is_broken);
		}
	}
	settle_all(&site);
	printf("%u resets, %llu noticed, %u commands sent back, %u answered\n", resets,
	       (unsigned long long)counters_of(&site).foreign_resets, again.busy, site.done);
	REQUIRE(counters_of(&site).foreign_resets > 0 && site.done > resets);
	end(&site, engine, thread, id);
}
#endif

int main(int argc, char **argv)
{
	test_what_runs_ends_before_anything_new(false, 3);
	/* cmd_tail is at 0 before and after */
	test_what_runs_ends_before_anything_new(true, 1);
	test_what_runs_ends_before_anything_new(true, 3);
	test_idle();
	test_during_replay();
	test_while_draining();
#ifndef __SANITIZE_THREAD__
	if (argc > 1) { /* any argument: for some seconds, under load */
		test_at_any_moment(true);
		test_at_any_moment(false);
	}
#endif
	(void)argc;
	(void)argv;
	return 0;
}
