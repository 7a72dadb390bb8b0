/*
 * Layers into one sealed layer: commit (a writable layer), compact (a sealed one), merge (a stack).
 *
 * Only what the top of the sources shows is written: what was overwritten stays behind.
 */
#ifndef OBD_COMMIT_H
#define OBD_COMMIT_H

#include <stdint.h>

#include "obd_err.h"
#include "obd_progress.h"
#include "obd_sealed_write.h"
#include "obd_zfile_write.h"

struct obd_commit_spec {
	/* Sealed layers, bottom to top, and on top of them the pair; either may be missing. */
	const char *const *lower_paths;
	const char *const *target_paths;     /* of turboOCI layers, as in struct obd_image_spec; */
	const char *const *gzip_index_paths; /* what a target holds becomes part of the layer */
	uint32_t lower_cnt;
	/* Tags of the index: 0, or the number of the layer, 0 = the top one, as merge has them. */
	uint32_t keeps_tags;
	const char *upper_data;
	const char *upper_index;
	/* Of the output; virtual size 0: that of the topmost source that has one. */
	uint64_t virtual_size_bytes;
	const char *uuid;	 /* NULL: none */
	const char *parent_uuid; /* likewise */
	const char *user_tag;	 /* likewise */
	/* algorithm OBD_ALGORITHM_NONE: no ZFile, the layer as it is */
	struct obd_zfile_options zfile;
};

struct obd_committed {
	uint64_t file_bytes;  /* without base_bytes */
	uint64_t layer_bytes; /* of the layer, before compression */
	uint64_t virtual_size_bytes;
	uint64_t segment_cnt;
	uint64_t data_bytes;
	uint64_t zeroed_bytes;
	uint64_t longest_bytes; /* as of struct obd_zfile_written; 0 without ZFile */
};

/*
 * Writes the layer to out_fd from base_bytes on; complete on success, but not synced. A pair that
 * a worker appends to is taken as it is at one moment. A sparse one is written in place, so it is
 * locked meanwhile: OBD_E_LOCKED when somebody writes to it.
 */
int obd_commit(const struct obd_commit_spec *spec, int out_fd, const char *out_path,
	       uint64_t base_bytes, struct obd_progress *progress, struct obd_errinfo *info,
	       struct obd_committed *ret);

/* Writes a layer that is made already; of *ret all but the virtual size. */
int obd_commit_store(struct obd_sealed *sealed, const struct obd_output *output,
		     const struct obd_zfile_options *zfile, struct obd_progress *progress,
		     struct obd_errinfo *info, struct obd_committed *ret);

#endif
