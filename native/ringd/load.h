/* The load front end: generates commands, checks every sector that is read, reads all back. */
#ifndef OBD_RINGD_LOAD_H
#define OBD_RINGD_LOAD_H

#include "options.h"

/* Runs to the end. Returns the exit status: 0 when nothing was lost, wrong or refused, 1 when
 * something was, 2 when it could not start. */
int obd_load_run(const struct obd_options *options);

#endif
