#include "stamp.h"

#include <string.h>

#define MAGIC	   UINT64_C(0x6f62642d73656374)
#define FILL_STEP  UINT64_C(0x9e3779b97f4a7c15)
#define FILL_WORDS 59u

struct layout {
	uint64_t magic;
	uint64_t run;
	uint64_t device;
	uint64_t lba;
	uint32_t sequence;
	uint32_t generation;
	uint64_t fill[FILL_WORDS];
};
_Static_assert(sizeof(struct layout) == OBD_STAMP_BYTES, "a stamp is a sector");

uint64_t obd_stamp_mix(uint64_t value)
{
	value ^= value >> 31;
	value *= UINT64_C(0x7fb5d329728ea185);
	value ^= value >> 27;
	value *= UINT64_C(0x81dadef4bc2dd44d);
	return value ^ (value >> 33);
}

uint64_t obd_stamp_hash(const char *name)
{
	uint64_t hash = UINT64_C(0xcbf29ce484222325);

	while (*name)
		hash = (hash ^ (uint8_t)*name++) * UINT64_C(0x100000001b3);
	return hash;
}

static uint64_t first_fill(uint64_t run, uint64_t device, uint64_t lba, uint64_t version)
{
	return obd_stamp_mix(run ^ obd_stamp_mix(device ^ obd_stamp_mix(~lba) ^ version));
}

void obd_stamp_make(const struct obd_stamp *stamp, uint8_t *sector)
{
	uint64_t version = stamp->sequence | (uint64_t)stamp->generation << 32;
	uint64_t word = first_fill(stamp->run, stamp->device, stamp->lba, version);
	struct layout layout = {
		.magic = MAGIC,
		.run = stamp->run,
		.device = stamp->device,
		.lba = stamp->lba,
		.sequence = stamp->sequence,
		.generation = stamp->generation,
	};

	for (uint32_t i = 0; i < FILL_WORDS; i++)
		layout.fill[i] = word + i * FILL_STEP;
	memcpy(sector, &layout, sizeof(layout));
}

enum obd_stamp_kind obd_stamp_parse(const uint8_t *sector, struct obd_stamp *ret)
{
	struct layout got;
	uint64_t version, word, difference = 0;

	memcpy(&got, sector, sizeof(got));
	if (got.magic != MAGIC)
		return OBD_STAMP_NONE;
	version = got.sequence | (uint64_t)got.generation << 32;
	word = first_fill(got.run, got.device, got.lba, version);
	for (uint32_t i = 0; i < FILL_WORDS; i++)
		difference |= got.fill[i] ^ (word + i * FILL_STEP);
	*ret = (struct obd_stamp){got.run, got.device, got.lba, got.sequence, got.generation};
	return difference == 0 ? OBD_STAMP_WHOLE : OBD_STAMP_DAMAGED;
}

void obd_stamp_damage(const uint8_t *sector, uint32_t *begin, uint32_t *end)
{
	uint8_t expected[OBD_STAMP_BYTES];
	struct obd_stamp stamp;

	*begin = *end = 0;
	if (obd_stamp_parse(sector, &stamp) != OBD_STAMP_DAMAGED)
		return;
	obd_stamp_make(&stamp, expected);
	for (uint32_t i = 0; i < OBD_STAMP_BYTES; i++) {
		if (sector[i] == expected[i])
			continue;
		if (*end == 0)
			*begin = i;
		*end = i + 1;
	}
}
