/* The command line of obdsup-ringd. */
#ifndef OBD_RINGD_OPTIONS_H
#define OBD_RINGD_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "generator.h"

struct obd_options {
	const char *name;   /* of the device */
	const char *socket; /* control socket */
	const char *log;    /* NULL: stderr, or nowhere when detached */
	uint64_t size_bytes;
	uint64_t data_area_bytes;
	bool is_fuse; /* else load */
	bool is_detached;
	bool is_checking; /* poison data blocks that are not in use */

	/* fuse */
	const char *mount;
	bool is_read_only;

	/* load */
	const char *json;    /* NULL: stdout only */
	const char *latency; /* NULL, or where slices of latency go */
	const char *journal; /* NULL, or the device's: who serves */
	const char *ledger;  /* NULL, or what was acknowledged is kept there */
	uint64_t seed;
	uint64_t seconds; /* 0: until told */
	uint64_t span_bytes;
	uint64_t drain_seconds; /* how long what is in flight may take at the end */
	uint32_t queue_depth;
	uint32_t iops; /* at most so many commands per second, in bursts; 0: as many as come back */
	struct obd_mix mix;
	bool is_surveying; /* read everything before the first write */
	bool is_lingering; /* stay after the work is done, until stop */
};

/* Fills *ret from argv; on a mistake prints it with the usage to stderr and returns -1.
 * argv[1] is the front end, "fuse" or "load"; strings point into argv. */
int obd_options_parse(int argc, char **argv, struct obd_options *ret);

#endif
