/*
 * A layer's tar as a stream of entries: plain, gzip or zstd, from a file, a pipe or a FIFO.
 * libarchive reads the formats (ustar, pax, GNU long names and sparse files); nothing of the stream
 * is kept.
 *
 * Names are bytes: in pax headers UTF-8, elsewhere as they stand.
 */
#ifndef OBD_TAR_H
#define OBD_TAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "obd_err.h"
#include "obd_progress.h"

#define OBD_TAR_DIGEST_BYTES 32u

struct obd_tar;

/* Pointers: until the next obd_tar_next. */
struct obd_tar_entry {
	uint64_t offset; /* of its first header in the uncompressed stream */
	const char *name;
	const char *link; /* target of a symlink or hard link, else NULL */
	bool is_hard_link;
	uint32_t mode; /* type (S_IFMT) and permissions; type 0 for a hard link */
	int64_t uid;
	int64_t gid;
	int64_t size_bytes; /* of a regular file, holes included */
	int64_t mtime_s;
	uint32_t mtime_ns;
	uint32_t device_major;
	uint32_t device_minor;
	uint32_t extent_cnt; /* of a sparse file: obd_tar_extent; 0: not sparse */
};

/* fd is borrowed. path: for messages. digest: whether to digest the uncompressed stream. */
int obd_tar_create(int fd, const char *path, bool with_digest, struct obd_progress *progress,
		   struct obd_errinfo *info, struct obd_tar **ret);
void obd_tar_destroy(struct obd_tar *tar);

/* 1 and an entry, 0 at the end, or an error; then ret->name is NULL, or the entry it is about. */
int obd_tar_next(struct obd_tar *tar, struct obd_errinfo *info, struct obd_tar_entry *ret);
/* The present entry's data, piece by piece: 1 and a piece, 0 at its end, or an error. */
int obd_tar_data(struct obd_tar *tar, struct obd_errinfo *info, const void **ret,
		 size_t *ret_length, uint64_t *ret_offset);
/* Data of a sparse file, in the order of the header; false when there is none left. */
bool obd_tar_extent(struct obd_tar *tar, int64_t *ret_offset, int64_t *ret_length);
/* The present entry's next extended attribute; false when there is none left. */
bool obd_tar_xattr(struct obd_tar *tar, const char **ret_name, const void **ret_value,
		   size_t *ret_length);

/* Reads on to the stream's end: damage behind the last entry is found, a writer is not cut off. */
int obd_tar_finish(struct obd_tar *tar, struct obd_errinfo *info);
/* SHA-256 of the uncompressed stream, after obd_tar_finish. */
void obd_tar_digest(struct obd_tar *tar, uint8_t ret[OBD_TAR_DIGEST_BYTES]);

#endif
