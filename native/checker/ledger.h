/*
 * What was sent to a device and what came back, per sector: in memory, or in a file that outlives
 * the process that wrote it.
 *
 * File, little-endian, version 1: a page of header, then which generation served from which
 * sequence number on, then 20 bytes per sector. It is mapped shared: every store is in the file
 * once executed, also when the process is killed. It holds what a device must hold after a power
 * cut only if it is not itself on what lost power.
 *
 * A copy of the file made while it is written is good as follows: every number in it only grows,
 * so a copy that was begun after some moment knows everything that was sent by then, and one that
 * was ended before it claims nothing that was acknowledged or flushed later.
 */
#ifndef OBD_CHECKER_LEDGER_H
#define OBD_CHECKER_LEDGER_H

#include <stdbool.h>
#include <stdint.h>

#define OBD_LEDGER_NAME_BYTES  72u
#define OBD_LEDGER_GENERATIONS 65536u
#define OBD_LEDGER_IN_FLIGHT   UINT32_C(0x80000000) /* in issued: not back yet */

struct obd_ledger_header {
	uint64_t magic; /* "OBDLEDG" and a zero */
	uint32_t version;
	uint32_t header_bytes;
	uint64_t run;
	uint64_t device; /* hash of the name */
	uint64_t sector_cnt;
	uint64_t offset_bytes; /* of sector 0 on the device */
	uint32_t sequence;     /* last one given out */
	uint32_t generation_cnt;
	char name[OBD_LEDGER_NAME_BYTES]; /* of the device */
};

struct obd_ledger_generation {
	uint32_t sequence; /* first one sent under it */
	uint32_t generation;
};

struct obd_ledger_sector {
	uint32_t acked;	    /* newest acknowledged sequence number, 0: never written */
	uint32_t issued;    /* newest sent one, with OBD_LEDGER_IN_FLIGHT while it is not back */
	uint32_t discarded; /* newest sent discard */
	uint32_t flushed;   /* newest one acknowledged before a flush that succeeded was sent */
	uint32_t initial;   /* checksum of the content before this run, 0: not yet seen */
};
_Static_assert(sizeof(struct obd_ledger_sector) == 20, "memory per sector");

struct obd_ledger {
	struct obd_ledger_header *header;
	struct obd_ledger_generation *generation; /* [OBD_LEDGER_GENERATIONS] */
	struct obd_ledger_sector *sector;	  /* [header->sector_cnt] */
	uint64_t map_bytes;
	int fd;		 /* -1: in memory only */
	bool is_resumed; /* a former process began it, this one goes on */
};

/* What a new ledger is for; an existing one must be for the same. */
struct obd_ledger_identity {
	const char *name; /* of the device, at most 71 characters */
	uint64_t run;	  /* of a new one */
	uint64_t sector_cnt;
	uint64_t offset_bytes;
};

/* All return 0 or a negative errno, with a sentence in problem[256]. */

/* path NULL: in memory. Else the file is made, or continued when it is there: what was in flight
 * then is neither acknowledged nor not. One process at a time (-EBUSY). */
int obd_ledger_open(struct obd_ledger *ledger, const char *path,
		    const struct obd_ledger_identity *identity, char *problem);
/* An existing file, for reading: changes to the memory do not reach it. */
int obd_ledger_load(struct obd_ledger *ledger, const char *path, char *problem);
void obd_ledger_close(struct obd_ledger *ledger); /* fine again, or after a failure */

/* From sequence on, generation serves. When the table is full, later ones are not told apart. */
void obd_ledger_note_generation(struct obd_ledger *ledger, uint32_t sequence, uint32_t generation);
/* The generation that served when the sequence number was given out; 0: unknown. */
uint32_t obd_ledger_generation_of(const struct obd_ledger *ledger, uint32_t sequence);

#endif
