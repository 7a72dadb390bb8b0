#include "ringmem.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

int obd_ringmem_init(struct obd_ringmem *mem, uint64_t map_bytes)
{
	void *map;

	*mem = (struct obd_ringmem){.fd = -1, .map_bytes = map_bytes};
	mem->fd = memfd_create("obdsup-ring", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (mem->fd < 0 || ftruncate(mem->fd, (off_t)map_bytes) < 0 ||
	    fcntl(mem->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return -errno;
	map = mmap(NULL, map_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, mem->fd, 0);
	if (map == MAP_FAILED)
		return -errno;
	mem->map = map;
	return 0;
}

void obd_ringmem_deinit(struct obd_ringmem *mem)
{
	if (mem->map)
		munmap(mem->map, mem->map_bytes);
	if (mem->fd >= 0)
		close(mem->fd);
	*mem = (struct obd_ringmem){.fd = -1};
}
