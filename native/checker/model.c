#include "model.h"

#include <stdlib.h>
#include <string.h>

#include "describe.h"
#include "stamp.h"
#include "unflushed.h"

#define SECTOR_BYTES   OBD_STAMP_BYTES
#define IN_FLIGHT      OBD_LEDGER_IN_FLIGHT
#define SEARCHES_MAX   256u /* of the whole base, for sectors that hold what belongs elsewhere */
#define UNFLUSHED_MANY (UINT64_C(1) << 20)

struct obd_model {
	struct obd_model_options options;
	struct obd_ledger *ledger;
	struct obd_ledger_sector *sector;
	struct obd_unflushed unflushed; /* only of a ledger in a file: nobody else asks */
	uint64_t flush_started;		/* number of the first write no flush was sent for */
	uint64_t run;
	uint64_t device;
	uint32_t search_cnt;
};

/* What the process before this one had acknowledged: a flush of ours covers it too. */
static void take_over_unflushed(struct obd_model *model)
{
	uint64_t sector_cnt = model->ledger->header->sector_cnt;

	for (uint64_t lba = 0; lba < sector_cnt; lba++) {
		const struct obd_ledger_sector *sector = &model->sector[lba];
		struct obd_unflushed_write write = {lba, 1, sector->acked};

		if (sector->acked != sector->flushed)
			obd_unflushed_add(&model->unflushed, &write);
	}
}

struct obd_model *obd_model_create(const struct obd_model_options *options)
{
	struct obd_model *model = calloc(1, sizeof(*model));

	if (!model)
		return NULL;
	model->options = *options;
	model->ledger = options->ledger;
	model->sector = options->ledger->sector;
	model->run = options->ledger->header->run;
	model->device = options->ledger->header->device;
	if (model->ledger->is_resumed)
		take_over_unflushed(model);
	return model;
}

void obd_model_destroy(struct obd_model *model)
{
	if (!model)
		return;
	obd_unflushed_deinit(&model->unflushed);
	free(model);
}

bool obd_model_is_busy(const struct obd_model *model, uint64_t lba, uint32_t sector_cnt)
{
	uint32_t flags = 0;

	for (uint32_t i = 0; i < sector_cnt; i++)
		flags |= model->sector[lba + i].issued;
	return flags & IN_FLIGHT;
}

static uint32_t next_sequence(struct obd_model *model, uint32_t generation)
{
	uint32_t sequence = ++model->ledger->header->sequence;

	obd_ledger_note_generation(model->ledger, sequence, generation);
	return sequence;
}

uint32_t obd_model_start_write(struct obd_model *model, uint64_t lba, uint32_t sector_cnt,
			       uint32_t generation)
{
	uint32_t sequence = next_sequence(model, generation);

	for (uint32_t i = 0; i < sector_cnt; i++)
		model->sector[lba + i].issued = sequence | IN_FLIGHT;
	return sequence;
}

uint32_t obd_model_start_discard(struct obd_model *model, uint64_t lba, uint32_t sector_cnt,
				 uint32_t generation)
{
	uint32_t sequence = next_sequence(model, generation);

	for (uint32_t i = 0; i < sector_cnt; i++) {
		model->sector[lba + i].issued = sequence | IN_FLIGHT;
		model->sector[lba + i].discarded = sequence;
	}
	return sequence;
}

void obd_model_fill(const struct obd_model *model, uint64_t lba, uint32_t sector_cnt,
		    uint32_t sequence, uint32_t generation, uint8_t *data)
{
	struct obd_stamp stamp = {model->run, model->device, lba, sequence, generation};

	for (uint32_t i = 0; i < sector_cnt; i++, stamp.lba++)
		obd_stamp_make(&stamp, data + i * SECTOR_BYTES);
}

void obd_model_end_write(struct obd_model *model, uint64_t lba, uint32_t sector_cnt,
			 enum obd_outcome outcome)
{
	uint32_t sequence = model->sector[lba].issued & ~IN_FLIGHT;
	struct obd_unflushed_write write = {lba, sector_cnt, sequence};

	for (uint32_t i = 0; i < sector_cnt; i++) {
		struct obd_ledger_sector *sector = &model->sector[lba + i];

		sector->issued &= ~IN_FLIGHT;
		if (outcome != OBD_FAILED)
			sector->acked = sequence;
		if (outcome == OBD_DURABLE)
			sector->flushed = sequence;
	}
	if (outcome == OBD_ACKNOWLEDGED && model->ledger->fd >= 0)
		obd_unflushed_add(&model->unflushed, &write);
}

uint64_t obd_model_start_flush(struct obd_model *model)
{
	model->flush_started = model->unflushed.end;
	return model->flush_started;
}

void obd_model_end_flush(struct obd_model *model, uint64_t started)
{
	struct obd_unflushed_write write;

	while (obd_unflushed_take(&model->unflushed, started, &write)) {
		for (uint32_t i = 0; i < write.sector_cnt; i++) {
			struct obd_ledger_sector *sector = &model->sector[write.lba + i];

			if (sector->flushed < write.sequence)
				sector->flushed = write.sequence;
		}
	}
}

bool obd_model_wants_flush(const struct obd_model *model)
{
	return model->unflushed.end - model->flush_started >= UNFLUSHED_MANY;
}

void obd_model_start_read(const struct obd_model *model, uint64_t lba, uint32_t sector_cnt,
			  uint32_t *floor)
{
	const struct obd_ledger *since = model->options.since;

	for (uint32_t i = 0; i < sector_cnt; i++) {
		const struct obd_ledger_sector *sector = &model->sector[lba + i];

		if (since)
			floor[i] = since->sector[lba + i].flushed;
		else
			floor[i] = model->options.is_durable_only ? sector->flushed : sector->acked;
	}
}

static uint32_t checksum(const uint8_t *sector)
{
	uint64_t sum = 1;
	uint64_t word;

	for (uint32_t i = 0; i < SECTOR_BYTES; i += 8) {
		memcpy(&word, sector + i, 8);
		sum = obd_stamp_mix(sum ^ word) + i;
	}
	return (uint32_t)sum | 1; /* 0 means not yet seen */
}

static bool is_filled_with(const uint8_t *sector, uint8_t value)
{
	return sector[0] == value && memcmp(sector, sector + 1, SECTOR_BYTES - 1) == 0;
}

/* A sector with a stamp of this run. */
static enum obd_verdict check_stamp(const struct obd_model *model, uint64_t lba, uint32_t floor,
				    const struct obd_stamp *found)
{
	if (found->device != model->device || found->lba != lba)
		return OBD_SECTOR_MISPLACED;
	if (found->sequence < floor)
		return OBD_SECTOR_OLD;
	/* a sequence number that was never sent was never written */
	return found->sequence <= (model->sector[lba].issued & ~IN_FLIGHT) ? OBD_SECTOR_GOOD
									   : OBD_SECTOR_CORRUPT;
}

/* Whether it is what the sector held before this run; what is seen first is taken for it. */
static bool is_initial(const struct obd_model *model, uint64_t lba, uint32_t floor,
		       const uint8_t *data)
{
	struct obd_ledger_sector *sector = &model->sector[lba];
	uint64_t at = lba * SECTOR_BYTES;
	uint32_t sum;

	if (model->options.base)
		return at < model->options.base_bytes
			       ? memcmp(data, model->options.base + at, SECTOR_BYTES) == 0
			       : is_filled_with(data, 0);
	sum = checksum(data);
	if (floor == 0 && sector->initial == 0)
		sector->initial = sum;
	return sum == sector->initial;
}

/* A sector without a stamp of this run, where neither is legal: what could it be? */
static enum obd_verdict judge_wrong(struct obd_model *model, uint64_t lba, enum obd_stamp_kind kind,
				    const struct obd_stamp *stamp, const uint8_t *data)
{
	uint64_t other;

	if (is_filled_with(data, 0))
		return OBD_SECTOR_OLD; /* as it was before anything was written there */
	if (kind == OBD_STAMP_WHOLE)
		return stamp->device == model->device && stamp->lba == lba ? OBD_SECTOR_OLD
									   : OBD_SECTOR_MISPLACED;
	if (model->search_cnt++ >= SEARCHES_MAX)
		return OBD_SECTOR_CORRUPT;
	return obd_describe_find(model->options.base, model->options.base_bytes, data, &other)
		       ? OBD_SECTOR_MISPLACED
		       : OBD_SECTOR_CORRUPT;
}

enum obd_verdict obd_model_check(struct obd_model *model, uint64_t lba, uint32_t floor,
				 const uint8_t *data)
{
	uint32_t discarded = model->sector[lba].discarded;
	struct obd_stamp stamp;
	enum obd_stamp_kind kind = obd_stamp_parse(data, &stamp);

	if (kind != OBD_STAMP_NONE && stamp.run == model->run)
		return kind == OBD_STAMP_WHOLE ? check_stamp(model, lba, floor, &stamp)
					       : OBD_SECTOR_CORRUPT;
	if (discarded && discarded >= floor && is_filled_with(data, 0))
		return OBD_SECTOR_GOOD;
	if (model->options.is_poison_known && is_filled_with(data, OBD_MODEL_POISON))
		return OBD_SECTOR_CORRUPT;
	if (is_initial(model, lba, floor, data))
		return floor == 0 ? OBD_SECTOR_GOOD : OBD_SECTOR_OLD;
	return judge_wrong(model, lba, kind, &stamp, data);
}

void obd_model_describe(const struct obd_model *model, uint64_t lba, uint32_t floor,
			const uint8_t *sector, char *text, size_t space)
{
	struct obd_description description = {
		.ledger = model->ledger,
		.base = model->options.base,
		.base_bytes = model->options.base_bytes,
		.lba = lba,
		.floor = floor,
		.is_durable_only = model->options.is_durable_only || model->options.since,
		.sector = sector,
	};

	obd_describe(&description, text, space);
}
