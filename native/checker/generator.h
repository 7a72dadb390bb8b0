/* What is sent next: drawn from a seed, never two writes of one sector at a time. */
#ifndef OBD_CHECKER_GENERATOR_H
#define OBD_CHECKER_GENERATOR_H

#include <stdbool.h>
#include <stdint.h>

#include "model.h"

#define OBD_SEQUENCE_MAX UINT32_C(0x7ffffff0) /* after that many writes a run ends by itself */

enum obd_op { OBD_OP_READ, OBD_OP_WRITE, OBD_OP_DISCARD, OBD_OP_FLUSH };

extern const char *const obd_op_names[];

struct obd_mix {
	uint32_t read_percent;
	uint32_t discard_percent;
	uint32_t flush_percent; /* the rest are writes */
	uint32_t fua_percent;	/* of the writes */
	uint32_t max_sectors;	/* of one operation */
	uint32_t unit_sectors;	/* places and lengths are multiples of it */
};

struct obd_generator {
	struct obd_mix mix;
	uint64_t sector_cnt;
	uint64_t random_state;
};

struct obd_pick {
	enum obd_op op;
	bool is_fua; /* only of a write */
	uint32_t sector_cnt;
	uint64_t lba;
};

/* sector_cnt: a multiple of the unit, not 0. */
void obd_generator_init(struct obd_generator *generator, const struct obd_mix *mix,
			uint64_t sector_cnt, uint64_t seed);
/* Decides on one operation; a range with a write in flight can only be read. */
void obd_generator_next(struct obd_generator *generator, const struct obd_model *model,
			struct obd_pick *ret);

#endif
