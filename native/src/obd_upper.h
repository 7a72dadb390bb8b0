/*
 * The writable layer. Sparse mode: obd_upper_sparse.c. Append mode: a data file (4096 header, then
 * payload in the order it was written) and an index file (4096 header, then 16-byte records; a
 * later one overrides).
 *
 * Records do not go straight to the index file: a flush puts them there, behind the sync of their
 * data, and until then they lie in a file beside it (obd_pending.h).
 *
 * The data file is append-only, so a mapping, once copied out, stays readable. Locks:
 * obd_upper_internal.h.
 *
 * Records reach the index file in the order in which their extents were reserved: when a power cut
 * shortens the data file, the records it takes with it are a suffix of the index file.
 *
 * Source: overlaybd-formats 1.6; the holes it lists are not repeated (DESIGN.md).
 */
#ifndef OBD_UPPER_H
#define OBD_UPPER_H

#include <stddef.h>

#include "obd_file.h"
#include "obd_image.h"
#include "obd_lsmt.h"

struct obd_upper;

/* Opens a pair and reads its records, as a follower. tag: number of layers below. */
int obd_upper_create(const char *data_path, const char *index_path, uint8_t tag,
		     struct obd_errinfo *info, struct obd_upper **ret);
void obd_upper_destroy(struct obd_upper *upper);

/*
 * Reads sectors of what is below the layer; called by writes, on their threads. Without it there
 * is nothing below. Set once, before the first write.
 */
typedef int (*obd_upper_below_fn)(void *arg, uint64_t lba, uint32_t sector_cnt,
				  const struct iovec *iov, struct obd_errinfo *info);
void obd_upper_set_below(struct obd_upper *upper, obd_upper_below_fn below, void *arg);

uint64_t obd_upper_virtual_size_bytes(const struct obd_upper *upper);

/* Written in place: what was collected may read as something newer while somebody writes. */
bool obd_upper_is_sparse(const struct obd_upper *upper);

/* As obd_map_collect, at one moment. */
size_t obd_upper_collect(struct obd_upper *upper, uint64_t begin, uint64_t end,
			 struct obd_segment *out, size_t cap);

/* Reads what a collected, not zeroed segment names; length in sectors. */
int obd_upper_read(struct obd_upper *upper, uint64_t moffset, uint64_t length,
		   struct obd_cursor *cursor, uint32_t flags, struct obd_errinfo *info);

/* As their obd_image_ namesakes; ranges are checked by the caller. */
int obd_upper_start_writing(struct obd_upper *upper, uint64_t *reserved, struct obd_errinfo *info);
void obd_upper_stop_writing(struct obd_upper *upper);
int obd_upper_follow(struct obd_upper *upper, struct obd_errinfo *info);
int obd_upper_write(struct obd_upper *upper, uint64_t lba, uint32_t sector_cnt,
		    const struct iovec *iov, uint32_t iov_cnt, uint32_t flags,
		    struct obd_errinfo *info);
int obd_upper_discard(struct obd_upper *upper, uint64_t lba, uint64_t sector_cnt,
		      struct obd_errinfo *info);
int obd_upper_flush(struct obd_upper *upper, struct obd_errinfo *info);
int obd_upper_settle(struct obd_upper *upper, struct obd_errinfo *info);

/* Fills the upper_ fields and torn_bytes_cut; adds to index_memory_bytes. */
void obd_upper_stat(struct obd_upper *upper, struct obd_image_stat *ret);

#endif
