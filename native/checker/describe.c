#include "describe.h"

#include <stdio.h>
#include <string.h>

#include "stamp.h"

#define SECTOR_BYTES OBD_STAMP_BYTES

static bool is_one_byte(const uint8_t *sector)
{
	return memcmp(sector, sector + 1, SECTOR_BYTES - 1) == 0;
}

bool obd_describe_find(const uint8_t *base, uint64_t base_bytes, const uint8_t *sector,
		       uint64_t *ret)
{
	if (!base || is_one_byte(sector))
		return false;
	for (uint64_t at = 0; at + SECTOR_BYTES <= base_bytes; at += SECTOR_BYTES) {
		if (memcmp(base + at, sector, SECTOR_BYTES) != 0)
			continue;
		*ret = at / SECTOR_BYTES;
		return true;
	}
	return false;
}

static void expected(const struct obd_description *d, char *text, size_t space)
{
	const struct obd_ledger_sector *sector = &d->ledger->sector[d->lba];
	uint32_t generation = obd_ledger_generation_of(d->ledger, d->floor);
	const char *how = d->is_durable_only ? "flushed" : "acknowledged";

	if (d->floor == 0)
		snprintf(text, space, "what it held before this run%s",
			 sector->issued & ~OBD_LEDGER_IN_FLIGHT ? " or later" : "");
	else
		snprintf(text, space, "%s sequence %u (generation %u)%s or later", how, d->floor,
			 generation, sector->discarded == d->floor ? ", a discard," : "");
}

static void found_stamp(const struct obd_description *d, enum obd_stamp_kind kind,
			const struct obd_stamp *s, char *text, size_t space)
{
	const struct obd_ledger_header *own = d->ledger->header;
	char device[40] = "", damage[64] = "", place[40] = "";
	uint32_t begin, end;

	if (s->device != own->device)
		snprintf(device, sizeof(device), " of another device (%016lx)", s->device);
	if (s->lba != d->lba)
		snprintf(place, sizeof(place), " of lba %lu", s->lba);
	if (kind == OBD_STAMP_DAMAGED) {
		obd_stamp_damage(d->sector, &begin, &end);
		snprintf(damage, sizeof(damage), " with other bytes from %u to %u", begin, end);
	}
	snprintf(text, space, "sequence %u (generation %u)%s%s%s%s", s->sequence, s->generation,
		 place, device, s->run != own->run ? " of another run" : "", damage);
}

static void found(const struct obd_description *d, char *text, size_t space)
{
	struct obd_stamp stamp;
	enum obd_stamp_kind kind = obd_stamp_parse(d->sector, &stamp);
	uint64_t other, begin;

	if (kind != OBD_STAMP_NONE)
		found_stamp(d, kind, &stamp, text, space);
	else if (is_one_byte(d->sector) && d->sector[0] == 0)
		snprintf(text, space, "zeros");
	else if (is_one_byte(d->sector))
		snprintf(text, space, "0x%02x in every byte%s", d->sector[0],
			 d->sector[0] == OBD_MODEL_POISON ? " (a data block nobody filled in?)"
							  : "");
	else if (obd_describe_find(d->base, d->base_bytes, d->sector, &other))
		snprintf(text, space, "what lba %lu held before", other);
	else {
		memcpy(&begin, d->sector, sizeof(begin));
		snprintf(text, space, "no stamp, bytes %016lx...", __builtin_bswap64(begin));
	}
}

void obd_describe(const struct obd_description *d, char *text, size_t space)
{
	char wanted[128], got[192];

	expected(d, wanted, sizeof(wanted));
	found(d, got, sizeof(got));
	snprintf(text, space, "device %s lba %lu: expected %s, found %s", d->ledger->header->name,
		 d->lba, wanted, got);
}
