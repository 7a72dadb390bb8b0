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

uint64_t obd_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

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
	flight->tail = tail;
	rc = allocate_tables(device, info);
	if (!rc)
		obd_journal_own(&flight->journal, identity->generation);
	return rc;
}

static int attach_recover(struct obd_device *device, const struct obd_journal_identity *identity,
			  bool is_blamed, struct obd_errinfo *info)
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
	obd_flight_recover(flight, is_blamed, &device->replay);
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
	return spec->mode == OBD_ATTACH_FRESH
		       ? attach_fresh(device, &identity, info)
		       : attach_recover(device, &identity, spec->is_blamed, info);
}

static void describe(const struct obd_device *device, const struct obd_journal_slot *slot,
		     struct obd_poisoned *ret)
{
	struct obd_command_site site = {.unit = &device->unit, .slot = slot};
	struct obd_scsi_op op;

	obd_command_decode(&site, &op);
	*ret = (struct obd_poisoned){.lba = op.lba, .sectors = op.sectors, .deaths = slot->deaths};
	if (slot->cdb_bytes <= sizeof(ret->cdb))
		ret->cdb_bytes = slot->cdb_bytes;
	memcpy(ret->cdb, slot->cdb, ret->cdb_bytes);
}

static void describe_recovery(const struct obd_device *device, struct obd_attach_result *ret)
{
	const struct obd_recovery *recovery = &device->replay;

	ret->recovered = recovery->recovered;
	ret->already_done = recovery->already_done;
	ret->dropped = recovery->dropped;
	ret->poisoned_cnt = 0;
	for (uint32_t i = 0; i < recovery->recovered; i++) {
		const struct obd_journal_slot *slot =
			&device->flight.journal.slots[recovery->slots[i]];

		if (!obd_device_is_poisoned(device, slot))
			continue;
		if (ret->poisoned_cnt < OBD_POISONED_MAX)
			describe(device, slot, &ret->poisoned[ret->poisoned_cnt]);
		ret->poisoned_cnt++;
	}
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
	device->poison_after = spec->poison_after;
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
	describe_recovery(device, result);
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
