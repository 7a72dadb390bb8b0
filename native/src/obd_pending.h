/*
 * Records of a writable layer whose data no sync has covered yet: a file beside the index file.
 *
 * On the disk the index file must never name data that is not there, and a process may die at any
 * moment. So a record is written here first and gets into the index file with a flush, behind the
 * sync of the data file. The page cache survives a process; what an earlier boot left here was
 * never flushed and counts for nothing.
 *
 * INDEX.pending, little-endian:
 *   | off  | size | field   | meaning                                                       |
 *   |    0 |    8 | magic   | "OBDPEND\0"                                                   |
 *   |    8 |    4 | version | 1                                                             |
 *   |   16 |   36 | boot id | of the kernel whose page cache holds this, as text            |
 *   |   56 |   37 | uuid    | of the pair, as text                                          |
 *   | 4096 |      | records | each at the offset that it has, or will have, in the index    |
 *
 * The file ends where the index file would end with everything in it. The last record of the index
 * file is here too, at the same offset: if the two differ, somebody else has appended to the index
 * file since, without what was pending, and that is then void, as after a power cut.
 */
#ifndef OBD_PENDING_H
#define OBD_PENDING_H

#include <stdint.h>

#include "obd_file.h"
#include "obd_lsmt.h"

#define OBD_PENDING_SUFFIX	 ".pending"
#define OBD_PENDING_HEADER_BYTES 128u

struct obd_pending {
	struct obd_file file; /* fd -1: there is none of this boot and pair, as far as we know */
	char *path;
	uint8_t header[OBD_PENDING_HEADER_BYTES]; /* what it must begin with */
};

int obd_pending_init(struct obd_pending *pending, const char *index_path, const char *uuid,
		     struct obd_errinfo *info);
void obd_pending_deinit(struct obd_pending *pending);

/*
 * Where what is pending ends, if it goes on behind `indexed`, the end of the index file's whole
 * records; else 0.
 */
int obd_pending_end(struct obd_pending *pending, struct obd_file *index, uint64_t indexed,
		    struct obd_errinfo *info, uint64_t *ret);

/*
 * For the one writer: from now on records are appended at `end`. `last` is the record in front of
 * it, NULL if there is none. What lies behind `end` is dropped.
 */
int obd_pending_begin(struct obd_pending *pending, uint64_t end, const uint8_t *last,
		      struct obd_errinfo *info);

/* For the one writer, when everything is in the index file: takes the file away. */
int obd_pending_remove(struct obd_pending *pending, struct obd_errinfo *info);

#endif
