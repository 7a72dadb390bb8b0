/*
 * The whole state of a run at one moment, to be kept, compared and gone back to.
 *
 * `shared` is the memory that server and kernel (or successor) share and that stores of the
 * server change; `outside` is everything else that outlives a server; `own` dies with it. Left
 * out is what no decision depends on: the counters in the journal (nothing under test reads
 * them) and what lies behind the stamp in a sector: it is copied, never looked at.
 */
#ifndef SUPPORT_CRASH_STATE_H
#define SUPPORT_CRASH_STATE_H

#include "support_crash_server.h"
#include "support_crash_stores.h"
#include "support_crash_world.h"

#define CRASH_STATE_RING    (128u + 5u * CRASH_ENTRY_BYTES + 64u)
#define CRASH_STATE_SLOTS   4u
#define CRASH_STATE_WORKS   8u
#define CRASH_STATE_BLOCKS  4u
#define CRASH_STATE_SECTORS 4u
#define CRASH_STAMP_BYTES   8u

struct crash_state_slot {
	uint8_t head[64];
	struct obd_journal_iov iov[2];
};

struct __attribute__((aligned(8))) crash_shared {
	uint8_t ring[CRASH_STATE_RING];
	uint8_t header[208];
	struct crash_state_slot slots[CRASH_STATE_SLOTS];
};

struct __attribute__((aligned(8))) crash_outside {
	uint8_t blocks[CRASH_STATE_BLOCKS][CRASH_STAMP_BYTES];
	uint8_t disk[CRASH_STATE_SECTORS][CRASH_STAMP_BYTES];
	struct crash_work works[CRASH_STATE_WORKS];
	struct {
		uint32_t tag;
		uint32_t bytes;
		uint32_t block_cnt;
		uint32_t block;
		uint32_t is_queued;
		uint32_t is_read;
	} commands[CRASH_STATE_BLOCKS];
	uint8_t block_used[CRASH_STATE_BLOCKS];
	uint32_t acknowledged[CRASH_STATE_SECTORS];
	uint32_t last_cleaned;
	uint32_t id_end;
	uint32_t queued;
	uint32_t work_cnt;
	uint32_t queued_cnt;
	uint32_t completed_cnt;
};

struct __attribute__((aligned(8))) crash_own {
	struct crash_running running[CRASH_STATE_SLOTS];
	uint32_t running_cnt;
	uint32_t free_slots[CRASH_STATE_SLOTS];
	uint32_t free_cnt;
	uint32_t in_flight;
	uint32_t is_alive;
	uint64_t generation;
};

struct crash_state {
	struct crash_shared shared;
	struct crash_outside outside;
	struct crash_own own;
};

/* Ring and journal of crash_world and crash_server, in fixed memory; watched for stores. */
void crash_state_init(uint32_t slot_cnt);
void crash_state_deinit(void);
/* A new journal for the ring as it is; the server is alive. */
void crash_state_start(void);

void crash_state_save(struct crash_state *ret);
void crash_state_load(const struct crash_state *state);
void crash_shared_save(struct crash_shared *ret);
/* Where a watched store lies in `shared`; NULL when it is no part of the state. */
uint8_t *crash_shared_at(struct crash_shared *shared, enum crash_area area, uint32_t offset);
/*
 * Overwrites what means nothing any more: free slots, a record that is not valid, requests that
 * were picked up. So states that differ in nothing else become one; and whoever reads it fails.
 */
void crash_shared_scrub(struct crash_shared *shared);
/* As if the server had died at this moment: `own` is that of no process. */
void crash_state_kill(struct crash_state *state);

/* Each command that a dead server left EXECUTING has one more death to its name. */
void crash_state_blame(struct crash_state *state);

struct crash_key {
	uint64_t high, low;
};
/* 128 bits: with 10^8 states two of them collide with a probability below 10^-22. */
struct crash_key crash_hash(const void *at, size_t bytes, struct crash_key seed);
struct crash_key crash_state_key(const struct crash_state *state, uint64_t salt);

#endif
