/*
 * Kills the server between every two stores, and looks whether a command was lost, executed after
 * it was answered, or answered twice.
 *
 * The server's state is thrown away by a longjmp out of obd_crash.h's points; ring, journal and
 * disk stay, as they do when a process dies. Everything is decided by a list of choices, so that
 * all of them can be gone through, and a seed replays a run.
 *
 *	test_crash            everything
 *	test_crash full       also every order of three commands with two crashes (minutes)
 *	test_crash SEED       one deep random run
 */
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fake_image.h"
#include "fake_kernel.h"
#include "obd_command.h"
#include "obd_crash.h"
#include "obd_flight.h"
#include "support_image_files.h"

#define READ	      0x28
#define WRITE	      0x2a
#define ENTRY_BYTES   128u /* of a command with up to four iovecs and a 10-byte CDB */
#define DISK_SECTORS  64u
#define MAX_TAGS      65536u
#define MAX_STEPS     200000u
#define CHOICES_MAX   64u
#define SMALL_SLOTS   4u
#define SMALL_RING    (5u * ENTRY_BYTES + 64u) /* five entries, never a multiple: a PAD each lap */
#define DEEP_SLOTS    7u
#define DEEP_RING     (12u * ENTRY_BYTES + 64u)
#define DEEP_COMMANDS 4000u

enum { CRASHED = 1, VIOLATED = 2 };

/* ---- choices ---- */

/* First the given ones, then 0, or random ones. */
struct choices {
	uint32_t given[CHOICES_MAX];
	uint32_t options[CHOICES_MAX]; /* how many there were at each */
	uint32_t cnt;		       /* given */
	uint32_t used;
	bool is_random;
	uint64_t seed;
};

static uint32_t choose(struct choices *choices, uint32_t options)
{
	uint32_t at = choices->used++;

	if (choices->is_random)
		return (uint32_t)(image_random(&choices->seed) % options);
	if (at >= choices->cnt)
		return 0;
	choices->options[at] = options;
	return choices->given[at] % options;
}

/* The next list in order; false after the last. */
static bool next_choices(struct choices *choices)
{
	for (uint32_t at = choices->cnt; at-- > 0;) {
		if (at < choices->used && choices->given[at] + 1 < choices->options[at]) {
			choices->given[at]++;
			return true;
		}
		choices->given[at] = 0;
	}
	return false;
}

/* ---- the world ---- */

struct work { /* what a tag stands for */
	uint8_t opcode;
	uint32_t lba;
	uint32_t expected; /* of a read */
	uint8_t completions;
};

static struct fake_kernel kernel;
static struct obd_image *disk;
static int journal_fd;
static struct obd_unit unit = {.sectors = DISK_SECTORS, .is_writable = true};

static struct work works[MAX_TAGS];
static uint32_t work_cnt;   /* tags in use */
static uint32_t work_max;   /* then no more follow */
static uint32_t queued_cnt; /* tags the kernel took */
static uint32_t completed_cnt;
static uint32_t acknowledged[DISK_SECTORS]; /* tag of the last acknowledged write, + 1 */
static uint32_t crash_after;		    /* points until the next crash, 0: none */
static uint32_t crash_chance;		    /* one in so many, 0: none */
static uint32_t points;			    /* passed since the last attach */
static uint32_t crashes;
static bool completes_at_crash; /* the kernel looks at the ring before the successor does */
static struct choices choices;
static jmp_buf escape;
static const char *violation;
static bool was_served;
static bool skips_check; /* recover without asking obd_flight_check first */
static uint64_t generation;

static struct obd_flight flight;
static struct obd_recovery recovery;
static uint32_t recovery_slots[64];
static uint32_t running[64]; /* slots in flight, oldest first */
static uint32_t running_cnt;

static void violate(const char *what)
{
	violation = what;
	longjmp(escape, VIOLATED);
}

static void at_point(const char *point)
{
	bool dies = crash_after && ++points == crash_after;

	(void)point;
	if (crash_chance)
		dies = image_random(&choices.seed) % crash_chance == 0;
	if (dies)
		longjmp(escape, CRASHED);
}

static uint32_t add_work(uint8_t opcode, uint32_t lba)
{
	works[work_cnt] = (struct work){.opcode = opcode, .lba = lba};
	return work_cnt++;
}

static void queue_what_fits(void)
{
	uint8_t cdb[10], sector[OBD_SECTOR_BYTES];

	while (queued_cnt < work_cnt) {
		struct work *work = &works[queued_cnt];
		uint32_t stamp = queued_cnt + 1;

		fake_cdb_10(cdb, work->opcode, work->lba, 1);
		cdb[6] = (uint8_t)queued_cnt; /* group number: tells commands apart */
		memset(sector, 0, sizeof(sector));
		memcpy(sector, &stamp, sizeof(stamp));
		work->expected = acknowledged[work->lba];
		if (!fake_kernel_queue(&kernel, queued_cnt, cdb, sizeof(cdb), sector,
				       sizeof(sector), work->opcode == READ))
			return;
		queued_cnt++;
	}
}

static void on_complete(void *context, const struct fake_completion *completion)
{
	struct work *work = &works[completion->tag];
	uint32_t stamp = completion->tag + 1, found;

	(void)context;
	if (work->completions++)
		violate("I1: answered twice");
	completed_cnt++;
	if (completion->status)
		violate("answered with an error");
	if (work->opcode == READ) {
		memcpy(&found, completion->data, sizeof(found));
		if (found != work->expected)
			violate("a read returned other data than was acknowledged");
	} else {
		memcpy(&found, fake_image_bytes(disk) + work->lba * OBD_SECTOR_BYTES,
		       sizeof(found));
		if (found != stamp)
			violate("acknowledged but not on the disk");
		acknowledged[work->lba] = stamp;
	}
	/* The next command for this sector, only now: nobody overlaps on purpose. */
	if (work_cnt < work_max)
		add_work(work->opcode == READ || choose(&choices, 2) ? WRITE : READ, work->lba);
}

static void kernel_turn(void)
{
	fake_kernel_complete(&kernel);
	if (kernel.is_broken)
		violate(kernel.broken_reason);
	queue_what_fits();
}

/* ---- the server ---- */

static void execute(uint32_t slot)
{
	const struct obd_journal_slot *entry = &flight.journal.slots[slot];
	const struct fake_command *command = &kernel.commands[entry->cmd_id];
	struct obd_command_site site = {
		.ring = &flight.ring, .unit = &unit, .image = disk, .slot = entry};
	struct obd_scsi_op op;
	struct obd_response response;

	obd_flight_start(&flight, slot);
	if (entry->cmd_id >= FAKE_MAX_COMMANDS || !command->is_queued ||
	    (uint8_t)command->tag != entry->cdb[6])
		violate("I2: executed after it was answered");
	obd_command_decode(&site, &op);
	obd_command_run(&site, &op, 0, &response);
	at_point("executed");
	if (obd_flight_publish(&flight, slot, &response))
		violate("I4: could not publish");
}

static void finish_one(uint32_t index)
{
	uint32_t slot = running[index];

	running_cnt--;
	memmove(&running[index], &running[index + 1], (running_cnt - index) * sizeof(*running));
	execute(slot);
	at_point("published, not kicked");
	kernel_turn();
}

static bool pick_up_one(void)
{
	int rc = obd_flight_pick_up(&flight, 0, &running[running_cnt]);

	if (rc < 0)
		violate("I4: the ring makes no sense");
	running_cnt += (uint32_t)rc;
	return rc;
}

static void attach(uint32_t slot_cnt)
{
	static const uint8_t boot_id[16] = {1}, uuid[16] = {2};
	struct obd_journal_identity identity = {.boot_id = boot_id,
						.device_uuid = uuid,
						.ring = &flight.ring,
						.generation = ++generation,
						.slot_cnt = slot_cnt};
	struct obd_errinfo info = {0};
	uint32_t tail;
	int rc;

	rc = obd_ring_init_memory(&flight.ring, kernel.map, kernel.map_bytes, "test", &info);
	if (!rc)
		rc = obd_journal_lock(&flight.journal, journal_fd, "test", &info);
	if (!rc && was_served) {
		rc = obd_journal_open(&flight.journal, &identity, "test", &info);
		if (!rc && !skips_check)
			rc = obd_flight_check(&flight, "test", &info);
	} else if (!rc) {
		rc = obd_journal_prepare(&flight.journal, &identity, "test", &info);
		REQUIRE(!obd_ring_tail(&flight.ring, &tail));
		if (!rc)
			obd_journal_format(&flight.journal, &identity, tail);
	}
	if (rc)
		violate("I4: the journal was refused");
	REQUIRE(!obd_flight_init(&flight));
	obd_journal_own(&flight.journal, identity.generation);
	recovery.slots = recovery_slots;
	recovery.recovered = 0;
	if (was_served)
		obd_flight_recover(&flight, &recovery);
	was_served = true;
	memcpy(running, recovery_slots, recovery.recovered * sizeof(*running));
	running_cnt = recovery.recovered;
}

static void serve(uint32_t slot_cnt)
{
	attach(slot_cnt);
	kernel_turn();	    /* the first kick */
	while (running_cnt) /* recovered ones come first */
		finish_one(0);
	for (uint32_t step = 0; completed_cnt < work_cnt; step++) {
		uint32_t choice = choose(&choices, running_cnt + 1);

		if (step > MAX_STEPS)
			violate("I1: never answered");
		queue_what_fits();
		if (choice) {
			finish_one(choice - 1);
		} else if (!pick_up_one()) {
			if (!running_cnt && queued_cnt == work_cnt)
				violate("I1: lost");
			if (running_cnt)
				finish_one(0);
		}
		if (obd_flight_skip(&flight))
			kernel_turn();
	}
}

/* What is left of a dead process: nothing. */
static void bury(void)
{
	obd_flight_deinit(&flight);
	obd_journal_close(&flight.journal);
	flight = (struct obd_flight){.journal = {.lock_fd = -1}};
	running_cnt = 0;
}

static void reset(uint32_t head)
{
	static const uint8_t nothing[OBD_JOURNAL_HEADER_BYTES];

	fake_kernel_reset(&kernel, head);
	/* Without its header a file is no journal. */
	REQUIRE(pwrite(journal_fd, nothing, sizeof(nothing), 0) == sizeof(nothing));
	memset(fake_image_bytes(disk), 0, DISK_SECTORS * OBD_SECTOR_BYTES);
	memset(acknowledged, 0, sizeof(acknowledged));
	work_cnt = queued_cnt = completed_cnt = crashes = points = 0;
	choices.used = 0;
	violation = NULL;
	was_served = false;
	generation = 0;
}

/*
 * Serves what add_work() listed, crashing after crash[0] points, then after crash[1] more. False:
 * a violation. *unreached is set when the run ended before the last crash.
 */
static bool run(uint32_t slot_cnt, const uint32_t *crash, uint32_t crash_cnt, bool *unreached)
{
	volatile bool is_over = false;

	flight = (struct obd_flight){.journal = {.lock_fd = -1}};
	while (!is_over) {
		points = 0;
		crash_after = crashes < crash_cnt ? crash[crashes] : 0;
		switch (setjmp(escape)) {
		case 0:
			serve(slot_cnt);
			is_over = true;
			break;
		case CRASHED:
			crashes++;
			bury();
			if (completes_at_crash && setjmp(escape) == 0)
				kernel_turn();
			is_over = violation != NULL;
			break;
		default:
			is_over = true;
		}
	}
	bury();
	*unreached = crashes < crash_cnt;
	for (uint32_t tag = 0; !violation && tag < work_cnt; tag++)
		if (works[tag].completions != 1)
			violation = "I1: not answered once";
	return !violation;
}

/* ---- every point ---- */

static void three_commands(uint32_t head)
{
	reset(head);
	add_work(WRITE, 0);
	add_work(READ, 10);
	add_work(WRITE, 2);
	work_max = 6; /* the others follow on sectors that were answered */
}

struct tally {
	uint64_t runs;
	uint64_t lists;
	uint32_t most_points;
};

/* All lists of choices × all points (× all second points); false at the first violation. */
static bool every_point(uint32_t choice_cnt, uint32_t crash_cnt, struct tally *tally)
{
	static const uint32_t heads[] = {0, 3 * ENTRY_BYTES, 4 * ENTRY_BYTES + 64};
	uint32_t crash[2];
	bool unreached;

	memset(&choices, 0, sizeof(choices));
	choices.cnt = choice_cnt;
	crash_chance = 0;
	do {
		uint32_t head = heads[tally->lists++ % 3];

		for (crash[0] = 1;; crash[0]++) {
			bool is_first_unreached = false;

			for (crash[1] = 1;; crash[1]++) {
				completes_at_crash = (crash[0] + crash[1]) & 1;
				three_commands(head);
				tally->runs++;
				if (!run(SMALL_SLOTS, crash, crash_cnt, &unreached)) {
					fprintf(stderr, "crash at %u, %u: %s\n", crash[0],
						crash_cnt > 1 ? crash[1] : 0, violation);
					return false;
				}
				is_first_unreached = unreached && !crashes;
				if (unreached || crash_cnt < 2)
					break;
			}
			if (crash[0] > tally->most_points)
				tally->most_points = crash[0];
			if (is_first_unreached || (crash_cnt < 2 && unreached))
				break;
		}
	} while (next_choices(&choices));
	return true;
}

/* ---- a deep run ---- */

static bool deep_run(uint64_t seed, uint32_t chance)
{
	bool unreached;

	memset(&choices, 0, sizeof(choices));
	choices.is_random = true;
	choices.seed = seed;
	reset((uint32_t)(seed % 12) * ENTRY_BYTES);
	for (uint32_t lba = 0; lba < 10; lba++)
		add_work(WRITE, lba);
	work_max = DEEP_COMMANDS;
	crash_chance = chance;
	completes_at_crash = seed & 1;
	run(DEEP_SLOTS, NULL, 0, &unreached);
	crash_chance = 0;
	if (violation)
		fprintf(stderr, "seed %llu: %s after %u commands, %u crashes\n",
			(unsigned long long)seed, violation, completed_cnt, crashes);
	return !violation;
}

static void world_init(uint32_t cmdr_bytes)
{
	struct fake_image_options options = {.bytes = DISK_SECTORS * OBD_SECTOR_BYTES};
	static uint64_t reserved;

	fake_kernel_init(&kernel, cmdr_bytes, 32, 0);
	kernel.on_complete = on_complete;
	disk = fake_image_create(&options);
	REQUIRE(!obd_image_start_writing(disk, &reserved, NULL));
	journal_fd = memfd_create("journal", MFD_CLOEXEC);
	REQUIRE(journal_fd >= 0);
	obd_crash_hook = at_point;
}

static void world_deinit(void)
{
	fake_kernel_deinit(&kernel);
	obd_image_destroy(disk);
	close(journal_fd);
}

/* ---- a command that stays while the ring goes round ---- */

/*
 * Command 0 stays in flight while the others fill the rest of the lap; then the entry at its own
 * offset is the next to be picked up, and the server dies. A slot must not be dropped because its
 * offset is `next`: that command was picked up one lap ago.
 */
static bool lap(void)
{
	volatile bool is_good = true;

	reset(0);
	add_work(WRITE, 0);
	for (uint32_t lba = 1; lba < 8; lba++)
		add_work(WRITE, lba);
	work_max = work_cnt;
	flight = (struct obd_flight){.journal = {.lock_fd = -1}};
	if (setjmp(escape)) {
		is_good = false;
	} else {
		attach(SMALL_SLOTS);
		kernel_turn();
		REQUIRE(pick_up_one());
		while (obd_next_offset(flight.journal.header->next) != 0) {
			REQUIRE(pick_up_one());
			finish_one(1); /* tail moves over entry 0 */
		}
		REQUIRE(flight.journal.slots[running[0]].ring_offset == 0);
		bury();
		serve(SMALL_SLOTS);
	}
	bury();
	if (violation)
		fprintf(stderr, "lap: %s\n", violation);
	return is_good && works[0].completions == 1;
}

/* ---- what must be refuted ---- */

/* By the invariants alone: the check of the journal, which sees most of them coming, is left out.
 */
static void refute(const char *name, bool *cheat)
{
	struct tally tally = {0};
	bool is_good;

	*cheat = skips_check = true;
	is_good = every_point(4, 1, &tally);
	for (uint64_t seed = 1; is_good && seed < 20; seed++)
		is_good = deep_run(seed, 50);
	*cheat = skips_check = false;
	fprintf(stderr, "%s: %s\n", name, is_good ? "NOT refuted" : "refuted");
	REQUIRE(!is_good);
}

int main(int argc, char **argv)
{
	struct tally one = {0}, two = {0};
	bool is_good = true;

	if (argc > 1 && strcmp(argv[1], "full") != 0) {
		world_init(DEEP_RING);
		return !deep_run(strtoull(argv[1], NULL, 0), 50);
	}
	world_init(SMALL_RING);
	REQUIRE(every_point(7, 1, &one));
	printf("one crash: %llu runs, %llu orders, up to %u points\n", (unsigned long long)one.runs,
	       (unsigned long long)one.lists, one.most_points);
	REQUIRE(every_point(argc > 1 ? 6 : 3, 2, &two));
	printf("two crashes: %llu runs, %llu orders\n", (unsigned long long)two.runs,
	       (unsigned long long)two.lists);
	refute("ring only", &obd_cheats.ring_only);
	refute("record after tail", &obd_cheats.record_after_tail);
	refute("slot freed before tail", &obd_cheats.free_before_tail);
	refute("no sequence check", &obd_cheats.no_sequence_check);
	refute("no record", &obd_cheats.skip_record);
	refute("another command's id", &obd_cheats.reuse_id);
	refute("published twice", &obd_cheats.publish_twice);
	world_deinit();
	world_init(5 * ENTRY_BYTES);
	REQUIRE(lap());
	obd_cheats.drop_by_offset = skips_check = true;
	REQUIRE(!lap());
	obd_cheats.drop_by_offset = skips_check = false;
	world_deinit();
	world_init(DEEP_RING);
	for (uint64_t seed = 1; seed <= 20 && is_good; seed++)
		is_good = deep_run(seed, seed % 2 ? 50 : 400);
	REQUIRE(is_good);
	world_deinit();
	return 0;
}
