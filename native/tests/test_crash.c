/*
 * Kills the server before every store to ring and journal, in every order of everything that can
 * happen, and looks whether a command was lost, executed after it was answered, or answered twice.
 * Then the same for designs that are wrong: each must be found, and the way there is printed.
 *
 *	test_crash            everything below
 *	test_crash full       also what takes minutes
 *	test_crash SEED       one deep random run
 */
#include <string.h>

#include "obd_crash.h"
#include "support_crash_deep.h"
#include "support_crash_plan.h"
#include "support_crash_stores.h"
#include "support_image_files.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define IS_SLOW true
#else
#define IS_SLOW false
#endif

static void begin(uint32_t ring_bytes, uint32_t slot_cnt)
{
	crash_world_init(ring_bytes, CRASH_STATE_BLOCKS);
	crash_state_init(slot_cnt);
}

static void end(void)
{
	crash_bury();
	crash_state_deinit();
	crash_world_deinit();
}

/* ---- every order, every store ---- */

static void every_order(bool is_full)
{
	const struct crash_search proving = {.crashes = 1, .is_proving = crash_sees_stores()};
	const struct crash_search one = {.crashes = 1};
	const struct crash_search two = {.crashes = 2};
	const struct crash_search three = {.crashes = 3};
	const struct crash_search fine = {.crashes = 1, .is_fine = true};

	crash_require_all("three commands, one death, every store has a point", "wrw", 3, proving);
	crash_require_all("a TMR between two, two deaths", "wtw", 3, two);
	crash_require_all("three commands, two deaths", "wrw", 3, two);
	if (IS_SLOW)
		return;
	crash_require_all("three and one that follows, two deaths", "wrw", 4, two);
	crash_require_all("two commands, one death, the kernel inside of steps", "wr", 2, fine);
	if (!is_full)
		return;
	crash_require_all("three commands, one death, the kernel inside of steps", "wrw", 3, fine);
	crash_require_all("three commands, three deaths", "rww", 3, three);
	crash_require_all("three and two that follow, one death", "wrw", 5, one);
}

static void few_slots(void)
{
	begin(CRASH_RING_BYTES, 2);
	crash_require_all("three commands, two slots, two deaths", "wrw", 3,
			  (struct crash_search){.crashes = 2});
	end();
}

/* The named points must be as many as the ordered stores: a worker dies at them, too. */
static void points_are_complete(void)
{
	const char *crowded = crash_label_with_two_releases();

	printf("%u places that store, %u named points\n", crash_site_cnt(), crash_label_cnt());
	if (crowded)
		fprintf(stderr, "two ordered stores between %s and the next point\n", crowded);
	REQUIRE(!crowded);
}

/* ---- a command that stays while the ring goes round ---- */

/*
 * Command 0 stays in flight while the others fill the rest of the lap; then the entry at its own
 * offset is the next to be picked up, and the server dies. A slot must not be dropped because its
 * offset is `next`: that command was picked up one lap ago.
 */
static bool lap(void)
{
	const struct obd_journal *journal = &crash_server.flight.journal;

	if (setjmp(crash_world.escape)) {
		fprintf(stderr, "    %s\n", crash_world.violation);
		return false;
	}
	crash_world_reset(0);
	for (uint32_t lba = 0; lba < 8; lba++)
		crash_add_work(CRASH_WRITE, lba);
	crash_world.work_max = crash_world.work_cnt;
	crash_state_start();
	while (crash_queue_one())
		;
	REQUIRE(crash_pick_up());
	while (obd_next_offset(journal->header->next) != 0) {
		REQUIRE(crash_pick_up());
		crash_execute(1);
		crash_publish(1); /* the tail moves over entry 0 */
		crash_complete();
		while (crash_queue_one())
			;
	}
	REQUIRE(journal->slots[crash_server.running[0].slot].ring_offset == 0);
	crash_bury();
	crash_attach(2, false);
	for (uint32_t turn = 0; turn < 100 && !crash_is_over(); turn++) {
		if (crash_server.running_cnt) {
			crash_execute(0);
			crash_publish(0);
		} else if (!crash_pick_up()) {
			crash_skip();
		}
		crash_complete();
		crash_queue_one();
	}
	if (!crash_is_over())
		crash_violate("I1: lost");
	return true;
}

static void laps(void)
{
	begin(5 * CRASH_ENTRY_BYTES, CRASH_STATE_SLOTS);
	REQUIRE(lap());
	fprintf(stderr, "dropped by offset, not by sequence:\n");
	obd_cheats.drop_by_offset = crash_skips_check = true;
	REQUIRE(!lap());
	obd_cheats.drop_by_offset = crash_skips_check = false;
	end();
}

/* ---- a predecessor that was not dead ---- */

/*
 * A server is stopped with an answer in hand, its successor answers everything, and it goes on.
 * True: it noticed, and neither ring nor journal changed.
 */
static bool woken_is_stale(void)
{
	static struct crash_state before, after;
	static struct crash_server stopped;
	int rc;

	REQUIRE(!setjmp(crash_world.escape));
	crash_world_reset(0);
	for (uint32_t lba = 0; lba < 3; lba++)
		crash_add_work(CRASH_WRITE, lba);
	crash_world.work_max = 3;
	crash_state_start();
	while (crash_queue_one())
		;
	for (uint32_t i = 0; i < 2; i++)
		REQUIRE(crash_pick_up());
	crash_execute(0);
	stopped = crash_server;
	crash_server.flight.free_slots = NULL;
	crash_attach(2, false);
	while (crash_server.running_cnt) {
		crash_execute(0);
		crash_publish(0);
	}
	crash_complete();
	REQUIRE(crash_pick_up()); /* of the third, that there is something to answer */
	crash_state_save(&before);
	rc = obd_flight_publish(&stopped.flight, stopped.running[0].slot,
				&stopped.running[0].response);
	crash_state_save(&after);
	obd_flight_deinit(&stopped.flight);
	return rc == OBD_E_STALE && !memcmp(&before, &after, sizeof(before));
}

static void predecessors(void)
{
	begin(CRASH_RING_BYTES, CRASH_STATE_SLOTS);
	REQUIRE(woken_is_stale());
	obd_cheats.no_generation_check = true;
	REQUIRE(!woken_is_stale());
	obd_cheats.no_generation_check = false;
	fprintf(stderr, "no generation check:\n    a stopped predecessor answers again\n");
	end();
}

/* ---- what must be refuted ---- */

/* By the invariants alone: the check of the journal, which sees most of them coming, is left out.
 */
static void refute(const char *name, bool *cheat)
{
	struct crash_search search = {.crashes = 1};
	bool is_good;

	fprintf(stderr, "%s:\n", name);
	*cheat = crash_skips_check = true;
	is_good = crash_search_all("wrw", 3, &search);
	*cheat = crash_skips_check = false;
	REQUIRE(!is_good);
}

static void refute_designs(void)
{
	refute("recovery from the ring only", &obd_cheats.ring_only);
	refute("record after tail", &obd_cheats.record_after_tail);
	refute("slot freed before tail", &obd_cheats.free_before_tail);
	refute("no sequence check", &obd_cheats.no_sequence_check);
	refute("no record", &obd_cheats.skip_record);
	refute("another command's id", &obd_cheats.reuse_id);
	refute("published twice", &obd_cheats.publish_twice);
	refute("one in flight forgotten", &obd_cheats.lose_in_flight);
}

/* ---- long random runs ---- */

static bool deep(uint64_t seed, uint32_t *crashes)
{
	/* named points are some three times fewer than stores */
	uint32_t chance = (seed % 2 ? 150 : 1200) / (crash_sees_stores() ? 1 : 3);
	struct crash_deep run = {.seed = seed, .chance = chance, .commands = 4000};
	bool is_good = crash_deep_run(&run);

	*crashes += run.crashes;
	return is_good;
}

static int one_deep_run(uint64_t seed)
{
	uint32_t crashes = 0;
	bool is_good;

	crash_world_init(CRASH_DEEP_RING, CRASH_DEEP_BLOCKS);
	is_good = deep(seed, &crashes);
	printf("seed %llu: %s, %u crashes\n", (unsigned long long)seed,
	       is_good ? "good" : "violated", crashes);
	return is_good ? 0 : 1;
}

static void deep_runs(uint64_t seeds)
{
	double begin_s = crash_cpu_s();
	uint32_t crashes = 0;

	crash_world_init(CRASH_DEEP_RING, CRASH_DEEP_BLOCKS);
	for (uint64_t seed = 1; seed <= seeds; seed++)
		REQUIRE(deep(seed, &crashes));
	printf("deep: %llu seeds, 4000 commands each, %u crashes; %.1f s\n",
	       (unsigned long long)seeds, crashes, crash_cpu_s() - begin_s);
	crash_world_deinit();
}

int main(int argc, char **argv)
{
	bool is_full = argc > 1 && !strcmp(argv[1], "full");

	if (argc > 1 && !is_full)
		return one_deep_run(strtoull(argv[1], NULL, 0));
	begin(CRASH_RING_BYTES, CRASH_STATE_SLOTS);
	every_order(is_full);
	points_are_complete();
	refute_designs();
	end();
	few_slots();
	laps();
	predecessors();
	deep_runs(is_full ? 500 : 20);
	return 0;
}
