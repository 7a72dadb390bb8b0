/*
 * The control socket of ringd: AF_UNIX SOCK_SEQPACKET, mode 0600, one text request per packet, one
 * text answer, "ok ..." or "err ...". Peers must be root or the user ringd runs as (SO_PEERCRED).
 *
 *   fds         ok map_bytes=N, with [memory, wait eventfd, kick eventfd] by SCM_RIGHTS
 *   stat        ok key=value ...; broken_reason comes last and may hold spaces
 *   gaps        ok, then a line "start_ns end_ns" per completion gap since last asked
 *   reset       ok; empties the ring, nobody may be serving
 *   finish      ok; the front end ends its work (load: stops, reads everything back, writes JSON)
 *   stop        ok or err; ends ringd when the device is not in use
 *   stop force  ok; ends ringd in any case
 *
 * The socket belongs to who holds an exclusive flock on PATH.lock: a second ringd is refused.
 */
#ifndef OBD_RINGD_CONTROL_H
#define OBD_RINGD_CONTROL_H

#include <stdbool.h>
#include <stddef.h>

#include "kring.h"

#define OBD_CONTROL_ANSWER_MAX 65536u

/* What the front end does; called on the control thread. */
struct obd_control_hooks {
	void *context;
	void (*finish)(void *context);
	/* Returns NULL, or why not. */
	const char *(*stop)(void *context, bool is_forced);
	/* Adds " key=value" pairs; returns bytes written, below space. May be NULL. */
	size_t (*stat)(void *context, char *at, size_t space);
};

struct obd_control;

/* Takes the lock and listens; logs what went wrong. Returns 0 or a negative errno (-EBUSY: another
 * ringd has this socket). The thread starts at once. */
int obd_control_create(const char *path, struct obd_kring *ring,
		       const struct obd_control_hooks *hooks, struct obd_control **ret);
/* Ends the thread, removes socket and lock file. NULL is fine. Not from a hook. */
void obd_control_destroy(struct obd_control *control);

#endif
