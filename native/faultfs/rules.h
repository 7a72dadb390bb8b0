/*
 * What is done to reads: a small list of rules, looked up at every read, changed by the control
 * socket while reads are under way.
 */
#ifndef FAULTFS_RULES_H
#define FAULTFS_RULES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define FAULTFS_NAME_MAX  255u
#define FAULTFS_RULES_MAX 64u

enum faultfs_kind {
	FAULTFS_DELAY, /* answered after delay_ms */
	FAULTFS_FAIL,  /* answered with error */
	FAULTFS_HOLD,  /* answered when the rules are cleared */
};

struct faultfs_rule {
	char name[FAULTFS_NAME_MAX + 1]; /* of a file, without folders; "*" is every file */
	enum faultfs_kind kind;
	off_t begin; /* reads that touch [begin, end) */
	off_t end;
	uint32_t delay_ms;
	int error;	    /* positive errno */
	uint32_t times_cnt; /* how often it still applies; 0: always */
};

struct faultfs_counts { /* since the start, and held right now */
	uint64_t reads;
	uint64_t delayed;
	uint64_t failed;
	uint64_t held;
	uint64_t holding;
};

/* Adds a rule. Returns 0, or -ENOSPC when there are FAULTFS_RULES_MAX. Any thread. */
int faultfs_rules_add(const struct faultfs_rule *rule);

/* Removes all rules; reads that are delayed or held go on at once. Any thread. */
void faultfs_rules_clear(void);

/*
 * What must happen before the read of a file is answered: waits as the rules say.
 * Returns 0, or the negative errno to answer with. Any thread; name is without folders.
 */
int faultfs_rules_apply(const char *name, off_t offset, size_t size);

void faultfs_rules_counts(struct faultfs_counts *ret);

#endif
