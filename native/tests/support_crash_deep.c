#include "support_crash_deep.h"

#include <string.h>
#include <unistd.h>

#include "support_crash_server.h"
#include "support_crash_stores.h"
#include "support_crash_world.h"
#include "support_image_files.h"

#define SLOTS	  7u
#define MAX_STEPS 400000u

static struct crash_deep *deep;
static uint64_t random_state;
static uint64_t generation;

static uint32_t choose(uint32_t options)
{
	return (uint32_t)(image_random(&random_state) % options);
}

static uint32_t follows_with(uint8_t after)
{
	return after == CRASH_READ || choose(2) ? CRASH_WRITE : CRASH_READ;
}

static void maybe_die(void)
{
	if (!choose(deep->chance))
		longjmp(crash_world.escape, CRASH_DIED);
}

static void map_journal(bool is_fresh)
{
	static const uint8_t boot_id[16] = {1}, uuid[16] = {2};
	struct obd_flight *flight = &crash_server.flight;
	struct obd_journal_identity identity = {.boot_id = boot_id,
						.device_uuid = uuid,
						.ring = &flight->ring,
						.generation = ++generation,
						.slot_cnt = SLOTS};
	struct obd_errinfo info = {0};
	uint32_t tail;
	int rc;

	REQUIRE(!obd_ring_init_memory(&flight->ring, crash_world.kernel.map,
				      crash_world.kernel.map_bytes, "test", &info));
	rc = obd_journal_lock(&flight->journal, crash_world.journal_fd, "test", &info);
	if (!rc && is_fresh) {
		rc = obd_journal_prepare(&flight->journal, &identity, "test", &info);
		REQUIRE(!obd_ring_tail(&flight->ring, &tail));
		if (!rc)
			obd_journal_format(&flight->journal, &identity, tail);
	} else if (!rc) {
		rc = obd_journal_open(&flight->journal, &identity, "test", &info);
	}
	if (rc)
		crash_violate("I4: the journal was refused");
	crash_watch(CRASH_RING, crash_world.kernel.map, 128 + crash_world.kernel.cmdr_bytes);
	crash_watch(CRASH_JOURNAL, flight->journal.header, flight->journal.map_bytes);
	crash_hook = maybe_die;
	crash_attach(generation, is_fresh);
}

static void kernel_turn(void)
{
	crash_complete();
	while (crash_queue_one())
		;
}

static void finish_one(uint32_t index)
{
	if (!crash_server.running[index].is_executed)
		crash_execute(index);
	crash_publish(index);
	if (choose(2))
		kernel_turn();
}

/* One of what a server may do next. */
static void step(void)
{
	uint32_t choice = choose(crash_server.running_cnt + 1);

	if (choice < crash_server.running_cnt) {
		if (!crash_may_execute(choice) && !crash_server.running[choice].is_executed)
			return;
		if (choose(3) || crash_server.running[choice].is_executed)
			finish_one(choice);
		else
			crash_execute(choice);
		return;
	}
	if (crash_may_pick_up() && !crash_pick_up() && !choose(4))
		crash_skip();
}

static void serve(bool is_fresh)
{
	map_journal(is_fresh);
	kernel_turn(); /* the first kick */
	for (uint32_t steps = 0; !crash_is_over(); steps++) {
		if (steps > MAX_STEPS)
			crash_violate("I1: never answered");
		if (!crash_server.running_cnt || !choose(3))
			kernel_turn();
		step();
	}
}

static void bury(void)
{
	crash_hook = NULL;
	crash_watch(CRASH_JOURNAL, NULL, 0);
	crash_bury();
	obd_journal_close(&crash_server.flight.journal);
}

static void begin(void)
{
	static const uint8_t nothing[OBD_JOURNAL_HEADER_BYTES];

	random_state = deep->seed;
	deep->crashes = 0;
	generation = 0;
	crash_world_reset((uint32_t)(deep->seed % 12) * CRASH_ENTRY_BYTES);
	/* Without its header a file is no journal. */
	REQUIRE(pwrite(crash_world.journal_fd, nothing, sizeof(nothing), 0) == sizeof(nothing));
	for (uint32_t lba = 0; lba < 10; lba++)
		crash_add_work(CRASH_WRITE, lba);
	crash_world.work_max = deep->commands;
	crash_world.follows_with = follows_with;
	crash_server.flight.journal = (struct obd_journal){.lock_fd = -1};
}

bool crash_deep_run(struct crash_deep *of)
{
	volatile bool is_over = false;
	static bool is_fresh;

	deep = of;
	begin();
	is_fresh = true;
	while (!is_over) {
		switch (setjmp(crash_world.escape)) {
		case 0:
			serve(is_fresh);
			is_over = true;
			break;
		case CRASH_DIED:
			deep->crashes++;
			bury();
			is_fresh = false;
			if (choose(2) && setjmp(crash_world.escape) == 0)
				kernel_turn(); /* before the successor comes */
			is_over = crash_world.violation != NULL;
			break;
		default:
			is_over = true;
		}
	}
	bury();
	for (uint32_t tag = 0; !crash_world.violation && tag < crash_world.work_cnt; tag++)
		if (crash_world.works[tag].completions != 1)
			crash_world.violation = "I1: not answered once";
	if (crash_world.violation)
		fprintf(stderr, "    seed %llu: %s after %u commands, %u crashes\n",
			(unsigned long long)deep->seed, crash_world.violation,
			crash_world.completed_cnt, deep->crashes);
	return !crash_world.violation;
}
