/*
 * test_crash for a compiler or a machine that reorders stores: what a death leaves is not what was
 * stored up to a moment but any part of it that release stores and fences allow. Then each of
 * those is made plain, one at a time: where the order matters, that must be found.
 *
 *	test_crash_order          everything below
 *	test_crash_order full     also what takes minutes
 */
#include <string.h>

#include "support_crash_plan.h"
#include "support_crash_stores.h"
#include "support_image_files.h"

/* Release stores and fences, by the named point in front of them. */
static const char *const needed[] = {
	"pickup.skip",	   "pickup.copy",  "pickup.valid",   "pickup.next",
	"start.executing", "publish.skip", "publish.record", "publish.record_valid",
	"publish.tail",	   "publish.free", "publish.clear",  "recover.clear",
	"recover.blame",
};
/* Nothing depends on their order alone; native/DESIGN.md says why. */
static const char *const not_needed[] = {
	"recover.free",
	"recover.drop",
	"recover.demote",
	"attach.generation",
};

static struct crash_search reordered(uint32_t crashes)
{
	return (struct crash_search){.crashes = crashes, .is_reordered = true};
}

static bool survives_plain(const char *label, uint32_t crashes)
{
	struct crash_search search = reordered(crashes);
	bool is_good;

	crash_relaxed_label = label;
	crash_relaxed_cnt = 0;
	is_good = crash_search_all("wrw", 3, &search);
	crash_relaxed_label = NULL;
	REQUIRE(crash_relaxed_cnt || crashes < 2);
	return is_good;
}

static void order_is_needed(void)
{
	for (size_t i = 0; i < sizeof(needed) / sizeof(*needed); i++) {
		fprintf(stderr, "without the order of %s:\n", needed[i]);
		/* an order of recovery shows at the second death */
		REQUIRE(!survives_plain(needed[i], 1) || !survives_plain(needed[i], 2));
	}
	for (size_t i = 0; i < sizeof(not_needed) / sizeof(*not_needed); i++)
		REQUIRE(survives_plain(not_needed[i], 2));
}

static bool is_listed(const char *label, const char *const *list, size_t cnt)
{
	for (size_t i = 0; i < cnt; i++)
		if (!strcmp(list[i], label))
			return true;
	return false;
}

/* Every release store and fence that was met is in one of the two lists. */
static void lists_are_complete(void)
{
	const char *label;

	for (uint32_t i = 0; (label = crash_ordered_label(i)); i++)
		if (!is_listed(label, needed, sizeof(needed) / sizeof(*needed)) &&
		    !is_listed(label, not_needed, sizeof(not_needed) / sizeof(*not_needed))) {
			fprintf(stderr, "nobody asked whether %s needs its order\n", label);
			exit(1);
		}
}

int main(int argc, char **argv)
{
	bool is_full = argc > 1 && !strcmp(argv[1], "full");

	if (!crash_sees_stores()) {
		printf("no hooks at stores in this build\n");
		return 77;
	}
	crash_world_init(CRASH_RING_BYTES, CRASH_STATE_BLOCKS);
	crash_state_init(CRASH_STATE_SLOTS);
	crash_require_all("three commands, two deaths", "wrw", 3, reordered(2));
	crash_require_all("a TMR between two, two deaths", "wtw", 3, reordered(2));
	crash_require_all("three and one that follows, one death", "wrw", 4, reordered(1));
	lists_are_complete();
	order_is_needed();
	if (is_full)
		crash_require_all("three and one that follows, two deaths", "wrw", 4, reordered(2));
	crash_state_deinit();
	crash_world_deinit();
	return 0;
}
