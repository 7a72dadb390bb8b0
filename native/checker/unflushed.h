/* Writes that were acknowledged and are not known to be flushed, in the order they came back. */
#ifndef OBD_CHECKER_UNFLUSHED_H
#define OBD_CHECKER_UNFLUSHED_H

#include <stdbool.h>
#include <stdint.h>

struct obd_unflushed_write {
	uint64_t lba;
	uint32_t sector_cnt;
	uint32_t sequence;
};

struct obd_unflushed {
	struct obd_unflushed_write *write; /* [size], a ring */
	uint64_t begin, end;		   /* numbers of the first one held and of the next one */
	uint64_t size;			   /* 0 or a power of two */
};

void obd_unflushed_deinit(struct obd_unflushed *unflushed);
/* Returns false when out of memory: the write is then never taken for flushed. */
bool obd_unflushed_add(struct obd_unflushed *unflushed, const struct obd_unflushed_write *write);
/* The oldest one, if its number is below limit: taken out. */
bool obd_unflushed_take(struct obd_unflushed *unflushed, uint64_t limit,
			struct obd_unflushed_write *ret);

#endif
