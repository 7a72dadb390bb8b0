/*
 * The in-flight journal of one device: an mmapped file that outlives every process.
 *
 * Layout, little-endian, version 1. All offsets are asserted in journal.c and compared with the
 * Python reader (obdsup/state/journal.py) by a test.
 *
 *   | off  | size | field             | meaning                                                 |
 *   |    0 |    8 | magic             | "OBDJRNL\0"; "OBDJFMT\0" while formatted anew           |
 *   |    8 |    4 | layout_version    | 1                                                       |
 *   |   12 |    4 | header_bytes      | 4096: where the slots start                             |
 *   |   16 |   16 | boot_id           | of the kernel the ring belongs to                       |
 *   |   32 |   16 | device_uuid       | the device                                              |
 *   |   48 |    4 | slot_cnt          | number of slots                                         |
 *   |   52 |    4 | slot_bytes        | bytes per slot                                          |
 *   |   56 |    4 | max_iov           | iovecs a slot can hold                                  |
 *   |   60 |    4 | cmdr_off          | ring geometry, from the mailbox                         |
 *   |   64 |    4 | cmdr_size         | "                                                       |
 *   |   68 |    4 | (zero)            |                                                         |
 *   |   72 |    8 | map_bytes         | size of the whole ring mapping                          |
 *   |   80 |   44 | (zero)            |                                                         |
 *   |  124 |    4 | crc32c            | CRC-32C of bytes 0..123                                 |
 *   |  128 |    8 | generation        | who may publish; only grows                             |
 *   |  136 |    8 | next              | (sequence << 32) | ring offset of the next entry to     |
 *   |      |      |                   | pick up: one store moves both                           |
 *   |  144 |    8 | append_reserved   | high-water mark of the upper's data file, bytes         |
 *   |  192 |    4 | pub_valid         | publication record: 1 while it stands                   |
 *   |  196 |    4 | pub_slot          | slot being completed                                    |
 *   |  200 |    4 | pub_tail_before   | cmd_tail before the commit point                        |
 *   |  204 |    4 | pub_tail_after    | cmd_tail after it                                       |
 *   |  256 |  ... | counters          | struct obd_journal_counters: read by the supervisor     |
 *   | 2048 | 1024 | threads           | 256 * u32: thread id that works on slot i, 0: none      |
 *   | 4096 |      | slots             | slot_cnt * slot_bytes                                   |
 *
 * `threads` is advisory: relaxed stores, for whoever judges whether a thread hangs. Slots from 256
 * on have no entry, and what a dead process or an older release left there is not taken back: an
 * id counts only while its slot is EXECUTING and the thread belongs to owner_pid.
 *
 * Order of stores and the one commit point: ring.md "The journal", and native/DESIGN.md.
 *
 * Why `next` carries the sequence number: with out-of-order completion the tail passes the entry
 * of a command that is still in flight, the ring wraps, and a *younger* entry can come to lie at
 * the same ring offset. "Slot offset equals next" would then drop a command that was picked up
 * one lap ago. Sequence numbers are not reused within a lap, so "slot sequence equals the next
 * sequence" is exact.
 */
#ifndef OBD_JOURNAL_H
#define OBD_JOURNAL_H

#include <stdbool.h>
#include <stdint.h>

#include "obd_err.h"

#define OBD_JOURNAL_MAGIC	   "OBDJRNL"
#define OBD_JOURNAL_VERSION	   1u
#define OBD_JOURNAL_HEADER_BYTES   4096u
#define OBD_JOURNAL_DEFAULT_SLOTS  256u
#define OBD_JOURNAL_MAX_IOV	   256u
#define OBD_JOURNAL_MAX_CDB	   32u
#define OBD_JOURNAL_THREADS	   256u
#define OBD_JOURNAL_GENERATION_MAX ((uint64_t)1 << 62) /* no life is so long: damage */

enum obd_slot_state { /* uint32_t in the file; never renumbered */
		      OBD_SLOT_FREE = 0,
		      OBD_SLOT_VALID = 1, /* picked up, not yet executing */
		      OBD_SLOT_EXECUTING =
			      2, /* a thread is working on it (names the poison command later) */
};

struct obd_journal_iov {
	uint32_t offset_bytes; /* in the data area mapping, from its start in the ring mapping */
	uint32_t length_bytes;
};

struct obd_journal_slot {
	uint32_t state; /* enum obd_slot_state; stored last, with release */
	uint32_t sequence;
	uint32_t ring_offset;
	uint16_t cmd_id;
	uint16_t cdb_bytes;
	uint32_t iov_cnt;
	uint16_t old_starts; /* counted by releases that did not know deaths; nobody reads it */
	uint16_t deaths;     /* of workers, by a fault of their own, while it was EXECUTING */
	uint8_t cdb[OBD_JOURNAL_MAX_CDB];
	uint64_t picked_up_ns; /* CLOCK_MONOTONIC */
	struct obd_journal_iov iov[OBD_JOURNAL_MAX_IOV];
};

/* Counters and heartbeat: written by the serving worker with relaxed stores, read by anyone. */
struct obd_journal_counters {	   /* at byte 256; all uint64_t, only appended to */
	uint64_t heartbeat_ns;	   /* CLOCK_MONOTONIC of the engine's last turn */
	uint64_t heartbeat_cnt;	   /* turns of the engine loop */
	uint64_t owner_pid;	   /* pid of the serving process, 0 when none */
	uint64_t owner_generation; /* generation it serves under */
	uint64_t attached_ns;	   /* when this generation finished recovery */
	uint64_t first_publish_ns; /* when this generation published its first completion */
	uint64_t picked_up;	   /* commands ever picked up */
	uint64_t completed;	   /* commands ever published */
	uint64_t recovered;	   /* in-flight commands found and executed again, ever */
	uint64_t recovered_last;   /* the same, at the last take-over */
	uint64_t already_done;	   /* publications found complete at recovery, ever */
	uint64_t read_cmds;
	uint64_t write_cmds;
	uint64_t discard_cmds;
	uint64_t flush_cmds;
	uint64_t other_cmds;
	uint64_t read_bytes;
	uint64_t write_bytes;
	uint64_t medium_errors;	 /* completed with MEDIUM ERROR */
	uint64_t refused_cmds;	 /* completed with ILLEGAL REQUEST or DATA PROTECT */
	uint64_t in_flight;	 /* right now */
	uint64_t resets;	 /* journals started over after reset_ring */
	uint64_t foreign_resets; /* rings that somebody else reset while we served them */
	uint64_t poisoned;	 /* completed with MEDIUM ERROR instead of executed once more */
};

#endif
