#include "obd_process.h"

#include <errno.h>
#include <sys/prctl.h>

int obd_process_set_io_flusher(void)
{
#ifdef PR_SET_IO_FLUSHER
	return prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) == 0 ? 0 : -errno;
#else
	return -ENOSYS;
#endif
}
