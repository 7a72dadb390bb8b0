/*
 * A read-only view of a regular file: positional reads that are exact or fail with the place.
 * The view may begin inside the file (tar wrapper); offsets given here count from its beginning.
 */
#ifndef OBD_FILE_H
#define OBD_FILE_H

#include <stdint.h>

#include "obd_cursor.h"
#include "obd_err.h"

enum obd_nowait {
	OBD_NOWAIT_FLAG = 0,   /* preadv2(RWF_NOWAIT) tells what would block */
	OBD_NOWAIT_NEVER = 1,  /* the file system does not know the flag: assume it blocks */
	OBD_NOWAIT_MEMORY = 2, /* tmpfs, ramfs: a plain read never waits for storage */
};

struct obd_file {
	int fd;
	uint64_t base_bytes; /* where the view begins in the file */
	uint64_t size_bytes; /* of the view, when it was opened */
	uint32_t nowait;     /* enum obd_nowait, relaxed: any thread may learn it */
	char *path;	     /* owned */
};

/* Opens a regular file (anything else is OBD_E_FORMAT) with O_RDONLY or O_RDWR. */
int obd_file_open(const char *path, int access, struct obd_errinfo *info, struct obd_file *ret);
void obd_file_close(struct obd_file *file);

/*
 * Reads exactly length bytes to the cursor and moves it. flags: OBD_READ_NOWAIT. Bytes beyond the
 * end of the file are OBD_E_SHORT.
 */
int obd_file_read(struct obd_file *file, uint64_t offset_bytes, uint64_t length,
		  struct obd_cursor *cursor, uint32_t flags, struct obd_errinfo *info);

/* The same into one buffer. */
int obd_file_read_buffer(struct obd_file *file, uint64_t offset_bytes, void *buffer, size_t length,
			 uint32_t flags, struct obd_errinfo *info);

#endif
