/*
 * One sealed layer: file, tar wrapper, ZFile or raw, LSMT trailer and index.
 *
 *	[header 4096][payload...][index entries][trailer 4096]	of the inner file
 *
 * Source: overlaybd-formats 1.5 and 3.
 */
#ifndef OBD_LAYER_H
#define OBD_LAYER_H

#include <stddef.h>

#include "obd_file.h"
#include "obd_lsmt.h"
#include "obd_warp.h"
#include "obd_zfile.h"

struct obd_layer {
	struct obd_file file;
	struct obd_zfile *zfile; /* NULL: raw */
	struct obd_warp *warp;	 /* the target of a turboOCI layer, else NULL */
	uint64_t size_bytes;	 /* of the inner file */
	uint64_t virtual_size_bytes;
	uint64_t index_offset_bytes;  /* in the inner file; where the payload ends */
	uint64_t index_entries;	      /* stored, padding included */
	struct obd_segment *segments; /* sorted, disjoint; owner: the layer until it is taken */
	size_t segment_cnt;
};

/*
 * Opens and validates; segments carry `tag`. After success *layer must not move (the ZFile points
 * into it); deinit it. After failure nothing is held.
 * Index memory grows as entries are read, never ahead of what the file holds.
 */
int obd_layer_init(struct obd_layer *layer, const char *path, uint8_t tag,
		   struct obd_errinfo *info);

/* The same for a turboOCI layer; gzip_index is NULL when the target is a plain tar (obd_warp.h). */
int obd_layer_init_warp(struct obd_layer *layer, const char *path, const char *target,
			const char *gzip_index, uint8_t tag, struct obd_errinfo *info);
/*
 * The same in two steps: all but the index, which may be known already, then the index. After a
 * failure of the second the layer must be deinitialised.
 */
int obd_layer_open(struct obd_layer *layer, const char *path, const char *target,
		   const char *gzip_index, struct obd_errinfo *info);
int obd_layer_load_index(struct obd_layer *layer, uint8_t tag, struct obd_errinfo *info);
void obd_layer_deinit(struct obd_layer *layer);

/* Bytes of the inner file, or of the target from OBD_WARP_BYTES on, to the cursor, which moves. */
static inline int obd_layer_read(struct obd_layer *layer, uint64_t offset_bytes, uint64_t length,
				 struct obd_cursor *cursor, uint32_t flags,
				 struct obd_errinfo *info)
{
	if (layer->warp && offset_bytes >= OBD_WARP_BYTES)
		return obd_warp_read(layer->warp, offset_bytes - OBD_WARP_BYTES, length, cursor,
				     flags, info);
	if (layer->zfile)
		return obd_zfile_read(layer->zfile, offset_bytes, length, cursor, flags, info);
	return obd_file_read(&layer->file, offset_bytes, length, cursor, flags, info);
}

#endif
