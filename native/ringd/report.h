/* What the load front end found, as JSON. */
#ifndef OBD_RINGD_REPORT_H
#define OBD_RINGD_REPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kring.h"

struct obd_report {
	uint64_t reads;
	uint64_t writes;
	uint64_t discards;
	uint64_t flushes;
	uint64_t sectors_checked;
	uint64_t errors;     /* commands that came back with an error */
	uint64_t lost;	     /* sectors: older than acknowledged, at the final read-back */
	uint64_t stale;	     /* sectors: older than acknowledged, while running */
	uint64_t misplaced;  /* sectors: data of another LBA or device */
	uint64_t corrupt;    /* sectors: nothing that was ever written */
	uint64_t unfinished; /* commands that never came back */
	uint64_t read_back;  /* sectors read back at the end */
	uint64_t elapsed_ns; /* of the generating phase */
	uint64_t generated;  /* commands in that phase */
	bool is_broken;	     /* the ring broke */
	bool is_complete;    /* the final read-back reached the end */
};

/* Whether everything is as it must be. */
bool obd_report_is_good(const struct obd_report *report);
/* Writes the JSON object and a newline into text[space]; returns its length, below space. */
size_t obd_report_format(const struct obd_report *report, const char *name, uint64_t seed,
			 const struct obd_kring_stat *ring, const struct obd_gap_summary *gaps,
			 char *text, size_t space);
/* Replaces the file at path in one step. Returns 0 or a negative errno. */
int obd_report_save(const char *path, const char *text, size_t bytes);

#endif
