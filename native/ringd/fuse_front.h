/* The FUSE front end: one file, DIR/disk, whose bytes are behind the ring. */
#ifndef OBD_RINGD_FUSE_FRONT_H
#define OBD_RINGD_FUSE_FRONT_H

#include "options.h"

/* Runs to the end. Returns the exit status: 0, or 2 when it could not start. */
int obd_fuse_run(const struct obd_options *options);

#endif
