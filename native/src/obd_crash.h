/*
 * Named places where a process may die, and deliberate faults. Both exist only in test builds
 * (-DOBD_TEST_HOOKS); everywhere else they compile to nothing.
 *
 * A hook runs before the store it is named after becomes possible, that is: the point
 * "publish.tail" is reached with everything stored but cmd_tail.
 */
#ifndef OBD_CRASH_H
#define OBD_CRASH_H

#include <stdbool.h>

#ifdef OBD_TEST_HOOKS

/* Faults that the checkers must catch. The first three are cheats of a worker that looks healthy,
 * the others are designs that were considered and are wrong. */
struct obd_cheats {
	bool skip_record;	/* publish without a publication record */
	bool reuse_id;		/* complete with the cmd_id of another command */
	bool publish_twice;	/* complete the same command two times */
	bool ring_only;		/* recover from [cmd_tail, cmd_head) instead of the journal */
	bool record_after_tail; /* write the publication record behind the commit point */
	bool free_before_tail;	/* free the slot before the commit point */
	bool no_sequence_check; /* execute every slot, also the one `next` still names */
	bool drop_by_offset;	/* drop the slot whose offset, not sequence, is `next` */
};

extern struct obd_cheats obd_cheats;
/* Called at each point when not NULL; may not return. */
extern void (*obd_crash_hook)(const char *point);

#define OBD_CHEAT(name) (obd_cheats.name)
#define OBD_CRASH_POINT(point)                                                                     \
	do {                                                                                       \
		if (obd_crash_hook)                                                                \
			obd_crash_hook(point);                                                     \
	} while (0)

#else
#define OBD_CHEAT(name)	       (false)
#define OBD_CRASH_POINT(point) ((void)0)
#endif

#endif
