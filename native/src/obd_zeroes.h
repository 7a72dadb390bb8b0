/*
 * What a sparse writable layer forgets: which of its holes were discarded. A file beside the data
 * file, DATA.zeroes, little-endian:
 *
 *   | off | size | field   | meaning                                                          |
 *   |   0 |    8 | magic   | "OBDZERO\0"                                                      |
 *   |   8 |    4 | version | 1                                                                |
 *   |  16 |   37 | uuid    | of the data file, as text; another one: the file counts for nothing |
 *   | 128 |      | records | 16 bytes each                                                    |
 *
 *   record: u64 offset (bits 0-49) and length (bits 50-63) in sectors, u32 0, u32 raw CRC-32C of
 *   these 12 bytes, seeded with the one of the header's 128 bytes (seed 0)
 *
 * The records are a set that only grows: where the data file has data, that counts; where it has a
 * hole inside of a record, the disk holds zeros; any other hole shows what is below. So a record
 * needs no place in any order: it is written, synced, and only then the hole is made.
 */
#ifndef OBD_ZEROES_H
#define OBD_ZEROES_H

#include "obd_file.h"
#include "obd_map.h"

#define OBD_ZEROES_SUFFIX	".zeroes"
#define OBD_ZEROES_HEADER_BYTES 128u
#define OBD_ZEROES_RECORD_BYTES 16u

struct obd_zeroes {
	char *path;
	int fd;		    /* for the writer; -1 until its first record */
	uint64_t end;	    /* where the writer appends */
	uint32_t seed;	    /* CRC of the header */
	struct obd_map set; /* all that was ever discarded */
	uint8_t header[OBD_ZEROES_HEADER_BYTES];
};

/* Names the file; reads nothing. */
int obd_zeroes_init(struct obd_zeroes *zeroes, const char *data_path, const char *uuid,
		    struct obd_errinfo *info);
void obd_zeroes_deinit(struct obd_zeroes *zeroes);

/*
 * Reads the set anew. A last record that is not whole or not right was never acted on and is left
 * out; one with a good one behind it is OBD_E_FORMAT.
 */
int obd_zeroes_load(struct obd_zeroes *zeroes, struct obd_errinfo *info);

/*
 * For the one writer, after a load: [begin, end), in sectors, belongs to the set when it returns,
 * and on the disk if must_sync.
 */
int obd_zeroes_add(struct obd_zeroes *zeroes, uint64_t begin, uint64_t end, bool must_sync,
		   struct obd_errinfo *info);

#endif
