/*
 * What a process that serves block devices asks of the kernel for itself.
 */
#ifndef OBD_PROCESS_H
#define OBD_PROCESS_H

/*
 * Tells the kernel that this process and its threads clean dirty memory (PR_SET_IO_FLUSHER):
 * reclaim must not wait for I/O that only we can complete. Threads started later inherit it.
 * Returns 0, or the negative errno: -EPERM without CAP_SYS_RESOURCE, -EINVAL before Linux 5.6.
 */
int obd_process_set_io_flusher(void);

#endif
