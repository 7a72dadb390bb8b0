/* What the crash tests begin with, and how they tell what they went through. */
#ifndef SUPPORT_CRASH_PLAN_H
#define SUPPORT_CRASH_PLAN_H

#include "support_crash_search.h"

/* Five entries, never a multiple: a PAD each lap. */
#define CRASH_RING_BYTES (5u * CRASH_ENTRY_BYTES + 64u)

/*
 * Searches from three places of the ring: the three commands end in front of its end; wrap behind
 * a PAD; start with a PAD. `commands` is one letter each: w(rite), r(ead), t(ask management);
 * when one was answered, a read or write of the same sector follows, up to `work_max` in all.
 * False: violated.
 */
bool crash_search_all(const char *commands, uint32_t work_max, struct crash_search *search);

/* The same, has to be good, and says what it was. */
void crash_require_all(const char *name, const char *commands, uint32_t work_max,
		       struct crash_search search);

double crash_cpu_s(void);

#endif
