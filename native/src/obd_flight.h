/*
 * Commands between the ring and their answers: pick-up, publication, recovery.
 *
 * One flight is one ring with its journal. Nothing here is thread-safe: one thread, the one that
 * serves, calls it. The order of stores is the whole point of this file; it is written down in
 * native/DESIGN.md, and tests/test_crash.c stops before every single one.
 */
#ifndef OBD_FLIGHT_H
#define OBD_FLIGHT_H

#include <stdbool.h>
#include <stdint.h>

#include "obd_inflight.h"
#include "obd_ring.h"

struct obd_flight {
	struct obd_ring ring;
	struct obd_journal journal;
	uint32_t *free_slots; /* a stack, so that few pages of the journal are ever touched */
	uint32_t free_cnt;
	uint32_t in_flight;
	uint32_t tail; /* cmd_tail as we left it; anything else there: somebody reset the ring */
};

/* What a take-over found. `slots` are to be executed again, in this order. */
struct obd_recovery {
	uint32_t *slots; /* slot_cnt entries, owned by the caller */
	uint32_t recovered;
	uint32_t already_done;
	uint32_t dropped;
};

/* Prepares the table of free slots for ring and journal, which must be set, and `tail` unless
 * obd_flight_check sets it. OBD_E_NOMEM. */
int obd_flight_init(struct obd_flight *flight);
void obd_flight_deinit(struct obd_flight *flight); /* table only, not ring and journal */

/*
 * Checks that ring and journal describe the same moment. Writes nothing to either. OBD_E_JOURNAL
 * or OBD_E_RING with the reason: neither may be trusted, reset the ring.
 */
int obd_flight_check(struct obd_flight *flight, const char *name, struct obd_errinfo *info);

/*
 * Brings a checked journal to the state between two commands. Can be killed anywhere and done
 * again. Never fails: obd_flight_check said so. is_blamed: the predecessor died of something that
 * a command may have done to it; then each that was EXECUTING has one death more.
 */
void obd_flight_recover(struct obd_flight *flight, bool is_blamed, struct obd_recovery *ret);

/*
 * Picks up the next command. 1: *ret is its slot; 0: nothing there, or every slot taken
 * (obd_flight_is_full); OBD_E_RING: the ring makes no sense, nothing was picked up; OBD_E_RESET:
 * somebody reset it, nothing was picked up, see obd_flight_restart.
 */
int obd_flight_pick_up(struct obd_flight *flight, uint64_t now_ns, uint32_t *ret);

static inline bool obd_flight_is_full(const struct obd_flight *flight)
{
	return flight->free_cnt == 0;
}

/* Notes that a thread is about to work on it. */
void obd_flight_start(struct obd_flight *flight, uint32_t slot);

/*
 * Publishes the answer of a command in flight and frees its slot; the caller kicks. OBD_E_STALE:
 * a successor took over, ring and journal untouched. OBD_E_RING: no entry to answer into.
 * OBD_E_RESET: somebody reset the ring, the answer is for nobody.
 */
int obd_flight_publish(struct obd_flight *flight, uint32_t slot,
		       const struct obd_response *response);

/*
 * Starts the journal over at the ring as it is now, under the same generation: somebody reset it.
 * What was in flight is forgotten, the other side sends it again; no thread may be working on it.
 * OBD_E_STALE, OBD_E_RING as above.
 */
int obd_flight_restart(struct obd_flight *flight);

/* Moves cmd_tail over entries nobody waits for (PAD, TMR); true if it moved. */
bool obd_flight_skip(struct obd_flight *flight);

#endif
