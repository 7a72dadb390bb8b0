/*
 * The content of a sector that was written: who wrote it, where it belongs, and 472 bytes that
 * follow from that, so that every bit of it is checked and no two sectors ever look alike.
 *
 *   | off | size | field      |
 *   |   0 |    8 | magic      |
 *   |   8 |    8 | run        | one process of a generator, or one ledger
 *   |  16 |    8 | device     | hash of the device's name
 *   |  24 |    8 | lba        |
 *   |  32 |    4 | sequence   | of the write, grows within a run
 *   |  36 |    4 | generation | of the worker that served when it was sent; 0: unknown
 *   |  40 |  472 | fill       |
 */
#ifndef OBD_CHECKER_STAMP_H
#define OBD_CHECKER_STAMP_H

#include <stdint.h>

#define OBD_STAMP_BYTES 512u

struct obd_stamp {
	uint64_t run;
	uint64_t device;
	uint64_t lba;
	uint32_t sequence;
	uint32_t generation;
};

enum obd_stamp_kind {
	OBD_STAMP_NONE,	   /* no magic */
	OBD_STAMP_DAMAGED, /* the fill does not follow from the head: torn, or bits flipped */
	OBD_STAMP_WHOLE,
};

void obd_stamp_make(const struct obd_stamp *stamp, uint8_t *sector);
/* Fills *ret unless it returns OBD_STAMP_NONE; of a damaged one with what the head says. */
enum obd_stamp_kind obd_stamp_parse(const uint8_t *sector, struct obd_stamp *ret);
/* Of a damaged one: the bytes [*begin, *end) that do not follow from the head. */
void obd_stamp_damage(const uint8_t *sector, uint32_t *begin, uint32_t *end);

/* A device's or a run's name as a number. */
uint64_t obd_stamp_hash(const char *name);
/* Spreads the bits of a number; 0 only for 0. */
uint64_t obd_stamp_mix(uint64_t value);

#endif
