/*
 * The kernel's side of a TCMU ring, in a memfd.
 *
 * One mapping: mailbox (128 bytes), command ring up to OBD_KRING_RING_BYTES, data area. Layout,
 * entry sizes, PAD, lowest free command id, lowest free data blocks, completion by the id found in
 * the entry, BROKEN and reset follow Linux 6.1 target_core_user.
 *
 * Guarantees
 *   - Every command submitted comes back from obd_kring_reap exactly once, or stays in flight for
 *     as long as nobody serves; it never fails because the ring or the data area is full.
 *   - BUSY, TASK SET FULL, UNIT ATTENTION and ABORTED COMMAND are sent again here, as the SCSI
 *     layer would; the submitter does not see them.
 *   - Nothing read from shared memory is trusted: cmd_tail, entry header, status and read_len are
 *     copied once and checked. What can not be right makes the ring broken, with the reason kept.
 *   - Everything may be called from any thread.
 *
 * Broken: commands in flight stay so until obd_kring_reset; every other one, waiting or submitted
 * later, comes back with is_failed.
 */
#ifndef OBD_KRING_H
#define OBD_KRING_H

#include <stdbool.h>
#include <stdint.h>

#include "gaps.h"

#define OBD_KRING_RING_BYTES  (1u << 20) /* mailbox and command ring */
#define OBD_KRING_CMDR_OFF    128u
#define OBD_KRING_BLOCK_BYTES 4096u
#define OBD_KRING_CMD_MAX     (512u << 10) /* data of one command, bytes */
#define OBD_KRING_BLOCKS_MAX  (OBD_KRING_CMD_MAX / OBD_KRING_BLOCK_BYTES)
#define OBD_KRING_POISON      0xdbu /* every byte of a freed data block in checking mode */

struct obd_kring;

enum obd_kring_dir {
	OBD_KRING_NO_DATA,
	OBD_KRING_TO_DEVICE,
	OBD_KRING_FROM_DEVICE,
};

/* One command. The submitter fills the first part and owns the memory; data is borrowed until the
 * command comes back. */
struct obd_kring_cmd {
	uint8_t cdb[16];
	uint32_t cdb_bytes;
	enum obd_kring_dir dir;
	uint8_t *data;
	uint32_t data_bytes; /* at most OBD_KRING_CMD_MAX */
	void *owner;

	/* the answer */
	bool is_failed; /* never executed: the ring is broken */
	uint8_t status;
	uint8_t sense[96];
	uint32_t read_bytes; /* how much of data was filled */

	/* the ring's own while it holds the command; next also links what reap returns */
	struct obd_kring_cmd *next;
	struct obd_kring_cmd *prev;
	uint32_t attempts;
	uint16_t cmd_id;
	uint16_t block_cnt;
	uint32_t block[OBD_KRING_BLOCKS_MAX];
};

struct obd_kring_options {
	uint64_t data_bytes; /* data area: multiple of 4096, 1 MiB .. 1 GiB */
	bool is_checking;    /* poison data blocks that are not in use */
};

struct obd_kring_stat {
	uint64_t commands;  /* ever submitted */
	uint64_t completed; /* ever finished by a worker */
	uint64_t errors;    /* finished with a status other than GOOD, or failed while broken */
	uint64_t resent;    /* BUSY and the like, and commands taken back by reset */
	uint64_t resets;
	uint64_t pads;
	uint64_t waits; /* commands that found ring or data area full */
	uint64_t gap_cnt;
	uint64_t longest_gap_ns;
	uint64_t open_gap_ns; /* the one that is going on, 0 when nothing is in flight */
	uint32_t in_flight;   /* on the ring */
	uint32_t waiting;     /* not on the ring yet */
	uint32_t cmd_head;
	uint32_t cmd_tail; /* as the worker last wrote it */
	bool is_broken;
	char broken_reason[160];
};

/* Returns 0 or a negative errno; *ret is untouched on failure. */
int obd_kring_create(const struct obd_kring_options *options, struct obd_kring **ret);
void obd_kring_destroy(struct obd_kring *ring); /* NULL is fine */

/* fd[0] memory (sealed in size), fd[1] wait eventfd, fd[2] kick eventfd: the ring's own. */
uint64_t obd_kring_fds(const struct obd_kring *ring, int fd[3]);

/* Queues a command. The worker is told by the next obd_kring_notify. */
void obd_kring_submit(struct obd_kring *ring, struct obd_kring_cmd *cmd);
void obd_kring_notify(struct obd_kring *ring);

/* Waits up to timeout_ms (-1: for ever) for a kick; false: none came. */
bool obd_kring_wait(struct obd_kring *ring, int timeout_ms);
/* Makes a wait return early. */
void obd_kring_wake(struct obd_kring *ring);
/* Takes in what the worker published; returns the finished commands linked by next, or NULL. */
struct obd_kring_cmd *obd_kring_reap(struct obd_kring *ring);

/* Empties the ring and mends it: every command in flight is sent again. Nobody may be serving. */
void obd_kring_reset(struct obd_kring *ring);

void obd_kring_stat(struct obd_kring *ring, struct obd_kring_stat *ret);
/* Moves the list of gaps into list[OBD_GAP_LIST_MAX]; returns how many. */
uint32_t obd_kring_take_gaps(struct obd_kring *ring, struct obd_gap *list);
void obd_kring_gap_summary(struct obd_kring *ring, struct obd_gap_summary *ret);

#endif
