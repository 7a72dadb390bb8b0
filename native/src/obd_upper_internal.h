/*
 * What the parts of the writable layer share: obd_upper.c and obd_upper_*.c alone include this.
 *
 *	obd_upper.c		make, read mappings and data, count, take apart
 *	obd_upper_files.c	the two files: open, check, write
 *	obd_upper_follow.c	records of the files into the in-memory index
 *	obd_upper_role.c	become the writer, and stop
 *	obd_upper_write.c	extent, data, records, commit in ticket order
 *	obd_upper_flush.c	sync, and what is pending into the index file
 *	obd_upper_sparse.c	the other mode: all of this in place
 *
 * Locks: `flush` first, then `commit`, then `map_lock`. `flush` is held across syncs; `commit`
 * orders writers and guards the positions; `map_lock` guards the in-memory index alone and is never
 * held across I/O. In struct obd_upper a lock stands in front of what it guards; what stands in
 * front of them all does not change after create, except `pending`. That one and `indexed` are set
 * with `commit` held until is_writing; from then on only the writer's flushes move `indexed`, and
 * stop_writing waits for the one under way.
 *
 * Sparse mode: a write holds `order` shared, a discard alone, both until the map shows what they
 * did; inside of it `fill` is held by whoever writes to what may be a hole; `commit` only guards
 * the role, tickets count who is at work.
 */
#ifndef OBD_UPPER_INTERNAL_H
#define OBD_UPPER_INTERNAL_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "obd_map.h"
#include "obd_pending.h"
#include "obd_upper.h"
#include "obd_zeroes.h"

#define OBD_UPPER_CHUNK_RECORDS 4096u /* read at once */
#define OBD_UPPER_TURNS		64u   /* so many writers wait without waking each other */

struct obd_upper {
	struct obd_file data;
	struct obd_file index;
	struct obd_pending pending; /* records behind the end of the index file */
	bool is_read_only;	    /* the files could not be opened for writing */
	bool is_sparse;
	uint8_t tag;
	uint64_t virtual_size_bytes;
	obd_upper_below_fn below; /* NULL: there is nothing below */
	void *below_arg;
	struct obd_zeroes
		zeroes; /* sparse: with `commit`, or as the writer with `order` held alone */

	pthread_rwlock_t order; /* sparse */
	pthread_mutex_t fill;	/* sparse */

	pthread_rwlock_t map_lock;
	struct obd_map map;

	pthread_mutex_t commit;
	/* by ticket: a commit wakes the next writer, not all */
	pthread_cond_t turn_came[OBD_UPPER_TURNS];
	uint64_t index_end;   /* end of the records in the map, as an index offset */
	uint64_t index_begun; /* end of the whole records in the index file, last seen */
	uint64_t index_ahead; /* so far the index file has its blocks */
	uint8_t last_record[OBD_LSMT_ENTRY_BYTES]; /* in front of index_end, as it was read */
	uint64_t hole;		    /* offset of the first hole seen in the index, or 0 */
	uint64_t data_end;	    /* where the next extent begins */
	uint64_t committed_sectors; /* end of the furthest extent a record names */
	uint64_t next_ticket;	    /* extents are reserved ... */
	uint64_t turn;		    /* ... and committed in this order */
	uint64_t *reserved;	    /* borrowed while writing */
	bool is_writing;
	uint64_t torn_bytes_cut;

	pthread_mutex_t flush;	/* one flush at a time: an error is reported once per file */
	uint64_t flushes_begun; /* written with `flush` held */
	bool flush_failed;	/* the last one; with `flush` held */
	int sync_errno;		/* of the first failed sync, for ever; with `flush` held */
	uint64_t indexed;	/* end of what is in the index file; with `flush` held */
};

/* ---- files: no lock needed ---- */

/* Fills info with the failure `err` of `what` at `at`; returns code. */
int obd_upper_fail_at(const struct obd_file *file, const char *what, int code, int err, uint64_t at,
		      struct obd_errinfo *info);
/* OBD_E_NOSPACE or OBD_E_IO for the errno of a failed write. */
int obd_upper_code_of_write(int err);
/* For writing, or, where that is not allowed, for reading: is_read_only tells. */
int obd_upper_open_pair(struct obd_upper *upper, const char *data_path, const char *index_path,
			struct obd_errinfo *info);
/* Checks that the two are a pair; sets the virtual size and what a pending file must begin with. */
int obd_upper_read_headers(struct obd_upper *upper, struct obd_errinfo *info);
/* Bytes the file has now. */
int obd_upper_size_of(struct obd_file *file, struct obd_errinfo *info, uint64_t *ret);
/* pwrite of everything; the errno of the failure, 0 if all was written. */
int obd_upper_write_all(int fd, const uint8_t *from, size_t length, uint64_t at);
/* Sets blocks aside; false if there is no space. Where that can not be done, true. */
bool obd_upper_set_aside(int fd, uint64_t at, uint64_t length);

/* ---- follow ---- */

/* A record of zeros: appended, but it did not reach the disk before the power was cut. */
bool obd_upper_is_hole(const uint8_t *record);
/* With `commit` held. A follower looks only if there is more; who will write looks twice. */
int obd_upper_follow_locked(struct obd_upper *upper, bool will_write, struct obd_errinfo *info);

/* ---- sparse mode: as the functions without it in their names ---- */

/* With `commit` held. */
int obd_upper_sparse_follow(struct obd_upper *upper, struct obd_errinfo *info);
/* With `commit` and the writer's lock held. */
int obd_upper_sparse_begin(struct obd_upper *upper, struct obd_errinfo *info);
int obd_upper_sparse_write(struct obd_upper *upper, uint64_t lba, uint32_t sector_cnt,
			   const struct iovec *iov, uint32_t iov_cnt, uint32_t flags,
			   struct obd_errinfo *info);
int obd_upper_sparse_discard(struct obd_upper *upper, uint64_t lba, uint64_t sector_cnt,
			     struct obd_errinfo *info);

/* ---- write ---- */

/* With `commit` held: until every extent reserved before `ticket` is committed. */
void obd_upper_wait_turn(struct obd_upper *upper, uint64_t ticket);

#endif
