/* What was found wrong: how often, and the first ones of each kind in words. */
#ifndef OBD_CHECKER_TALLY_H
#define OBD_CHECKER_TALLY_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum obd_wrong {
	OBD_WRONG_ERROR,     /* operations that came back with an error */
	OBD_WRONG_LOST,	     /* sectors: older than acknowledged, at the final read-back */
	OBD_WRONG_STALE,     /* sectors: older than acknowledged, while running */
	OBD_WRONG_MISPLACED, /* sectors: data of another LBA or device */
	OBD_WRONG_CORRUPT,   /* sectors: nothing that was ever written */
	OBD_WRONG_CNT,
};

#define OBD_TALLY_LINES	     20u /* kept of each kind */
#define OBD_TALLY_LINE_BYTES 512u

struct obd_tally {
	uint64_t cnt[OBD_WRONG_CNT]; /* relaxed: others may look */
	uint32_t line_cnt[OBD_WRONG_CNT];
	char line[OBD_WRONG_CNT][OBD_TALLY_LINES][OBD_TALLY_LINE_BYTES];
};

/* Counts one; whether a line about it is still wanted: then obd_tally_line gives the place. */
bool obd_tally_count(struct obd_tally *tally, enum obd_wrong kind);
/* A line of OBD_TALLY_LINE_BYTES to be filled in. */
char *obd_tally_line(struct obd_tally *tally, enum obd_wrong kind);
uint64_t obd_tally_sum(const struct obd_tally *tally);
/* "errors": N, "lost": N, ... as they stand in a JSON object. */
void obd_tally_write_counts(const struct obd_tally *tally, FILE *file);
/* "findings": [{"kind": ..., "text": ...}, ...] likewise. */
void obd_tally_write_findings(const struct obd_tally *tally, FILE *file);

#endif
