/* The command line of obdsup-sectors. */
#ifndef OBD_SECTORS_OPTIONS_H
#define OBD_SECTORS_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "generator.h"

struct obd_sectors_options {
	const char *target;  /* block device or file */
	const char *name;    /* of the device, in stamps and findings */
	const char *json;    /* NULL: stdout only */
	const char *latency; /* NULL, or where slices of latency go */
	const char *journal; /* NULL, or the device's: who serves */
	const char *ledger;  /* NULL: in memory */
	const char *since;   /* NULL, or an earlier copy of the ledger */
	const char *expect;  /* NULL, or what the device held before */
	uint64_t seed;
	uint64_t seconds;    /* 0: until told */
	uint64_t operations; /* 0: until told */
	uint64_t iops;	     /* 0: as fast as can be */
	uint64_t span_bytes; /* 0: up to the end */
	uint64_t offset_bytes;
	uint64_t drain_seconds; /* how long an operation may take at the end */
	uint32_t queue_depth;
	struct obd_mix mix;
	bool is_read_only;
	bool is_buffered;
	bool is_surveying;    /* read everything before the first write */
	bool is_reading_back; /* and after the last one */
	bool is_verifying;    /* only that */
	bool is_durable_only; /* of a ledger: only what was flushed must be there */
};

enum obd_parsed { OBD_PARSED, OBD_PARSED_HELP, OBD_PARSED_WRONG };

/* Fills *ret from argv; a mistake is printed to stderr, help to stdout. Strings point into argv. */
enum obd_parsed obd_sectors_options_parse(int argc, char **argv, struct obd_sectors_options *ret);

#endif
