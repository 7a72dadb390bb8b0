/* The engine, its threads and its hand-over, against a kernel and a disk in this process. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "obd_barrier.h"
#include "obd_crash.h"
#include "obd_journal.h"
#include "support_image_files.h"
#include "support_site.h"

static void test_serves_and_hands_over(void)
{
	struct fake_image_options options = {.bytes = DISK_SECTORS * 512ull};
	struct obd_attach_result result;
	struct obd_device_stat stat;
	pthread_t thread, thread2;
	struct obd_engine *engine = engine_start(4, &thread), *other = engine_start(4, &thread2);
	struct obd_attach_spec spec;
	struct obd_errinfo info;
	struct site site;
	uint32_t id;

	site_init(&site, &options);
	id = attach(engine, &site, OBD_ATTACH_FRESH, NULL);
	random_load(&site, 3000, 24, 1);
	spec = spec_of(&site, OBD_ATTACH_RECOVER);
	REQUIRE(obd_engine_attach(other, &spec, &info, &result) == OBD_E_LOCKED);
	spec.mode = OBD_ATTACH_FRESH;
	REQUIRE(obd_engine_attach(other, &spec, &info, &result) == OBD_E_LOCKED);
	random_load(&site, 100, 8, 2);
	for (int i = 0; i < 20; i++) {
		struct obd_engine *next = i % 2 ? engine : other;

		REQUIRE(!obd_engine_detach(i % 2 ? other : engine, id, WAIT_MS, &info));
		REQUIRE(!fake_image_is_writer(site.image));
		for (uint32_t lba = 0; lba < 5; lba++) /* arrives while nobody serves */
			REQUIRE(queue_write(&site, lba, 7 + (uint32_t)i));
		fake_kernel_notify(&site.kernel);
		id = attach(next, &site, OBD_ATTACH_RECOVER, &result);
		REQUIRE(result.recovered == 0);
		settle(&site);
		random_load(&site, 200, 16, 3 + (uint64_t)i);
	}
	REQUIRE(obd_engine_stat(engine, id, &stat) == 0);
	REQUIRE(!stat.failed && stat.generation == site.generation);
	REQUIRE(site.wrong == 0 && site.failed == 0);
	REQUIRE(site.done == site.kernel.queued_total);
	engine_stop(other, thread2);
	engine_stop(engine, thread);
	site_deinit(&site);
}

static bool is_waiting(void *context)
{
	struct gate *gate = context;

	return atomic_load(&gate->waiting) > 0;
}

/* How many commands have a thread by the journal; each thread is one of this process. */
static uint32_t threads_at_work(const struct site *site)
{
	uint32_t threads[OBD_JOURNAL_THREADS], cnt = 0;
	char path[64];

	REQUIRE(pread(site->journal_fd, threads, sizeof(threads), 2048) == sizeof(threads));
	for (uint32_t i = 0; i < OBD_JOURNAL_THREADS; i++) {
		snprintf(path, sizeof(path), "/proc/self/task/%u", threads[i]);
		REQUIRE(!threads[i] || !access(path, F_OK));
		cnt += threads[i] != 0;
	}
	return cnt;
}

/* A device whose disk hangs: its own quick commands and other devices go on. */
static void test_hanging_disk_stops_nobody_else(void)
{
	struct gate gate = {.is_shut = 1};
	struct fake_image_options hanging = {.bytes = DISK_SECTORS * 512ull,
					     .needs_waiting = true,
					     .before = at_gate,
					     .context = &gate};
	struct fake_image_options good = {.bytes = DISK_SECTORS * 512ull, .needs_waiting = true};
	struct obd_errinfo info;
	struct site stuck, fine;
	pthread_t thread;
	struct obd_engine *engine = engine_start(4, &thread);
	uint8_t ready[6] = {0};
	uint32_t id;

	site_init(&stuck, &hanging);
	site_init(&fine, &good);
	id = attach(engine, &stuck, OBD_ATTACH_FRESH, NULL);
	attach(engine, &fine, OBD_ATTACH_FRESH, NULL);
	for (uint32_t lba = 0; lba < 20; lba++)
		REQUIRE(lba % 2 ? queue_write(&stuck, lba, 5) : queue_read(&stuck, lba));
	fake_kernel_notify(&stuck.kernel);
	eventually(is_waiting, &gate);
	random_load(&fine, 500, 16, 9);
	REQUIRE(fake_kernel_queue(&stuck.kernel, 0, ready, sizeof(ready), NULL, 0, false));
	fake_kernel_notify(&stuck.kernel);
	while (stuck.done == 0) /* TEST UNIT READY overtakes */
		take_some(&stuck);
	REQUIRE(stuck.done == 1 && stuck.kernel.queued == 20);
	REQUIRE(threads_at_work(&stuck) == 3);
	REQUIRE(obd_engine_detach(engine, id, 20, &info) == OBD_E_TIMEOUT);
	REQUIRE(queue_read(&stuck, 100)); /* it goes on being served */
	atomic_store(&gate.is_shut, 0);
	settle(&stuck);
	REQUIRE(stuck.done == 22 && stuck.failed == 0 && stuck.wrong == 0);
	REQUIRE(atomic_load(&gate.peak) <= 3); /* of four threads */
	REQUIRE(threads_at_work(&stuck) == 0);
	REQUIRE(!obd_engine_detach(engine, id, WAIT_MS, &info));
	engine_stop(engine, thread);
	REQUIRE(fine.wrong == 0 && fine.failed == 0);
	site_deinit(&stuck);
	site_deinit(&fine);
}

static int fail_operation(void *context, char operation, uint64_t lba, uint64_t sectors)
{
	(void)context;
	(void)lba;
	(void)sectors;
	switch (operation) {
	case 'r':
		return OBD_E_CHECKSUM;
	case 'w':
		return OBD_E_NOSPACE;
	default:
		return OBD_E_IO;
	}
}

/* Each command of a failing disk is answered, with sense that says what it was. */
static void test_failures_become_sense(void)
{
	struct fake_image_options failing = {.bytes = DISK_SECTORS * 512ull,
					     .before = fail_operation};
	struct site site;
	pthread_t thread;
	struct obd_engine *engine = engine_start(2, &thread);
	uint8_t flush[10];

	site_init(&site, &failing);
	attach(engine, &site, OBD_ATTACH_FRESH, NULL);
	REQUIRE(queue_read(&site, 1));
	settle(&site);
	REQUIRE(site.last_status == 2 && site.last_sense[2] == 3 && site.last_sense[12] == 0x11);
	REQUIRE(queue_write(&site, 1, 1));
	settle(&site);
	REQUIRE(site.last_status == 2 && site.last_sense[2] == 7 && site.last_sense[12] == 0x27);
	fake_cdb_10(flush, FLUSH, 0, 0);
	REQUIRE(fake_kernel_queue(&site.kernel, 0, flush, sizeof(flush), NULL, 0, false));
	settle(&site);
	REQUIRE(site.last_status == 2 && site.last_sense[2] == 3 && site.last_sense[12] == 0x0c);
	REQUIRE(fake_kernel_queue_op(&site.kernel, 0, 7)); /* an opcode nobody knows */
	settle(&site);
	REQUIRE(site.last_status == 2);
	engine_stop(engine, thread);
	site_deinit(&site);
}

struct failed_device {
	struct obd_engine *engine;
	uint32_t id;
	int32_t failed;
};

static bool has_failed(void *context)
{
	struct failed_device *device = context;
	struct obd_device_stat stat;

	REQUIRE(!obd_engine_stat(device->engine, device->id, &stat));
	device->failed = stat.failed;
	return stat.failed;
}

/* A ring that makes no sense, and a generation that is over: that device only is given up. */
static void test_a_lost_device_is_dropped_alone(void)
{
	struct fake_image_options options = {.bytes = DISK_SECTORS * 512ull};
	struct site torn, stale, fine;
	struct failed_device device;
	struct obd_errinfo info;
	pthread_t thread;
	struct obd_engine *engine = engine_start(2, &thread);
	uint64_t successor = 100;
	uint32_t tail;

	site_init(&torn, &options);
	site_init(&stale, &options);
	site_init(&fine, &options);
	attach(engine, &fine, OBD_ATTACH_FRESH, NULL);
	device = (struct failed_device){engine, attach(engine, &torn, OBD_ATTACH_FRESH, NULL), 0};
	REQUIRE(queue_read(&torn, 1));
	memset(torn.kernel.map + 128, 0xff, 8);
	fake_kernel_notify(&torn.kernel);
	eventually(has_failed, &device);
	REQUIRE(device.failed == OBD_E_RING);
	device.id = attach(engine, &stale, OBD_ATTACH_FRESH, NULL);
	random_load(&stale, 100, 8, 4);
	REQUIRE(pwrite(stale.journal_fd, &successor, sizeof(successor), 128) == 8);
	tail = fake_kernel_tail(&stale.kernel);
	REQUIRE(queue_read(&stale, 1));
	fake_kernel_notify(&stale.kernel);
	eventually(has_failed, &device);
	REQUIRE(device.failed == OBD_E_STALE && fake_kernel_tail(&stale.kernel) == tail);
	REQUIRE(!obd_engine_detach(engine, device.id, WAIT_MS, &info));
	random_load(&fine, 500, 16, 5);
	REQUIRE(fine.wrong == 0 && fine.failed == 0);
	engine_stop(engine, thread);
	site_deinit(&torn);
	site_deinit(&stale);
	site_deinit(&fine);
}

/* What can not be trusted is refused by name, and touched by nobody. */
static void test_bad_journals_are_refused(void)
{
	struct fake_image_options options = {.bytes = DISK_SECTORS * 512ull};
	static const uint32_t offsets[] = {0, 8, 16, 32, 48, 60, 72, 124, 135, 136, 192};
	struct obd_attach_result result;
	struct obd_attach_spec spec;
	struct obd_errinfo info;
	uint8_t before[4096], after[4096], bad = 0x5a;
	pthread_t thread;
	struct obd_engine *engine = engine_start(2, &thread);
	struct site site;
	uint32_t id;

	site_init(&site, &options);
	spec = spec_of(&site, OBD_ATTACH_RECOVER);
	REQUIRE(obd_engine_attach(engine, &spec, &info, &result) == OBD_E_JOURNAL); /* empty */
	id = attach(engine, &site, OBD_ATTACH_FRESH, NULL);
	random_load(&site, 100, 8, 4);
	REQUIRE(!obd_engine_detach(engine, id, WAIT_MS, &info));
	for (uint32_t i = 0; i < sizeof(offsets) / sizeof(offsets[0]); i++) {
		uint8_t good;

		REQUIRE(pread(site.journal_fd, &good, 1, offsets[i]) == 1);
		REQUIRE(pwrite(site.journal_fd, &bad, 1, offsets[i]) == 1);
		REQUIRE(pread(site.journal_fd, before, sizeof(before), 0) == sizeof(before));
		spec = spec_of(&site, OBD_ATTACH_RECOVER);
		REQUIRE(obd_engine_attach(engine, &spec, &info, &result) == OBD_E_JOURNAL);
		REQUIRE(info.what[0]);
		REQUIRE(pread(site.journal_fd, after, sizeof(after), 0) == sizeof(after));
		REQUIRE(!memcmp(before, after, sizeof(before)));
		REQUIRE(pwrite(site.journal_fd, &good, 1, offsets[i]) == 1);
	}
	spec.generation = 1;
	REQUIRE(obd_engine_attach(engine, &spec, &info, &result) == OBD_E_STALE);
	id = attach(engine, &site, OBD_ATTACH_RECOVER, NULL);
	random_load(&site, 100, 8, 5);
	REQUIRE(site.wrong == 0 && site.failed == 0);
	engine_stop(engine, thread);
	site_deinit(&site);
}

int main(void)
{
	test_serves_and_hands_over();
	test_hanging_disk_stops_nobody_else();
	test_failures_become_sense();
	test_a_lost_device_is_dropped_alone();
	test_bad_journals_are_refused();
	return 0;
}
