/* What the load front end found, as JSON. */
#ifndef OBD_RINGD_REPORT_H
#define OBD_RINGD_REPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kring.h"
#include "tally.h"

struct obd_report {
	uint64_t reads;
	uint64_t writes;
	uint64_t discards;
	uint64_t flushes;
	uint64_t sectors_checked;
	struct obd_tally tally;
	uint64_t unfinished; /* commands that never came back */
	uint64_t read_back;  /* sectors read back at the end */
	uint64_t elapsed_ns; /* of the generating phase */
	uint64_t generated;  /* commands in that phase */
	bool is_broken;	     /* the ring broke */
	bool is_complete;    /* the final read-back reached the end */
};

/* Whether everything is as it must be. */
bool obd_report_is_good(const struct obd_report *report);
/* Makes the JSON object with a newline, *ret of *ret_bytes, to be freed. Returns 0 or a negative
 * errno. */
int obd_report_format(const struct obd_report *report, const char *name, uint64_t seed,
		      const struct obd_kring_stat *ring, const struct obd_gap_summary *gaps,
		      char **ret, size_t *ret_bytes);

#endif
