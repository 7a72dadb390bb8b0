/*
 * A disk in memory behind obd_image.h, with hooks for tests. It is linked in place of the real
 * image, into the programs that native/Makefile names.
 */
#ifndef FAKE_IMAGE_H
#define FAKE_IMAGE_H

#include "obd_image.h"

struct fake_image_options {
	uint64_t bytes;
	const char *path; /* NULL: anonymous; else a file that outlives the process */
	bool is_read_only;
	bool needs_waiting; /* every NOWAIT read answers OBD_E_AGAIN */
	/* Called on the executing thread before the operation; a negative value fails it. */
	int (*before)(void *context, char operation, uint64_t lba, uint64_t sectors);
	void *context;
};

/* Ends the process when the system refuses. Destroy with obd_image_destroy. */
struct obd_image *fake_image_create(const struct fake_image_options *options);
uint8_t *fake_image_bytes(struct obd_image *image);
bool fake_image_is_writer(const struct obd_image *image);

#endif
