/* The states a search has met, and how many paths go on from each. */
#ifndef SUPPORT_CRASH_MET_H
#define SUPPORT_CRASH_MET_H

#include "support_crash_state.h"

struct crash_met {
	struct crash_key key;
	double orders;
	bool is_used;
};

struct crash_met_table {
	struct crash_met *entries;
	uint64_t size; /* a power of two */
	uint64_t used;
};

/* Its entry, or the free one (not is_used) where it belongs; valid until the next add. */
struct crash_met *crash_met_find(const struct crash_met_table *table, struct crash_key key);
/* Takes the free entry that was found for this key. */
void crash_met_add(struct crash_met_table *table, struct crash_met *entry, struct crash_key key);
/* Empty, and ready for use. */
void crash_met_clear(struct crash_met_table *table);

#endif
