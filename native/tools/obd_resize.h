/*
 * A file system in an image, changed by somebody else's program in a raw copy of its disk, brought
 * back: what resizing with resize2fs takes.
 */
#ifndef OBD_RESIZE_H
#define OBD_RESIZE_H

#include <stdint.h>

#include "obd_image.h"
#include "obd_progress.h"

struct obd_resize_result {
	uint64_t ranges;
	uint64_t changed_bytes;
};

/* The image's disk as a sparse file; see obd_disk_export. */
int obd_resize_export(const struct obd_image_spec *image, int out_fd, const char *out_path,
		      struct obd_progress *progress, struct obd_errinfo *info);

/*
 * Makes the image's disk that of raw_path, durably: writes what differs, with the superblock last
 * and, until then, one that says "not valid" in its place. Beyond its end the raw disk is zeros.
 * Errors: OBD_E_LOCKED (somebody writes to the image), as of obd_disk_compare and obd_image_write.
 */
int obd_resize_store(const struct obd_image_spec *image, const char *raw_path,
		     struct obd_progress *progress, struct obd_errinfo *info,
		     struct obd_resize_result *ret);

#endif
