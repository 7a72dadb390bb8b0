/*
 * A command that workers die of: it alone is answered with MEDIUM ERROR after as many deaths as
 * were asked for, and what was executing beside it is not. Each worker is a process of its own.
 */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "obd_barrier.h"
#include "obd_journal.h"
#include "support_image_files.h"
#include "support_site.h"

#define POISON	  100u /* LBA */
#define NEW	  50u  /* LBA of a command that arrives later */
#define INNOCENT  4u
#define ALL	  (INNOCENT + 1)
#define IS_SLOWED 20 /* ms: longer than it takes to start the others */

/* What a worker does to its disk's commands; shared with the worker. */
struct ward {
	uint32_t executing;
	uint32_t peak;
	uint32_t dies_with; /* so many executing: the worker dies of POISON */
	bool is_harmless;
	struct obd_attach_result result;
};

static struct ward *ward;

#ifdef __SANITIZE_THREAD__
/* A worker is forked from a process that has no thread but TSan's own. */
const char *__tsan_default_options(void);
const char *__tsan_default_options(void)
{
	return "die_after_fork=0";
}
#endif

static int in_ward(void *context, char operation, uint64_t lba, uint64_t sectors)
{
	uint32_t now = __atomic_add_fetch(&ward->executing, 1, __ATOMIC_SEQ_CST);

	(void)context;
	(void)operation;
	(void)sectors;
	if (now > obd_load_acquire(&ward->peak))
		obd_store_release(&ward->peak, now);
	if (lba == POISON && !ward->is_harmless) {
		while (obd_load_acquire(&ward->executing) < ward->dies_with)
			poll(NULL, 0, 1);
		poll(NULL, 0, IS_SLOWED); /* whoever else may start has started */
		abort();
	}
	while (ward->dies_with > 1) /* all die together */
		poll(NULL, 0, 1);
	poll(NULL, 0, IS_SLOWED);
	__atomic_sub_fetch(&ward->executing, 1, __ATOMIC_SEQ_CST);
	return 0;
}

/* A worker that serves until it dies; with `dies_with` commands executing. */
static void live_and_die(struct site *site, const struct obd_attach_spec *spec, uint32_t dies_with)
{
	int status;
	pid_t pid;

	*ward = (struct ward){.dies_with = dies_with};
	pid = fork();
	REQUIRE(pid >= 0);
	if (!pid) {
		pthread_t thread;
		struct obd_engine *engine = engine_start(8, &thread);

		attach_as(engine, spec, &ward->result);
		fake_kernel_notify(&site->kernel);
		pthread_join(thread, NULL);
		_exit(1);
	}
	REQUIRE(waitpid(pid, &status, 0) == pid);
	REQUIRE(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
	fake_kernel_complete(&site->kernel);
	REQUIRE(!site->kernel.is_broken);
}

static struct obd_attach_spec blamed(struct site *site, uint32_t poison_after)
{
	struct obd_attach_spec spec = spec_of(site, OBD_ATTACH_RECOVER);

	spec.is_blamed = true;
	spec.poison_after = poison_after;
	return spec;
}

static struct obd_journal_counters counters_of(const struct site *site)
{
	struct obd_journal_counters counters;

	REQUIRE(pread(site->journal_fd, &counters, sizeof(counters), 256) == sizeof(counters));
	return counters;
}

/* Reads and writes, POISON the third of them. */
static void queue_all(struct site *site)
{
	REQUIRE(queue_read(site, 1) && queue_write(site, 2, 7) && queue_read(site, POISON));
	REQUIRE(queue_write(site, 3, 8) && queue_read(site, 4));
}

static void site_start(struct site *site)
{
	struct fake_image_options options = {
		.bytes = DISK_SECTORS * 512ull, .needs_waiting = true, .before = in_ward};
	struct obd_attach_spec spec;

	site_init(site, &options);
	queue_all(site);
	spec = spec_of(site, OBD_ATTACH_FRESH);
	live_and_die(site, &spec, ALL);
	REQUIRE(ward->peak == ALL && site->done == 0);
}

/* Serves what is left in this process; returns what the take-over found. */
static struct obd_attach_result serve_rest(struct site *site, const struct obd_attach_spec *spec)
{
	struct obd_attach_result result;
	struct obd_errinfo info;
	pthread_t thread;
	struct obd_engine *engine = engine_start(8, &thread);
	uint32_t id = attach_as(engine, spec, &result);

	settle(site);
	REQUIRE(!obd_engine_detach(engine, id, WAIT_MS, &info));
	engine_stop(engine, thread);
	return result;
}

static void check_sense(const struct site *site)
{
	static const uint8_t sense[18] = {0xf0, 0, 3, 0, 0, 0, POISON, 10, 0, 0, 0, 0, 0x11};

	REQUIRE(!memcmp(site->last_sense, sense, sizeof(sense)));
}

static void test_only_the_culprit_is_poisoned(uint32_t poison_after)
{
	struct obd_attach_result result;
	struct obd_attach_spec spec;
	struct site site;

	site_start(&site);
	spec = blamed(&site, poison_after);
	live_and_die(&site, &spec, 1); /* those before it are served, alone each */
	REQUIRE(ward->result.recovered == ALL && ward->result.poisoned_cnt == 0);
	REQUIRE(ward->peak == 1 && site.done == 2 && site.failed == 0);
	for (uint32_t deaths = 2; deaths < poison_after; deaths++) {
		spec = blamed(&site, poison_after);
		live_and_die(&site, &spec, 1);
		REQUIRE(ward->peak == 1 && site.done == 2 && ward->result.recovered == ALL - 2);
	}
	*ward = (struct ward){0};
	REQUIRE(queue_write(&site, NEW, 9));
	spec = blamed(&site, poison_after);
	result = serve_rest(&site, &spec);
	REQUIRE(result.recovered == ALL - 2 && result.poisoned_cnt == 1);
	REQUIRE(result.poisoned[0].lba == POISON && result.poisoned[0].sectors == 1);
	REQUIRE(result.poisoned[0].deaths == poison_after);
	REQUIRE(result.poisoned[0].cdb_bytes == 10 && result.poisoned[0].cdb[0] == READ);
	REQUIRE(ward->peak == 1); /* also with what came later */
	REQUIRE(site.done == ALL + 1 && site.failed == 1 && site.wrong == 0);
	check_sense(&site);
	REQUIRE(counters_of(&site).poisoned == 1 && counters_of(&site).medium_errors == 1);
	REQUIRE(site.stamp_of[2] == 7 && site.stamp_of[3] == 8 && site.stamp_of[NEW] == 9);
	site_deinit(&site);
}

/* Killed from outside as often as one likes, nobody is a suspect. */
static void test_nothing_is_poisoned_without_blame(void)
{
	struct obd_attach_spec spec;
	struct site site;

	site_start(&site);
	for (uint32_t deaths = 0; deaths < 5; deaths++) {
		spec = spec_of(&site, OBD_ATTACH_RECOVER);
		spec.poison_after = 1;
		live_and_die(&site, &spec, 3); /* the reads together, the writes wait */
		REQUIRE(ward->result.recovered == ALL && ward->peak >= 3);
	}
	*ward = (struct ward){.is_harmless = true};
	spec = spec_of(&site, OBD_ATTACH_RECOVER);
	spec.poison_after = 1;
	REQUIRE(serve_rest(&site, &spec).poisoned_cnt == 0);
	REQUIRE(site.done == ALL && site.failed == 0 && counters_of(&site).poisoned == 0);
	site_deinit(&site);
}

static void test_never_when_it_is_switched_off(void)
{
	struct obd_attach_spec spec;
	struct site site;

	site_start(&site);
	for (uint32_t deaths = 0; deaths < 6; deaths++) {
		spec = blamed(&site, 0);
		live_and_die(&site, &spec, 1);
		REQUIRE(ward->peak == 1);
	}
	*ward = (struct ward){.is_harmless = true};
	spec = blamed(&site, 0);
	REQUIRE(serve_rest(&site, &spec).poisoned_cnt == 0);
	REQUIRE(site.done == ALL && site.failed == 0);
	site_deinit(&site);
}

/* More than fit into the answer: all are counted, and answered. */
static void test_many_at_once(void)
{
	struct obd_attach_result result;
	struct obd_attach_spec spec;
	struct site site;
	struct fake_image_options options = {.bytes = DISK_SECTORS * 512ull, .before = in_ward};

	site_init(&site, &options);
	for (uint32_t lba = 0; lba < 6; lba++)
		REQUIRE(queue_write(&site, lba, 1));
	REQUIRE(queue_write(&site, POISON, 1));
	for (uint32_t lba = 10; lba < 21; lba++)
		REQUIRE(queue_write(&site, lba, 1));
	spec = spec_of(&site, OBD_ATTACH_FRESH);
	live_and_die(&site, &spec, 8); /* the others wait for a thread: nobody can tell */
	*ward = (struct ward){0};
	spec = blamed(&site, 1);
	result = serve_rest(&site, &spec);
	REQUIRE(result.poisoned_cnt == 18 && site.done == 18 && site.failed == 18);
	REQUIRE(result.poisoned[OBD_POISONED_MAX - 1].lba == 18);
	site_deinit(&site);
}

int main(void)
{
	ward = mmap(NULL, sizeof(*ward), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	REQUIRE(ward != MAP_FAILED);
	test_only_the_culprit_is_poisoned(3);
	test_only_the_culprit_is_poisoned(2);
	test_nothing_is_poisoned_without_blame();
	test_never_when_it_is_switched_off();
	test_many_at_once();
	return 0;
}
