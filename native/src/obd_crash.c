#include "obd_crash.h"

#ifdef OBD_TEST_HOOKS

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "obd_failpoint.h"
#include "obd_planted.h"

#define PERIOD_MIN   24u
#define PERIOD_RANGE 48u
#define EXIT_CONFIG  10 /* ConfigError in obdsup/errors.py */

struct obd_cheats obd_cheats;
void (*obd_crash_hook)(const char *point);
uint64_t obd_crash_generation;
_Thread_local uint64_t obd_crash_lba, obd_crash_sectors;

static uint64_t period = PERIOD_MIN, phase, passes;

bool obd_cheat_is_due(void)
{
	return __atomic_fetch_add(&passes, 1, __ATOMIC_RELAXED) % period == phase;
}

static void seed(uint64_t value)
{
	value = (value + 1) * UINT64_C(0x9e3779b97f4a7c15);
	value ^= value >> 29;
	value *= UINT64_C(0xbf58476d1ce4e5b9);
	value ^= value >> 32;
	period = PERIOD_MIN + value % PERIOD_RANGE;
	phase = (value >> 32) % period;
}

static bool plant(const char *name, size_t length)
{
#define X(known)                                                                                   \
	if (strlen(#known) == length && !memcmp(name, #known, length)) {                           \
		obd_cheats.known = true;                                                           \
		return true;                                                                       \
	}
	OBD_CHEAT_LIST(X)
#undef X
	return false;
}

static void plant_all(const char *names)
{
	while (*names) {
		size_t length = strcspn(names, ",");

		if (!plant(names, length)) {
			fprintf(stderr, "OBDSUP_PLANTED: unknown fault %.*s\n", (int)length, names);
			_exit(EXIT_CONFIG);
		}
		names += length;
		names += *names == ',';
	}
}

__attribute__((constructor)) static void read_environment(void)
{
	const char *names = getenv("OBDSUP_PLANTED"), *number = getenv("OBDSUP_PLANTED_SEED");
	const char *page = getenv("OBDSUP_FAILPOINTS");

	seed(number ? strtoull(number, NULL, 10) : 0);
	if (names)
		plant_all(names);
	if (OBD_CHEAT(late_landing))
		obd_planted_start_lander();
	if (page && obd_failpoint_open(page)) {
		fprintf(stderr, "OBDSUP_FAILPOINTS: %s is no page of failpoints\n", page);
		_exit(EXIT_CONFIG);
	}
}

#else
typedef int obd_crash_is_empty; /* ISO C forbids an empty translation unit */
#endif
