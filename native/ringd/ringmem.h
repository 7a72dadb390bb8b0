/* The shared memory of a ring: a memfd that nobody can resize, so that no mapping can SIGBUS. */
#ifndef OBD_RINGD_RINGMEM_H
#define OBD_RINGD_RINGMEM_H

#include <stdint.h>

struct obd_ringmem {
	int fd;
	uint8_t *map;
	uint64_t map_bytes;
};

/* Returns 0 or a negative errno. Destroy in either case. */
int obd_ringmem_init(struct obd_ringmem *mem, uint64_t map_bytes);
void obd_ringmem_deinit(struct obd_ringmem *mem);

#endif
