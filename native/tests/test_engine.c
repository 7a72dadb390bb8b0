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

#include "fake_image.h"
#include "fake_kernel.h"
#include "obd_barrier.h"
#include "obd_crash.h"
#include "obd_engine.h"
#include "obd_journal.h"
#include "support_image_files.h"

#define DISK_SECTORS 4096u
#define READ	     0x28
#define WRITE	     0x2a
#define FLUSH	     0x35
#define RING_BYTES   8192u
#define BLOCKS	     256u
#define WAIT_MS	     20000

struct site {
	struct fake_kernel kernel;
	struct obd_image *image;
	int journal_fd;
	uint64_t generation;
	uint32_t done;
	uint32_t failed;
	uint8_t last_status;
	uint8_t last_sense[96];
	uint32_t stamp_of[DISK_SECTORS]; /* last acknowledged */
	uint32_t wrong;
};

/* A gate that operations on the disk wait at. */
struct gate {
	atomic_int is_shut;
	atomic_int waiting;
	atomic_int peak;
};

static int at_gate(void *context, char operation, uint64_t lba, uint64_t sectors)
{
	struct gate *gate = context;
	int now = atomic_fetch_add(&gate->waiting, 1) + 1;

	(void)operation;
	(void)lba;
	(void)sectors;
	if (now > atomic_load(&gate->peak))
		atomic_store(&gate->peak, now);
	while (atomic_load(&gate->is_shut))
		poll(NULL, 0, 1);
	atomic_fetch_sub(&gate->waiting, 1);
	return 0;
}

static void eventually(bool (*predicate)(void *context), void *context)
{
	for (int i = 0; i < WAIT_MS; i++) {
		if (predicate(context))
			return;
		poll(NULL, 0, 1);
	}
	REQUIRE(!"eventually");
}

/* Tags carry what was asked: operation, sector, stamp. */
static uint32_t tag_of(uint32_t operation, uint32_t lba, uint32_t stamp)
{
	return operation << 30 | (lba & 0xfff) << 18 | (stamp & 0x3ffff);
}

static void on_complete(void *context, const struct fake_completion *completion)
{
	struct site *site = context;
	uint32_t lba = completion->tag >> 18 & 0xfff, stamp = completion->tag & 0x3ffff, found;

	site->done++;
	site->last_status = completion->status;
	memcpy(site->last_sense, completion->sense, sizeof(site->last_sense));
	if (completion->status) {
		site->failed++;
		return;
	}
	if (completion->tag >> 30 == 1)
		site->stamp_of[lba] = stamp;
	if (completion->tag >> 30 == 2) {
		memcpy(&found, completion->data, sizeof(found));
		site->wrong += found != site->stamp_of[lba];
	}
}

static void site_init(struct site *site, const struct fake_image_options *image)
{
	memset(site, 0, sizeof(*site));
	fake_kernel_init(&site->kernel, RING_BYTES, BLOCKS, 0);
	site->kernel.on_complete = on_complete;
	site->kernel.context = site;
	site->image = fake_image_create(image);
	site->journal_fd = memfd_create("journal", MFD_CLOEXEC);
	REQUIRE(site->journal_fd >= 0);
}

static void site_deinit(struct site *site)
{
	fake_kernel_deinit(&site->kernel);
	obd_image_destroy(site->image);
	close(site->journal_fd);
}

static struct obd_attach_spec spec_of(struct site *site, enum obd_attach_mode mode)
{
	struct obd_attach_spec spec = {
		.name = "test",
		.ring = {.mem_fd = site->kernel.mem_fd,
			 .wait_fd = site->kernel.wait_fd,
			 .kick_fd = site->kernel.kick_fd,
			 .event_bytes = 8,
			 .map_bytes = site->kernel.map_bytes},
		.journal_fd = site->journal_fd,
		.boot_id = {1},
		.device_uuid = {2},
		.generation = ++site->generation,
		.mode = mode,
		.image = site->image,
	};

	return spec;
}

static void *run(void *argument)
{
	REQUIRE(obd_engine_run(argument) == 0);
	return NULL;
}

static struct obd_engine *engine_start(uint32_t threads_max, pthread_t *thread)
{
	struct obd_engine_options options = {.io_threads_max = threads_max};
	struct obd_engine *engine;

	REQUIRE(!obd_engine_create(&options, NULL, &engine));
	REQUIRE(!pthread_create(thread, NULL, run, engine));
	return engine;
}

static void engine_stop(struct obd_engine *engine, pthread_t thread)
{
	obd_engine_stop(engine);
	pthread_join(thread, NULL);
	obd_engine_destroy(engine);
}

static uint32_t attach(struct obd_engine *engine, struct site *site, enum obd_attach_mode mode,
		       struct obd_attach_result *ret)
{
	struct obd_attach_spec spec = spec_of(site, mode);
	struct obd_attach_result result;
	struct obd_errinfo info;

	if (obd_engine_attach(engine, &spec, &info, &result)) {
		fprintf(stderr, "attach: %s: %s\n", obd_err_name(info.code), info.what);
		exit(1);
	}
	if (ret)
		*ret = result;
	return result.device_id;
}

static bool queue_write(struct site *site, uint32_t lba, uint32_t stamp)
{
	uint8_t cdb[10];
	uint32_t sector[OBD_SECTOR_BYTES / 4];

	for (uint32_t i = 0; i < OBD_SECTOR_BYTES / 4; i++)
		sector[i] = stamp;
	fake_cdb_10(cdb, WRITE, lba, 1);
	return fake_kernel_queue(&site->kernel, tag_of(1, lba, stamp), cdb, sizeof(cdb), sector,
				 sizeof(sector), false);
}

static bool queue_read(struct site *site, uint32_t lba)
{
	uint8_t cdb[10];

	fake_cdb_10(cdb, READ, lba, 1);
	return fake_kernel_queue(&site->kernel, tag_of(2, lba, 0), cdb, sizeof(cdb), NULL,
				 OBD_SECTOR_BYTES, true);
}

/* Takes completions until nothing is queued. */
static void settle(struct site *site)
{
	struct pollfd kicked = {.fd = site->kernel.kick_fd, .events = POLLIN};

	fake_kernel_notify(&site->kernel);
	while (site->kernel.queued) {
		REQUIRE(poll(&kicked, 1, WAIT_MS) == 1);
		fake_kernel_complete(&site->kernel);
		REQUIRE(!site->kernel.is_broken);
	}
}

/* Waits for one kick and takes what came. */
static void take_some(struct site *site)
{
	struct pollfd kicked = {.fd = site->kernel.kick_fd, .events = POLLIN};

	REQUIRE(poll(&kicked, 1, WAIT_MS) == 1);
	fake_kernel_complete(&site->kernel);
	REQUIRE(!site->kernel.is_broken);
}

/* Random reads and writes at some depth; no two in flight touch the same sector. */
static void random_load(struct site *site, uint32_t commands, uint32_t depth, uint64_t seed)
{
	static uint32_t stamp = 1;
	uint32_t queued = 0, round = 0;

	while (queued < commands) {
		uint32_t base = (uint32_t)(image_random(&seed) % DISK_SECTORS);

		for (uint32_t i = 0; i < depth && queued < commands; i++) {
			uint32_t lba = (base + i) % DISK_SECTORS;
			bool is_read = image_random(&seed) & 1;

			if (!(is_read ? queue_read(site, lba)
				      : queue_write(site, lba, stamp++ & 0x3ffff)))
				break;
			queued++;
		}
		if (++round % 16 == 0)
			REQUIRE(fake_kernel_queue_op(&site->kernel, 0, 2)); /* TMR */
		settle(site);
	}
}

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
