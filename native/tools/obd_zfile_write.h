/*
 * Writes ZFiles, byte for byte as the reference's tools do; how many threads compress changes
 * nothing.
 *
 *	[header 512][blocks, each followed by its CRC][u32 index[n]][trailer 512]
 *
 * Source: overlaybd-formats 2.4, 2.5; the fields: obd_zfile.h.
 */
#ifndef OBD_ZFILE_WRITE_H
#define OBD_ZFILE_WRITE_H

#include <stdint.h>

#include "obd_content.h"

#define OBD_ALGORITHM_NONE 0u
#define OBD_ALGORITHM_LZ4  1u
#define OBD_ALGORITHM_ZSTD 2u

struct obd_zfile_options {
	uint32_t algorithm;
	uint32_t block_bytes;	    /* 4096 .. 65536, a power of two */
	uint32_t has_crc;	    /* of each block */
	uint32_t overwrites_header; /* the header gets the trailer's values, as commit does it */
	uint32_t thread_cnt;	    /* 0: as many as there are processors */
	uint32_t reserved;
};

struct obd_zfile_written {
	uint64_t content_bytes;
	uint64_t file_bytes; /* without the output's base */
	uint64_t block_cnt;
	/* The longest block as stored, CRC included: beyond 65536 the reference can not read it. */
	uint64_t longest_bytes;
};

/*
 * Compresses a content. OBD_E_INVAL for options that no ZFile can have, otherwise what reading or
 * writing returned. The file is complete on success, but not synced.
 */
int obd_zfile_write(const struct obd_content *content, const struct obd_output *output,
		    const struct obd_zfile_options *options, struct obd_progress *progress,
		    struct obd_errinfo *info, struct obd_zfile_written *ret);

/*
 * The same with what can be read from `in_fd` until its end: a pipe, or a file from its present
 * position on. in_path and out_path are for errors.
 */
int obd_zfile_write_fd(int in_fd, const char *in_path, int out_fd, const char *out_path,
		       uint64_t base_bytes, const struct obd_zfile_options *options,
		       struct obd_progress *progress, struct obd_errinfo *info,
		       struct obd_zfile_written *ret);

#endif
