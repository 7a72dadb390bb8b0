/* A wrong sector in words: what was expected, what was found, and who wrote both. */
#ifndef OBD_CHECKER_DESCRIBE_H
#define OBD_CHECKER_DESCRIBE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ledger.h"

#define OBD_MODEL_POISON 0xdbu /* every byte of a data block that is not in use, when checking */

struct obd_description {
	const struct obd_ledger *ledger;
	const uint8_t *base; /* NULL, or what sectors held before */
	uint64_t base_bytes;
	uint64_t lba;
	uint32_t floor; /* oldest sequence number that was legal; 0: content before this run */
	bool is_durable_only;  /* the floor is what was flushed */
	const uint8_t *sector; /* what was read */
};

void obd_describe(const struct obd_description *description, char *text, size_t space);
/* Looks for a sector that is not one byte all over in base (NULL: never found). */
bool obd_describe_find(const uint8_t *base, uint64_t base_bytes, const uint8_t *sector,
		       uint64_t *ret);

#endif
