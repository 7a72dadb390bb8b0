/* A process on its own: no terminal, no starter, a log file instead of stderr. */
#ifndef OBD_RINGD_DETACH_H
#define OBD_RINGD_DETACH_H

/*
 * Forks; the child goes on in a new session with stdin and stdout at /dev/null. The parent waits
 * until the child said it is ready or ended, and exits 0 or 1; until then stderr is the starter's.
 * Returns in the child only. Call before any thread is started.
 */
void obd_detach_start(void);
/* Tells the waiting parent, then sends stderr to log_path (NULL: as it is, or /dev/null when
 * detached). */
void obd_detach_ready(const char *log_path);
/* Ignores SIGHUP and SIGPIPE; PR_SET_IO_FLUSHER where permitted. */
void obd_detach_harden(void);

#endif
