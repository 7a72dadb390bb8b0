/*
 * Deaths while a journal is formatted anew (after reset_ring): at every store, and with stores out
 * of order. Whatever is left is refused, or is wholly the old journal or wholly the new one; and
 * the next formatting keeps what outlives a reset: generation, high-water mark, counters.
 */
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "support_crash_reorder.h"
#include "support_crash_stores.h"
#include "support_crash_world.h"
#include "support_image_files.h"

#define SLOTS	   4u
#define FILE_BYTES (OBD_JOURNAL_HEADER_BYTES + SLOTS * sizeof(struct obd_journal_slot))
#define GENERATION 7u
#define RESERVED   123456u
#define RESETS	   3u

static const uint8_t boot_id[16] = {1}, uuid[16] = {2};
static struct obd_ring ring;
static uint8_t *file; /* the journal, as it lies in memory */
static uint8_t was[FILE_BYTES], becomes[FILE_BYTES];

static struct obd_journal_identity identity(uint64_t generation)
{
	return (struct obd_journal_identity){.boot_id = boot_id,
					     .device_uuid = uuid,
					     .ring = &ring,
					     .generation = generation,
					     .slot_cnt = SLOTS};
}

static void prepare(struct obd_journal *journal, uint64_t generation)
{
	struct obd_journal_identity mine = identity(generation);

	REQUIRE(!obd_journal_lock(journal, crash_world.journal_fd, "test", NULL));
	REQUIRE(!obd_journal_prepare(journal, &mine, "test", NULL));
}

static void format(struct obd_journal *journal)
{
	struct obd_journal_identity mine = identity(GENERATION + 1);

	obd_journal_format(journal, &mine, 64);
}

/* A journal in use, with things in flight. */
static void make_old(void)
{
	struct obd_journal_identity mine = identity(GENERATION);
	struct obd_journal journal;

	memset(file, 0, FILE_BYTES);
	prepare(&journal, GENERATION);
	obd_journal_format(&journal, &mine, 128);
	obd_journal_own(&journal, GENERATION);
	journal.header->append_reserved = RESERVED;
	journal.header->counters.resets = RESETS;
	journal.header->pub_valid = 1;
	journal.slots[0].state = OBD_SLOT_VALID;
	journal.slots[3].state = OBD_SLOT_EXECUTING;
	obd_journal_close(&journal);
	memcpy(was, file, FILE_BYTES);
}

static bool is_same(const uint8_t *at, const uint8_t *wanted)
{
	const struct obd_journal_header *left = (const void *)at, *right = (const void *)wanted;

	return left->next == right->next && left->pub_valid == right->pub_valid &&
	       !memcmp(at + OBD_JOURNAL_HEADER_BYTES, wanted + OBD_JOURNAL_HEADER_BYTES,
		       FILE_BYTES - OBD_JOURNAL_HEADER_BYTES);
}

/* What a death left is in `file`; NULL: it is good. */
static const char *judge(void)
{
	struct obd_journal_identity next = identity(GENERATION + 1);
	struct obd_journal journal;
	const char *what = NULL;

	REQUIRE(!obd_journal_lock(&journal, crash_world.journal_fd, "test", NULL));
	if (!obd_journal_open(&journal, &next, "test", NULL) && !is_same(file, was) &&
	    !is_same(file, becomes))
		what = "half a journal was believed";
	obd_journal_close(&journal);
	if (what)
		return what;
	prepare(&journal, GENERATION + 1);
	if (journal.header->append_reserved != RESERVED)
		what = "the high-water mark is lost";
	else if (journal.header->generation != GENERATION)
		what = "the generation is lost";
	else if (journal.header->counters.resets < RESETS)
		what = "the counters are lost";
	format(&journal);
	if (!is_same(file, becomes))
		what = "formatting again gave something else";
	obd_journal_close(&journal);
	return what;
}

/* ---- deaths in program order ---- */

static uint32_t points, death_at;

static void maybe_die(void)
{
	if (++points == death_at)
		longjmp(crash_world.escape, CRASH_DIED);
}

/* False when there is no such point. */
static bool die_at(uint32_t at)
{
	static struct obd_journal journal;
	bool has_died;

	memcpy(file, was, FILE_BYTES);
	prepare(&journal, GENERATION + 1);
	crash_watch(CRASH_JOURNAL, journal.header, FILE_BYTES);
	points = 0;
	death_at = at;
	has_died = setjmp(crash_world.escape);
	crash_hook = maybe_die;
	if (!has_died)
		format(&journal);
	crash_hook = NULL;
	crash_watch(CRASH_JOURNAL, NULL, 0);
	obd_journal_close(&journal);
	return has_died;
}

static void every_store(void)
{
	uint32_t at = 1;

	REQUIRE(!die_at(0));
	memcpy(becomes, file, FILE_BYTES);
	for (; die_at(at); at++) {
		const char *what = judge();

		if (what)
			fprintf(stderr, "died at point %u of formatting: %s\n", at, what);
		REQUIRE(!what);
	}
	printf("formatting: %u deaths\n", at - 1);
}

/* ---- out of order ---- */

struct reordered {
	uint32_t leftovers;
	const char *what;
};

static void at_leftover(void *context, const struct crash_store *stores, const bool *is_there,
			uint32_t cnt)
{
	struct reordered *reordered = context;

	if (reordered->what)
		return;
	reordered->leftovers++;
	memcpy(file, was, FILE_BYTES);
	for (uint32_t i = 0; i < cnt; i++)
		if (is_there[i] && stores[i].order != CRASH_FENCE)
			memcpy(file + stores[i].offset, stores[i].value, stores[i].bytes);
	reordered->what = judge();
}

static struct reordered out_of_order(const char *relaxed)
{
	struct crash_store stores[CRASH_LOG_MAX];
	struct reordered reordered = {0};
	struct obd_journal journal;
	uint32_t cnt;

	memcpy(file, was, FILE_BYTES);
	prepare(&journal, GENERATION + 1);
	crash_watch(CRASH_JOURNAL, journal.header, FILE_BYTES);
	crash_relaxed_label = relaxed;
	crash_log_begin();
	format(&journal);
	memcpy(stores, crash_log_end(&cnt), sizeof(stores));
	crash_relaxed_label = NULL;
	crash_watch(CRASH_JOURNAL, NULL, 0);
	obd_journal_close(&journal);
	crash_reorder(stores, cnt, at_leftover, &reordered);
	return reordered;
}

static void every_order(void)
{
	static const char *const needed[] = {"format.unmarked", "format.magic"};
	struct reordered good = out_of_order(NULL);

	if (good.what)
		fprintf(stderr, "formatting, out of order: %s\n", good.what);
	REQUIRE(!good.what);
	printf("formatting, out of order: %u leftovers\n", good.leftovers);
	for (size_t i = 0; i < sizeof(needed) / sizeof(*needed); i++) {
		struct reordered bad = out_of_order(needed[i]);

		REQUIRE(bad.what);
		fprintf(stderr, "without the order of %s: %s\n", needed[i], bad.what);
	}
}

int main(void)
{
	crash_world_init(5u * CRASH_ENTRY_BYTES, 1);
	REQUIRE(!obd_ring_init_memory(&ring, crash_world.kernel.map, crash_world.kernel.map_bytes,
				      "test", NULL));
	REQUIRE(!ftruncate(crash_world.journal_fd, FILE_BYTES));
	file = mmap(NULL, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, crash_world.journal_fd,
		    0);
	REQUIRE(file != MAP_FAILED);
	make_old();
	every_store();
	if (crash_sees_stores())
		every_order();
	munmap(file, FILE_BYTES);
	crash_world_deinit();
	return 0;
}
