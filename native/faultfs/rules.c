#include "rules.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

static struct {
	pthread_mutex_t lock;
	pthread_cond_t changed; /* the rules were cleared */
	uint64_t epoch;		/* counts clears: a reader that waits belongs to one of them */
	struct faultfs_rule rule[FAULTFS_RULES_MAX];
	uint32_t rule_cnt;
	struct faultfs_counts counts;
} rules = {.lock = PTHREAD_MUTEX_INITIALIZER};

__attribute__((constructor)) static void use_monotonic_clock(void)
{
	pthread_condattr_t attributes;

	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&rules.changed, &attributes);
	pthread_condattr_destroy(&attributes);
}

int faultfs_rules_add(const struct faultfs_rule *rule)
{
	int err = 0;

	pthread_mutex_lock(&rules.lock);
	if (rules.rule_cnt == FAULTFS_RULES_MAX)
		err = -ENOSPC;
	else
		rules.rule[rules.rule_cnt++] = *rule;
	pthread_mutex_unlock(&rules.lock);
	return err;
}

void faultfs_rules_clear(void)
{
	pthread_mutex_lock(&rules.lock);
	rules.rule_cnt = 0;
	rules.epoch++;
	pthread_cond_broadcast(&rules.changed);
	pthread_mutex_unlock(&rules.lock);
}

static struct timespec after_ms(uint32_t delay_ms)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	at.tv_sec += delay_ms / 1000;
	at.tv_nsec += (long)(delay_ms % 1000) * 1000000;
	if (at.tv_nsec >= 1000000000) {
		at.tv_sec++;
		at.tv_nsec -= 1000000000;
	}
	return at;
}

/* Both with the lock held; they give it up while they wait. */
static void wait_delay(uint32_t delay_ms)
{
	struct timespec until = after_ms(delay_ms);
	uint64_t epoch = rules.epoch;

	rules.counts.delayed++;
	while (rules.epoch == epoch &&
	       pthread_cond_timedwait(&rules.changed, &rules.lock, &until) == 0)
		;
}

static void wait_clear(void)
{
	uint64_t epoch = rules.epoch;

	rules.counts.held++;
	rules.counts.holding++;
	while (rules.epoch == epoch)
		pthread_cond_wait(&rules.changed, &rules.lock);
	rules.counts.holding--;
}

static bool matches(const struct faultfs_rule *rule, const char *name, off_t offset, size_t size)
{
	bool is_named = !strcmp(rule->name, "*") || !strcmp(rule->name, name);

	return is_named && offset < rule->end && offset + (off_t)size > rule->begin;
}

static void use_up(uint32_t index)
{
	struct faultfs_rule *rule = &rules.rule[index];

	if (rule->times_cnt == 0 || --rule->times_cnt > 0)
		return;
	rules.rule_cnt--;
	memmove(rule, rule + 1, (rules.rule_cnt - index) * sizeof(*rule));
}

int faultfs_rules_apply(const char *name, off_t offset, size_t size)
{
	uint32_t delay_ms = 0;
	bool is_held = false;
	int error = 0;

	pthread_mutex_lock(&rules.lock);
	rules.counts.reads++;
	for (uint32_t i = rules.rule_cnt; i-- > 0;) { /* backwards: use_up removes */
		const struct faultfs_rule *rule = &rules.rule[i];

		if (!matches(rule, name, offset, size))
			continue;
		if (rule->kind == FAULTFS_DELAY)
			delay_ms = rule->delay_ms > delay_ms ? rule->delay_ms : delay_ms;
		else if (rule->kind == FAULTFS_HOLD)
			is_held = true;
		else
			error = rule->error;
		use_up(i);
	}
	if (delay_ms)
		wait_delay(delay_ms);
	if (is_held)
		wait_clear();
	if (error)
		rules.counts.failed++;
	pthread_mutex_unlock(&rules.lock);
	return -error;
}

void faultfs_rules_counts(struct faultfs_counts *ret)
{
	pthread_mutex_lock(&rules.lock);
	*ret = rules.counts;
	pthread_mutex_unlock(&rules.lock);
}
