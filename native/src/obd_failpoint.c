#include "obd_failpoint.h"

#ifdef OBD_TEST_HOOKS

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "obd_barrier.h"
#include "obd_crash.h"

#define ENTRIES	    20u
#define HITS	    32u
#define POINT_BYTES 32u
#define PAGE_BYTES  4096u
#define VERSION	    1u

struct entry {
	uint32_t armed;
	uint32_t action;
	uint64_t argument;
	int64_t passes_left;
	int64_t count;
	uint32_t repeat_left;
	uint32_t hits;
	uint64_t serial;
	char point[POINT_BYTES];
	uint64_t lba_plus_1;
	uint8_t zero[8];
};
_Static_assert(sizeof(struct entry) == 96, "entry");

struct hit {
	uint64_t pid;
	uint64_t generation;
	uint64_t when_ns;
	uint32_t action;
	uint32_t number;
	char point[POINT_BYTES];
};
_Static_assert(sizeof(struct hit) == 64, "hit");

struct page {
	char magic[8];
	uint32_t layout_version;
	uint32_t zero0;
	uint32_t hit_cnt;
	uint8_t zero1[44];
	struct entry entries[ENTRIES];
	uint8_t zero2[64];
	struct hit hits[HITS];
};
_Static_assert(offsetof(struct page, entries) == 64, "entries");
_Static_assert(offsetof(struct page, hits) == 2048, "hits");
_Static_assert(sizeof(struct page) == PAGE_BYTES, "page");

static struct page *page;
static uint64_t hit_serial[ENTRIES]; /* armings that hit this process already */

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void note(const struct entry *entry)
{
	uint32_t number = __atomic_fetch_add(&page->hit_cnt, 1, __ATOMIC_SEQ_CST);
	struct hit *hit = &page->hits[number % HITS];

	obd_store_release(&hit->number, 0);
	hit->pid = (uint64_t)getpid();
	hit->generation = obd_load_relaxed(&obd_crash_generation);
	hit->when_ns = now_ns();
	hit->action = entry->action;
	memcpy(hit->point, entry->point, sizeof(hit->point));
	obd_store_release(&hit->number, number + 1); /* pairs with the test that reads it */
}

static void sleep_ms(uint64_t ms)
{
	struct timespec left = {(time_t)(ms / 1000), (long)(ms % 1000) * 1000000};

	while (nanosleep(&left, &left) && errno == EINTR)
		;
}

static void act(uint32_t action, uint64_t argument)
{
	switch (action) {
	case OBD_FAILPOINT_SEGV:
		/* The engine blocks all signals; a fault of its own kills it all the same. */
		*(volatile int *)argument = 0;
		break;
	case OBD_FAILPOINT_KILL:
		kill(getpid(), SIGKILL);
		break;
	case OBD_FAILPOINT_STOP:
		kill(getpid(), SIGSTOP);
		break;
	case OBD_FAILPOINT_ABORT:
		abort();
	case OBD_FAILPOINT_SLEEP:
		sleep_ms(argument);
		break;
	case OBD_FAILPOINT_SPIN:
		for (volatile uint64_t turns = 0;; turns++)
			;
	case OBD_FAILPOINT_ARM:
		obd_store_release(&page->entries[argument % ENTRIES].armed, 1);
		break;
	}
}

/* The pass of one armed entry; true if it is the one that hits. */
static bool is_hit(struct entry *entry, uint64_t *serial)
{
	if (*serial == entry->serial ||
	    __atomic_fetch_sub(&entry->passes_left, 1, __ATOMIC_SEQ_CST) != 1)
		return false;
	*serial = entry->serial;
	if (__atomic_sub_fetch(&entry->repeat_left, 1, __ATOMIC_SEQ_CST))
		__atomic_store_n(&entry->passes_left, entry->count, __ATOMIC_SEQ_CST);
	else
		obd_store_release(&entry->armed, 0);
	__atomic_fetch_add(&entry->hits, 1, __ATOMIC_SEQ_CST);
	return true;
}

static bool is_wanted(const struct entry *entry, const char *point)
{
	if (strncmp(entry->point, point, sizeof(entry->point)))
		return false;
	return !entry->lba_plus_1 || entry->lba_plus_1 - 1 - obd_crash_lba < obd_crash_sectors;
}

static void pass(const char *point)
{
	for (uint32_t i = 0; i < ENTRIES; i++) {
		struct entry *entry = &page->entries[i];

		/* pairs with the test's store: the other fields are there */
		if (!obd_load_acquire(&entry->armed) || !is_wanted(entry, point))
			continue;
		if (!is_hit(entry, &hit_serial[i]))
			continue;
		note(entry);
		act(entry->action, entry->argument);
	}
}

int obd_failpoint_open(const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);
	struct stat st;
	void *map;

	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) || st.st_size != PAGE_BYTES) {
		close(fd);
		return -EINVAL;
	}
	map = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (map == MAP_FAILED)
		return -errno;
	page = map;
	if (memcmp(page->magic, "OBDFAILP", sizeof(page->magic)) || page->layout_version != VERSION)
		return -EINVAL;
	obd_crash_hook = pass;
	return 0;
}

#else
typedef int obd_failpoint_is_empty; /* ISO C forbids an empty translation unit */
#endif
