#include "generator.h"

#define PICKS_MAX     64u /* tries to find a range without a write in flight */
#define USUAL_SECTORS 8u

const char *const obd_op_names[] = {"READ", "WRITE", "DISCARD", "FLUSH"};

void obd_generator_init(struct obd_generator *generator, const struct obd_mix *mix,
			uint64_t sector_cnt, uint64_t seed)
{
	*generator = (struct obd_generator){
		.mix = *mix,
		.sector_cnt = sector_cnt,
		.random_state = seed,
	};
}

static uint64_t random_u64(struct obd_generator *generator)
{
	uint64_t value = generator->random_state += UINT64_C(0x9e3779b97f4a7c15);

	value = (value ^ (value >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	value = (value ^ (value >> 27)) * UINT64_C(0x94d049bb133111eb);
	return value ^ (value >> 31);
}

static uint64_t random_below(struct obd_generator *generator, uint64_t limit)
{
	return (uint64_t)((unsigned __int128)random_u64(generator) * limit >> 64);
}

/* Mostly 4 KiB, as a file system does; some smaller, some up to the limit. In units. */
static uint32_t random_length(struct obd_generator *generator, uint64_t unit_cnt)
{
	uint32_t unit = generator->mix.unit_sectors;
	uint32_t limit = generator->mix.max_sectors / unit;
	uint32_t usual = USUAL_SECTORS / unit;
	uint64_t choice = random_below(generator, 100);

	if (usual == 0)
		usual = 1;
	if (limit > unit_cnt)
		limit = (uint32_t)unit_cnt;
	if (choice < 60)
		return limit < usual ? limit : usual;
	if (choice < 85)
		limit = limit < usual ? limit : usual;
	return 1 + (uint32_t)random_below(generator, limit);
}

static enum obd_op random_op(struct obd_generator *generator)
{
	const struct obd_mix *mix = &generator->mix;
	uint64_t choice = random_below(generator, 100);

	if (choice < mix->read_percent)
		return OBD_OP_READ;
	if (choice < mix->read_percent + mix->discard_percent)
		return OBD_OP_DISCARD;
	if (choice < mix->read_percent + mix->discard_percent + mix->flush_percent)
		return OBD_OP_FLUSH;
	return OBD_OP_WRITE;
}

static void pick_range(struct obd_generator *generator, struct obd_pick *pick)
{
	uint32_t unit = generator->mix.unit_sectors;
	uint64_t unit_cnt = generator->sector_cnt / unit;
	uint32_t length = random_length(generator, unit_cnt);

	pick->sector_cnt = length * unit;
	pick->lba = random_below(generator, unit_cnt - length + 1) * unit;
	if (pick->sector_cnt == USUAL_SECTORS)
		pick->lba -= pick->lba % USUAL_SECTORS;
}

void obd_generator_next(struct obd_generator *generator, const struct obd_model *model,
			struct obd_pick *ret)
{
	*ret = (struct obd_pick){.op = random_op(generator)};
	if (obd_model_wants_flush(model))
		ret->op = OBD_OP_FLUSH;
	if (ret->op == OBD_OP_FLUSH)
		return;
	for (uint32_t i = 0; i < PICKS_MAX; i++) {
		pick_range(generator, ret);
		if (ret->op == OBD_OP_READ ||
		    !obd_model_is_busy(model, ret->lba, ret->sector_cnt)) {
			ret->is_fua = ret->op == OBD_OP_WRITE &&
				      random_below(generator, 100) < generator->mix.fua_percent;
			return;
		}
	}
	ret->op = OBD_OP_READ;
}
