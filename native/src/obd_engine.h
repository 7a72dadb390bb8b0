/*
 * The engine of a worker: one long call serves all its rings.
 *
 * obd_engine_run() is called once, on a thread of its own, without the GIL; every other function
 * may be called from any thread at any time and is carried out by the engine thread at a command
 * boundary. The engine thread alone touches rings and journals (pick-up, publish); image I/O that
 * would sleep goes to a pool of threads and completes out of order.
 *
 * Ownership: the engine duplicates every fd it is given and maps what it needs; the caller closes
 * its own. An image is borrowed from attach until detach returned.
 */
#ifndef OBD_ENGINE_H
#define OBD_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

#include "obd_err.h"
#include "obd_image.h"

struct obd_engine;

struct obd_engine_options {
	uint32_t
		io_threads_max; /* 0: default 32. Threads are started on demand and end when idle */
};

/* How the ring signals: a uio fd does all three with 4-byte events; memfd rings use eventfds. */
struct obd_ring_fds {
	int mem_fd;	      /* mmap this, map_bytes long */
	int wait_fd;	      /* poll and read: new commands */
	int kick_fd;	      /* write: completions published */
	uint32_t event_bytes; /* 4 for uio, 8 for eventfd */
	uint64_t map_bytes;
};

enum obd_attach_mode {
	OBD_ATTACH_FRESH = 1,	/* ring never served, or just reset: the journal starts anew */
	OBD_ATTACH_RECOVER = 2, /* a predecessor served it and is proven dead or drained */
};

struct obd_attach_spec {
	const char *name; /* of the device, for errors; copied */
	struct obd_ring_fds ring;
	int journal_fd; /* the engine reopens it through /proc/self/fd and locks that */
	uint8_t boot_id[16];
	uint8_t device_uuid[16];
	uint64_t generation; /* must be greater than the journal's */
	uint32_t mode;	     /* enum obd_attach_mode */
	struct obd_image *image;
	uint32_t poison_after; /* deaths after which a command is not executed again; 0: never */
	bool is_blamed;	       /* the predecessor crashed, hung or ran out of memory: not killed */
};

/* A command that is answered with MEDIUM ERROR, because workers died each time it was executed. */
struct obd_poisoned {
	uint64_t lba; /* 0 with sectors 0: it names no range */
	uint32_t sectors;
	uint32_t deaths;
	uint32_t cdb_bytes;
	uint8_t cdb[32];
};

#define OBD_POISONED_MAX 16u

struct obd_attach_result {
	uint32_t device_id;    /* handle for detach and stats */
	uint32_t recovered;    /* in-flight commands that are executed again */
	uint32_t already_done; /* publications that had reached the commit point */
	uint32_t dropped;      /* picked up but not yet counted: will be picked up again */
	uint64_t attach_ns;    /* how long the take-over took inside the engine */
	uint32_t poisoned_cnt; /* of `recovered`, those not executed; all of them */
	struct obd_poisoned poisoned[OBD_POISONED_MAX]; /* the first of them, oldest first */
};

int obd_engine_create(const struct obd_engine_options *options, struct obd_errinfo *info,
		      struct obd_engine **ret);
void obd_engine_destroy(struct obd_engine *engine); /* after run() returned */

/* Serves until obd_engine_stop. Returns 0, or a negative error that no device could be blamed for.
 */
int obd_engine_run(struct obd_engine *engine);
void obd_engine_stop(struct obd_engine *engine);

/*
 * Attaches a ring: lock, check, recover (RECOVER) or start over (FRESH), kick, serve.
 * OBD_E_LOCKED: another process serves it; nothing was touched. OBD_E_JOURNAL: the journal can not
 * be trusted (what says why); nothing was touched: reset the ring, then attach FRESH.
 * OBD_E_STALE: generation not greater than the journal's. OBD_E_RING: not a usable TCMU ring.
 */
int obd_engine_attach(struct obd_engine *engine, const struct obd_attach_spec *spec,
		      struct obd_errinfo *info, struct obd_attach_result *ret);

/*
 * Detaches at a command boundary: stops picking up, waits up to timeout_ms for what is in flight,
 * publishes it, lets go of the ring, the lock and the writer role. OBD_E_TIMEOUT: still in
 * flight, the device goes on being served as before.
 */
int obd_engine_detach(struct obd_engine *engine, uint32_t device_id, uint32_t timeout_ms,
		      struct obd_errinfo *info);

/* State of one device as the engine sees it. failed != 0: the device was dropped (enum obd_err). */
struct obd_device_stat {
	uint32_t device_id;
	int32_t failed;
	uint32_t in_flight;
	uint32_t reserved;
	uint64_t generation;
};
int obd_engine_stat(struct obd_engine *engine, uint32_t device_id, struct obd_device_stat *ret);

#endif
