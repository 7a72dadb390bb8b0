#include "support_crash_reorder.h"

#include <string.h>

#include "support_image_files.h"

#define RANDOM_SETS 16u

void crash_apply(struct crash_shared *shared, const struct crash_store *store)
{
	uint8_t *at;

	if (store->order == CRASH_FENCE)
		return;
	at = crash_shared_at(shared, store->area, store->offset);
	if (at)
		memcpy(at, store->value, store->bytes);
}

struct reorder {
	const struct crash_store *stores;
	uint32_t cnt;
	crash_leftover_fn *each;
	void *context;
	bool is_there[CRASH_LOG_MAX];
	uint32_t choice[CRASH_LOG_MAX]; /* the plain stores that may or may not be there */
	uint32_t choice_cnt;
	uint64_t random;
};

static bool is_of_state(const struct crash_store *store)
{
	static struct crash_shared nowhere;

	return crash_shared_at(&nowhere, store->area, store->offset);
}

static void emit(const struct reorder *reorder)
{
	reorder->each(reorder->context, reorder->stores, reorder->is_there, reorder->cnt);
}

static void set_all(struct reorder *reorder, bool is_there)
{
	for (uint32_t i = 0; i < reorder->choice_cnt; i++)
		reorder->is_there[reorder->choice[i]] = is_there;
}

static void emit_bits(struct reorder *reorder, uint64_t bits)
{
	for (uint32_t i = 0; i < reorder->choice_cnt; i++)
		reorder->is_there[reorder->choice[i]] = bits >> i % 64 & 1;
	emit(reorder);
}

static void emit_some(struct reorder *reorder)
{
	for (int is_there = 0; is_there < 2; is_there++) {
		set_all(reorder, is_there);
		emit(reorder);
		for (uint32_t i = 0; i < reorder->choice_cnt; i++) {
			reorder->is_there[reorder->choice[i]] = !is_there;
			emit(reorder);
			reorder->is_there[reorder->choice[i]] = is_there;
		}
	}
	for (uint32_t i = 0; i < RANDOM_SETS; i++)
		emit_bits(reorder, image_random(&reorder->random));
}

/* Everything before `cut` is there. */
static void emit_cut(struct reorder *reorder, uint32_t cut)
{
	reorder->choice_cnt = 0;
	for (uint32_t i = 0; i < reorder->cnt; i++)
		reorder->is_there[i] = i < cut;
	for (uint32_t i = cut; i < reorder->cnt; i++) {
		if (reorder->stores[i].order == CRASH_FENCE)
			break;
		if (reorder->stores[i].order == CRASH_PLAIN && is_of_state(&reorder->stores[i]))
			reorder->choice[reorder->choice_cnt++] = i;
	}
	if (reorder->choice_cnt > CRASH_ALL_PLAIN)
		emit_some(reorder);
	else
		for (uint64_t bits = 0; bits < 1ull << reorder->choice_cnt; bits++)
			emit_bits(reorder, bits);
}

void crash_reorder(const struct crash_store *stores, uint32_t cnt, crash_leftover_fn *each,
		   void *context)
{
	struct reorder reorder = {
		.stores = stores, .cnt = cnt, .each = each, .context = context, .random = cnt};

	emit_cut(&reorder, 0);
	for (uint32_t i = 0; i < cnt; i++)
		if (stores[i].order != CRASH_PLAIN)
			emit_cut(&reorder, i + 1);
}
