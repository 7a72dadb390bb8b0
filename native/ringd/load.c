#include "load.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "control.h"
#include "detach.h"
#include "kring.h"
#include "log.h"
#include "model.h"
#include "obd_barrier.h"
#include "report.h"
#include "scsi.h"

#define COMPLAINTS_MAX 20u /* lines in the log about bad sectors and errors */
#define PICKS_MAX      64u /* tries to find a range without a write in flight */
#define SEQUENCE_MAX   UINT32_C(0x7ffffff0)

enum kind { READ, WRITE, DISCARD, FLUSH };

enum phase {
	GENERATING,
	DRAINING,  /* nothing new, what is in flight comes back */
	READ_BACK, /* the whole span, in order */
	DONE,	   /* the report is being written */
	REPORTED,
};

struct slot {
	struct obd_kring_cmd cmd;
	struct slot *next_free;
	enum kind kind;
	uint64_t lba;
	uint32_t sector_cnt;
	uint32_t *acked; /* of each sector when the read was sent */
	uint8_t *data;
};

struct load {
	const struct obd_options *options;
	struct obd_kring *ring;
	struct obd_model *model;
	struct obd_report report;
	struct slot *slots;
	struct slot *free_slots;
	uint8_t *memory; /* of all slots' data */
	uint32_t *acked_memory;
	uint32_t in_flight;
	uint32_t complaints;
	uint64_t random_state;
	uint64_t sector_cnt;
	uint64_t read_back_lba;
	uint64_t start_ns;
	uint64_t progress_ns; /* when a command last came back */
	uint32_t phase;	      /* enum phase; release, read by the control thread */
	uint32_t must_finish; /* release by the control thread or the signal handler */
	uint32_t must_stop;
	uint32_t must_abort;
};

static struct load *interrupted; /* for the signal handler */

static uint64_t random_u64(struct load *load)
{
	uint64_t value = load->random_state += UINT64_C(0x9e3779b97f4a7c15);

	value = (value ^ (value >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	value = (value ^ (value >> 27)) * UINT64_C(0x94d049bb133111eb);
	return value ^ (value >> 31);
}

static uint64_t random_below(struct load *load, uint64_t limit)
{
	return (uint64_t)((unsigned __int128)random_u64(load) * limit >> 64);
}

/* Mostly 4 KiB, as a file system does; some smaller, some up to the limit. */
static uint32_t random_length(struct load *load)
{
	uint64_t choice = random_below(load, 100);
	uint32_t limit = load->options->max_sectors;

	if (limit > load->sector_cnt)
		limit = (uint32_t)load->sector_cnt;
	if (choice < 60)
		return limit < 8 ? limit : 8;
	if (choice < 85)
		limit = limit < 8 ? limit : 8;
	return 1 + (uint32_t)random_below(load, limit);
}

static enum kind random_kind(struct load *load)
{
	const struct obd_options *o = load->options;
	uint64_t choice = random_below(load, 100);

	if (choice < o->read_percent)
		return READ;
	if (choice < o->read_percent + o->discard_percent)
		return DISCARD;
	if (choice < o->read_percent + o->discard_percent + o->flush_percent)
		return FLUSH;
	return WRITE;
}

/* Finds a range for the slot; a range with a write in flight can only be read. */
static void pick_range(struct load *load, struct slot *slot)
{
	for (uint32_t i = 0; i < PICKS_MAX; i++) {
		slot->sector_cnt = random_length(load);
		slot->lba = random_below(load, load->sector_cnt - slot->sector_cnt + 1);
		if (slot->sector_cnt == 8)
			slot->lba -= slot->lba % 8;
		if (slot->kind == READ ||
		    !obd_model_is_busy(load->model, slot->lba, slot->sector_cnt))
			return;
	}
	slot->kind = READ;
}

static void send(struct load *load, struct slot *slot)
{
	struct obd_kring_cmd *cmd = &slot->cmd;

	cmd->data = slot->data;
	cmd->data_bytes = slot->sector_cnt * OBD_SECTOR_BYTES;
	cmd->owner = slot;
	switch (slot->kind) {
	case READ:
		obd_model_start_read(load->model, slot->lba, slot->sector_cnt, slot->acked);
		cmd->cdb_bytes = obd_cdb_read(cmd->cdb, slot->lba, slot->sector_cnt);
		cmd->dir = OBD_KRING_FROM_DEVICE;
		break;
	case WRITE:
		obd_model_start_write(load->model, slot->lba, slot->sector_cnt, slot->data);
		cmd->cdb_bytes = obd_cdb_write(cmd->cdb, slot->lba, slot->sector_cnt,
					       random_below(load, 64) == 0);
		cmd->dir = OBD_KRING_TO_DEVICE;
		break;
	case DISCARD:
		obd_model_start_discard(load->model, slot->lba, slot->sector_cnt);
		cmd->cdb_bytes = obd_cdb_unmap(cmd->cdb, slot->data, slot->lba, slot->sector_cnt);
		cmd->data_bytes = OBD_UNMAP_LIST_BYTES;
		cmd->dir = OBD_KRING_TO_DEVICE;
		break;
	case FLUSH:
		cmd->cdb_bytes = obd_cdb_synchronize_cache(cmd->cdb);
		cmd->data_bytes = 0;
		cmd->dir = OBD_KRING_NO_DATA;
		break;
	}
	load->in_flight++;
	obd_kring_submit(load->ring, cmd);
}

static struct slot *take_slot(struct load *load)
{
	struct slot *slot = load->free_slots;

	load->free_slots = slot->next_free;
	return slot;
}

static void generate(struct load *load)
{
	while (load->free_slots) {
		struct slot *slot = take_slot(load);

		slot->kind = random_kind(load);
		slot->lba = 0;
		slot->sector_cnt = 0;
		if (slot->kind != FLUSH)
			pick_range(load, slot);
		load->report.generated++;
		send(load, slot);
	}
}

static void read_back(struct load *load)
{
	while (load->free_slots && load->read_back_lba < load->sector_cnt) {
		uint64_t left = load->sector_cnt - load->read_back_lba;
		struct slot *slot = take_slot(load);

		slot->kind = READ;
		slot->lba = load->read_back_lba;
		slot->sector_cnt = load->options->max_sectors;
		if (slot->sector_cnt > left)
			slot->sector_cnt = (uint32_t)left;
		load->read_back_lba += slot->sector_cnt;
		load->report.read_back += slot->sector_cnt;
		send(load, slot);
	}
}

static void complain(struct load *load, const char *what, const struct slot *slot, uint64_t lba,
		     uint32_t acked)
{
	static const char *const names[] = {"READ", "WRITE", "DISCARD", "FLUSH"};

	if (load->complaints++ >= COMPLAINTS_MAX)
		return;
	obd_log("%s: lba %lu (acknowledged sequence %u) in %s of %u sectors at %lu, status 0x%x "
		"sense %02x %02x/%02x%s",
		what, lba, acked, names[slot->kind], slot->sector_cnt, slot->lba, slot->cmd.status,
		slot->cmd.sense[2] & 0xf, slot->cmd.sense[12], slot->cmd.sense[13],
		load->phase == READ_BACK ? ", final read-back" : "");
}

static void check_sector(struct load *load, const struct slot *slot, uint32_t index)
{
	uint64_t lba = slot->lba + index;
	uint32_t acked = slot->acked[index];

	load->report.sectors_checked++;
	switch (obd_model_check(load->model, lba, acked, slot->data + index * OBD_SECTOR_BYTES)) {
	case OBD_SECTOR_GOOD:
		return;
	case OBD_SECTOR_OLD:
		if (load->phase == READ_BACK)
			load->report.lost++;
		else
			load->report.stale++;
		complain(load, "older than acknowledged", slot, lba, acked);
		return;
	case OBD_SECTOR_MISPLACED:
		load->report.misplaced++;
		complain(load, "data of another place", slot, lba, acked);
		return;
	case OBD_SECTOR_CORRUPT:
		load->report.corrupt++;
		complain(load, "data never written", slot, lba, acked);
		return;
	}
}

static void take_answer(struct load *load, struct slot *slot)
{
	const struct obd_kring_cmd *cmd = &slot->cmd;
	struct obd_sense sense = obd_sense_parse(cmd->sense, sizeof(cmd->sense));
	bool is_good = !cmd->is_failed && obd_scsi_errno(cmd->status, sense) == 0 &&
		       (slot->kind != READ || cmd->read_bytes == cmd->data_bytes);

	if (!is_good) {
		load->report.errors++;
		complain(load, cmd->is_failed ? "ring is broken" : "error", slot, slot->lba, 0);
	}
	switch (slot->kind) {
	case READ:
		load->report.reads++;
		for (uint32_t i = 0; is_good && i < slot->sector_cnt; i++)
			check_sector(load, slot, i);
		break;
	case WRITE:
	case DISCARD:
		load->report.writes += slot->kind == WRITE;
		load->report.discards += slot->kind == DISCARD;
		obd_model_end_write(load->model, slot->lba, slot->sector_cnt, is_good);
		break;
	case FLUSH:
		load->report.flushes++;
		break;
	}
}

static void reap(struct load *load)
{
	struct obd_kring_cmd *cmd = obd_kring_reap(load->ring);

	if (cmd)
		load->progress_ns = obd_now_ns();
	while (cmd) {
		struct obd_kring_cmd *next = cmd->next;
		struct slot *slot = cmd->owner;

		take_answer(load, slot);
		slot->next_free = load->free_slots;
		load->free_slots = slot;
		load->in_flight--;
		cmd = next;
	}
}

static void enter(struct load *load, enum phase phase)
{
	load->progress_ns = obd_now_ns();
	obd_store_release(&load->phase, (uint32_t)phase); /* pairs with add_stat */
}

/* Whether generating is over: told, time is up, or there is no sense in going on. */
static bool is_over(const struct load *load, uint64_t now_ns)
{
	uint64_t limit_ns = load->options->seconds * UINT64_C(1000000000);

	return obd_load_acquire(&load->must_finish) || obd_load_acquire(&load->must_stop) ||
	       load->report.is_broken || (limit_ns && now_ns - load->start_ns >= limit_ns) ||
	       load->report.generated >= SEQUENCE_MAX;
}

static void give_up(struct load *load)
{
	load->report.unfinished = load->in_flight;
	if (load->in_flight)
		obd_log("giving up on %u commands", load->in_flight);
	enter(load, DONE);
}

/* Decides which phase it is now. */
static void advance(struct load *load)
{
	uint64_t now_ns = obd_now_ns();
	uint64_t patience_ns = load->options->drain_seconds * UINT64_C(1000000000);
	struct obd_kring_stat stat;

	if (load->phase == GENERATING && is_over(load, now_ns)) {
		load->report.elapsed_ns = now_ns - load->start_ns;
		enter(load, DRAINING);
	}
	if (load->phase == DRAINING && load->in_flight == 0 && !load->report.is_broken)
		enter(load, READ_BACK);
	if (load->phase == READ_BACK && load->in_flight == 0 &&
	    load->read_back_lba == load->sector_cnt) {
		load->report.is_complete = true;
		enter(load, DONE);
	}
	if (load->phase == DONE)
		return;
	obd_kring_stat(load->ring, &stat);
	load->report.is_broken |= stat.is_broken;
	now_ns = obd_now_ns(); /* enter() may have moved progress_ns past the first reading */
	if (obd_load_acquire(&load->must_abort) ||
	    (load->phase != GENERATING &&
	     (stat.is_broken || now_ns - load->progress_ns > patience_ns)))
		give_up(load);
}

static void work(struct load *load)
{
	while (load->phase != DONE) {
		if (load->phase == GENERATING)
			generate(load);
		else if (load->phase == READ_BACK)
			read_back(load);
		obd_kring_notify(load->ring);
		/* Completions are taken in on a kick only, as the kernel does. */
		if (obd_kring_wait(load->ring, 100))
			reap(load);
		advance(load);
	}
}

static void wake(struct load *load)
{
	obd_kring_wake(load->ring);
}

static void finish_hook(void *context)
{
	struct load *load = context;

	obd_store_release(&load->must_finish, 1u); /* pairs with is_over */
	wake(load);
}

static const char *stop_hook(void *context, bool is_forced)
{
	struct load *load = context;

	if (is_forced)
		obd_store_release(&load->must_abort, 1u);
	obd_store_release(&load->must_stop, 1u);
	wake(load);
	return NULL;
}

static size_t stat_hook(void *context, char *at, size_t space)
{
	struct load *load = context;
	const struct obd_report *r = &load->report;
	uint32_t phase = obd_load_acquire(&load->phase);
	static const char *const names[] = {"generating", "draining", "read_back", "reporting",
					    "done"};

	return (size_t)snprintf(
		at, space, " front=load phase=%s failures=%lu good=%d", names[phase],
		obd_load_relaxed(&r->errors) + obd_load_relaxed(&r->lost) +
			obd_load_relaxed(&r->stale) + obd_load_relaxed(&r->misplaced) +
			obd_load_relaxed(&r->corrupt) + obd_load_relaxed(&r->unfinished),
		phase == REPORTED && obd_report_is_good(r));
}

static void on_signal(int signal_number)
{
	(void)signal_number;
	obd_store_release(&interrupted->must_stop, 1u);
	wake(interrupted);
}

static void catch_signals(struct load *load)
{
	struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};

	interrupted = load;
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
}

static uint64_t hash_name(const char *name)
{
	uint64_t hash = UINT64_C(0xcbf29ce484222325);

	while (*name)
		hash = (hash ^ (uint8_t)*name++) * UINT64_C(0x100000001b3);
	return hash;
}

static int init(struct load *load)
{
	const struct obd_options *o = load->options;
	struct obd_kring_options ring = {o->data_area_bytes, o->is_checking};
	size_t slot_bytes = (size_t)o->max_sectors * OBD_SECTOR_BYTES;
	/* Two runs with one seed do the same things, but never take the other's data for theirs. */
	uint64_t run = obd_now_ns() ^ ((uint64_t)getpid() << 48);

	load->sector_cnt = o->span_bytes / OBD_SECTOR_BYTES;
	load->random_state = o->seed;
	load->model = obd_model_create(run, hash_name(o->name), load->sector_cnt);
	load->slots = calloc(o->queue_depth, sizeof(*load->slots));
	load->memory = calloc(o->queue_depth, slot_bytes < 4096 ? 4096 : slot_bytes);
	load->acked_memory = calloc(o->queue_depth, o->max_sectors * sizeof(uint32_t));
	if (!load->model || !load->slots || !load->memory || !load->acked_memory)
		return -ENOMEM;
	for (uint32_t i = 0; i < o->queue_depth; i++) {
		struct slot *slot = &load->slots[i];

		slot->data = load->memory + i * (slot_bytes < 4096 ? 4096 : slot_bytes);
		slot->acked = load->acked_memory + i * o->max_sectors;
		slot->next_free = load->free_slots;
		load->free_slots = slot;
	}
	return obd_kring_create(&ring, &load->ring);
}

static void deinit(struct load *load)
{
	obd_kring_destroy(load->ring);
	obd_model_destroy(load->model);
	free(load->slots);
	free(load->memory);
	free(load->acked_memory);
}

static void publish_report(struct load *load)
{
	const struct obd_options *o = load->options;
	struct obd_gap_summary gaps;
	struct obd_kring_stat stat;
	char text[2048];
	size_t bytes;
	int rc;

	obd_kring_stat(load->ring, &stat);
	obd_kring_gap_summary(load->ring, &gaps);
	bytes = obd_report_format(&load->report, o->name, o->seed, &stat, &gaps, text,
				  sizeof(text));
	if (fwrite(text, 1, bytes, stdout) != bytes || fflush(stdout) != 0)
		obd_log("stdout: %s", strerror(errno));
	rc = o->json ? obd_report_save(o->json, text, bytes) : 0;
	if (rc)
		obd_log("report %s: %s", o->json, strerror(-rc));
}

int obd_load_run(const struct obd_options *options)
{
	static struct load load;
	struct obd_control_hooks hooks = {&load, finish_hook, stop_hook, stat_hook};
	struct obd_control *control = NULL;
	int rc;

	load.options = options;
	rc = init(&load);
	if (rc)
		obd_log("load: %s", strerror(-rc));
	else
		rc = obd_control_create(options->socket, load.ring, &hooks, &control);
	if (rc) {
		deinit(&load);
		return 2;
	}
	catch_signals(&load);
	obd_detach_ready(options->log);
	load.start_ns = load.progress_ns = obd_now_ns();
	work(&load);
	publish_report(&load);
	enter(&load, REPORTED);
	while (options->is_lingering && !obd_load_acquire(&load.must_stop))
		obd_kring_wait(load.ring, 1000);
	obd_control_destroy(control);
	deinit(&load);
	return obd_report_is_good(&load.report) ? 0 : 1;
}
