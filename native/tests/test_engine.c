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
		spec = spec_of(&site, OBD_ATTACH_RECOVER);
		spec.generation = site.generation - 1;
		if (i == 3)
			REQUIRE(obd_engine_attach(next, &spec, &info, &result) == 0 ||
				info.code == OBD_E_STALE);
		if (i == 3 && info.code != OBD_E_STALE)
			REQUIRE(!obd_engine_detach(next, result.device_id, WAIT_MS, &info));
		id = attach(next, &site, OBD_ATTACH_RECOVER, &result);
		REQUIRE(result.recovered == 0);
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

int main(void)
{
	(void)at_gate;
	(void)eventually;
	(void)take_some;
	test_serves_and_hands_over();
	return 0;
}
