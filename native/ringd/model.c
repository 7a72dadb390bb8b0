#include "model.h"

#include <stdlib.h>
#include <string.h>

#define SECTOR_BYTES 512u
#define STAMP_MAGIC  UINT64_C(0x6f62642d6c6f6164)
#define IN_FLIGHT    UINT32_C(0x80000000)
#define FILL_STEP    UINT64_C(0x9e3779b97f4a7c15)

struct stamp {
	uint64_t magic;
	uint64_t run;
	uint64_t device;
	uint64_t lba_sequence; /* lba (below 2^32) and sequence << 32 */
	uint64_t fill[60];
};
_Static_assert(sizeof(struct stamp) == SECTOR_BYTES, "a stamp is a sector");

struct sector {
	uint32_t acked;	    /* newest acknowledged sequence number, 0: never written */
	uint32_t issued;    /* newest sent one, IN_FLIGHT while it is not back */
	uint32_t discarded; /* newest sent discard */
	uint32_t initial;   /* checksum of the content before this run, 0: not yet seen */
};
_Static_assert(sizeof(struct sector) == 16, "memory per sector");

struct obd_model {
	uint64_t run;
	uint64_t device;
	uint64_t sector_cnt;
	uint32_t sequence;
	struct sector sector[];
};

struct obd_model *obd_model_create(uint64_t run, uint64_t device, uint64_t sector_cnt)
{
	struct obd_model *model = calloc(1, sizeof(*model) + sector_cnt * sizeof(struct sector));

	if (!model)
		return NULL;
	model->run = run;
	model->device = device;
	model->sector_cnt = sector_cnt;
	return model;
}

void obd_model_destroy(struct obd_model *model)
{
	free(model);
}

static uint64_t mix(uint64_t value)
{
	value ^= value >> 31;
	value *= UINT64_C(0x7fb5d329728ea185);
	value ^= value >> 27;
	value *= UINT64_C(0x81dadef4bc2dd44d);
	return value ^ (value >> 33);
}

static void make_stamp(const struct obd_model *model, uint64_t lba, uint32_t sequence,
		       struct stamp *ret)
{
	uint64_t word = mix(model->run ^ mix(model->device ^ mix(lba * 2 + 1) ^ sequence));

	ret->magic = STAMP_MAGIC;
	ret->run = model->run;
	ret->device = model->device;
	ret->lba_sequence = lba ^ ((uint64_t)sequence << 32);
	for (uint32_t i = 0; i < 60; i++)
		ret->fill[i] = word + i * FILL_STEP;
}

bool obd_model_is_busy(const struct obd_model *model, uint64_t lba, uint32_t sector_cnt)
{
	uint32_t flags = 0;

	for (uint32_t i = 0; i < sector_cnt; i++)
		flags |= model->sector[lba + i].issued;
	return flags & IN_FLIGHT;
}

uint32_t obd_model_start_write(struct obd_model *model, uint64_t lba, uint32_t sector_cnt,
			       uint8_t *data)
{
	uint32_t sequence = ++model->sequence;
	struct stamp stamp;

	for (uint32_t i = 0; i < sector_cnt; i++) {
		model->sector[lba + i].issued = sequence | IN_FLIGHT;
		make_stamp(model, lba + i, sequence, &stamp);
		memcpy(data + i * SECTOR_BYTES, &stamp, SECTOR_BYTES);
	}
	return sequence;
}

uint32_t obd_model_start_discard(struct obd_model *model, uint64_t lba, uint32_t sector_cnt)
{
	uint32_t sequence = ++model->sequence;

	for (uint32_t i = 0; i < sector_cnt; i++) {
		model->sector[lba + i].issued = sequence | IN_FLIGHT;
		model->sector[lba + i].discarded = sequence;
	}
	return sequence;
}

void obd_model_end_write(struct obd_model *model, uint64_t lba, uint32_t sector_cnt,
			 bool is_acknowledged)
{
	for (uint32_t i = 0; i < sector_cnt; i++) {
		struct sector *sector = &model->sector[lba + i];

		sector->issued &= ~IN_FLIGHT;
		if (is_acknowledged)
			sector->acked = sector->issued;
	}
}

void obd_model_start_read(const struct obd_model *model, uint64_t lba, uint32_t sector_cnt,
			  uint32_t *acked)
{
	for (uint32_t i = 0; i < sector_cnt; i++)
		acked[i] = model->sector[lba + i].acked;
}

static uint32_t checksum(const uint8_t *sector)
{
	uint64_t sum = 1;
	uint64_t word;

	for (uint32_t i = 0; i < SECTOR_BYTES; i += 8) {
		memcpy(&word, sector + i, 8);
		sum = mix(sum ^ word) + i;
	}
	return (uint32_t)sum | 1; /* 0 means not yet seen */
}

static bool is_zeros(const uint8_t *sector)
{
	return sector[0] == 0 && memcmp(sector, sector + 1, SECTOR_BYTES - 1) == 0;
}

/* A sector with our own stamp. */
static enum obd_verdict check_stamp(const struct obd_model *model, uint64_t lba, uint32_t acked,
				    const struct stamp *got)
{
	uint32_t sequence = (uint32_t)((got->lba_sequence ^ lba) >> 32);
	struct stamp expected;

	if (got->device != model->device || (uint32_t)got->lba_sequence != (uint32_t)lba)
		return OBD_SECTOR_MISPLACED;
	make_stamp(model, lba, sequence, &expected);
	if (memcmp(&expected, got, sizeof(expected)) != 0)
		return OBD_SECTOR_CORRUPT;
	if (sequence < acked)
		return OBD_SECTOR_OLD;
	return sequence <= (model->sector[lba].issued & ~IN_FLIGHT) ? OBD_SECTOR_GOOD
								    : OBD_SECTOR_CORRUPT;
}

/* A sector without our stamp: zeros of a discard, or what was there before this run. */
static enum obd_verdict check_other(struct sector *sector, uint32_t acked, const uint8_t *data)
{
	bool is_zero = is_zeros(data);
	uint32_t sum;

	if (is_zero && sector->discarded && sector->discarded >= acked)
		return OBD_SECTOR_GOOD;
	sum = checksum(data);
	if (acked == 0 && sector->initial == 0) {
		sector->initial = sum;
		return OBD_SECTOR_GOOD;
	}
	if (sum == sector->initial)
		return acked == 0 ? OBD_SECTOR_GOOD : OBD_SECTOR_OLD;
	return is_zero ? OBD_SECTOR_OLD : OBD_SECTOR_CORRUPT;
}

static bool is_poison(const uint8_t *sector)
{
	return sector[0] == 0xdb && memcmp(sector, sector + 1, SECTOR_BYTES - 1) == 0;
}

enum obd_verdict obd_model_check(struct obd_model *model, uint64_t lba, uint32_t acked,
				 const uint8_t *data)
{
	struct stamp got;

	memcpy(&got, data, sizeof(got));
	if (got.magic == STAMP_MAGIC && got.run == model->run)
		return check_stamp(model, lba, acked, &got);
	if (is_poison(data))
		return OBD_SECTOR_CORRUPT;
	return check_other(&model->sector[lba], acked, data);
}
