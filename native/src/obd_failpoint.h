/*
 * Failpoints: a page that a test shares with every worker of one installation, in which it says
 * what is to happen at which point of obd_crash.h. Test builds only. Little-endian.
 *
 *	offset	size	field		written by
 *	0	8	magic		test	"OBDFAILP"
 *	8	4	layout_version	test	1
 *	12	4	zero
 *	16	4	hit_cnt		worker	hits ever
 *	20	44	zero
 *	64	20 x 96	entries
 *	2048	32 x 64	hits, number n at n % 32
 *
 *	entry
 *	0	4	armed		test stores 1 last; the worker that hits stores 0
 *	4	4	action		test	enum obd_failpoint_action
 *	8	8	argument	test	ms to sleep, or the entry to arm
 *	16	8	passes_left	both	the pass that makes it 0 is the hit
 *	24	8	count		test	what passes_left begins with
 *	32	4	repeat_left	both	so many processes are hit, each once
 *	36	4	hits		worker
 *	40	8	serial		test	number of this arming, never 0
 *	48	32	point		test	NUL-terminated
 *	80	8	lba_plus_1	test	0: any pass; else only one whose sectors hold this
 *LBA 88	8	zero
 *
 *	hit
 *	0	8	pid
 *	8	8	generation	of the device the process attached last, 0: none
 *	16	8	when_ns		CLOCK_MONOTONIC
 *	24	4	action
 *	28	4	number		its number + 1, stored last (release)
 *	32	32	point
 *
 * A hit is noted before it acts: who sees the note knows that it happens. The entry is disarmed
 * before as well, so that a successor is only hit when repeat says so.
 */
#ifndef OBD_FAILPOINT_H
#define OBD_FAILPOINT_H

enum obd_failpoint_action {
	OBD_FAILPOINT_SEGV = 1, /* a real store to address 0 */
	OBD_FAILPOINT_KILL = 2,
	OBD_FAILPOINT_STOP = 3, /* SIGSTOP of the whole process */
	OBD_FAILPOINT_ABORT = 4,
	OBD_FAILPOINT_SLEEP = 5, /* this thread */
	OBD_FAILPOINT_SPIN = 6,	 /* this thread, for ever */
	OBD_FAILPOINT_ARM = 7,	 /* another entry, whose fields are set already */
};

/* Maps the page and sets obd_crash_hook. 0 or a negative errno. */
int obd_failpoint_open(const char *path);

#endif
