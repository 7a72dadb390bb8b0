/*
 * A server of one ring in steps: what a device of the engine does (obd_device.c), with every
 * decision left to the caller and no thread. The stores are those of the real obd_flight.
 */
#ifndef SUPPORT_CRASH_SERVER_H
#define SUPPORT_CRASH_SERVER_H

#include "obd_flight.h"

#define CRASH_MAX_SLOTS 8u

struct crash_running { /* a command in flight, as this process knows it */
	uint32_t slot;
	bool is_replayed_write; /* those run alone, oldest first, and before anything new */
	bool is_replay;
	bool is_executed;
	struct obd_response response;
};

struct crash_server {
	struct obd_flight flight;
	struct crash_running running[CRASH_MAX_SLOTS]; /* oldest first */
	uint32_t running_cnt;
	bool is_alive;
};

extern struct crash_server crash_server;
extern bool crash_skips_check; /* recover without asking obd_flight_check first */

/*
 * Takes ring and journal over, both mapped. `is_fresh`: the journal was formatted just now.
 * Violates I4 when the journal is refused.
 */
void crash_attach(uint64_t generation, bool is_fresh);

/* May a new command be picked up, or a command executed? */
bool crash_may_pick_up(void);
bool crash_may_execute(uint32_t index);

/* Picks up the next command and notes its start; false when there is none. */
bool crash_pick_up(void);
void crash_execute(uint32_t index);
void crash_publish(uint32_t index);
/* Moves cmd_tail over PAD and TMR. */
bool crash_skip(void);

/* Nothing of the process is left. */
void crash_bury(void);

#endif
