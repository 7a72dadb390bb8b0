#include "support_crash_stores.h"

#include <stdatomic.h>
#include <string.h>

#include "obd_crash.h"
#include "support_image_files.h"

#define SITES_MAX  512u
#define LABELS_MAX 128u

void (*crash_hook)(void);
const char *crash_relaxed_label;
uint32_t crash_relaxed_cnt;

static struct {
	uint8_t *at;
	size_t bytes;
} areas[CRASH_AREAS];

static const char *label = "start";
struct label_set {
	const char *names[LABELS_MAX];
	uint32_t cnt;
};

static struct label_set passed;	 /* all */
static struct label_set ordered; /* with a release store or fence behind */
static uint32_t releases;	 /* since the last named point */
static const char *crowded_label;

static struct crash_store entries[CRASH_LOG_MAX];
static uint32_t entry_cnt;
static bool is_logging;
static bool is_value_due; /* of the last entry: its store comes after its hook */

void crash_watch(enum crash_area area, void *at, size_t bytes)
{
	areas[area].at = at;
	areas[area].bytes = at ? bytes : 0;
	label = "start";
	releases = 0;
}

const char *crash_label(void)
{
	return label;
}

const char *crash_label_with_two_releases(void)
{
	return crowded_label;
}

uint32_t crash_label_cnt(void)
{
	return passed.cnt;
}

const char *crash_ordered_label(uint32_t i)
{
	return i < ordered.cnt ? ordered.names[i] : NULL;
}

static void note_label(struct label_set *set, const char *name)
{
	for (uint32_t i = 0; i < set->cnt; i++)
		if (set->names[i] == name || !strcmp(set->names[i], name))
			return;
	REQUIRE(set->cnt < LABELS_MAX);
	set->names[set->cnt++] = name;
}

static void at_point(const char *point)
{
	label = point;
	releases = 0;
	note_label(&passed, point);
	if (!crash_sees_stores() && crash_hook)
		crash_hook();
}

__attribute__((constructor)) static void hear_points(void)
{
	obd_crash_hook = at_point;
}

static void take_value(void)
{
	struct crash_store *last = &entries[is_value_due ? entry_cnt - 1 : 0];

	if (is_value_due)
		memcpy(last->value, areas[last->area].at + last->offset, last->bytes);
	is_value_due = false;
}

void crash_log_begin(void)
{
	crash_log_resume(NULL, 0);
}

void crash_log_resume(const struct crash_store *stores, uint32_t cnt)
{
	if (cnt)
		memcpy(entries, stores, cnt * sizeof(*stores));
	entry_cnt = cnt;
	is_value_due = false;
	is_logging = true;
}

const struct crash_store *crash_log_end(uint32_t *cnt)
{
	take_value();
	is_logging = false;
	*cnt = entry_cnt;
	return entries;
}

#ifdef OBD_CRASH_STORES

static const void *sites[SITES_MAX];
static uint32_t site_cnt;

bool crash_sees_stores(void)
{
	return true;
}

uint32_t crash_site_cnt(void)
{
	return site_cnt;
}

static void note_site(const void *site)
{
	for (uint32_t i = 0; i < site_cnt; i++)
		if (sites[i] == site)
			return;
	REQUIRE(site_cnt < SITES_MAX);
	sites[site_cnt++] = site;
}

static void log_store(enum crash_order order, enum crash_area area, size_t offset, uint32_t bytes)
{
	take_value();
	REQUIRE(entry_cnt < CRASH_LOG_MAX);
	if (order != CRASH_PLAIN)
		note_label(&ordered, label);
	entries[entry_cnt++] = (struct crash_store){.order = order,
						    .area = area,
						    .offset = (uint32_t)offset,
						    .bytes = bytes,
						    .label = label};
	is_value_due = order != CRASH_FENCE;
}

static bool is_relaxed(void)
{
	bool is = crash_relaxed_label && !strcmp(crash_relaxed_label, label);

	crash_relaxed_cnt += is;
	return is;
}

static void before_store(const void *site, void *to, uint32_t bytes, int order)
{
	uint8_t *at = to;

	for (int area = 0; area < CRASH_AREAS; area++) {
		bool is_release = order >= memory_order_release;

		if (at < areas[area].at || at >= areas[area].at + areas[area].bytes)
			continue;
		REQUIRE(bytes <= 8); /* one hook can not see inside a larger assignment */
		note_site(site);
		if (is_release && ++releases > 1)
			crowded_label = label;
		if (crash_hook)
			crash_hook();
		if (is_logging)
			log_store(is_release && !is_relaxed() ? CRASH_RELEASE : CRASH_PLAIN, area,
				  (size_t)(at - areas[area].at), bytes);
		return;
	}
}

/* Ranges go by words: what a compiler makes of a copy may stop anywhere. */
static void before_range(const void *site, void *to, size_t bytes)
{
	for (size_t done = 0; done < bytes; done += 8)
		before_store(site, (uint8_t *)to + done,
			     bytes - done < 8 ? (uint32_t)(bytes - done) : 8, memory_order_relaxed);
}

/* What the compiler calls. Reads do not interest us: nobody else stores meanwhile. */
#define SITE __builtin_return_address(0)
#define PLAIN(name, bytes)                                                                         \
	void name(void *to);                                                                       \
	void name(void *to)                                                                        \
	{                                                                                          \
		before_store(SITE, to, bytes, memory_order_relaxed);                               \
	}
PLAIN(__tsan_write1, 1)
PLAIN(__tsan_write2, 2)
PLAIN(__tsan_write4, 4)
PLAIN(__tsan_write8, 8)
PLAIN(__tsan_write16, 16)
PLAIN(__tsan_unaligned_write2, 2)
PLAIN(__tsan_unaligned_write4, 4)
PLAIN(__tsan_unaligned_write8, 8)

#define IGNORED(name)                                                                              \
	void name(void *from);                                                                     \
	void name(void *from)                                                                      \
	{                                                                                          \
		(void)from;                                                                        \
	}
IGNORED(__tsan_read1)
IGNORED(__tsan_read2)
IGNORED(__tsan_read4)
IGNORED(__tsan_read8)
IGNORED(__tsan_unaligned_read2)
IGNORED(__tsan_unaligned_read4)
IGNORED(__tsan_unaligned_read8)
IGNORED(__tsan_func_entry)

void __tsan_init(void);
void __tsan_init(void)
{
}

void __tsan_func_exit(void);
void __tsan_func_exit(void)
{
}

void __tsan_read_range(void *from, size_t bytes);
void __tsan_read_range(void *from, size_t bytes)
{
	(void)from;
	(void)bytes;
}

void __tsan_write_range(void *to, size_t bytes);
void __tsan_write_range(void *to, size_t bytes)
{
	before_store(SITE, to, (uint32_t)bytes, memory_order_relaxed);
}

#define ATOMICS(type, bits)                                                                        \
	type __tsan_atomic##bits##_load(const type *from, int order);                              \
	type __tsan_atomic##bits##_load(const type *from, int order)                               \
	{                                                                                          \
		(void)order;                                                                       \
		return __atomic_load_n(from, __ATOMIC_SEQ_CST);                                    \
	}                                                                                          \
	void __tsan_atomic##bits##_store(type *to, type value, int order);                         \
	void __tsan_atomic##bits##_store(type *to, type value, int order)                          \
	{                                                                                          \
		before_store(SITE, to, sizeof(type), order);                                       \
		__atomic_store_n(to, value, __ATOMIC_SEQ_CST);                                     \
	}                                                                                          \
	type __tsan_atomic##bits##_fetch_add(type *to, type value, int order);                     \
	type __tsan_atomic##bits##_fetch_add(type *to, type value, int order)                      \
	{                                                                                          \
		before_store(SITE, to, sizeof(type), order);                                       \
		return __atomic_fetch_add(to, value, __ATOMIC_SEQ_CST);                            \
	}
ATOMICS(uint8_t, 8)
ATOMICS(uint32_t, 32)
ATOMICS(uint64_t, 64)

int __tsan_atomic32_compare_exchange_strong(uint32_t *to, uint32_t *expected, uint32_t value,
					    int order, int order_else);
int __tsan_atomic32_compare_exchange_strong(uint32_t *to, uint32_t *expected, uint32_t value,
					    int order, int order_else)
{
	(void)order_else;
	before_store(SITE, to, sizeof(*to), order);
	return __atomic_compare_exchange_n(to, expected, value, false, __ATOMIC_SEQ_CST,
					   __ATOMIC_SEQ_CST);
}

void __tsan_atomic_thread_fence(int order);
void __tsan_atomic_thread_fence(int order)
{
	(void)order;
	if (is_logging && !is_relaxed())
		log_store(CRASH_FENCE, CRASH_RING, 0, 0);
}

/* The same files call these instead of memcpy and memset: by words, as a machine does. */
void *crash_memcpy(void *to, const void *from, size_t bytes);
void *crash_memcpy(void *to, const void *from, size_t bytes)
{
	for (size_t done = 0; done < bytes; done += 8) {
		size_t part = bytes - done < 8 ? bytes - done : 8;

		before_range(SITE, (uint8_t *)to + done, part);
		memcpy((uint8_t *)to + done, (const uint8_t *)from + done, part);
	}
	return to;
}

void *crash_memset(void *to, int byte, size_t bytes);
void *crash_memset(void *to, int byte, size_t bytes)
{
	for (size_t done = 0; done < bytes; done += 8) {
		size_t part = bytes - done < 8 ? bytes - done : 8;

		before_range(SITE, (uint8_t *)to + done, part);
		memset((uint8_t *)to + done, byte, part);
	}
	return to;
}

#else

bool crash_sees_stores(void)
{
	return false;
}

uint32_t crash_site_cnt(void)
{
	return 0;
}

#endif
