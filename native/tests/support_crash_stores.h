/*
 * A hook at every store of the code under test to memory that outlives it.
 *
 * The compiler puts the hooks there, so that none can be forgotten: ring and journal code of
 * test_crash* is built with -fsanitize=thread, which calls a function before each access, and
 * these functions are ours instead of TSan's (native/Makefile, STORES). Builds with a real
 * sanitizer have no such hooks; there the named points of obd_crash.h take their place.
 */
#ifndef SUPPORT_CRASH_STORES_H
#define SUPPORT_CRASH_STORES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum crash_area { CRASH_RING, CRASH_JOURNAL, CRASH_AREAS };

enum crash_order {
	CRASH_PLAIN,   /* may become visible before anything older and after anything younger */
	CRASH_RELEASE, /* not before anything older */
	CRASH_FENCE,   /* no store at all: nothing younger before anything older */
};

struct crash_store {
	enum crash_order order;
	enum crash_area area;
	uint32_t offset;
	uint32_t bytes;
	uint8_t value[8];
	const char *label; /* of the last named point before it */
};

/* Stores into [at, at + bytes) are hooked from here on; `at` NULL: no more. */
void crash_watch(enum crash_area area, void *at, size_t bytes);

/* False: this build knows named points only. */
bool crash_sees_stores(void);

/* Called before every watched store (or at every named point, see above); may not return. */
extern void (*crash_hook)(void);
/* The last named point that was passed. */
const char *crash_label(void);

/* The stores since crash_log_begin, in program order; `cnt` up to CRASH_LOG_MAX, more is fatal. */
#define CRASH_LOG_MAX 96u
void crash_log_begin(void);
/* Goes on behind these. */
void crash_log_resume(const struct crash_store *stores, uint32_t cnt);
const struct crash_store *crash_log_end(uint32_t *cnt);

/* A release store (or fence) behind the named point of this name is logged as plain (or not). */
extern const char *crash_relaxed_label;
/* How often that happened. */
extern uint32_t crash_relaxed_cnt;

/* The i-th named point that has a release store or a fence behind it; NULL: there are no more. */
const char *crash_ordered_label(uint32_t i);

/* Ordered stores between two consecutive named points: at most one, or the points are too few. */
const char *crash_label_with_two_releases(void);
/* How many places in the code store into watched memory, and named points passed so far. */
uint32_t crash_site_cnt(void);
uint32_t crash_label_cnt(void);

#endif
