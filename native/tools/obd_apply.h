/*
 * An OCI layer's tar applied to the file system of an image: what a snapshotter does on a mount.
 *
 * - An entry replaces what has its name; a directory over a directory only changes the attributes.
 * - .wh.NAME removes NAME, .wh..wh..opq all there was in its directory: of the layers below, never
 * of this tar. A whiteout of nothing is fine.
 * - Directories that entries lack are made: root's, 0755, of 1970.
 * - Paths are taken inside the image: a leading "/" means its root; symlinks on the way are
 * followed, never out of it; ".." in a name is refused. A symlink at the end of a name is replaced.
 * - A hard link's entry also sets the attributes of the file it names, as containerd does it.
 * - Attributes: mode, owner, times (all three are mtime), extended attributes of the namespaces
 * that ext4 has (others are counted in `xattrs_skipped`).
 *
 * Whatever fails, or is cancelled, leaves the file system as it was (obd_ext4.h).
 */
#ifndef OBD_APPLY_H
#define OBD_APPLY_H

#include <stdint.h>

#include "obd_image.h"
#include "obd_progress.h"

struct obd_apply_options {
	const char *tar_path; /* for messages */
	int tar_fd;	      /* borrowed */
	uint32_t mkfs;	      /* make the file system first */
	uint32_t digest;      /* digest the uncompressed stream */
	uint8_t expected[32]; /* with digest: refuse any other, if has_expected */
	uint32_t has_expected;
};

struct obd_apply_result {
	uint64_t entries;
	uint64_t data_bytes;
	uint64_t removed; /* names that whiteouts removed */
	uint64_t xattrs_skipped;
	uint8_t digest[32];
	uint64_t entry_offset; /* of its header, in the uncompressed tar */
	char entry[1024];      /* the entry that failed, possibly cut; "" when it was none */
	char detail[1024];     /* the other name it is about, "" if none */
};

/* Opens the image for writing, applies, commits, closes. */
int obd_apply(const struct obd_image_spec *spec, const struct obd_apply_options *options,
	      struct obd_progress *progress, struct obd_errinfo *info,
	      struct obd_apply_result *ret);

/* An empty file system over all of the image; a cut leaves no valid one. */
int obd_apply_mkfs(const struct obd_image_spec *spec, struct obd_errinfo *info);

#endif
