/*
 * The writable layer under deaths: at every system call and named point of a writer, with every
 * kind of half-done write, and again in the successor. What was acknowledged must be there, what
 * was under way is there as a whole or not at all, and data of a dead process that reaches the
 * file late must not land on anything: the append high-water mark sees to that.
 *
 *	test_crash_upper          everything below
 *	test_crash_upper full     also every kind of the second death
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "obd_crash.h"
#include "obd_image.h"
#include "support_image_files.h"
#include "support_upper_deaths.h"

#define SECTORS 16u

static const struct operation operations[] = {
	/* Two at a time are in flight together: they do not overlap. */
	{WRITE, 0, 4},	{WRITE, 6, 2},	   {FLUSH, 0, 0}, {DISCARD, 1, 2},
	{WRITE, 12, 1}, {WRITE_FUA, 5, 4}, {WRITE, 0, 2}, {DISCARD, 6, 1},
};
#define OPERATIONS  (sizeof(operations) / sizeof(*operations))
#define ALL	    ((1u << OPERATIONS) - 1)
#define LANDS_NEVER 100u

static char dir[64];
static char data_path[96];
static char index_path[96];
static char pending_path[128];

/* The value of every byte of a sector once these operations (bits) are done. */
static uint8_t expected(uint32_t done, uint64_t lba)
{
	uint8_t value = 0;

	for (uint32_t i = 0; i < OPERATIONS; i++) {
		const struct operation *operation = &operations[i];

		if (!(done >> i & 1) || lba < operation->lba ||
		    lba >= operation->lba + operation->cnt)
			continue;
		value = operation->kind == DISCARD ? 0 : (uint8_t)(i + 1);
	}
	return value;
}

static struct obd_image *open_image(void)
{
	struct obd_image_spec spec = {.upper_data = data_path, .upper_index = index_path};
	struct obd_errinfo info = {0};
	struct obd_image *image;

	if (obd_image_create(&spec, &info, &image))
		deaths_wrong(info.what, info.offset_bytes);
	return image;
}

static bool is_state(const uint8_t *bytes, uint32_t done, uint64_t *ret_lba)
{
	for (uint64_t i = 0; i < SECTORS * 512ull; i++)
		if (bytes[i] != expected(done, i / 512)) {
			*ret_lba = i / 512;
			return false;
		}
	return true;
}

/* Everything acknowledged, and of what is under way each as a whole or not at all. */
static void check(struct obd_image *image)
{
	static uint8_t bytes[SECTORS * 512];
	struct iovec iov = {bytes, sizeof(bytes)};
	uint64_t lba = 0, other;
	uint32_t more = deaths->under_way;

	if (obd_image_read(image, 0, SECTORS, &iov, 1, 0, NULL))
		deaths_wrong("a read failed", 0);
	if (is_state(bytes, deaths->done, &lba))
		return;
	for (; more; more = (more - 1) & deaths->under_way)
		if (is_state(bytes, deaths->done | more, &other))
			return;
	deaths_wrong("other data than was acknowledged", lba);
}

/* ---- one writer after another ---- */

struct life {
	uint32_t lands_at; /* operations done by then, when the dead one's data lands */
	bool swaps;	   /* of two in flight the younger is first */
};

static uint32_t next_operation(const struct life *life)
{
	uint32_t i = (uint32_t)__builtin_ctz(~deaths->done);

	return life->swaps && i % 2 == 0 && !(deaths->done >> (i + 1) & 1) ? i + 1 : i;
}

static void live(void *context)
{
	const struct life *life = context;
	struct obd_image *image = open_image();
	struct obd_errinfo info = {0};

	check(image);
	if (obd_image_start_writing(image, &deaths->reserved, &info))
		deaths_wrong(info.what, info.offset_bytes);
	check(image);
	/* What was not acknowledged comes again: a worker executes what is in flight. */
	while (deaths->done != ALL) {
		uint32_t i = next_operation(life);

		if (__builtin_popcount(deaths->done) >= (int)life->lands_at)
			deaths_land(data_path);
		deaths->under_way |= 1u << i;
		deaths_operate(image, &operations[i], (uint8_t)(i + 1));
		__atomic_store_n(&deaths->done, deaths->done | 1u << i, __ATOMIC_RELEASE);
		deaths->under_way &= ~(1u << i);
		check(image);
	}
	obd_image_stop_writing(image);
	if (life->lands_at != LANDS_NEVER)
		deaths_land(data_path);
	check(image);
	obd_image_destroy(image);
}

static void look(void *context)
{
	struct obd_image *image;

	(void)context;
	deaths_land(data_path);
	image = open_image();
	if (deaths->done != ALL)
		deaths_wrong("an operation is missing", 0);
	check(image);
	obd_image_destroy(image);
}

struct lives {
	uint32_t first; /* call at which the first dies */
	enum death_kind first_kind;
	uint32_t second; /* and its successor, 0: it does not */
	enum death_kind second_kind;
	uint32_t lands_at;
	bool swaps;
};

/* True when `first` (or `second`) is beyond the last call. */
static bool run_lives(const struct lives *lives)
{
	struct life first = {.lands_at = LANDS_NEVER, .swaps = lives->swaps};
	struct life later = {.lands_at = lives->lands_at};
	bool is_beyond;

	image_upper_make(data_path, index_path, SECTORS * 512);
	unlink(pending_path);
	memset(deaths, 0, sizeof(*deaths));
	is_beyond = deaths_run(live, &first, lives->first, lives->first_kind);
	if (!is_beyond && lives->second)
		is_beyond = deaths_run(live, &later, lives->second, lives->second_kind);
	if (!deaths->what[0])
		deaths_run(live, &later, 0, DEATH_BEFORE);
	if (!deaths->what[0])
		deaths_run(look, NULL, 0, DEATH_BEFORE);
	return is_beyond;
}

struct tally {
	uint32_t runs;
	uint32_t late;
	uint32_t most_calls;
};

static bool is_good(const struct lives *lives)
{
	if (!deaths->what[0])
		return true;
	fprintf(stderr,
		"    %s: died at call %u (kind %u), then at %u (kind %u), late data after %u\n",
		deaths->what, lives->first, lives->first_kind, lives->second, lives->second_kind,
		lives->lands_at);
	return false;
}

/* Late data lands after each number of operations. */
static bool one_death_at(struct lives lives, bool *is_beyond, struct tally *tally)
{
	for (lives.lands_at = 0; lives.lands_at <= OPERATIONS; lives.lands_at++) {
		*is_beyond = run_lives(&lives);
		tally->runs++;
		tally->most_calls = lives.first;
		if (!is_good(&lives))
			return false;
		/* without late data it makes no difference when it lands */
		if (!deaths->had_late)
			break;
		tally->late++;
	}
	return true;
}

/* One death at every call, in every manner. */
static bool one_death(bool swaps, struct tally *tally)
{
	struct lives lives = {.first = 1, .swaps = swaps};
	bool is_beyond = false;

	for (; !is_beyond; lives.first++)
		for (lives.first_kind = 0; lives.first_kind < DEATH_KINDS; lives.first_kind++)
			if (!one_death_at(lives, &is_beyond, tally))
				return false;
	return true;
}

static bool two_deaths(bool is_full, struct tally *tally)
{
	static const enum death_kind kinds[] = {DEATH_HALF, DEATH_LATE, DEATH_BEFORE,
						DEATH_LATE_REST};
	struct lives lives = {.first = 1};
	bool is_beyond = false;

	for (; !is_beyond; lives.first++) {
		bool is_second_beyond = false;

		lives.first_kind = kinds[lives.first % 2];
		lives.swaps = lives.first / 2 % 2;
		for (lives.second = 1; !is_second_beyond; lives.second++) {
			for (uint32_t i = 0; i < (is_full ? 4 : 1); i++) {
				lives.second_kind = kinds[(i + lives.second) % 4];
				lives.lands_at = (lives.first + lives.second) % OPERATIONS;
				is_second_beyond = run_lives(&lives);
				tally->runs++;
				if (!is_good(&lives))
					return false;
			}
		}
		is_beyond = lives.second == 2 && is_second_beyond;
		tally->most_calls = lives.first;
	}
	return true;
}

/* ---- main ---- */

static void refute_no_high_water_mark(void)
{
	struct tally tally = {0};
	bool is_found;

	fprintf(stderr, "no high-water mark:\n");
	obd_cheats.no_high_water_mark = true;
	is_found = !one_death(true, &tally);
	obd_cheats.no_high_water_mark = false;
	REQUIRE(is_found);
}

int main(int argc, char **argv)
{
	struct tally one = {0}, two = {0};
	bool is_full = argc > 1 && !strcmp(argv[1], "full");

	image_dir_make(dir);
	snprintf(data_path, sizeof(data_path), "%s/data", dir);
	snprintf(index_path, sizeof(index_path), "%s/index", dir);
	snprintf(pending_path, sizeof(pending_path), "%s.pending", index_path);
	deaths_init();
	REQUIRE(one_death(false, &one));
	REQUIRE(one_death(true, &one));
	printf("one death: %u runs, %u of them with late data, up to call %u\n", one.runs, one.late,
	       one.most_calls);
	REQUIRE(two_deaths(is_full, &two));
	printf("two deaths: %u runs\n", two.runs);
	refute_no_high_water_mark();
	image_dir_remove(dir);
	return 0;
}
