/*
 * A TCMU ring in shared memory: mailbox, command ring, data area.
 *
 * The ring is untrusted input. Everything read from it is copied once and checked, then the copy
 * is used; whatever does not fit is OBD_E_RING and nothing is written. What no check can prevent:
 * a data page inside the area that the kernel never allocated, or a memfd that was truncated, is
 * SIGBUS when touched. The kernel only names pages it allocated and ringd seals its memfd, so
 * both would be a fault of the other side; the process dies and the journal tells the successor.
 *
 * Source: /usr/include/linux/target_core_user.h and Linux 6.1 drivers/target/target_core_user.c.
 */
#ifndef OBD_RING_H
#define OBD_RING_H

#include <stdbool.h>
#include <stdint.h>

#include "obd_err.h"
#include "obd_journal.h"

#define OBD_RING_ALIGN_BYTES 8u /* of every position in the ring */

struct obd_ring {
	uint8_t *map; /* owned between _init and _deinit */
	uint64_t map_bytes;
	uint32_t cmdr_off;
	uint32_t cmdr_bytes;
	uint64_t data_off; /* the data area is [data_off, map_bytes) */
	bool has_read_len; /* the kernel understands TCMU_UFLAG_READ_LEN */
};

/* Maps fd and checks the mailbox. The fd may be closed afterwards. */
int obd_ring_init(struct obd_ring *ring, int fd, uint64_t map_bytes, const char *name,
		  struct obd_errinfo *info);
/* The same on memory that the caller maps and unmaps (it then must not call _deinit). */
int obd_ring_init_memory(struct obd_ring *ring, void *map, uint64_t map_bytes, const char *name,
			 struct obd_errinfo *info);
void obd_ring_deinit(struct obd_ring *ring);

/* Positions, as offsets in the command ring. OBD_E_RING when the mailbox names none. */
int obd_ring_head(const struct obd_ring *ring, uint32_t *ret); /* acquire: pairs with the kernel */
int obd_ring_tail(const struct obd_ring *ring, uint32_t *ret);
/*
 * The commit point: release, pairs with the kernel's read of cmd_tail. False: the tail is not
 * where we left it, and nothing was stored: whoever resets a ring (action/reset_ring) may do so
 * between any two instructions of ours, and a tail stored over its 0 would break the ring.
 */
bool obd_ring_move_tail(struct obd_ring *ring, uint32_t from, uint32_t to);

/* Bytes from one offset forward to another. */
static inline uint32_t obd_ring_distance(const struct obd_ring *ring, uint32_t from, uint32_t to)
{
	return to >= from ? to - from : ring->cmdr_bytes - from + to;
}

/*
 * A mark on the entry at offset 0, in a bit of uflags that nobody uses. Whoever queues an entry
 * clears it: so a ring that was reset while its tail was at 0 anyway can be told from one that
 * was not.
 */
void obd_ring_mark_first(struct obd_ring *ring);
bool obd_ring_is_first_marked(const struct obd_ring *ring);

enum obd_entry_kind {
	OBD_ENTRY_SKIP,	   /* PAD or TMR: nobody waits for an answer */
	OBD_ENTRY_COMMAND, /* takes one completion; an unknown opcode is one as well */
};

struct obd_entry {
	enum obd_entry_kind kind;
	bool is_known; /* false: answered with TCMU_UFLAG_UNKNOWN_OP */
	uint32_t next; /* offset of the entry behind this one */
	uint16_t cmd_id;
};

/* Reads the header of the entry at `offset`; the entry must end within `available_bytes`. */
int obd_ring_entry(const struct obd_ring *ring, uint32_t offset, uint32_t available_bytes,
		   struct obd_entry *ret);

/*
 * Copies the request of a command entry into a slot (all but state and sequence). A request that
 * is well-formed but has more iovecs than a slot gets cdb_bytes 0, which no decoder accepts: it
 * will be refused with ILLEGAL REQUEST. An unknown opcode gets OBD_SLOT_UNKNOWN_OP.
 */
#define OBD_SLOT_UNKNOWN_OP 0xffffu
int obd_ring_request(const struct obd_ring *ring, uint32_t offset, const struct obd_entry *entry,
		     struct obd_journal_slot *slot);

/* What a completed command says. */
struct obd_response {
	uint8_t status; /* SCSI status */
	bool has_read_len;
	bool is_unknown_op;
	uint8_t sense_bytes;
	uint32_t read_len;
	uint8_t sense[20];
};

/* Overlays the entry at `offset` (checked by obd_ring_entry) with a response for cmd_id. */
void obd_ring_respond(struct obd_ring *ring, uint32_t offset, uint16_t cmd_id,
		      const struct obd_response *response);

#endif
