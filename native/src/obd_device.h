/*
 * One attached device: ring, journal and image together, and its commands in flight.
 *
 * Created by whichever thread attaches, before the engine knows it; from then on the engine
 * thread alone calls obd_device_*, and commands run on pool threads.
 */
#ifndef OBD_DEVICE_H
#define OBD_DEVICE_H

#include "obd_command.h"
#include "obd_engine.h"
#include "obd_flight.h"
#include "obd_pool.h"

struct obd_device;

struct obd_command {
	struct obd_task task; /* first: the pool gives tasks back */
	struct obd_device *device;
	uint32_t slot;
	bool is_replay;	 /* the next recovered command waits for this one */
	bool is_suspect; /* recovered, and workers died of something while it was executing */
	struct obd_scsi_op op;
	struct obd_response response;
};

enum obd_device_phase { OBD_DEVICE_SERVING, OBD_DEVICE_DRAINING, OBD_DEVICE_DRAINED };

struct obd_device {
	struct obd_device *next; /* the engine's list */
	char name[128];
	uint32_t id;
	struct obd_flight flight;
	struct obd_unit unit;
	struct obd_image *image;      /* borrowed */
	struct obd_ring_fds fds;      /* wait_fd and kick_fd are ours, mem_fd is not kept */
	struct obd_command *commands; /* by slot */
	struct obd_lane lane;
	struct obd_pool *pool;
	struct obd_recovery replay;
	uint32_t suspect_at;	/* next of replay.slots to look at for suspects */
	uint32_t replay_at;	/* the same, for what changes data */
	uint32_t poison_after;	/* deaths; 0: never */
	bool has_started_reads; /* of what was recovered */
	bool is_replaying;	/* one that runs alone is running */
	bool is_attached;	/* attached_ns was noted */
	bool is_writing;	/* the image's writer role is ours */
	bool is_polled;		/* wait_fd is in the engine's epoll */
	bool is_ready;		/* the ring may hold something */
	bool needs_kick;	/* published since the last kick */
	bool is_reset;		/* by somebody else: what runs is awaited, its answer is void */
	uint64_t reset_ns;	/* when that was noticed */
	uint32_t running;	/* commands given out and not back */
	int32_t failed;		/* enum obd_err; set once by the engine thread, read by any */
	enum obd_device_phase phase; /* engine mutex */
	bool wants_detach;	     /* engine mutex */
};

/* May the slot's command be executed once more? */
static inline bool obd_device_is_poisoned(const struct obd_device *device,
					  const struct obd_journal_slot *slot)
{
	return device->poison_after && slot->deaths >= device->poison_after;
}

/* Everything of obd_engine_attach but serving. Leaves nothing behind when it fails. */
int obd_device_create(const struct obd_attach_spec *spec, struct obd_pool *pool,
		      struct obd_errinfo *info, struct obd_attach_result *result,
		      struct obd_device **ret);
/* Lets go of ring, lock and writer role. What is in flight stays in the journal. No command may
 * be running. NULL is fine. */
void obd_device_destroy(struct obd_device *device);

/* Kicks once and starts with what was recovered. */
void obd_device_begin(struct obd_device *device);

/* Consumes the event of wait_fd, which must be readable. */
void obd_device_read_event(struct obd_device *device);

/* Picks up and starts commands, a bounded number. */
void obd_device_serve(struct obd_device *device, uint64_t now_ns);

/* Somebody reset the ring: goes on from there as soon as nothing runs any more. */
void obd_device_restart(struct obd_device *device, uint64_t now_ns);

/* A command came back from the pool. */
void obd_device_finish(struct obd_command *command, uint64_t now_ns);

/* Tells the other side, if something was published since the last time. */
void obd_device_kick(struct obd_device *device);

void obd_device_beat(struct obd_device *device, uint64_t now_ns);

/* Gives the device up: nothing of ring and journal is touched from here on. */
void obd_device_fail(struct obd_device *device, int err);

uint64_t obd_now_ns(void);

#endif
