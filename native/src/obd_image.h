/*
 * An opened overlaybd image: up to 255 sealed lowers, optionally one append-mode upper on top.
 *
 * Guarantees
 *   - Any number of threads may read, write, discard and flush one image at once. A read that
 *     starts after a write returned sees that write.
 *   - Sector granularity: LBAs and counts are in 512-byte sectors, buffers in whole sectors.
 *   - Nothing here knows of rings, SCSI or processes.
 *
 * Roles of a writable image
 *   An image is opened as a *follower*: it reads, and obd_image_follow() picks up the index
 *   records another process appended since. obd_image_start_writing() makes it the one writer:
 *   it takes an exclusive lock on the upper's index file (dies with the process), follows once
 *   more, cuts a torn tail, aligns the data end. Cost: what was appended since the last follow,
 *   not the length of the history. obd_image_stop_writing() gives the role up again (planned
 *   hand-over), the image stays open as a follower.
 *
 * Source: overlaybd-formats 1 and 2 (tables in lsmt.h and zfile.h).
 */
#ifndef OBD_IMAGE_H
#define OBD_IMAGE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "obd_err.h"

#define OBD_SECTOR_BYTES 512u
#define OBD_MAX_LOWERS	 255u

struct obd_image;

struct obd_image_spec {
	const char *const *lower_paths; /* bottom to top, borrowed for the call */
	uint32_t lower_cnt;		/* 0 .. OBD_MAX_LOWERS; 0 only with an upper */
	const char *upper_data;		/* NULL: read-only image */
	const char *upper_index;	/* NULL: read-only image */
	/* Of turboOCI lowers (obd_warp.h). Each NULL, or lower_cnt entries that may be NULL. */
	const char *const *target_paths;
	const char *const *gzip_index_paths; /* of a target that is gzip */
	/* Where merged indexes are kept (obd_sidecar.h), a directory of its own; NULL: nowhere. */
	const char *sidecar_dir;
};

/* obd_image_read flags */
#define OBD_READ_NOWAIT 1u /* never sleep on storage: OBD_E_AGAIN instead (nothing half done) */
/* obd_image_write flags */
#define OBD_WRITE_FUA 1u /* durable (data, then index) before it returns */

/* Opens and validates every file; *ret is untouched on failure. Destroy with obd_image_destroy. */
int obd_image_create(const struct obd_image_spec *spec, struct obd_errinfo *info,
		     struct obd_image **ret);
void obd_image_destroy(struct obd_image *image); /* NULL is fine; nobody may be using it */

/* Whether obd_image_save_index has something to do. */
bool obd_image_is_index_new(const struct obd_image *image);

/*
 * Keeps the merged index for the next open, if there is a directory for it and it is not there
 * already. May take as long as writing 16 bytes a segment does, beside reads and writes of the
 * image; one call at a time. A failure changes nothing.
 */
int obd_image_save_index(struct obd_image *image, struct obd_errinfo *info);

uint64_t obd_image_virtual_size_bytes(const struct obd_image *image);
bool obd_image_has_upper(const struct obd_image *image);

/*
 * Reads sector_cnt sectors from lba into the iovecs (total length = sector_cnt * 512 exactly).
 * Errors: OBD_E_RANGE, OBD_E_CHECKSUM (bad block: only reads that touch it fail), OBD_E_FORMAT,
 * OBD_E_IO, OBD_E_SHORT, OBD_E_AGAIN (only with OBD_READ_NOWAIT; the buffers are undefined then).
 * No allocation on this path beyond per-thread scratch.
 */
int obd_image_read(struct obd_image *image, uint64_t lba, uint32_t sector_cnt,
		   const struct iovec *iov, uint32_t iov_cnt, uint32_t flags,
		   struct obd_errinfo *info);

/* False: [lba, lba + sector_cnt) reads as zeros. True: it may hold data. Reads nothing. */
bool obd_image_may_hold_data(struct obd_image *image, uint64_t lba, uint32_t sector_cnt);

/*
 * Becomes the writer. reserved points to the append high-water mark in the journal (or to a
 * plain variable): a byte offset in the upper's data file. Appending starts at
 * max(end of file, *reserved) rounded up to 512; before data of a write is written, *reserved is
 * advanced past its extent (release store), so that a write still in flight in the kernel when
 * its process died can never land where a successor appends. Borrowed until stop_writing.
 * Errors: OBD_E_LOCKED (another process is the writer), OBD_E_READONLY, OBD_E_IO, OBD_E_FORMAT.
 */
int obd_image_start_writing(struct obd_image *image, uint64_t *reserved, struct obd_errinfo *info);
void obd_image_stop_writing(struct obd_image *image);

/*
 * Follower, and nobody is the writer: makes the pair complete for any other reader, durably, and
 * takes away what only our own understand (obd_pending.h). Errors: as of start_writing and flush.
 */
int obd_image_settle(struct obd_image *image, struct obd_errinfo *info);

/* Follower: applies index records appended by the writer since. Cheap when there are none. */
int obd_image_follow(struct obd_image *image, struct obd_errinfo *info);

/*
 * Writer only. A write is appended to the data file, then its index record(s) to those that wait
 * for a sync of their data (obd_pending.h), then becomes visible; it returns 0 only if all of that
 * happened. A failed write changes nothing that a read or a reopen can see, and the next one works
 * (OBD_E_NOSPACE: disk full). discard makes a range read as zeros, persistently. flush: data is
 * durable before the index records that name it, then those, before it returns.
 */
int obd_image_write(struct obd_image *image, uint64_t lba, uint32_t sector_cnt,
		    const struct iovec *iov, uint32_t iov_cnt, uint32_t flags,
		    struct obd_errinfo *info);
int obd_image_discard(struct obd_image *image, uint64_t lba, uint64_t sector_cnt,
		      struct obd_errinfo *info);
int obd_image_flush(struct obd_image *image, struct obd_errinfo *info);

/* How much is in memory and on disk, for stats: all fields at one moment. */
struct obd_image_stat {
	uint64_t lower_segments;     /* entries of the merged index of the lowers */
	uint64_t upper_segments;     /* live segments of the upper */
	uint64_t upper_records;	     /* index records ever written */
	uint64_t upper_data_bytes;   /* size of the data file */
	uint64_t index_memory_bytes; /* merged index + upper index + jump tables, in memory */
	uint64_t torn_bytes_cut;     /* dropped from the index tail at start_writing */
};
void obd_image_stat(const struct obd_image *image, struct obd_image_stat *ret);

#endif
