/*
 * The journal file of one device, mapped and locked by the process that serves it.
 *
 * Who holds the lock may write the journal and publish on the ring, nobody else. The lock is a
 * flock on an open file description of our own (the fd we are given is shared with the
 * supervisor and would let anybody in), so it ends with the process.
 */
#ifndef OBD_INFLIGHT_H
#define OBD_INFLIGHT_H

#include "obd_barrier.h"
#include "obd_err.h"
#include "obd_journal.h"
#include "obd_ring.h"

struct obd_journal_header { /* the table in obd_journal.h */
	char magic[8];
	uint32_t layout_version;
	uint32_t header_bytes;
	uint8_t boot_id[16];
	uint8_t device_uuid[16];
	uint32_t slot_cnt;
	uint32_t slot_bytes;
	uint32_t max_iov;
	uint32_t cmdr_off;
	uint32_t cmdr_size;
	uint32_t zero0;
	uint64_t map_bytes;
	uint8_t zero1[44];
	uint32_t crc32c;
	uint64_t generation;
	uint64_t next;
	uint64_t append_reserved;
	uint8_t zero2[40];
	uint32_t pub_valid;
	uint32_t pub_slot;
	uint32_t pub_tail_before;
	uint32_t pub_tail_after;
	uint8_t zero3[48];
	struct obd_journal_counters counters;
	uint8_t zero4[2048 - 256 - sizeof(struct obd_journal_counters)];
	uint32_t threads[OBD_JOURNAL_THREADS];
};

struct obd_journal {
	struct obd_journal_header *header; /* the mapping; owned */
	struct obd_journal_slot *slots;	   /* in the mapping */
	uint32_t slot_cnt;
	uint64_t map_bytes;
	uint64_t generation; /* ours */
	int lock_fd;	     /* owned; holds the lock */
};

/* Whose journal it must be. */
struct obd_journal_identity {
	const uint8_t *boot_id;	    /* 16 bytes */
	const uint8_t *device_uuid; /* 16 bytes */
	const struct obd_ring *ring;
	uint64_t generation;
	uint32_t slot_cnt; /* of a new journal; 0: OBD_JOURNAL_DEFAULT_SLOTS */
};

/* Reopens and locks. OBD_E_LOCKED: somebody else has it; nothing was touched. */
int obd_journal_lock(struct obd_journal *journal, int fd, const char *name,
		     struct obd_errinfo *info);

/*
 * RECOVER: maps a locked journal and checks everything that does not change. Writes nothing.
 * OBD_E_JOURNAL: not to be trusted. OBD_E_STALE: identity->generation is not greater.
 */
int obd_journal_open(struct obd_journal *journal, const struct obd_journal_identity *identity,
		     const char *name, struct obd_errinfo *info);

/*
 * FRESH: maps a locked file for a new journal: makes it long enough, keeps append_reserved and
 * the counters if it was a journal of this device in this boot, else zeroes them. What was there
 * is still valid. OBD_E_STALE as above, OBD_E_NOSPACE: no room below the file.
 */
int obd_journal_prepare(struct obd_journal *journal, const struct obd_journal_identity *identity,
			const char *name, struct obd_errinfo *info);
/* FRESH, second half: the journal starts over at ring offset `next`; the magic is stored last. */
void obd_journal_format(struct obd_journal *journal, const struct obd_journal_identity *identity,
			uint32_t next);

/* The generation and owner are ours from here on. */
void obd_journal_own(struct obd_journal *journal, uint64_t generation);

/* Says which thread works on a slot, 0: none. Any thread; what it says is advice. */
static inline void obd_journal_set_thread(struct obd_journal *journal, uint32_t slot, uint32_t tid)
{
	if (slot < OBD_JOURNAL_THREADS)
		obd_store_relaxed(&journal->header->threads[slot], tid);
}

/* Unmaps and unlocks; the file stays as it is. */
void obd_journal_close(struct obd_journal *journal);

static inline struct obd_journal_counters *obd_journal_counters(const struct obd_journal *journal)
{
	return &journal->header->counters;
}

static inline uint32_t obd_next_offset(uint64_t next)
{
	return (uint32_t)next;
}

static inline uint32_t obd_next_sequence(uint64_t next)
{
	return (uint32_t)(next >> 32);
}

static inline uint64_t obd_next(uint32_t sequence, uint32_t offset)
{
	return (uint64_t)sequence << 32 | offset;
}

#endif
