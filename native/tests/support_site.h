/*
 * One device in this process: a fake kernel, a disk in memory, a journal, and engines to serve
 * them. For programs that are linked with fake_image (native/Makefile, HOOKED).
 */
#ifndef SUPPORT_SITE_H
#define SUPPORT_SITE_H

#include <pthread.h>
#include <stdatomic.h>

#include "fake_image.h"
#include "fake_kernel.h"
#include "obd_engine.h"

#define DISK_SECTORS 4096u
#define READ	     0x28
#define WRITE	     0x2a
#define FLUSH	     0x35
#define RING_BYTES   8192u
#define BLOCKS	     256u
#define WAIT_MS	     20000

struct site {
	struct fake_kernel kernel;
	struct obd_image *image;
	int journal_fd;
	uint64_t generation;
	uint32_t done;
	uint32_t failed;
	uint8_t last_status;
	uint8_t last_sense[96];		 /* of the last that failed */
	uint32_t stamp_of[DISK_SECTORS]; /* last acknowledged */
	uint32_t wrong;
};

/* A gate that operations on the disk wait at. */
struct gate {
	atomic_int is_shut;
	atomic_int waiting;
	atomic_int peak;
};

/* `before` of a fake image: waits while the gate is shut. */
int at_gate(void *gate, char operation, uint64_t lba, uint64_t sectors);
/* Ends the program when it does not come true. */
void eventually(bool (*predicate)(void *context), void *context);

void site_init(struct site *site, const struct fake_image_options *image);
void site_deinit(struct site *site);
/* With the next generation. */
struct obd_attach_spec spec_of(struct site *site, enum obd_attach_mode mode);

struct obd_engine *engine_start(uint32_t threads_max, pthread_t *thread);
void engine_stop(struct obd_engine *engine, pthread_t thread);
/* Ends the program when it is refused; returns the device's id. */
uint32_t attach(struct obd_engine *engine, struct site *site, enum obd_attach_mode mode,
		struct obd_attach_result *ret);
uint32_t attach_as(struct obd_engine *engine, const struct obd_attach_spec *spec,
		   struct obd_attach_result *ret);

/* Queue a command of one sector; false: no room. */
bool queue_write(struct site *site, uint32_t lba, uint32_t stamp);
bool queue_read(struct site *site, uint32_t lba);
/* Takes completions until nothing is queued. */
void settle(struct site *site);
/* Waits for one kick and takes what came. */
void take_some(struct site *site);
/* Random reads and writes at some depth; no two in flight touch the same sector. */
void random_load(struct site *site, uint32_t commands, uint32_t depth, uint64_t seed);

#endif
