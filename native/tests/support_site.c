#include "support_site.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "support_image_files.h"

int at_gate(void *context, char operation, uint64_t lba, uint64_t sectors)
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

void eventually(bool (*predicate)(void *context), void *context)
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
	if (completion->status) {
		memcpy(site->last_sense, completion->sense, sizeof(site->last_sense));
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

void site_init(struct site *site, const struct fake_image_options *image)
{
	memset(site, 0, sizeof(*site));
	fake_kernel_init(&site->kernel, RING_BYTES, BLOCKS, 0);
	site->kernel.on_complete = on_complete;
	site->kernel.context = site;
	site->image = fake_image_create(image);
	site->journal_fd = memfd_create("journal", MFD_CLOEXEC);
	REQUIRE(site->journal_fd >= 0);
}

void site_deinit(struct site *site)
{
	fake_kernel_deinit(&site->kernel);
	obd_image_destroy(site->image);
	close(site->journal_fd);
}

struct obd_attach_spec spec_of(struct site *site, enum obd_attach_mode mode)
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

struct obd_engine *engine_start(uint32_t threads_max, pthread_t *thread)
{
	struct obd_engine_options options = {.io_threads_max = threads_max};
	struct obd_engine *engine;

	REQUIRE(!obd_engine_create(&options, NULL, &engine));
	REQUIRE(!pthread_create(thread, NULL, run, engine));
	return engine;
}

void engine_stop(struct obd_engine *engine, pthread_t thread)
{
	obd_engine_stop(engine);
	pthread_join(thread, NULL);
	obd_engine_destroy(engine);
}

uint32_t attach_as(struct obd_engine *engine, const struct obd_attach_spec *spec,
		   struct obd_attach_result *ret)
{
	struct obd_attach_result result;
	struct obd_errinfo info;

	if (obd_engine_attach(engine, spec, &info, &result)) {
		fprintf(stderr, "attach: %s: %s\n", obd_err_name(info.code), info.what);
		exit(1);
	}
	if (ret)
		*ret = result;
	return result.device_id;
}

uint32_t attach(struct obd_engine *engine, struct site *site, enum obd_attach_mode mode,
		struct obd_attach_result *ret)
{
	struct obd_attach_spec spec = spec_of(site, mode);

	return attach_as(engine, &spec, ret);
}

bool queue_write(struct site *site, uint32_t lba, uint32_t stamp)
{
	uint8_t cdb[10];
	uint32_t sector[OBD_SECTOR_BYTES / 4];

	for (uint32_t i = 0; i < OBD_SECTOR_BYTES / 4; i++)
		sector[i] = stamp;
	fake_cdb_10(cdb, WRITE, lba, 1);
	return fake_kernel_queue(&site->kernel, tag_of(1, lba, stamp), cdb, sizeof(cdb), sector,
				 sizeof(sector), false);
}

bool queue_read(struct site *site, uint32_t lba)
{
	uint8_t cdb[10];

	fake_cdb_10(cdb, READ, lba, 1);
	return fake_kernel_queue(&site->kernel, tag_of(2, lba, 0), cdb, sizeof(cdb), NULL,
				 OBD_SECTOR_BYTES, true);
}

void settle(struct site *site)
{
	struct pollfd kicked = {.fd = site->kernel.kick_fd, .events = POLLIN};

	fake_kernel_notify(&site->kernel);
	while (site->kernel.queued) {
		REQUIRE(poll(&kicked, 1, WAIT_MS) == 1);
		fake_kernel_complete(&site->kernel);
		REQUIRE(!site->kernel.is_broken);
	}
}

void take_some(struct site *site)
{
	struct pollfd kicked = {.fd = site->kernel.kick_fd, .events = POLLIN};

	REQUIRE(poll(&kicked, 1, WAIT_MS) == 1);
	fake_kernel_complete(&site->kernel);
	REQUIRE(!site->kernel.is_broken);
}

void random_load(struct site *site, uint32_t commands, uint32_t depth, uint64_t seed)
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
