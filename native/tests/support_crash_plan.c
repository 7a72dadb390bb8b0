#include "support_crash_plan.h"

#include <time.h>

#include "support_image_files.h"

static const uint32_t heads[] = {0, 3 * CRASH_ENTRY_BYTES, 5 * CRASH_ENTRY_BYTES};

double crash_cpu_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static uint32_t the_other(uint8_t after)
{
	return after == CRASH_READ ? CRASH_WRITE : CRASH_READ;
}

static uint8_t opcode_of(char letter)
{
	return letter == 'w' ? CRASH_WRITE : letter == 'r' ? CRASH_READ : CRASH_TMR;
}

bool crash_search_all(const char *commands, uint32_t work_max, struct crash_search *search)
{
	for (uint32_t i = 0; i < sizeof(heads) / sizeof(*heads); i++) {
		crash_world_reset(heads[i]);
		for (uint32_t lba = 0; commands[lba]; lba++)
			crash_add_work(opcode_of(commands[lba]), lba);
		crash_world.work_max = work_max;
		crash_world.follows_with = the_other;
		crash_state_start();
		if (!crash_search_run(search))
			return false;
	}
	return true;
}

void crash_require_all(const char *name, const char *commands, uint32_t work_max,
		       struct crash_search search)
{
	double begin_s = crash_cpu_s();

	REQUIRE(crash_search_all(commands, work_max, &search));
	printf("%s: %llu states, %llu steps, %llu deaths, %llu leftovers, %.1e orders, up to %u "
	       "steps; %.1f s\n",
	       name, (unsigned long long)search.states, (unsigned long long)search.steps,
	       (unsigned long long)search.deaths, (unsigned long long)search.leftovers,
	       search.orders, search.longest, crash_cpu_s() - begin_s);
	fflush(stdout);
}
