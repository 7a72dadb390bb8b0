/*
 * Processes that die at a chosen system call, or named point, of the writable layer.
 *
 * The calls that change files are wrapped (native/Makefile, UPPER_CALLS), counted, and at the
 * chosen one the process ends: without it, or with a part of it done. Data that a dead process had
 * handed to the kernel may reach the file later: it is kept and can be landed by whoever comes.
 */
#ifndef SUPPORT_UPPER_DEATHS_H
#define SUPPORT_UPPER_DEATHS_H

#include <stdbool.h>
#include <stdint.h>

enum death_kind {
	DEATH_BEFORE,	  /* nothing of the call is done */
	DEATH_FIRST_BYTE, /* of a write; a call that writes nothing is not done */
	DEATH_HALF,
	DEATH_LAST_BYTE, /* all but it */
	DEATH_LATE,	 /* nothing yet: all of it lands later. Only of data, else as BEFORE */
	DEATH_LATE_REST, /* half now, the rest later */
	DEATH_KINDS,
	DEATH_PAGES = DEATH_KINDS, /* half of the pages, each as a whole: what a kill leaves */
};

/* What processes share. */
struct deaths {
	uint64_t reserved;  /* the append high-water mark */
	uint32_t done;	    /* operations that were acknowledged, bits */
	uint32_t under_way; /* begun, by whomever, but not acknowledged */
	uint32_t calls;	    /* of the last process */
	bool has_late;	    /* data was under way when its process died, and has not landed */
	bool had_late;	    /* ... at any time */
	uint64_t late_at;
	uint32_t late_bytes;
	uint8_t late[32768];
	char what[128]; /* what is wrong, if anything */
};

extern struct deaths *deaths; /* made by deaths_init, shared by all children */

void deaths_init(void);

/*
 * Runs body(context) in a process of its own; it dies at the `at`-th call (0: never) in this
 * manner. True: it did not come that far. Ends the test if the body failed.
 */
bool deaths_run(void (*body)(void *context), void *context, uint32_t at, enum death_kind kind);

/* In the body: the data of an earlier death reaches the file now. */
void deaths_land(const char *data_path);

/* One thing that a writer does. */
enum operation_kind { WRITE, WRITE_FUA, DISCARD, FLUSH };

struct operation {
	enum operation_kind kind;
	uint64_t lba;
	uint32_t cnt; /* sectors, at most DEATHS_MOST_SECTORS */
};

#define DEATHS_MOST_SECTORS 64u

struct obd_image;

/* In the body: does it, what is written being this byte throughout; wrong if it fails. */
void deaths_operate(struct obd_image *image, const struct operation *operation, uint8_t value);

/* In the body: what was found is wrong. */
void deaths_wrong(const char *what, uint64_t lba) __attribute__((noreturn));

#endif
