/*
 * The checker on a disk in memory: silent while the disk is good, and each planted fault found
 * under the right name. Then what a ledger must keep over the death of its writer and over a power
 * cut.
 */
#include "../checker/generator.h"
#include "../checker/owner.h"
#include "../checker/slices.h"
#include "../checker/stamp.h"
#include "../checker/tally.h"
#include "obd_journal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#undef NDEBUG
#include <assert.h>

#define SECTOR	    512u
#define SECTOR_CNT  256u
#define QUEUE_DEPTH 8u
#define POISON	    0xdbu

static uint8_t disk[SECTOR_CNT][SECTOR];
static uint64_t random_state = 1;

static uint32_t random_below(uint32_t limit)
{
	random_state = random_state * UINT64_C(6364136223846793005) + 1442695040888963407;
	return (uint32_t)(random_state >> 33) % limit;
}

struct rig {
	struct obd_ledger ledger;
	struct obd_model *model;
	uint32_t generation;
};

static void rig_open(struct rig *rig, const char *path, const struct obd_model_options *options)
{
	struct obd_ledger_identity identity = {"disk", 7, SECTOR_CNT, 0};
	struct obd_model_options filled = options ? *options : (struct obd_model_options){0};
	char problem[256];

	rig->generation = 3;
	assert(obd_ledger_open(&rig->ledger, path, &identity, problem) == 0);
	filled.ledger = &rig->ledger;
	rig->model = obd_model_create(&filled);
	assert(rig->model);
}

static void rig_close(struct rig *rig)
{
	obd_model_destroy(rig->model);
	obd_ledger_close(&rig->ledger);
}

static uint32_t start_write(struct rig *rig, uint64_t lba, uint32_t cnt, uint8_t *data)
{
	uint32_t sequence = obd_model_start_write(rig->model, lba, cnt, rig->generation);

	obd_model_fill(rig->model, lba, cnt, sequence, rig->generation, data);
	return sequence;
}

/* An acknowledged write; what it stores is in data, and on the disk when is_stored. */
static uint32_t write_data(struct rig *rig, uint64_t lba, uint32_t cnt, uint8_t *data,
			   bool is_stored)
{
	uint32_t sequence = start_write(rig, lba, cnt, data);

	if (is_stored)
		memcpy(disk[lba], data, cnt * SECTOR);
	obd_model_end_write(rig->model, lba, cnt, OBD_ACKNOWLEDGED);
	return sequence;
}

static void discard(struct rig *rig, uint64_t lba, uint32_t cnt)
{
	obd_model_start_discard(rig->model, lba, cnt, rig->generation);
	memset(disk[lba], 0, cnt * SECTOR);
	obd_model_end_write(rig->model, lba, cnt, OBD_ACKNOWLEDGED);
}

static void flush(struct rig *rig)
{
	obd_model_end_flush(rig->model, obd_model_start_flush(rig->model));
}

static enum obd_verdict look(struct rig *rig, uint64_t lba)
{
	uint32_t floor;

	obd_model_start_read(rig->model, lba, 1, &floor);
	return obd_model_check(rig->model, lba, floor, disk[lba]);
}

static void expect_words(struct rig *rig, uint64_t lba, const char *words)
{
	char text[512];
	uint32_t floor;

	obd_model_start_read(rig->model, lba, 1, &floor);
	obd_model_describe(rig->model, lba, floor, disk[lba], text, sizeof(text));
	if (!strstr(text, words)) {
		fprintf(stderr, "\"%s\" is not in: %s\n", words, text);
		abort();
	}
}

/* -- a good disk ------------------------------------------------------------------------------- */

struct job {
	struct obd_pick pick;
	uint32_t floor[32];
	uint8_t data[32 * SECTOR];
	uint64_t flush_started;
	bool is_busy;
};

static void begin(struct rig *rig, struct obd_generator *generator, struct job *job)
{
	obd_generator_next(generator, rig->model, &job->pick);
	job->is_busy = true;
	switch (job->pick.op) {
	case OBD_OP_READ:
		obd_model_start_read(rig->model, job->pick.lba, job->pick.sector_cnt, job->floor);
		break;
	case OBD_OP_WRITE:
		start_write(rig, job->pick.lba, job->pick.sector_cnt, job->data);
		break;
	case OBD_OP_DISCARD:
		obd_model_start_discard(rig->model, job->pick.lba, job->pick.sector_cnt,
					rig->generation);
		break;
	case OBD_OP_FLUSH:
		job->flush_started = obd_model_start_flush(rig->model);
		break;
	}
}

/* Carries it out at once, in part when it fails; sector by sector, so that reads see half of it. */
static void end(struct rig *rig, struct job *job)
{
	const struct obd_pick *pick = &job->pick;
	bool is_failed = pick->op != OBD_OP_READ && random_below(50) == 0;
	uint32_t cnt = is_failed ? random_below(pick->sector_cnt + 1) : pick->sector_cnt;

	for (uint32_t i = 0; i < cnt; i++) {
		uint64_t lba = pick->lba + i;

		if (pick->op == OBD_OP_READ)
			assert(obd_model_check(rig->model, lba, job->floor[i], disk[lba]) ==
			       OBD_SECTOR_GOOD);
		else if (pick->op == OBD_OP_WRITE)
			memcpy(disk[lba], job->data + i * SECTOR, SECTOR);
		else if (pick->op == OBD_OP_DISCARD)
			memset(disk[lba], 0, SECTOR);
	}
	if (pick->op == OBD_OP_WRITE || pick->op == OBD_OP_DISCARD)
		obd_model_end_write(rig->model, pick->lba, pick->sector_cnt,
				    is_failed ? OBD_FAILED : OBD_ACKNOWLEDGED);
	else if (pick->op == OBD_OP_FLUSH && !is_failed)
		obd_model_end_flush(rig->model, job->flush_started);
	job->is_busy = false;
}

static void run_good(struct rig *rig, uint32_t turns, uint32_t unit)
{
	static struct job job[QUEUE_DEPTH];
	struct obd_mix mix = {40, 10, 5, 10, 32, unit};
	struct obd_generator generator;

	obd_generator_init(&generator, &mix, SECTOR_CNT, turns);
	for (uint32_t turn = 0; turn < turns; turn++) {
		struct job *next = &job[random_below(QUEUE_DEPTH)];

		rig->generation += random_below(100) == 0;
		if (next->is_busy)
			end(rig, next);
		else
			begin(rig, &generator, next);
		assert(next->pick.lba % unit == 0 && next->pick.sector_cnt % unit == 0);
	}
	for (uint32_t i = 0; i < QUEUE_DEPTH; i++)
		if (job[i].is_busy)
			end(rig, &job[i]);
}

static void test_a_good_disk_is_never_complained_about(void)
{
	static const uint8_t before[] = {0, 1, POISON};
	struct rig rig;

	for (uint32_t i = 0; i < sizeof(before); i++) {
		memset(disk, before[i], sizeof(disk));
		rig_open(&rig, NULL, NULL);
		run_good(&rig, 20000, i == 1 ? 8 : 1);
		for (uint32_t lba = 0; lba < SECTOR_CNT; lba++)
			assert(look(&rig, lba) == OBD_SECTOR_GOOD);
		rig_close(&rig);
	}
}

static void test_a_read_may_see_what_was_sent_meanwhile(void)
{
	uint8_t data[SECTOR];
	uint32_t floor;
	struct rig rig;

	memset(disk, 0, sizeof(disk));
	rig_open(&rig, NULL, NULL);
	write_data(&rig, 5, 1, data, true);
	obd_model_start_read(rig.model, 5, 1, &floor);
	start_write(&rig, 5, 1, data); /* not stored yet: the old one is legal */
	assert(obd_model_is_busy(rig.model, 0, 6) && !obd_model_is_busy(rig.model, 6, 58));
	assert(obd_model_check(rig.model, 5, floor, disk[5]) == OBD_SECTOR_GOOD);
	assert(obd_model_check(rig.model, 5, floor, data) == OBD_SECTOR_GOOD);
	obd_model_end_write(rig.model, 5, 1, OBD_ACKNOWLEDGED);
	assert(obd_model_check(rig.model, 5, floor, disk[5]) == OBD_SECTOR_GOOD);
	assert(look(&rig, 5) == OBD_SECTOR_OLD); /* sent after the acknowledgement */
	rig_close(&rig);
}

/* -- planted faults ---------------------------------------------------------------------------- */

static enum obd_verdict lost_write(struct rig *rig)
{
	uint8_t data[SECTOR];

	write_data(rig, 9, 1, data, true);
	rig->generation = 4;
	write_data(rig, 9, 1, data, false);
	expect_words(rig, 9, "expected acknowledged sequence 2 (generation 4) or later");
	expect_words(rig, 9, "found sequence 1 (generation 3)");
	return look(rig, 9);
}

static enum obd_verdict first_write_lost(struct rig *rig)
{
	uint8_t data[SECTOR];

	look(rig, 9);
	write_data(rig, 9, 1, data, false);
	expect_words(rig, 9, "found zeros");
	return look(rig, 9);
}

static enum obd_verdict late_duplicate(struct rig *rig)
{
	uint8_t old[SECTOR], new[SECTOR];

	write_data(rig, 9, 1, old, true);
	write_data(rig, 9, 1, new, true);
	memcpy(disk[9], old, SECTOR);
	return look(rig, 9);
}

static enum obd_verdict other_lba(struct rig *rig)
{
	uint8_t data[SECTOR];

	write_data(rig, 9, 1, data, true);
	write_data(rig, 10, 1, data, true);
	memcpy(disk[9], data, SECTOR);
	expect_words(rig, 9, "lba 9: expected acknowledged sequence 1");
	expect_words(rig, 9, "found sequence 2 (generation 3) of lba 10");
	return look(rig, 9);
}

static enum obd_verdict other_lba_never_written(struct rig *rig)
{
	uint8_t data[SECTOR];

	write_data(rig, 10, 1, data, true);
	memcpy(disk[9], data, SECTOR);
	return look(rig, 9);
}

static enum obd_verdict other_device(struct rig *rig)
{
	struct obd_stamp stamp = {99, obd_stamp_hash("other"), 9, 1, 3};
	uint8_t data[SECTOR];

	write_data(rig, 9, 1, data, true);
	obd_stamp_make(&stamp, disk[9]);
	expect_words(rig, 9, "of another device");
	return look(rig, 9);
}

static enum obd_verdict other_device_never_written(struct rig *rig)
{
	struct obd_stamp stamp = {99, obd_stamp_hash("other"), 9, 1, 3};

	assert(look(rig, 9) == OBD_SECTOR_GOOD); /* as the survey does */
	obd_stamp_make(&stamp, disk[9]);
	return look(rig, 9);
}

static enum obd_verdict shifted_by_one(struct rig *rig)
{
	uint8_t data[8 * SECTOR];

	write_data(rig, 8, 8, data, false);
	memcpy(disk[9], data, sizeof(data));
	for (uint64_t lba = 9; lba < 17; lba++)
		assert(look(rig, lba) == OBD_SECTOR_MISPLACED);
	assert(look(rig, 8) == OBD_SECTOR_OLD);
	return look(rig, 9);
}

static enum obd_verdict torn(struct rig *rig)
{
	uint8_t old[SECTOR], new[SECTOR];

	write_data(rig, 9, 1, old, true);
	write_data(rig, 9, 1, new, true);
	memcpy(disk[9] + 256, old + 256, 256);
	expect_words(rig, 9, "sequence 2 (generation 3) with other bytes from 256 to 512");
	return look(rig, 9);
}

static enum obd_verdict torn_by_another_lba(struct rig *rig)
{
	uint8_t data[SECTOR];

	write_data(rig, 9, 1, data, true);
	write_data(rig, 10, 1, data, true);
	memcpy(disk[9], data, 256);
	return look(rig, 9);
}

/* Every single bit. */
static enum obd_verdict flipped_bit(struct rig *rig)
{
	uint8_t data[SECTOR];

	write_data(rig, 9, 1, data, true);
	for (uint32_t bit = 0; bit < SECTOR * 8; bit++) {
		disk[9][bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert(look(rig, 9) == OBD_SECTOR_CORRUPT);
		disk[9][bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	disk[9][511] ^= 1;
	expect_words(rig, 9, "with other bytes from 511 to 512");
	return look(rig, 9);
}

static enum obd_verdict zeros(struct rig *rig)
{
	uint8_t data[SECTOR];

	discard(rig, 9, 1); /* once legal */
	write_data(rig, 9, 1, data, true);
	memset(disk[9], 0, SECTOR);
	return look(rig, 9);
}

static enum obd_verdict poison(struct rig *rig)
{
	memset(disk[9], POISON, SECTOR); /* never written, never seen: still no data */
	expect_words(rig, 9, "nobody filled in");
	return look(rig, 9);
}

static enum obd_verdict poison_of_a_written_one(struct rig *rig)
{
	uint8_t data[SECTOR];

	write_data(rig, 9, 1, data, true);
	memset(disk[9], POISON, SECTOR);
	return look(rig, 9);
}

static enum obd_verdict former_run(struct rig *rig)
{
	struct obd_stamp stamp = {6, obd_stamp_hash("disk"), 9, 1000, 3};
	uint8_t data[SECTOR];

	write_data(rig, 9, 1, data, true);
	obd_stamp_make(&stamp, disk[9]);
	expect_words(rig, 9, "of another run");
	return look(rig, 9);
}

static enum obd_verdict discard_comes_back(struct rig *rig)
{
	uint8_t data[SECTOR];

	write_data(rig, 9, 1, data, true);
	discard(rig, 8, 4);
	assert(look(rig, 9) == OBD_SECTOR_GOOD);
	memcpy(disk[9], data, SECTOR);
	expect_words(rig, 9, "a discard,");
	return look(rig, 9);
}

static enum obd_verdict never_written_changes(struct rig *rig)
{
	memset(disk[9], 1, SECTOR);
	assert(look(rig, 9) == OBD_SECTOR_GOOD);
	memset(disk[9], 2, SECTOR);
	expect_words(rig, 9, "expected what it held before this run, found 0x02");
	return look(rig, 9);
}

static enum obd_verdict never_sent(struct rig *rig)
{
	uint8_t data[SECTOR];
	uint32_t sequence = write_data(rig, 9, 1, data, true);
	struct obd_stamp stamp = {7, obd_stamp_hash("disk"), 9, sequence + 1, 3};

	write_data(rig, 10, 1, data, true); /* that number was another sector's */
	obd_stamp_make(&stamp, disk[9]);
	return look(rig, 9);
}

static const struct fault {
	const char *name;
	enum obd_verdict (*plant)(struct rig *rig);
	enum obd_verdict expected;
} faults[] = {
	{"lost write", lost_write, OBD_SECTOR_OLD},
	{"first write lost", first_write_lost, OBD_SECTOR_OLD},
	{"late duplicate", late_duplicate, OBD_SECTOR_OLD},
	{"other lba", other_lba, OBD_SECTOR_MISPLACED},
	{"other lba, never written", other_lba_never_written, OBD_SECTOR_MISPLACED},
	{"other device", other_device, OBD_SECTOR_MISPLACED},
	{"other device, never written", other_device_never_written, OBD_SECTOR_MISPLACED},
	{"shifted by one", shifted_by_one, OBD_SECTOR_MISPLACED},
	{"torn", torn, OBD_SECTOR_CORRUPT},
	{"torn by another lba", torn_by_another_lba, OBD_SECTOR_CORRUPT},
	{"flipped bit", flipped_bit, OBD_SECTOR_CORRUPT},
	{"zeros", zeros, OBD_SECTOR_OLD},
	{"poison", poison, OBD_SECTOR_CORRUPT},
	{"poison of a written one", poison_of_a_written_one, OBD_SECTOR_CORRUPT},
	{"former run", former_run, OBD_SECTOR_OLD},
	{"discard comes back", discard_comes_back, OBD_SECTOR_OLD},
	{"never written changes", never_written_changes, OBD_SECTOR_CORRUPT},
	{"never sent", never_sent, OBD_SECTOR_CORRUPT},
};

static void test_planted_faults_are_found_by_name(void)
{
	struct obd_model_options options = {.is_poison_known = true};

	for (uint32_t i = 0; i < sizeof(faults) / sizeof(faults[0]); i++) {
		struct rig rig;
		enum obd_verdict found;

		memset(disk, 0, sizeof(disk));
		rig_open(&rig, NULL, &options);
		found = faults[i].plant(&rig);
		if (found != faults[i].expected) {
			fprintf(stderr, "%s: verdict %d\n", faults[i].name, (int)found);
			abort();
		}
		rig_close(&rig);
	}
}

static void test_the_base_says_what_was_there_before(void)
{
	static uint8_t base[(SECTOR_CNT / 2) * SECTOR];
	struct obd_model_options options = {.base = base, .base_bytes = sizeof(base)};
	uint8_t data[SECTOR];
	struct rig rig;

	for (uint32_t i = 0; i < sizeof(base); i++)
		base[i] = (uint8_t)random_below(256);
	memset(disk, 0, sizeof(disk));
	memcpy(disk, base, sizeof(base));
	rig_open(&rig, NULL, &options);
	for (uint32_t lba = 0; lba < SECTOR_CNT; lba++)
		assert(look(&rig, lba) == OBD_SECTOR_GOOD);
	memcpy(disk[9], base + 10 * SECTOR, SECTOR);
	assert(look(&rig, 9) == OBD_SECTOR_MISPLACED);
	expect_words(&rig, 9, "found what lba 10 held before");
	write_data(&rig, 11, 1, data, false);
	assert(look(&rig, 11) == OBD_SECTOR_OLD);
	disk[12][0] ^= 1;
	assert(look(&rig, 12) == OBD_SECTOR_CORRUPT);
	disk[SECTOR_CNT / 2][0] = 1;
	assert(look(&rig, SECTOR_CNT / 2) == OBD_SECTOR_CORRUPT);
	rig_close(&rig);
}

/* -- the ledger -------------------------------------------------------------------------------- */

static void path_of(const char *name, char *ret, size_t space)
{
	const char *folder = getenv("TMPDIR");

	snprintf(ret, space, "%s/%s.%d", folder ? folder : "/tmp", name, (int)getpid());
}

static void test_a_flush_covers_what_was_acknowledged_before_it_was_sent(void)
{
	struct obd_model_options options = {.is_durable_only = true};
	uint8_t old[SECTOR], new[SECTOR];
	char path[256];
	uint64_t started;
	struct rig rig;

	memset(disk, 0, sizeof(disk));
	path_of("flush", path, sizeof(path));
	rig_open(&rig, path, &options);
	look(&rig, 9);
	write_data(&rig, 9, 1, old, true);
	memset(disk[9], 0, SECTOR); /* a power cut: legal, nothing was flushed */
	assert(look(&rig, 9) == OBD_SECTOR_GOOD);
	started = obd_model_start_flush(rig.model);
	write_data(&rig, 9, 1, new, true); /* acknowledged, but after the flush was sent */
	obd_model_end_flush(rig.model, started);
	assert(look(&rig, 9) == OBD_SECTOR_GOOD);
	memcpy(disk[9], old, SECTOR);
	assert(look(&rig, 9) == OBD_SECTOR_GOOD);
	memset(disk[9], 0, SECTOR);
	assert(look(&rig, 9) == OBD_SECTOR_OLD);
	expect_words(&rig, 9, "expected flushed sequence 1 ");
	memcpy(disk[9], old, SECTOR);
	flush(&rig);
	assert(look(&rig, 9) == OBD_SECTOR_OLD);
	memcpy(disk[9], new, SECTOR);
	discard(&rig, 9, 1);
	memcpy(disk[9], new, SECTOR); /* the discard is not flushed: both are legal */
	assert(look(&rig, 9) == OBD_SECTOR_GOOD);
	flush(&rig);
	assert(look(&rig, 9) == OBD_SECTOR_OLD);
	start_write(&rig, 20, 1, old);
	obd_model_end_write(rig.model, 20, 1, OBD_DURABLE);
	assert(look(&rig, 20) == OBD_SECTOR_OLD); /* FUA, and never stored */
	rig_close(&rig);
	unlink(path);
}

static void test_a_ledger_outlives_its_writer(void)
{
	struct obd_ledger_identity other = {"disk", 7, SECTOR_CNT / 2, 0};
	struct obd_model_options options = {0};
	struct obd_ledger second;
	uint8_t data[SECTOR];
	char path[256], problem[256];
	struct rig rig;

	memset(disk, POISON, sizeof(disk));
	path_of("ledger", path, sizeof(path));
	rig_open(&rig, path, NULL);
	run_good(&rig, 5000, 1);
	start_write(&rig, 0, 1, data); /* in flight when the process ends */
	assert(obd_ledger_open(&second, path, &other, problem) == -EBUSY);
	rig_close(&rig);

	assert(obd_ledger_open(&second, path, &other, problem) == -EINVAL);
	assert(strstr(problem, "another device, offset or span"));
	rig_open(&rig, path, NULL); /* and goes on */
	assert(rig.ledger.is_resumed && !obd_model_is_busy(rig.model, 0, SECTOR_CNT));
	assert(look(&rig, 0) == OBD_SECTOR_GOOD);
	run_good(&rig, 5000, 1);
	flush(&rig); /* covers what the process before had acknowledged, too */
	for (uint32_t lba = 0; lba < SECTOR_CNT; lba++)
		assert(rig.ledger.sector[lba].flushed == rig.ledger.sector[lba].acked);
	write_data(&rig, 3, 1, data, false);
	rig_close(&rig);

	assert(obd_ledger_load(&rig.ledger, path, problem) == 0);
	options.ledger = &rig.ledger;
	rig.model = obd_model_create(&options);
	for (uint32_t lba = 0; lba < SECTOR_CNT; lba++)
		assert(look(&rig, lba) == (lba == 3 ? OBD_SECTOR_OLD : OBD_SECTOR_GOOD));
	rig_close(&rig);
	assert(truncate(path, 4096) == 0);
	assert(obd_ledger_load(&rig.ledger, path, problem) == -EINVAL);
	assert(strstr(problem, "cut off"));
	unlink(path);
}

/* Between two marks: what the first knew flushed is there, and nothing the second had not sent. */
static void test_since_an_earlier_copy(void)
{
	struct obd_model_options options = {0};
	struct obd_ledger earlier;
	uint8_t old[SECTOR], new[SECTOR];
	char path[256], problem[256];
	struct rig rig, later;

	memset(disk, 0, sizeof(disk));
	path_of("since", path, sizeof(path));
	rig_open(&rig, path, NULL);
	look(&rig, 9);
	write_data(&rig, 9, 1, old, true);
	flush(&rig);
	assert(obd_ledger_load(&earlier, path, problem) == 0);
	earlier.sector[9] = rig.ledger.sector[9]; /* a private copy from now on */
	write_data(&rig, 9, 1, new, true);
	flush(&rig);
	later = rig;
	options.ledger = &rig.ledger;
	options.since = &earlier;
	later.model = obd_model_create(&options);
	assert(look(&later, 9) == OBD_SECTOR_GOOD);
	memcpy(disk[9], old, SECTOR);
	assert(look(&later, 9) == OBD_SECTOR_GOOD);
	assert(look(&rig, 9) == OBD_SECTOR_OLD);
	memset(disk[9], 0, SECTOR);
	assert(look(&later, 9) == OBD_SECTOR_OLD);
	obd_model_destroy(later.model);
	obd_ledger_close(&earlier);
	rig_close(&rig);
	unlink(path);
}

static void test_generations_are_known_by_sequence(void)
{
	struct rig rig;

	rig_open(&rig, NULL, NULL);
	assert(obd_ledger_generation_of(&rig.ledger, 5) == 0);
	for (uint32_t i = 1; i < OBD_LEDGER_GENERATIONS + 10; i++)
		obd_ledger_note_generation(&rig.ledger, i * 10, i);
	assert(obd_ledger_generation_of(&rig.ledger, 9) == 0);
	assert(obd_ledger_generation_of(&rig.ledger, 10) == 1);
	assert(obd_ledger_generation_of(&rig.ledger, 129) == 12);
	assert(obd_ledger_generation_of(&rig.ledger, UINT32_MAX) == 0); /* the table was full */
	rig_close(&rig);
}

/* -- around it --------------------------------------------------------------------------------- */

static void write_journal(const char *path, uint64_t generation)
{
	uint8_t page[4096] = OBD_JOURNAL_MAGIC;
	struct obd_journal_counters counters = {.owner_generation = generation};
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	memcpy(page + 256, &counters, sizeof(counters));
	assert(fd >= 0 && write(fd, page, sizeof(page)) == (ssize_t)sizeof(page));
	close(fd);
}

static void test_the_generation_follows_the_journal(void)
{
	uint64_t now_ns = UINT64_C(5000000000);
	struct obd_owner owner;
	char path[256], other[256];

	path_of("journal", path, sizeof(path));
	path_of("other", other, sizeof(other));
	obd_owner_init(&owner, path);
	assert(obd_owner_generation(&owner, now_ns) == 0); /* no file yet */
	write_journal(path, 7);
	assert(obd_owner_generation(&owner, now_ns += 200000000) == 7);
	write_journal(other, 8);
	assert(rename(other, path) == 0); /* another file under the name */
	assert(obd_owner_generation(&owner, now_ns += 200000000) == 8);
	assert(truncate(path, 100) == 0);
	assert(obd_owner_generation(&owner, now_ns += 2000000) == 0);
	unlink(path);
	obd_owner_deinit(&owner);
	obd_owner_init(&owner, NULL);
	assert(obd_owner_generation(&owner, now_ns) == 0);
}

static void test_slices_hold_every_operation(void)
{
	struct obd_slices slices;
	char path[256], text[512];
	size_t bytes;
	FILE *file;

	path_of("slices", path, sizeof(path));
	assert(obd_slices_open(&slices, path) == 0);
	obd_slices_add(&slices, 1000000000, 1000000010);
	obd_slices_add(&slices, 900000000, 1019999999);
	obd_slices_add(&slices, 1019999998, 1020000001);
	obd_slices_add(&slices, 1000000002, 1019999998); /* a thread that was a little late */
	obd_slices_tick(&slices, 3000000000);
	file = fopen(path, "r");
	bytes = fread(text, 1, sizeof(text) - 1, file);
	text[bytes] = 0;
	fclose(file);
	assert(strcmp(text, "1000000000 2 120000009 900000000 1019999999\n"
			    "1020000000 2 19999999 1000000002 1019999998\n") == 0);
	assert(obd_slices_close(&slices) == 0);
	unlink(path);
}

static void test_the_tally_counts_all_and_keeps_the_first_lines(void)
{
	static struct obd_tally tally;
	char *text;
	size_t bytes;
	FILE *file = open_memstream(&text, &bytes);
	uint32_t lines = 0;

	for (uint32_t i = 0; i < 100; i++) {
		if (!obd_tally_count(&tally, OBD_WRONG_STALE))
			continue;
		snprintf(obd_tally_line(&tally, OBD_WRONG_STALE), OBD_TALLY_LINE_BYTES, "a \"%u\"",
			 i);
		lines++;
	}
	assert(lines == OBD_TALLY_LINES && obd_tally_sum(&tally) == 100);
	obd_tally_write_counts(&tally, file);
	obd_tally_write_findings(&tally, file);
	fclose(file);
	assert(strstr(text, "\"lost\": 0, \"stale\": 100"));
	assert(strstr(text, "[{\"kind\": \"stale\", \"text\": \"a ?0?\"}, {"));
	free(text);
}

int main(void)
{
	test_a_good_disk_is_never_complained_about();
	test_a_read_may_see_what_was_sent_meanwhile();
	test_planted_faults_are_found_by_name();
	test_the_base_says_what_was_there_before();
	test_a_flush_covers_what_was_acknowledged_before_it_was_sent();
	test_a_ledger_outlives_its_writer();
	test_since_an_earlier_copy();
	test_generations_are_known_by_sequence();
	test_the_generation_follows_the_journal();
	test_slices_hold_every_operation();
	test_the_tally_counts_all_and_keeps_the_first_lines();
	return 0;
}
