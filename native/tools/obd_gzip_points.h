/*
 * Makes the index of a gzip file (obd_gzindex.h): where inflating may begin.
 *
 * Points are the last deflate block boundary at or before each multiple of the span, as the
 * reference places them, and the beginning of every member, which it does not know of.
 */
#ifndef OBD_GZIP_POINTS_H
#define OBD_GZIP_POINTS_H

#include "obd_err.h"
#include "obd_progress.h"

#define OBD_GZIP_SPAN_BYTES (1u << 20)

struct obd_gzip_indexed {
	uint64_t gzip_bytes;
	uint64_t plain_bytes;
	uint64_t index_bytes;
	uint64_t point_cnt;
	uint64_t member_cnt;
};

/*
 * Reads `path` once, checking every member's checksum, and writes its index to out_fd, an empty
 * file. out_path is for errors. OBD_E_FORMAT, OBD_E_CHECKSUM, OBD_E_SHORT name the place in the
 * gzip file; zeros behind the last member are padding, anything else there is OBD_E_FORMAT.
 */
int obd_gzip_index_write(const char *path, int out_fd, const char *out_path, uint32_t span_bytes,
			 struct obd_progress *progress, struct obd_errinfo *info,
			 struct obd_gzip_indexed *ret);

#endif
