/*
 * The parts of planted faults (obd_crash.h) that need code of their own. Test builds only: every
 * call stands behind OBD_CHEAT, which is false elsewhere.
 */
#ifndef OBD_PLANTED_H
#define OBD_PLANTED_H

#include <stdint.h>
#include <sys/uio.h>

#include "obd_command.h"

/* Carries out the write of a command after delay_ms, on a thread of its own, from a copy of its
 * data. Best effort: out of memory, nothing happens. */
void obd_planted_write_later(const struct obd_command_site *site, const struct obd_scsi_op *op,
			     uint32_t delay_ms);

void obd_planted_sleep_ms(uint32_t ms);

/* The images of this process, for one that is read in place of another. */
void obd_planted_add_image(struct obd_image *image);
void obd_planted_remove_image(struct obd_image *image);
/* Another image, or the same when there is no other. */
struct obd_image *obd_planted_other_image(struct obd_image *image);

/*
 * Data that lands after its process died, as a request in the hands of a disk may: a helper
 * process knows what the worker is about to write, and does it 150 ms after the worker's death.
 */
void obd_planted_start_lander(void); /* once, before the worker has fds of its own */
/* Begins a write; returns a ticket for obd_planted_landed, or -1. */
int obd_planted_take_off(const char *path, uint64_t at, uint64_t length, const struct iovec *iov,
			 uint32_t iov_cnt);
void obd_planted_landed(int ticket);

#endif
