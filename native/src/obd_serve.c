/* The serving side of a device: replay, pick-up, answers. The engine thread only, but for
 * run_on_pool. */
#include <errno.h>
#include <unistd.h>

#include "obd_barrier.h"
#include "obd_crash.h"
#include "obd_device.h"
#include "obd_planted.h"

#define INLINE_READ_SECTORS 128u /* 64 KiB */
#define SERVE_BATCH	    64u	 /* commands of one device before the others have their turn */
/* A reset stores tail, then head: by then both are there, also if it lost its processor between. */
#define RESET_SETTLES_NS 2000000u

/* of planted faults */
#define ANSWERED_EARLY_MS 5
#define REPLAYED_LATE_MS  100

void obd_device_fail(struct obd_device *device, int err)
{
	if (!device->failed)
		obd_store_release(&device->failed, err);
}

/* What the ring made of a call; anything but a reset is the end of the device. */
static void take_error(struct obd_device *device, int err)
{
	if (err != OBD_E_RESET)
		return obd_device_fail(device, err);
	device->is_reset = true;
	device->reset_ns = obd_now_ns();
}

/* Nothing more may be started, answered or picked up, for ever or until it is restarted. */
static bool is_stopped(const struct obd_device *device)
{
	return device->failed || device->is_reset;
}

void obd_device_read_event(struct obd_device *device)
{
	uint64_t event;

	/* The one reader of this counter; it was polled readable, so that this does not block. */
	(void)!read(device->fds.wait_fd, &event, device->fds.event_bytes);
	device->is_ready = true;
}

static void kick(struct obd_device *device)
{
	uint64_t event = 1; /* little-endian: its first four bytes are the uio form */
	ssize_t wrote = write(device->fds.kick_fd, &event, device->fds.event_bytes);

	/* A full eventfd counter is readable already. Anything else: the device went away. */
	if (wrote < 0 && errno != EAGAIN && errno != EINTR)
		obd_device_fail(device, OBD_E_IO);
}

void obd_device_kick(struct obd_device *device)
{
	if (!device->needs_kick || device->failed)
		return;
	device->needs_kick = false;
	if (OBD_CHEAT_NOW(swallow_kick))
		return;
	OBD_CRASH_POINT("serve.kick");
	kick(device);
}

void obd_device_beat(struct obd_device *device, uint64_t now_ns)
{
	struct obd_journal_counters *counters = obd_journal_counters(&device->flight.journal);

	if (device->failed)
		return;
	obd_add_relaxed(&counters->heartbeat_cnt, 1);
	obd_store_relaxed(&counters->heartbeat_ns, now_ns);
}

static void count(struct obd_device *device, const struct obd_command *command)
{
	struct obd_journal_counters *counters = obd_journal_counters(&device->flight.journal);
	uint64_t bytes = (uint64_t)command->op.sectors * OBD_SECTOR_BYTES;

	switch (command->op.kind) {
	case OBD_SCSI_READ:
		obd_add_relaxed(&counters->read_cmds, 1);
		obd_add_relaxed(&counters->read_bytes, bytes);
		break;
	case OBD_SCSI_WRITE:
		obd_add_relaxed(&counters->write_cmds, 1);
		obd_add_relaxed(&counters->write_bytes, bytes);
		break;
	case OBD_SCSI_UNMAP:
	case OBD_SCSI_WRITE_SAME:
		obd_add_relaxed(&counters->discard_cmds, 1);
		break;
	case OBD_SCSI_FLUSH:
		obd_add_relaxed(&counters->flush_cmds, 1);
		break;
	default:
		obd_add_relaxed(&counters->other_cmds, 1);
	}
	if (command->response.status != OBD_STATUS_CHECK_CONDITION)
		return;
	if (command->response.sense[2] == OBD_KEY_MEDIUM_ERROR)
		obd_add_relaxed(&counters->medium_errors, 1);
	else
		obd_add_relaxed(&counters->refused_cmds, 1);
}

static void publish(struct obd_command *command, uint64_t now_ns)
{
	struct obd_device *device = command->device;
	struct obd_journal_counters *counters = obd_journal_counters(&device->flight.journal);
	int rc;

	if (is_stopped(device))
		return;
	rc = obd_flight_publish(&device->flight, command->slot, &command->response);
	if (rc)
		return take_error(device, rc);
	count(device, command);
	if (!obd_load_relaxed(&counters->first_publish_ns))
		obd_store_relaxed(&counters->first_publish_ns, now_ns);
	device->needs_kick = true;
	device->is_ready = true; /* a full table has room again */
}

static struct obd_command_site site_of(const struct obd_command *command)
{
	struct obd_device *device = command->device;

	return (struct obd_command_site){
		.ring = &device->flight.ring,
		.unit = &device->unit,
		.image = device->image,
		.slot = &device->flight.journal.slots[command->slot],
	};
}

/* A planted fault: a command that lasts while the ring goes round. */
static bool is_slowed(const struct obd_journal_slot *slot)
{
	return OBD_CHEAT(slow_lap) && !slot->ring_offset;
}

static uint32_t own_thread(void)
{
	static _Thread_local uint32_t tid;

	if (!tid)
		tid = (uint32_t)gettid();
	return tid;
}

static int run(struct obd_command *command, uint32_t flags)
{
	struct obd_command_site site = site_of(command);
	struct obd_journal *journal = &command->device->flight.journal;
	int rc;

	obd_journal_set_thread(journal, command->slot, own_thread());
	OBD_CRASH_POINT_LBA("command.run", command->op.lba, command->op.sectors);
	rc = obd_command_run(&site, &command->op, flags, &command->response);
	obd_journal_set_thread(journal, command->slot, 0);
	return rc;
}

static void run_on_pool(struct obd_task *task)
{
	struct obd_command *command = (struct obd_command *)task;

	if (is_slowed(site_of(command).slot))
		obd_planted_sleep_ms(1500);
	run(command, 0);
}

static bool changes_data(const struct obd_scsi_op *op)
{
	return op->kind == OBD_SCSI_WRITE || op->kind == OBD_SCSI_WRITE_SAME ||
	       op->kind == OBD_SCSI_UNMAP || op->kind == OBD_SCSI_FLUSH;
}

/* Can be done here and now, without sleeping. */
static bool is_quick(const struct obd_scsi_op *op)
{
	if (op->kind == OBD_SCSI_READ)
		return op->sectors <= INLINE_READ_SECTORS;
	return !changes_data(op);
}

/* False: it was answered at once. */
static bool start(struct obd_command *command, uint64_t now_ns)
{
	struct obd_device *device = command->device;
	struct obd_command_site site = site_of(command);

	obd_flight_start(&device->flight, command->slot);
	if (OBD_CHEAT_NOW(answer_early) && command->op.kind == OBD_SCSI_WRITE &&
	    !command->is_replay) {
		obd_planted_write_later(&site, &command->op, ANSWERED_EARLY_MS);
		obd_respond_good(&command->response);
		publish(command, now_ns);
		return false;
	}
	if (is_quick(&command->op) && !is_slowed(site.slot) && !run(command, OBD_READ_NOWAIT)) {
		publish(command, now_ns);
		return false;
	}
	command->task.run = run_on_pool;
	device->running++;
	obd_pool_submit(device->pool, &device->lane, &command->task);
	return true;
}

/* A planted fault: the write of a recovered command is done once more, over newer ones. */
static void replay_late(const struct obd_command *command)
{
	struct obd_command_site site = site_of(command);

	obd_planted_write_later(&site, &command->op, REPLAYED_LATE_MS);
}

/* Until it is answered nothing else of what was recovered is started. */
static void run_alone(struct obd_command *command, uint64_t now_ns)
{
	command->is_replay = command->device->is_replaying = true;
	if (!start(command, now_ns))
		command->is_replay = command->device->is_replaying = false;
}

static void answer_poisoned(struct obd_command *command, uint64_t now_ns)
{
	struct obd_device *device = command->device;

	OBD_CRASH_POINT("replay.poisoned");
	obd_respond_poisoned(&command->response, command->op.sectors, command->op.lba);
	publish(command, now_ns);
	if (!is_stopped(device))
		obd_add_relaxed(&obd_journal_counters(&device->flight.journal)->poisoned, 1);
}

static struct obd_command *recovered(struct obd_device *device, uint32_t i)
{
	return &device->commands[device->replay.slots[i]];
}

/* One at a time, whatever it is: if a worker dies of one of them, no other was executing. */
static void replay_suspects(struct obd_device *device, uint64_t now_ns)
{
	while (!device->is_replaying && !is_stopped(device) &&
	       device->suspect_at < device->replay.recovered) {
		struct obd_command *command = recovered(device, device->suspect_at++);

		if (!command->is_suspect)
			continue;
		if (obd_device_is_poisoned(device, site_of(command).slot)) {
			answer_poisoned(command, now_ns);
			continue;
		}
		OBD_CRASH_POINT("replay.suspect");
		run_alone(command, now_ns);
	}
}

static void start_reads(struct obd_device *device, uint64_t now_ns)
{
	for (uint32_t i = 0; !is_stopped(device) && i < device->replay.recovered; i++) {
		struct obd_command *command = recovered(device, i);

		if (command->is_suspect || changes_data(&command->op))
			continue;
		OBD_CRASH_POINT("replay.read");
		start(command, now_ns);
	}
	device->has_started_reads = true;
}

static void note_attached(struct obd_device *device, uint64_t now_ns)
{
	if (device->is_attached)
		return;
	device->is_attached = true;
	device->is_ready = true;
	obd_store_relaxed(&obd_journal_counters(&device->flight.journal)->attached_ns, now_ns);
}

/*
 * Recovered commands come before anything new. First those that workers died with, one at a time;
 * then those that change data, one at a time in sequence order, and the others all at once: see
 * native/DESIGN.md.
 */
static void continue_replay(struct obd_device *device, uint64_t now_ns)
{
	replay_suspects(device, now_ns);
	if (device->is_replaying || is_stopped(device))
		return;
	if (!device->has_started_reads)
		start_reads(device, now_ns);
	while (!device->is_replaying && !is_stopped(device) &&
	       device->replay_at < device->replay.recovered) {
		struct obd_command *command = recovered(device, device->replay_at++);

		if (command->is_suspect || !changes_data(&command->op))
			continue;
		OBD_CRASH_POINT("replay.write");
		if (OBD_CHEAT(late_replay) && command->op.kind == OBD_SCSI_WRITE)
			replay_late(command);
		run_alone(command, now_ns);
	}
	if (device->is_replaying || is_stopped(device))
		return;
	OBD_CRASH_POINT("replay.done");
	note_attached(device, now_ns);
}

void obd_device_begin(struct obd_device *device)
{
	uint64_t now_ns = obd_now_ns();

	OBD_CRASH_POINT("attach.kick");
	/* The predecessor may have died between publishing and kicking. */
	device->needs_kick = true;
	obd_device_kick(device);
	for (uint32_t i = 0; i < device->replay.recovered; i++) {
		struct obd_command *command = recovered(device, i);
		struct obd_command_site site = site_of(command);

		obd_command_decode(&site, &command->op);
		command->is_suspect = site.slot->deaths > 0;
	}
	continue_replay(device, now_ns);
}

void obd_device_serve(struct obd_device *device, uint64_t now_ns)
{
	struct obd_command_site site;
	struct obd_command *command;
	uint32_t slot;
	int rc;

	device->is_ready = false;
	if (is_stopped(device) || !device->is_attached)
		return;
	for (uint32_t i = 0; i < SERVE_BATCH; i++) {
		rc = obd_flight_pick_up(&device->flight, now_ns, &slot);
		if (rc < 0)
			return take_error(device, rc);
		if (!rc)
			break;
		command = &device->commands[slot];
		command->is_replay = false;
		site = site_of(command);
		obd_command_decode(&site, &command->op);
		start(command, now_ns);
		if (is_stopped(device))
			return;
		device->is_ready = i + 1 == SERVE_BATCH;
	}
	if (obd_flight_skip(&device->flight))
		device->needs_kick = true;
}

void obd_device_finish(struct obd_command *command, uint64_t now_ns)
{
	struct obd_device *device = command->device;

	device->running--;
	publish(command, now_ns);
	if (!command->is_replay)
		return;
	command->is_replay = device->is_replaying = false;
	if (!is_stopped(device))
		continue_replay(device, now_ns);
}

/*
 * A read that was still running when the ring was reset may have filled a data block after the
 * other side had put the data of a new write there. So what was queued until nothing ran any more
 * is not executed but sent back (BUSY), to come again with its data.
 */
static void send_back(struct obd_device *device, uint64_t now_ns)
{
	struct obd_flight *flight = &device->flight;
	struct obd_response busy;
	uint32_t end, slot;
	int rc = obd_ring_head(&flight->ring, &end) ? OBD_E_RING : 1;

	obd_respond_error(&busy, OBD_E_AGAIN, OBD_READING);
	while (rc > 0 && obd_next_offset(flight->journal.header->next) != end) {
		rc = obd_flight_pick_up(flight, now_ns, &slot);
		if (rc > 0)
			rc = obd_flight_publish(flight, slot, &busy) ?: 1;
		device->needs_kick |= rc > 0;
	}
	if (rc < 0)
		take_error(device, rc);
}

void obd_device_restart(struct obd_device *device, uint64_t now_ns)
{
	int rc;

	if (!device->is_reset || device->failed || device->running ||
	    now_ns < device->reset_ns + RESET_SETTLES_NS)
		return;
	rc = obd_flight_restart(&device->flight);
	if (rc)
		return obd_device_fail(device, rc);
	device->is_reset = false;
	device->replay.recovered = 0;
	device->has_started_reads = true;
	device->is_replaying = false;
	note_attached(device, now_ns);
	send_back(device, now_ns);
	device->is_ready = true;
}
