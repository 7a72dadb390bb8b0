/*
 * Named places where a process may die, and deliberate faults. Both exist only in test builds
 * (-DOBD_TEST_HOOKS); everywhere else they compile to nothing.
 *
 * A hook runs before the store it is named after becomes possible, that is: the point
 * "publish.tail" is reached with everything stored but cmd_tail.
 *
 * A worker of a test build takes both from its environment when the library is loaded:
 *	OBDSUP_FAILPOINTS=FILE		what is to happen at which point: obd_failpoint.h
 *	OBDSUP_PLANTED=NAME[,NAME]	names of OBD_CHEAT_LIST; an unknown one ends the process
 *	OBDSUP_PLANTED_SEED=N		which pass of the faults that strike one pass in many
 */
#ifndef OBD_CRASH_H
#define OBD_CRASH_H

#include <stdbool.h>
#include <stdint.h>

#ifdef OBD_TEST_HOOKS

/*
 * Faults that the checkers must catch. The first three are cheats of a worker that looks healthy,
 * the next five designs that were considered and are wrong; then come mistakes one could make, and
 * last three that are no faults of a worker but make others show: what the kernel or a slow disk
 * may do. (1/N): strikes one pass in some dozens.
 */
#define OBD_CHEAT_LIST(X)                                                                          \
	X(skip_record)	       /* publish without a publication record */                          \
	X(reuse_id)	       /* complete with the cmd_id of another command */                   \
	X(publish_twice)       /* complete the same command two times */                           \
	X(ring_only)	       /* recover from [cmd_tail, cmd_head) instead of the journal */      \
	X(record_after_tail)   /* write the publication record behind the commit point */          \
	X(free_before_tail)    /* free the slot before the commit point */                         \
	X(no_sequence_check)   /* execute every slot, also the one `next` still names */           \
	X(drop_by_offset)      /* drop the slot whose offset, not sequence, is `next` */           \
	X(no_high_water_mark)  /* append at the end of the file, whatever was reserved */          \
	X(no_generation_check) /* publish although a successor owns the journal */                 \
	X(no_lock)	       /* take ring and writable layer without locking them */             \
	X(drop_write)	       /* acknowledge a write that was not done (1/N) */                   \
	X(stale_read)	       /* read the lowers although the upper has it (1/N) */               \
	X(wrong_lba)	       /* write 4 KiB behind the place (1/N) */                            \
	X(late_replay)	       /* execute a recovered write once more, later */                    \
	X(answer_early)	       /* publish a write, then do it (1/N) */                             \
	X(lose_in_flight)      /* forget one command in flight at each recovery */                 \
	X(swallow_kick)	       /* publish without telling (1/N) */                                 \
	X(torn_write)	       /* write half of the sectors, acknowledge all (1/N) */              \
	X(sync_nothing)	       /* acknowledge a flush without one */                               \
	X(sync_index_alone)    /* flush the index file, not the data it names */                   \
	X(two_devices_mixed)   /* read from another image of the process (1/N) */                  \
	X(half_detach)	       /* say "detached" and serve on */                                   \
	X(late_landing)	       /* data under way at a kill reaches the file 150 ms after it */     \
	X(slow_lap)	       /* the command at the ring's offset 0 takes 1.5 s */

struct obd_cheats {
#define X(name) bool name;
	OBD_CHEAT_LIST(X)
#undef X
};

extern struct obd_cheats obd_cheats;
/* Called at each point when not NULL; may not return. */
extern void (*obd_crash_hook)(const char *point);
/* Of the device attached last, for the log of what happened at a point. */
extern uint64_t obd_crash_generation;
/* What this thread works on; nothing with sectors 0. */
extern _Thread_local uint64_t obd_crash_lba, obd_crash_sectors;

/* True once in N calls; N and the phase follow from OBDSUP_PLANTED_SEED. Any thread. */
bool obd_cheat_is_due(void);

#define OBD_CHEAT(name)	    (obd_cheats.name)
#define OBD_CHEAT_NOW(name) (obd_cheats.name && obd_cheat_is_due())
#define OBD_CRASH_POINT(point)                                                                     \
	do {                                                                                       \
		if (obd_crash_hook)                                                                \
			obd_crash_hook(point);                                                     \
	} while (0)
/* The same at a place where a range of sectors is worked on: a failpoint may want a certain one. */
#define OBD_CRASH_POINT_LBA(point, first, cnt)                                                     \
	do {                                                                                       \
		obd_crash_lba = (first);                                                           \
		obd_crash_sectors = (cnt);                                                         \
		OBD_CRASH_POINT(point);                                                            \
		obd_crash_sectors = 0;                                                             \
	} while (0)
#define OBD_CRASH_GENERATION(value) __atomic_store_n(&obd_crash_generation, value, __ATOMIC_RELAXED)

#else
#define OBD_CHEAT(name)			       (false)
#define OBD_CHEAT_NOW(name)		       (false)
#define OBD_CRASH_POINT(point)		       ((void)0)
#define OBD_CRASH_POINT_LBA(point, first, cnt) ((void)0)
#define OBD_CRASH_GENERATION(value)	       ((void)0)
#endif

#endif
