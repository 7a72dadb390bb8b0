#include "support_crash_server.h"

#include <string.h>

#include "obd_command.h"
#include "support_crash_world.h"
#include "support_image_files.h"

struct crash_server crash_server;
bool crash_skips_check;

static struct obd_command_site site_of(const struct crash_running *running)
{
	return (struct obd_command_site){
		.ring = &crash_server.flight.ring,
		.unit = &crash_world.unit,
		.image = crash_world.disk,
		.slot = &crash_server.flight.journal.slots[running->slot],
	};
}

static void decode(const struct crash_running *running, struct obd_scsi_op *ret)
{
	struct obd_command_site site = site_of(running);

	obd_command_decode(&site, ret);
}

void crash_attach(uint64_t generation, bool is_fresh)
{
	struct crash_server *server = &crash_server;
	struct obd_errinfo info = {0};
	uint32_t slots[CRASH_MAX_SLOTS];
	struct obd_recovery recovery = {.slots = slots};
	struct obd_scsi_op op;

	if (!is_fresh && !crash_skips_check && obd_flight_check(&server->flight, "test", &info))
		crash_violate("I4: the journal was refused");
	REQUIRE(!obd_flight_init(&server->flight));
	REQUIRE(!obd_ring_tail(&server->flight.ring, &server->flight.tail));
	obd_journal_own(&server->flight.journal, generation);
	if (!is_fresh)
		obd_flight_recover(&server->flight, true, &recovery);
	server->running_cnt = recovery.recovered;
	for (uint32_t i = 0; i < recovery.recovered; i++) {
		server->running[i] = (struct crash_running){.slot = slots[i], .is_replay = true};
		decode(&server->running[i], &op);
		server->running[i].is_replayed_write = op.kind == OBD_SCSI_WRITE;
	}
	server->is_alive = true;
}

/* The first of the replayed writes, or running_cnt. */
static uint32_t replaying(void)
{
	uint32_t i = 0;

	while (i < crash_server.running_cnt && !crash_server.running[i].is_replayed_write)
		i++;
	return i;
}

bool crash_may_pick_up(void)
{
	return crash_server.is_alive && crash_server.running_cnt < CRASH_MAX_SLOTS &&
	       replaying() == crash_server.running_cnt;
}

bool crash_may_execute(uint32_t index)
{
	const struct crash_running *running = &crash_server.running[index];

	return !running->is_executed && (!running->is_replayed_write || index == replaying());
}

bool crash_pick_up(void)
{
	struct crash_server *server = &crash_server;
	struct crash_running *running = &server->running[server->running_cnt];
	uint32_t slot = 0;
	int rc = obd_flight_pick_up(&server->flight, 0, &slot);

	if (rc < 0)
		crash_violate("I4: the ring makes no sense");
	if (!rc)
		return false;
	*running = (struct crash_running){.slot = slot};
	server->running_cnt++;
	obd_flight_start(&server->flight, slot);
	return true;
}

void crash_execute(uint32_t index)
{
	struct crash_running *running = &crash_server.running[index];
	struct obd_command_site site = site_of(running);
	struct obd_scsi_op op;

	if (running->is_replay)
		obd_flight_start(&crash_server.flight, running->slot);
	if (!crash_is_waiting(site.slot->cmd_id, site.slot->cdb))
		crash_violate("I2: executed after it was answered");
	obd_command_decode(&site, &op);
	obd_command_run(&site, &op, 0, &running->response);
	running->is_executed = true;
}

void crash_publish(uint32_t index)
{
	struct crash_server *server = &crash_server;
	struct crash_running done = server->running[index];

	server->running_cnt--;
	memmove(&server->running[index], &server->running[index + 1],
		(server->running_cnt - index) * sizeof(done));
	if (obd_flight_publish(&server->flight, done.slot, &done.response))
		crash_violate("I4: could not publish");
}

bool crash_skip(void)
{
	return obd_flight_skip(&crash_server.flight);
}

void crash_bury(void)
{
	obd_flight_deinit(&crash_server.flight);
	crash_server.running_cnt = 0;
	crash_server.is_alive = false;
}
