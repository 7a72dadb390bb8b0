/*
 * What outlives a server, and the judge: kernel, ring, journal, disk, and what each command was
 * promised. The server under test is support_crash_server.h.
 *
 * Every command has a tag. Writes store tag + 1 at their sector; a read must return what was
 * acknowledged last. A violation of I1, I2 or I4 (ring.md) never returns to the server.
 */
#ifndef SUPPORT_CRASH_WORLD_H
#define SUPPORT_CRASH_WORLD_H

#include <setjmp.h>

#include "fake_image.h"
#include "fake_kernel.h"
#include "obd_scsi.h"

#define CRASH_READ	  0x28
#define CRASH_WRITE	  0x2a
#define CRASH_TMR	  0xff /* no command: an entry that nobody answers */
#define CRASH_ENTRY_BYTES 128u /* of a command with up to four iovecs and a 10-byte CDB */
#define CRASH_SECTORS	  64u
#define CRASH_MAX_TAGS	  65536u

enum { CRASH_DIED = 1, CRASH_VIOLATED = 2 }; /* what `escape` is jumped to with */

struct crash_work { /* what a tag stands for */
	uint8_t opcode;
	uint32_t lba;
	uint32_t expected; /* of a read */
	uint8_t completions;
	uint8_t blames; /* deaths of servers that had it EXECUTING */
};

struct crash_world {
	struct fake_kernel kernel;
	struct obd_image *disk;
	struct obd_unit unit;
	int journal_fd; /* for who maps a journal from a file */
	struct crash_work works[CRASH_MAX_TAGS];
	uint32_t work_cnt;			 /* tags in use */
	uint32_t work_max;			 /* then no more follow */
	uint32_t queued_cnt;			 /* tags the kernel took */
	uint32_t completed_cnt;			 /* works that are done */
	uint32_t acknowledged[CRASH_SECTORS];	 /* tag of the last acknowledged write, + 1 */
	uint32_t (*follows_with)(uint8_t after); /* opcode of the next command for a sector */
	const char *violation;
	jmp_buf escape;
};

extern struct crash_world crash_world;

void crash_world_init(uint32_t cmdr_bytes, uint32_t block_cnt);
void crash_world_deinit(void);
/* Nothing queued, nothing on the disk, the ring starts at `head`; the journal is not touched. */
void crash_world_reset(uint32_t head);

uint32_t crash_add_work(uint8_t opcode, uint32_t lba);
/* The kernel takes the next command; false: there is none, or no room. */
bool crash_queue_one(void);
/* Takes completions up to cmd_tail, and judges them. */
void crash_complete(void);
bool crash_is_over(void);

/* Is the command that this slot holds still waiting for its answer? */
bool crash_is_waiting(uint16_t cmd_id, const uint8_t *cdb);

/* Jumps to `escape`. */
void crash_violate(const char *what) __attribute__((noreturn));

#endif
