/*
 * The control socket: one request per packet (AF_UNIX, SOCK_SEQPACKET), one answer each.
 *
 *   delay NAME MILLISECONDS
 *   fail NAME BEGIN END ERRNO TIMES     TIMES 0: always
 *   hold NAME
 *   clear
 *   count       ok reads=N delayed=N failed=N held=N holding=N
 *
 * Answers start with "ok" or "error: ".
 */
#ifndef FAULTFS_CONTROL_H
#define FAULTFS_CONTROL_H

/*
 * Listens on path and starts the thread that answers. Returns 0, or a negative errno.
 * The thread ends with the process.
 */
int faultfs_control_start(const char *path);

#endif
