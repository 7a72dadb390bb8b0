/*
 * What a process that serves block devices asks of the kernel for itself, and what it gives up.
 */
#ifndef OBD_PROCESS_H
#define OBD_PROCESS_H

/*
 * Tells the kernel that this process and its threads clean dirty memory (PR_SET_IO_FLUSHER):
 * reclaim must not wait for I/O that only we can complete. Threads started later inherit it.
 * Returns 0, or the negative errno: -EPERM without CAP_SYS_RESOURCE, -EINVAL before Linux 5.6.
 */
int obd_process_set_io_flusher(void);

/*
 * Gives up, for good, what serving needs not: privileges by exec (no_new_privs) and all
 * capabilities but those that open files of any owner. Threads started later inherit it: call it
 * while there is one, after all that needs privileges.
 * Returns 0, or the negative errno of the first step that failed; the later ones are tried too.
 */
int obd_process_drop_privileges(void);

/*
 * From now on the system calls that no worker makes fail with EPERM: other programs, other
 * processes' memory, mounts, namespaces, modules, BPF, io_uring, clocks, keys. Only after
 * obd_process_drop_privileges. The filter costs the calls of the data path nothing that counts:
 * since Linux 5.11 what is always allowed is looked up in a bitmap.
 * Returns 0, or the negative errno: -EINVAL without seccomp, -ENOSYS on other architectures.
 */
int obd_process_filter_calls(void);

#endif
