#include "unflushed.h"

#include <stdlib.h>

#define FIRST_SIZE 1024u

void obd_unflushed_deinit(struct obd_unflushed *unflushed)
{
	free(unflushed->write);
	*unflushed = (struct obd_unflushed){0};
}

static bool grow(struct obd_unflushed *unflushed)
{
	uint64_t size = unflushed->size ? unflushed->size * 2 : FIRST_SIZE;
	struct obd_unflushed_write *write = malloc(size * sizeof(*write));

	if (!write)
		return false;
	for (uint64_t i = unflushed->begin; i < unflushed->end; i++)
		write[i & (size - 1)] = unflushed->write[i & (unflushed->size - 1)];
	free(unflushed->write);
	unflushed->write = write;
	unflushed->size = size;
	return true;
}

bool obd_unflushed_add(struct obd_unflushed *unflushed, const struct obd_unflushed_write *write)
{
	if (unflushed->end - unflushed->begin == unflushed->size && !grow(unflushed))
		return false;
	unflushed->write[unflushed->end++ & (unflushed->size - 1)] = *write;
	return true;
}

bool obd_unflushed_take(struct obd_unflushed *unflushed, uint64_t limit,
			struct obd_unflushed_write *ret)
{
	if (unflushed->begin == unflushed->end || unflushed->begin >= limit)
		return false;
	*ret = unflushed->write[unflushed->begin++ & (unflushed->size - 1)];
	return true;
}
