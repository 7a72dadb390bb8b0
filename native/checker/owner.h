/*
 * Which worker generation serves a device, from its journal file. The file may be missing, be
 * replaced or be cut off at any time: then the answer is 0, unknown. It is read again at most
 * every millisecond, and looked up by name again every tenth of a second.
 */
#ifndef OBD_CHECKER_OWNER_H
#define OBD_CHECKER_OWNER_H

#include <stdint.h>

struct obd_owner {
	const char *path; /* NULL: always unknown */
	int fd;
	uint32_t generation;
	uint64_t read_ns;
	uint64_t opened_ns;
};

void obd_owner_init(struct obd_owner *owner, const char *path); /* path is borrowed */
void obd_owner_deinit(struct obd_owner *owner);
uint32_t obd_owner_generation(struct obd_owner *owner, uint64_t now_ns);

#endif
