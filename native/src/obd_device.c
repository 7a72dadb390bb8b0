#include "obd_device.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "obd_barrier.h"
#include "obd_crash.h"
#include "obd_planted.h"

#define INLINE_READ_SECTORS 128u /* 64 KiB */
#define SERVE_BATCH	    64u	 /* commands of one device before the others have their turn */

/* of planted faults */
#define ANSWERED_EARLY_MS 5
#define REPLAYED_LATE_MS  100

uint64_t obd_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* ---- attach and detach ---- */

static int check_spec(const struct obd_attach_spec *spec, struct obd_errinfo *info)
{
	if (!spec->image || !spec->name ||
	    (spec->ring.event_bytes != 4 && spec->ring.event_bytes != 8) ||
	    (spec->mode != OBD_ATTACH_FRESH && spec->mode != OBD_ATTACH_RECOVER) ||
	    !spec->generation)
		return obd_fail(info, OBD_E_INVAL, spec->name, "attach spec");
	return 0;
}

static int duplicate_fds(struct obd_device *device, const struct obd_attach_spec *spec,
			 struct obd_errinfo *info)
{
	device->fds = spec->ring;
	device->fds.mem_fd = -1;
	device->fds.wait_fd = fcntl(spec->ring.wait_fd, F_DUPFD_CLOEXEC, 3);
	device->fds.kick_fd = fcntl(spec->ring.kick_fd, F_DUPFD_CLOEXEC, 3);
	if (device->fds.wait_fd < 0 || device->fds.kick_fd < 0)
		return obd_fail_errno(info, OBD_E_INVAL, errno, device->name, "ring fds");
	return 0;
}

static int start_writing(struct obd_device *device, struct obd_errinfo *info)
{
	int rc;

	if (!obd_image_has_upper(device->image))
		return 0;
	OBD_CRASH_POINT("attach.writer");
	rc = obd_image_start_writing(device->image, &device->flight.journal.header->append_reserved,
				     info);
	device->is_writing = !rc;
	return rc;
}

/* Tables that need no more than the number of slots. */
static int allocate_tables(struct obd_device *device, struct obd_errinfo *info)
{
	uint32_t cnt = device->flight.journal.slot_cnt;

	device->commands = calloc(cnt, sizeof(*device->commands));
	device->replay.slots = calloc(cnt, sizeof(*device->replay.slots));
	if (!device->commands || !device->replay.slots || obd_flight_init(&device->flight))
		return obd_fail(info, OBD_E_NOMEM, device->name, "table of commands in flight");
	for (uint32_t i = 0; i < cnt; i++) {
		device->commands[i].device = device;
		device->commands[i].slot = i;
	}
	return 0;
}

/* Threads of a predecessor. */
static void forget_threads(struct obd_journal *journal)
{
	for (uint32_t i = 0; i < OBD_JOURNAL_THREADS; i++)
		obd_journal_set_thread(journal, i, 0);
}

static int attach_fresh(struct obd_device *device, const struct obd_journal_identity *identity,
			struct obd_errinfo *info)
{
	struct obd_flight *flight = &device->flight;
	uint32_t tail = 0;
	int rc;

	OBD_CRASH_POINT("attach.prepare");
	rc = obd_journal_prepare(&flight->journal, identity, device->name, info);
	if (!rc)
		rc = start_writing(device, info);
	if (!rc && obd_ring_tail(&flight->ring, &tail))
		rc = obd_fail(info, OBD_E_RING, device->name, "mailbox cmd_tail");
	if (rc)
		return rc;
	obd_journal_format(&flight->journal, identity, tail);
	rc = allocate_tables(device, info);
	if (!rc)
		obd_journal_own(&flight->journal, identity->generation);
	return rc;
}

static int attach_recover(struct obd_device *device, const struct obd_journal_identity *identity,
			  struct obd_errinfo *info)
{
	struct obd_flight *flight = &device->flight;
	int rc;

	OBD_CRASH_POINT("attach.open");
	rc = obd_journal_open(&flight->journal, identity, device->name, info);
	OBD_CRASH_POINT("attach.check");
	if (!rc)
		rc = obd_flight_check(flight, device->name, info);
	if (!rc)
		rc = allocate_tables(device, info);
	if (!rc)
		rc = start_writing(device, info);
	if (rc)
		return rc;
	obd_journal_own(&flight->journal, identity->generation);
	obd_flight_recover(flight, &device->replay);
	return 0;
}

static int attach(struct obd_device *device, const struct obd_attach_spec *spec,
		  struct obd_errinfo *info)
{
	struct obd_flight *flight = &device->flight;
	struct obd_journal_identity identity = {
		.boot_id = spec->boot_id,
		.device_uuid = spec->device_uuid,
		.ring = &flight->ring,
		.generation = spec->generation,
	};
	int rc = duplicate_fds(device, spec, info);

	if (!rc)
		rc = obd_ring_init(&flight->ring, spec->ring.mem_fd, spec->ring.map_bytes,
				   device->name, info);
	if (!rc)
		rc = obd_journal_lock(&flight->journal, spec->journal_fd, device->name, info);
	if (rc)
		return rc;
	return spec->mode == OBD_ATTACH_FRESH ? attach_fresh(device, &identity, info)
					      : attach_recover(device, &identity, info);
}

int obd_device_create(const struct obd_attach_spec *spec, struct obd_pool *pool,
		      struct obd_errinfo *info, struct obd_attach_result *result,
		      struct obd_device **ret)
{
	uint64_t begin_ns = obd_now_ns();
	struct obd_device *device;
	int rc = check_spec(spec, info);

	if (rc)
		return rc;
	device = calloc(1, sizeof(*device));
	if (!device)
		return obd_fail(info, OBD_E_NOMEM, spec->name, "device");
	snprintf(device->name, sizeof(device->name), "%s", spec->name);
	device->flight.journal.lock_fd = -1;
	device->fds.wait_fd = device->fds.kick_fd = -1;
	device->pool = pool;
	device->image = spec->image;
	device->unit.sectors = obd_image_virtual_size_bytes(spec->image) / OBD_SECTOR_BYTES;
	device->unit.is_writable = obd_image_has_upper(spec->image);
	memcpy(device->unit.uuid, spec->device_uuid, sizeof(device->unit.uuid));
	rc = attach(device, spec, info);
	OBD_CRASH_POINT("attach.taken");
	if (rc) {
		obd_device_destroy(device);
		return rc;
	}
	obd_pool_add_lane(pool, &device->lane);
	result->recovered = device->replay.recovered;
	result->already_done = device->replay.already_done;
	result->dropped = device->replay.dropped;
	result->attach_ns = obd_now_ns() - begin_ns;
	forget_threads(&device->flight.journal);
	*ret = device;
	return 0;
}

static void disown(struct obd_device *device)
{
	struct obd_journal *journal = &device->flight.journal;

	if (!journal->header || !journal->generation || device->failed ||
	    obd_load_acquire(&journal->header->generation) != journal->generation)
		return;
	obd_store_relaxed(&obd_journal_counters(journal)->owner_pid, 0);
}

void obd_device_destroy(struct obd_device *device)
{
	if (!device)
		return;
	if (device->id)
		obd_pool_remove_lane(device->pool, &device->lane);
	if (device->is_writing) {
		OBD_CRASH_POINT("detach.writer");
		obd_image_stop_writing(device->image);
	}
	OBD_CRASH_POINT("detach.owner");
	disown(device);
	OBD_CRASH_POINT("detach.unlock");
	obd_flight_deinit(&device->flight);
	obd_ring_deinit(&device->flight.ring);
	obd_journal_close(&device->flight.journal);
	if (device->fds.wait_fd >= 0)
		close(device->fds.wait_fd);
	if (device->fds.kick_fd >= 0)
		close(device->fds.kick_fd);
	free(device->replay.slots);
	free(device->commands);
	free(device);
}

/* ---- serving: the engine thread only ---- */

void obd_device_fail(struct obd_device *device, int err)
{
	if (!device->failed)
		obd_store_release(&device->failed, err);
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

	if (device->failed)
		return;
	count(device, command);
	rc = obd_flight_publish(&device->flight, command->slot, &command->response);
	if (rc)
		return obd_device_fail(device, rc);
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

static void start(struct obd_command *command, uint64_t now_ns)
{
	struct obd_device *device = command->device;
	struct obd_command_site site = site_of(command);

	obd_flight_start(&device->flight, command->slot);
	if (OBD_CHEAT_NOW(answer_early) && command->op.kind == OBD_SCSI_WRITE &&
	    !command->is_replay) {
		obd_planted_write_later(&site, &command->op, ANSWERED_EARLY_MS);
		obd_respond_good(&command->response);
		return publish(command, now_ns);
	}
	if (is_quick(&command->op) && !is_slowed(site.slot) && !run(command, OBD_READ_NOWAIT))
		return publish(command, now_ns);
	command->task.run = run_on_pool;
	device->running++;
	obd_pool_submit(device->pool, &device->lane, &command->task);
}

/* A planted fault: the write of a recovered command is done once more, over newer ones. */
static void replay_late(const struct obd_command *command)
{
	struct obd_command_site site = site_of(command);

	obd_planted_write_later(&site, &command->op, REPLAYED_LATE_MS);
}

/*
 * Recovered commands come before anything new. Those that change data run one at a time in
 * sequence order, the others all at once: see native/DESIGN.md.
 */
static void continue_replay(struct obd_device *device, uint64_t now_ns)
{
	while (!device->is_replaying && device->replay_at < device->replay.recovered) {
		struct obd_command *command =
			&device->commands[device->replay.slots[device->replay_at++]];

		if (!changes_data(&command->op))
			continue; /* started by obd_device_begin */
		command->is_replay = device->is_replaying = true;
		OBD_CRASH_POINT("replay.write");
		if (OBD_CHEAT(late_replay) && command->op.kind == OBD_SCSI_WRITE)
			replay_late(command);
		start(command, now_ns);
	}
	if (device->is_attached || device->is_replaying)
		return;
	OBD_CRASH_POINT("replay.done");
	device->is_attached = true;
	device->is_ready = true;
	obd_store_relaxed(&obd_journal_counters(&device->flight.journal)->attached_ns, now_ns);
}

void obd_device_begin(struct obd_device *device)
{
	uint64_t now_ns = obd_now_ns();

	OBD_CRASH_POINT("attach.kick");
	/* The predecessor may have died between publishing and kicking. */
	device->needs_kick = true;
	obd_device_kick(device);
	for (uint32_t i = 0; i < device->replay.recovered; i++) {
		struct obd_command *command = &device->commands[device->replay.slots[i]];
		struct obd_command_site site = site_of(command);

		obd_command_decode(&site, &command->op);
		if (changes_data(&command->op))
			continue;
		OBD_CRASH_POINT("replay.read");
		start(command, now_ns);
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
	if (device->failed || !device->is_attached)
		return;
	for (uint32_t i = 0; i < SERVE_BATCH; i++) {
		rc = obd_flight_pick_up(&device->flight, now_ns, &slot);
		if (rc < 0)
			return obd_device_fail(device, rc);
		if (!rc)
			break;
		command = &device->commands[slot];
		command->is_replay = false;
		site = site_of(command);
		obd_command_decode(&site, &command->op);
		start(command, now_ns);
		if (device->failed)
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
	if (!device->failed)
		continue_replay(device, now_ns);
}
