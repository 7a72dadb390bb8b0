/*
 * Bytes that are copied or compressed: a file, the inside of a ZFile, a layer that is being made.
 *
 * Any number of threads may read one content at once, anywhere.
 */
#ifndef OBD_CONTENT_H
#define OBD_CONTENT_H

#include <stddef.h>
#include <stdint.h>

#include "obd_err.h"
#include "obd_pipeline.h"
#include "obd_progress.h"

struct obd_content {
	void *ctx;
	uint64_t size_bytes;
	/* Exactly `length` bytes from `offset_bytes` on, which are inside. */
	int (*read)(void *ctx, uint64_t offset_bytes, uint8_t *to, size_t length,
		    struct obd_errinfo *info);
};

/* A file that is open for writing, and where in it the output begins. */
struct obd_output {
	int fd;		  /* borrowed; a regular file */
	const char *path; /* for errors */
	uint64_t base_bytes;
};

/* Writes all of it at `at_bytes` from the output's beginning. OBD_E_NOSPACE, OBD_E_IO. */
int obd_output_write(const struct obd_output *output, uint64_t at_bytes, const void *from,
		     size_t length, struct obd_errinfo *info);

/*
 * Asks the kernel to begin writing out what lies in [from, to), so that a later fsync finds
 * little left to do. A hint.
 */
void obd_output_push(const struct obd_output *output, uint64_t from_bytes, uint64_t to_bytes);

/* The content as it is, to the output. Adds to progress, does not set its total. */
int obd_content_copy(const struct obd_content *content, const struct obd_output *output,
		     uint32_t thread_cnt, struct obd_progress *progress, struct obd_errinfo *info);

#endif
