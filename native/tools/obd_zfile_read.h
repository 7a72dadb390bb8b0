/* Whole ZFiles, by several threads: decompressed into a file, or only checked. */
#ifndef OBD_ZFILE_READ_H
#define OBD_ZFILE_READ_H

#include <stdint.h>

#include "obd_err.h"
#include "obd_progress.h"

/*
 * Writes what a ZFile (or a tar that holds one) decompresses to. Each block is checked on the
 * way; the first that is damaged ends it. thread_cnt 0: as many as there are processors.
 */
int obd_zfile_extract(const char *path, int out_fd, const char *out_path, uint32_t thread_cnt,
		      struct obd_progress *progress, struct obd_errinfo *info, uint64_t *ret_bytes);

struct obd_zfile_damage {
	uint64_t content_offset_bytes; /* of the block */
	struct obd_errinfo info;
};

struct obd_zfile_checked {
	uint64_t block_cnt;
	uint64_t content_bytes;
	uint64_t damage_cnt; /* may be more than were stored */
};

/*
 * Reads every block. Damage of a block is no error: it is counted, and the first `cap` are stored
 * in the order of the file. Errors: the file can not be opened, or a read failed for other reasons.
 */
int obd_zfile_check(const char *path, uint32_t thread_cnt, struct obd_progress *progress,
		    struct obd_errinfo *info, struct obd_zfile_damage *damages, uint32_t cap,
		    struct obd_zfile_checked *ret);

#endif
