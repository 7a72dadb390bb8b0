#include "load.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "control.h"
#include "detach.h"
#include "generator.h"
#include "json.h"
#include "kring.h"
#include "ledger.h"
#include "log.h"
#include "model.h"
#include "obd_barrier.h"
#include "owner.h"
#include "report.h"
#include "scsi.h"
#include "slices.h"
#include "stamp.h"

enum phase {
	SURVEYING, /* the whole span, in order, before anything is written */
	GENERATING,
	DRAINING,  /* nothing new, what is in flight comes back */
	READ_BACK, /* the whole span, in order */
	DONE,	   /* the report is being written */
	REPORTED,
};

#define WAIT_MS 100

struct slot {
	struct obd_kring_cmd cmd;
	struct slot *next_free;
	struct obd_pick pick;
	uint64_t begun_ns;
	uint64_t flush_started; /* of a flush: what it covers */
	uint32_t *floor;	/* of each sector when the read was sent */
	uint8_t *data;
};

struct load {
	const struct obd_options *options;
	struct obd_kring *ring;
	struct obd_ledger ledger;
	struct obd_model *model;
	struct obd_generator generator;
	struct obd_owner owner;
	struct obd_slices slices;
	struct obd_report report;
	struct slot *slots;
	struct slot *free_slots;
	uint8_t *memory; /* of all slots' data */
	uint32_t *floor_memory;
	uint32_t in_flight;
	uint64_t sector_cnt;
	uint64_t read_back_lba;
	uint64_t start_ns;
	uint64_t now_ns;      /* of this turn */
	uint64_t progress_ns; /* when a command last came back */
	uint64_t burst_ns;    /* when the next commands may be sent; with a limit of iops */
	uint32_t phase;	      /* enum phase; release, read by the control thread */
	uint32_t must_finish; /* release by the control thread or the signal handler */
	uint32_t must_stop;
	uint32_t must_abort;
};

static struct load *interrupted; /* for the signal handler */

static void send_write(struct load *load, struct slot *slot)
{
	const struct obd_pick *pick = &slot->pick;
	uint32_t generation = obd_owner_generation(&load->owner, load->now_ns);
	uint32_t sequence =
		obd_model_start_write(load->model, pick->lba, pick->sector_cnt, generation);

	obd_model_fill(load->model, pick->lba, pick->sector_cnt, sequence, generation, slot->data);
	slot->cmd.cdb_bytes =
		obd_cdb_write(slot->cmd.cdb, pick->lba, pick->sector_cnt, pick->is_fua);
	slot->cmd.dir = OBD_KRING_TO_DEVICE;
}

static void send(struct load *load, struct slot *slot)
{
	const struct obd_pick *pick = &slot->pick;
	struct obd_kring_cmd *cmd = &slot->cmd;

	cmd->data = slot->data;
	cmd->data_bytes = pick->sector_cnt * OBD_SECTOR_BYTES;
	cmd->owner = slot;
	switch (pick->op) {
	case OBD_OP_READ:
		obd_model_start_read(load->model, pick->lba, pick->sector_cnt, slot->floor);
		cmd->cdb_bytes = obd_cdb_read(cmd->cdb, pick->lba, pick->sector_cnt);
		cmd->dir = OBD_KRING_FROM_DEVICE;
		break;
	case OBD_OP_WRITE:
		send_write(load, slot);
		break;
	case OBD_OP_DISCARD:
		obd_model_start_discard(load->model, pick->lba, pick->sector_cnt,
					obd_owner_generation(&load->owner, load->now_ns));
		cmd->cdb_bytes = obd_cdb_unmap(cmd->cdb, slot->data, pick->lba, pick->sector_cnt);
		cmd->data_bytes = OBD_UNMAP_LIST_BYTES;
		cmd->dir = OBD_KRING_TO_DEVICE;
		break;
	case OBD_OP_FLUSH:
		slot->flush_started = obd_model_start_flush(load->model);
		cmd->cdb_bytes = obd_cdb_synchronize_cache(cmd->cdb);
		cmd->data_bytes = 0;
		cmd->dir = OBD_KRING_NO_DATA;
		break;
	}
	slot->begun_ns = load->now_ns;
	load->in_flight++;
	obd_kring_submit(load->ring, cmd);
}

static struct slot *take_slot(struct load *load)
{
	struct slot *slot = load->free_slots;

	load->free_slots = slot->next_free;
	return slot;
}

/* Whether more may be sent now. A burst fills the queue, so that a limit does not empty it. */
static bool is_due(struct load *load)
{
	const struct obd_options *o = load->options;
	uint64_t now_ns;

	if (!o->iops)
		return true;
	now_ns = obd_clock_ns();
	if (now_ns < load->burst_ns)
		return false;
	load->burst_ns = now_ns + o->queue_depth * OBD_SECOND_NS / o->iops;
	return true;
}

/* How long to wait for completions, in milliseconds. */
static int patience_ms(const struct load *load)
{
	uint64_t now_ns = obd_clock_ns();

	if (load->phase != GENERATING || !load->options->iops)
		return WAIT_MS;
	if (now_ns >= load->burst_ns)
		return 0;
	now_ns = (load->burst_ns - now_ns) / 1000000 + 1;
	return now_ns < WAIT_MS ? (int)now_ns : WAIT_MS;
}

static void generate(struct load *load)
{
	if (!is_due(load))
		return;
	while (load->free_slots) {
		struct slot *slot = take_slot(load);

		obd_generator_next(&load->generator, load->model, &slot->pick);
		load->report.generated++;
		send(load, slot);
	}
}

static void read_all(struct load *load)
{
	while (load->free_slots && load->read_back_lba < load->sector_cnt) {
		uint64_t left = load->sector_cnt - load->read_back_lba;
		struct slot *slot = take_slot(load);

		slot->pick = (struct obd_pick){
			.op = OBD_OP_READ,
			.lba = load->read_back_lba,
			.sector_cnt = load->options->mix.max_sectors,
		};
		if (slot->pick.sector_cnt > left)
			slot->pick.sector_cnt = (uint32_t)left;
		load->read_back_lba += slot->pick.sector_cnt;
		if (load->phase == READ_BACK)
			load->report.read_back += slot->pick.sector_cnt;
		send(load, slot);
	}
}

/* A line about it for log and report: what, in which command, which worker answered. */
static void complain(struct load *load, enum obd_wrong wrong, const char *what,
		     const struct slot *slot)
{
	const struct obd_pick *pick = &slot->pick;
	char *line = obd_tally_line(&load->report.tally, wrong);

	snprintf(line, OBD_TALLY_LINE_BYTES,
		 "%s; %s of %u sectors at %lu, answered by generation %u, status 0x%x sense %02x "
		 "%02x/%02x%s",
		 what, obd_op_names[pick->op], pick->sector_cnt, pick->lba,
		 obd_owner_generation(&load->owner, load->now_ns), slot->cmd.status,
		 slot->cmd.sense[2] & 0xf, slot->cmd.sense[12], slot->cmd.sense[13],
		 load->phase == READ_BACK ? ", final read-back" : "");
	obd_log("%s", line);
}

static enum obd_wrong wrong_of(const struct load *load, enum obd_verdict verdict)
{
	if (verdict == OBD_SECTOR_MISPLACED)
		return OBD_WRONG_MISPLACED;
	if (verdict == OBD_SECTOR_CORRUPT)
		return OBD_WRONG_CORRUPT;
	return load->phase == READ_BACK ? OBD_WRONG_LOST : OBD_WRONG_STALE;
}

static void check_sector(struct load *load, const struct slot *slot, uint32_t index)
{
	const uint8_t *sector = slot->data + index * OBD_SECTOR_BYTES;
	uint64_t lba = slot->pick.lba + index;
	enum obd_verdict verdict = obd_model_check(load->model, lba, slot->floor[index], sector);
	enum obd_wrong wrong;
	char text[384];

	load->report.sectors_checked++;
	if (verdict == OBD_SECTOR_GOOD)
		return;
	wrong = wrong_of(load, verdict);
	if (!obd_tally_count(&load->report.tally, wrong))
		return;
	obd_model_describe(load->model, lba, slot->floor[index], sector, text, sizeof(text));
	complain(load, wrong, text, slot);
}

static void take_answer(struct load *load, struct slot *slot)
{
	const struct obd_kring_cmd *cmd = &slot->cmd;
	const struct obd_pick *pick = &slot->pick;
	struct obd_sense sense = obd_sense_parse(cmd->sense, sizeof(cmd->sense));
	bool is_good = !cmd->is_failed && obd_scsi_errno(cmd->status, sense) == 0 &&
		       (pick->op != OBD_OP_READ || cmd->read_bytes == cmd->data_bytes);
	enum obd_outcome outcome = pick->is_fua ? OBD_DURABLE : OBD_ACKNOWLEDGED;

	obd_slices_add(&load->slices, slot->begun_ns, load->now_ns);
	if (!is_good && obd_tally_count(&load->report.tally, OBD_WRONG_ERROR))
		complain(load, OBD_WRONG_ERROR, cmd->is_failed ? "ring is broken" : "error", slot);
	switch (pick->op) {
	case OBD_OP_READ:
		load->report.reads++;
		for (uint32_t i = 0; is_good && i < pick->sector_cnt; i++)
			check_sector(load, slot, i);
		break;
	case OBD_OP_WRITE:
	case OBD_OP_DISCARD:
		load->report.writes += pick->op == OBD_OP_WRITE;
		load->report.discards += pick->op == OBD_OP_DISCARD;
		obd_model_end_write(load->model, pick->lba, pick->sector_cnt,
				    is_good ? outcome : OBD_FAILED);
		break;
	case OBD_OP_FLUSH:
		load->report.flushes++;
		if (is_good)
			obd_model_end_flush(load->model, slot->flush_started);
		break;
	}
}

static void reap(struct load *load)
{
	struct obd_kring_cmd *cmd = obd_kring_reap(load->ring);

	load->now_ns = obd_clock_ns();
	if (cmd)
		load->progress_ns = load->now_ns;
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
	load->progress_ns = obd_clock_ns();
	load->read_back_lba = 0;
	obd_store_release(&load->phase, (uint32_t)phase); /* pairs with add_stat */
}

static bool is_told(const struct load *load)
{
	return obd_load_acquire(&load->must_finish) || obd_load_acquire(&load->must_stop);
}

/* Whether generating is over: told, time is up, or there is no sense in going on. */
static bool is_over(const struct load *load, uint64_t now_ns)
{
	uint64_t limit_ns = load->options->seconds * OBD_SECOND_NS;

	return is_told(load) || load->report.is_broken ||
	       (limit_ns && now_ns - load->start_ns >= limit_ns) ||
	       load->ledger.header->sequence >= OBD_SEQUENCE_MAX;
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
	uint64_t now_ns = obd_clock_ns();
	uint64_t patience_ns = load->options->drain_seconds * OBD_SECOND_NS;
	bool is_all_read = load->in_flight == 0 && load->read_back_lba == load->sector_cnt;
	struct obd_kring_stat stat;

	if (load->phase == SURVEYING && (is_all_read || is_told(load))) {
		load->start_ns = now_ns;
		enter(load, GENERATING);
	} else if (load->phase == GENERATING && is_over(load, now_ns)) {
		load->report.elapsed_ns = now_ns - load->start_ns;
		enter(load, DRAINING);
	}
	if (load->phase == DRAINING && load->in_flight == 0 && !load->report.is_broken)
		enter(load, READ_BACK);
	if (load->phase == READ_BACK && is_all_read) {
		load->report.is_complete = true;
		enter(load, DONE);
	}
	if (load->phase == DONE)
		return;
	obd_kring_stat(load->ring, &stat);
	load->report.is_broken |= stat.is_broken;
	now_ns = obd_clock_ns(); /* enter() may have moved progress_ns past the first reading */
	if (obd_load_acquire(&load->must_abort) ||
	    (load->phase > GENERATING &&
	     (stat.is_broken || now_ns - load->progress_ns > patience_ns)))
		give_up(load);
}

static void work(struct load *load)
{
	while (load->phase != DONE) {
		if (load->phase == GENERATING)
			generate(load);
		else if (load->phase == SURVEYING || load->phase == READ_BACK)
			read_all(load);
		obd_kring_notify(load->ring);
		/* Completions are taken in on a kick only, as the kernel does. */
		if (obd_kring_wait(load->ring, patience_ms(load)))
			reap(load);
		else
			load->now_ns = obd_clock_ns();
		obd_slices_tick(&load->slices, load->now_ns);
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
	static const char *const names[] = {"surveying", "generating", "draining",
					    "read_back", "reporting",  "done"};

	return (size_t)snprintf(at, space, " front=load phase=%s failures=%lu good=%d",
				names[phase],
				obd_tally_sum(&r->tally) + obd_load_relaxed(&r->unfinished),
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

static int init_checker(struct load *load)
{
	const struct obd_options *o = load->options;
	/* Two runs with one seed do the same things, but never take the other's data for theirs. */
	struct obd_ledger_identity identity = {
		.name = o->name,
		.run = obd_clock_ns() ^ ((uint64_t)getpid() << 48),
		.sector_cnt = load->sector_cnt,
	};
	struct obd_model_options model = {
		.ledger = &load->ledger,
		.is_poison_known = o->is_checking,
	};
	char problem[256] = "";
	int rc = obd_ledger_open(&load->ledger, o->ledger, &identity, problem);

	if (rc)
		obd_log("%s", problem);
	if (rc == 0) {
		rc = obd_slices_open(&load->slices, o->latency);
		if (rc)
			obd_log("latency file %s: %s", o->latency, strerror(-rc));
	}
	if (rc)
		return rc;
	obd_owner_init(&load->owner, o->journal);
	obd_generator_init(&load->generator, &o->mix, load->sector_cnt, o->seed);
	load->model = obd_model_create(&model);
	return load->model ? 0 : -ENOMEM;
}

static int init(struct load *load)
{
	const struct obd_options *o = load->options;
	struct obd_kring_options ring = {o->data_area_bytes, o->is_checking};
	size_t slot_bytes = (size_t)o->mix.max_sectors * OBD_SECTOR_BYTES;
	int rc;

	load->owner.fd = -1;
	load->sector_cnt = o->span_bytes / OBD_SECTOR_BYTES;
	rc = init_checker(load);
	if (rc)
		return rc;
	load->slots = calloc(o->queue_depth, sizeof(*load->slots));
	load->memory = calloc(o->queue_depth, slot_bytes < 4096 ? 4096 : slot_bytes);
	load->floor_memory = calloc(o->queue_depth, o->mix.max_sectors * sizeof(uint32_t));
	if (!load->slots || !load->memory || !load->floor_memory)
		return -ENOMEM;
	for (uint32_t i = 0; i < o->queue_depth; i++) {
		struct slot *slot = &load->slots[i];

		slot->data = load->memory + i * (slot_bytes < 4096 ? 4096 : slot_bytes);
		slot->floor = load->floor_memory + i * o->mix.max_sectors;
		slot->next_free = load->free_slots;
		load->free_slots = slot;
	}
	return obd_kring_create(&ring, &load->ring);
}

static void deinit(struct load *load)
{
	obd_kring_destroy(load->ring);
	obd_model_destroy(load->model);
	obd_owner_deinit(&load->owner);
	obd_ledger_close(&load->ledger);
	free(load->slots);
	free(load->memory);
	free(load->floor_memory);
}

static void publish_report(struct load *load)
{
	const struct obd_options *o = load->options;
	struct obd_gap_summary gaps;
	struct obd_kring_stat stat;
	char *text = NULL;
	size_t bytes = 0;
	int rc;

	rc = obd_slices_close(&load->slices);
	if (rc)
		obd_log("latency file %s: %s", o->latency, strerror(-rc));
	obd_kring_stat(load->ring, &stat);
	obd_kring_gap_summary(load->ring, &gaps);
	rc = obd_report_format(&load->report, o->name, o->seed, &stat, &gaps, &text, &bytes);
	if (rc == 0 && (fwrite(text, 1, bytes, stdout) != bytes || fflush(stdout) != 0))
		obd_log("stdout: %s", strerror(errno));
	if (rc == 0 && o->json)
		rc = obd_json_save(o->json, text, bytes);
	if (rc)
		obd_log("report %s: %s", o->json ? o->json : "", strerror(-rc));
	free(text);
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
	load.start_ns = load.progress_ns = load.now_ns = obd_clock_ns();
	enter(&load, options->is_surveying ? SURVEYING : GENERATING);
	work(&load);
	publish_report(&load);
	enter(&load, REPORTED);
	while (options->is_lingering && !obd_load_acquire(&load.must_stop))
		obd_kring_wait(load.ring, 1000);
	obd_control_destroy(control);
	deinit(&load);
	return obd_report_is_good(&load.report) ? 0 : 1;
}
