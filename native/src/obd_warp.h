/*
 * turboOCI ("warp") layers: a sealed layer of file system metadata whose index also names extents
 * of a target, the layer's own tar, plain or gzip. The tag tells them apart: 0 is this file, 1 the
 * target, where moffset counts sectors of the uncompressed tar.
 *
 * In memory the moffset of a target's extent has OBD_WARP_SECTOR added: no file reaches it.
 *
 * Source: overlaybd-formats 1.9, 4.3.
 */
#ifndef OBD_WARP_H
#define OBD_WARP_H

#include "obd_file.h"
#include "obd_gzindex.h"

#define OBD_WARP_SECTOR (1ull << 54)
#define OBD_WARP_BYTES	(OBD_WARP_SECTOR * 512)
#define OBD_WARP_META	0u
#define OBD_WARP_TARGET 1u

struct obd_warp {
	struct obd_file file;
	struct obd_gzip *gzip; /* NULL: a plain tar */
	uint64_t size_bytes;   /* of the tar, uncompressed */
};

/*
 * Opens a target; index_path is NULL for a plain tar. A tar.gz without index is OBD_E_INVAL.
 * After failure nothing is held.
 */
int obd_warp_create(const char *path, const char *index_path, struct obd_errinfo *info,
		    struct obd_warp **ret);
void obd_warp_destroy(struct obd_warp *warp); /* NULL is fine */

static inline int obd_warp_read(struct obd_warp *warp, uint64_t offset_bytes, uint64_t length,
				struct obd_cursor *cursor, uint32_t flags, struct obd_errinfo *info)
{
	if (warp->gzip)
		return obd_gzip_read(warp->gzip, offset_bytes, length, cursor, flags, info);
	return obd_file_read(&warp->file, offset_bytes, length, cursor, flags, info);
}

#endif
