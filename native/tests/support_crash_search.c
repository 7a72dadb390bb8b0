#include "support_crash_search.h"

#include <string.h>

#include "support_crash_met.h"
#include "support_crash_reorder.h"
#include "support_image_files.h"

#define MAX_DEPTH  160u
#define MAX_POINTS 96u

enum step { QUEUE, COMPLETE, ATTACH, PICK_UP, SKIP, EXECUTE, PUBLISH, DIE, STEPS };

static const char *const step_names[STEPS] = {
	"queue", "complete", "attach", "pick up", "skip", "execute", "publish", "die",
};

struct frame {
	struct crash_state before;
	struct crash_state after;
	struct crash_outside inside; /* `outside` once the kernel stepped in */
	struct {
		struct crash_shared shared;
		const char *label;
		bool is_inside;
	} deaths[MAX_POINTS];
	uint32_t death_cnt;
	uint32_t points;
	uint32_t kernel_at; /* point at which the kernel steps in, 0: none */
	enum step kernel_step;
	bool has_stepped_in;
	/* for the trail */
	enum step step;
	uint32_t index;
	const char *label; /* of a death */
};

static struct frame *frames[MAX_DEPTH];
static struct frame *current;
static bool takes_deaths;
static struct crash_search *search;
static struct crash_met_table met;

/* Was it met before? Then *orders grows by what follows from it. */
static bool is_met(const struct crash_state *state, uint32_t crashes_left, double *orders)
{
	const struct crash_met *entry = crash_met_find(&met, crash_state_key(state, crashes_left));

	if (!entry->is_used)
		return false;
	*orders += entry->orders;
	return true;
}

/* ---- one step ---- */

static bool is_kernels(enum step step)
{
	return step == QUEUE || step == COMPLETE;
}

static bool kernel_step(enum step step)
{
	const struct fake_kernel *kernel = &crash_world.kernel;

	if (step == QUEUE)
		return crash_queue_one();
	if (kernel->last_cleaned == fake_kernel_tail(kernel))
		return false;
	crash_complete();
	return true;
}

static void at_store(void)
{
	struct frame *frame = current;

	frame->points++;
	if (frame->points == frame->kernel_at) {
		if (!kernel_step(frame->kernel_step))
			return;
		frame->has_stepped_in = true;
		if (takes_deaths) {
			struct crash_state state;

			crash_state_save(&state);
			frame->inside = state.outside;
		}
	}
	if (!takes_deaths)
		return;
	REQUIRE(frame->death_cnt < MAX_POINTS);
	crash_shared_save(&frame->deaths[frame->death_cnt].shared);
	frame->deaths[frame->death_cnt].label = crash_label();
	frame->deaths[frame->death_cnt++].is_inside = frame->has_stepped_in;
}

/* The memory before the step and the stores that were seen give the memory after it. */
static void prove_stores(const struct frame *frame)
{
	struct crash_shared shared = frame->before.shared;
	uint32_t cnt;
	const struct crash_store *stores = crash_log_end(&cnt);

	for (uint32_t i = 0; i < cnt; i++)
		crash_apply(&shared, &stores[i]);
	REQUIRE(!memcmp(&shared, &frame->after.shared, sizeof(shared)));
}

/* A death that is counted was one, and is counted once. */
static void judge_blames(void)
{
	for (uint32_t i = 0; i < crash_server.running_cnt; i++) {
		const struct obd_journal_slot *slot =
			&crash_server.flight.journal.slots[crash_server.running[i].slot];

		if (slot->deaths > crash_world.works[slot->cdb[6]].blames)
			crash_violate("a death was counted twice");
	}
}

static void take(enum step step, uint32_t index)
{
	switch (step) {
	case QUEUE:
	case COMPLETE:
		kernel_step(step);
		break;
	case ATTACH:
		crash_attach(crash_server.flight.journal.generation + 1, false);
		judge_blames();
		break;
	case PICK_UP:
		crash_pick_up();
		break;
	case SKIP:
		crash_skip();
		break;
	case EXECUTE:
		crash_execute(index);
		break;
	case PUBLISH:
		crash_publish(index);
		break;
	default:
		break;
	}
}

/* Is it possible in `before`, at least by name? */
static bool is_possible(enum step step, uint32_t index)
{
	switch (step) {
	case ATTACH:
		return !crash_server.is_alive;
	case PICK_UP:
	case SKIP:
		return crash_may_pick_up();
	case EXECUTE:
		return index < crash_server.running_cnt && crash_may_execute(index);
	case PUBLISH:
		return index < crash_server.running_cnt && crash_server.running[index].is_executed;
	default:
		return index == 0;
	}
}

static void print_trail(uint32_t depth)
{
	for (uint32_t i = 0; i <= depth && i < MAX_DEPTH && frames[i]; i++) {
		const struct frame *frame = frames[i];

		fprintf(stderr, "%s%s", i ? ", " : "    ", step_names[frame->step]);
		if (frame->step == EXECUTE || frame->step == PUBLISH)
			fprintf(stderr, " %u", frame->index);
		if (frame->kernel_at && frame->has_stepped_in)
			fprintf(stderr, " (%s before store %u)", step_names[frame->kernel_step],
				frame->kernel_at);
		if (frame->step == DIE)
			fprintf(stderr, search->is_reordered ? " with %s missing" : " at %s",
				frame->label);
	}
	fprintf(stderr, "\n");
}

/* ---- all of them ---- */

static uint32_t depth_now; /* of the step being taken, for the trail */

static double explore(uint32_t depth, uint32_t crashes_left);

/* The server dies at the points of the step just taken (and a step changed its mind: no). */
static double explore_deaths(struct frame *frame, uint32_t depth, uint32_t crashes_left)
{
	enum step step = frame->step;
	uint32_t kernel_at = frame->kernel_at;
	double orders = 0;

	for (uint32_t i = 0; i < frame->death_cnt; i++) {
		struct crash_state *state = &frame->after;

		search->deaths++;
		state->shared = frame->deaths[i].shared;
		state->outside = frame->deaths[i].is_inside ? frame->inside : frame->before.outside;
		state->own = frame->before.own;
		crash_state_kill(state);
		if (step != ATTACH) /* what is EXECUTING then is its predecessor's */
			crash_state_blame(state);
		crash_state_load(state);
		frame->step = DIE;
		frame->label = frame->deaths[i].label;
		orders += explore(depth + 1, crashes_left - 1);
	}
	frame->step = step;
	frame->kernel_at = kernel_at;
	return orders;
}

static double explore_step(struct frame *frame, uint32_t depth, uint32_t crashes_left,
			   bool *has_moved)
{
	double orders;

	crash_state_load(&frame->before);
	frame->death_cnt = frame->points = 0;
	frame->has_stepped_in = false;
	current = frame;
	takes_deaths = crashes_left > 0 && !search->is_reordered;
	depth_now = depth;
	crash_hook = is_kernels(frame->step) ? NULL : at_store;
	if (search->is_proving)
		crash_log_begin();
	take(frame->step, frame->index);
	crash_hook = NULL;
	search->steps++;
	if (frame->kernel_at && !frame->has_stepped_in)
		return 0;
	crash_state_save(&frame->after);
	if (search->is_proving && !is_kernels(frame->step))
		prove_stores(frame);
	if (!memcmp(&frame->before, &frame->after, sizeof(frame->before)))
		return 0;
	*has_moved = true;
	orders = explore(depth + 1, crashes_left);
	return orders + explore_deaths(frame, depth, crashes_left);
}

static double explore_possible(struct frame *frame, uint32_t depth, uint32_t crashes_left,
			       enum step step, uint32_t index, bool *has_moved)
{
	double orders;
	uint32_t points;

	frame->step = step;
	frame->index = index;
	frame->kernel_at = 0;
	orders = explore_step(frame, depth, crashes_left, has_moved);
	if (!search->is_fine || is_kernels(step))
		return orders;
	points = frame->points;
	for (uint32_t at = 1; at <= points; at++)
		for (enum step kernel = QUEUE; kernel <= COMPLETE; kernel++) {
			frame->kernel_at = at;
			frame->kernel_step = kernel;
			orders += explore_step(frame, depth, crashes_left, has_moved);
		}
	return orders;
}

/* ---- the same with stores in another order ---- */

#define CHAIN_STEPS 3u

struct chain {
	struct frame *frame; /* the state it starts from */
	uint32_t depth;
	uint32_t crashes_left;
	struct crash_outside outside; /* after the last step */
	bool is_attaching;	      /* and nothing else: see explore_deaths */
	double orders;
	struct {
		struct crash_state state; /* after the step */
		struct crash_store stores[CRASH_LOG_MAX];
		uint32_t store_cnt; /* of all steps up to it */
	} links[CHAIN_STEPS];
};

static void at_leftover(void *context, const struct crash_store *stores, const bool *is_there,
			uint32_t cnt)
{
	struct chain *chain = context;
	struct frame *frame = chain->frame;
	struct crash_state *state = &frame->after;

	search->leftovers++;
	frame->label = NULL;
	for (uint32_t i = 0; i < cnt && !frame->label; i++)
		if (!is_there[i] && stores[i].order != CRASH_FENCE)
			frame->label = stores[i].label;
	state->shared = frame->before.shared;
	for (uint32_t i = 0; i < cnt; i++)
		if (is_there[i])
			crash_apply(&state->shared, &stores[i]);
	crash_shared_scrub(&state->shared);
	state->outside = chain->outside;
	if (!chain->is_attaching)
		crash_state_blame(state);
	if (is_met(state, chain->crashes_left - 1, &chain->orders))
		return;
	crash_state_load(state);
	chain->orders += explore(chain->depth + 1, chain->crashes_left - 1);
}

static bool is_chained(enum step step, uint32_t index)
{
	const struct crash_running *running = &crash_server.running[index];

	/* A system call lies between its neighbours, so nothing is reordered across a write. */
	if (step == EXECUTE)
		return !running->is_replay &&
		       crash_server.flight.journal.slots[running->slot].cdb[0] == CRASH_READ;
	return !is_kernels(step);
}

static bool extend_chain(struct chain *chain, uint32_t length);

/* One step more; false when it is not possible or changes nothing. */
static bool add_link(struct chain *chain, uint32_t length, enum step step, uint32_t index)
{
	struct frame *frame = chain->frame;
	const struct crash_state *from = length ? &chain->links[length - 1].state : &frame->before;
	uint32_t cnt = length ? chain->links[length - 1].store_cnt : 0;
	const struct crash_store *stores;

	crash_state_load(from);
	if (!is_possible(step, index) || !is_chained(step, index))
		return false;
	crash_log_resume(length ? chain->links[length - 1].stores : NULL, cnt);
	take(step, index);
	stores = crash_log_end(&cnt);
	crash_state_save(&chain->links[length].state);
	if (!memcmp(from, &chain->links[length].state, sizeof(*from)))
		return false;
	memcpy(chain->links[length].stores, stores, cnt * sizeof(*stores));
	chain->links[length].store_cnt = cnt;
	if (extend_chain(chain, length + 1))
		return true;
	frame->step = DIE;
	chain->outside = chain->links[length].state.outside;
	chain->is_attaching = !length && step == ATTACH;
	frame->after.own = frame->before.own;
	crash_state_kill(&frame->after);
	crash_reorder(chain->links[length].stores, cnt, at_leftover, chain);
	return true;
}

/* Goes on with every step of the server; true if there was one. */
static bool extend_chain(struct chain *chain, uint32_t length)
{
	bool has_extended = false;

	for (enum step step = QUEUE; length < CHAIN_STEPS && step < DIE; step++)
		for (uint32_t index = 0; index < (step < EXECUTE ? 1 : CRASH_STATE_SLOTS); index++)
			has_extended |= add_link(chain, length, step, index);
	return has_extended;
}

static double explore_leftovers(struct frame *frame, uint32_t depth, uint32_t crashes_left)
{
	static struct chain *chains[MAX_DEPTH];
	struct chain *chain;

	if (!chains[depth])
		chains[depth] = calloc(1, sizeof(*chain));
	chain = chains[depth];
	REQUIRE(chain);
	chain->frame = frame;
	chain->depth = depth;
	chain->crashes_left = crashes_left;
	chain->orders = 0;
	depth_now = depth;
	extend_chain(chain, 0);
	return chain->orders;
}

static void judge_end(void)
{
	const struct crash_world *world = &crash_world;

	if (!crash_is_over() || world->queued_cnt != world->work_cnt)
		crash_violate("I1: lost");
	for (uint32_t tag = 0; tag < world->work_cnt; tag++)
		if (world->works[tag].completions != 1)
			crash_violate("I1: not answered once");
}

static double explore(uint32_t depth, uint32_t crashes_left)
{
	struct frame *frame;
	struct crash_key key;
	struct crash_met *entry;
	double orders = 0;
	bool has_moved = false;

	REQUIRE(depth < MAX_DEPTH);
	if (!frames[depth])
		frames[depth] = calloc(1, sizeof(*frame));
	frame = frames[depth];
	REQUIRE(frame);
	crash_state_save(&frame->before);
	key = crash_state_key(&frame->before, crashes_left);
	entry = crash_met_find(&met, key);
	if (entry->is_used)
		return entry->orders;
	crash_met_add(&met, entry, key);
	search->states++;
	if (depth > search->longest)
		search->longest = depth;
	for (enum step step = QUEUE; step < DIE; step++)
		for (uint32_t index = 0; index < CRASH_STATE_SLOTS; index++) {
			crash_state_load(&frame->before);
			if (is_possible(step, index))
				orders += explore_possible(frame, depth, crashes_left, step, index,
							   &has_moved);
			if (step < EXECUTE)
				break;
		}
	if (crashes_left && search->is_reordered)
		orders += explore_leftovers(frame, depth, crashes_left);
	if (crashes_left && frame->before.own.is_alive) {
		frame->after = frame->before;
		crash_state_kill(&frame->after);
		crash_state_blame(&frame->after);
		crash_state_load(&frame->after);
		frame->step = DIE;
		frame->label = "a step's end";
		search->deaths++;
		orders += explore(depth + 1, crashes_left - 1);
	}
	crash_state_load(&frame->before);
	depth_now = depth;
	if (!has_moved) {
		judge_end();
		orders += 1;
	}
	crash_met_find(&met, key)->orders = orders;
	return orders;
}

bool crash_search_run(struct crash_search *of)
{
	search = of;
	crash_met_clear(&met);
	if (setjmp(crash_world.escape)) {
		crash_hook = NULL;
		fprintf(stderr, "    %s, after:\n", crash_world.violation);
		print_trail(depth_now);
		return false;
	}
	search->orders += explore(0, search->crashes);
	return true;
}
