#include "slices.h"

#include <errno.h>

#define FLUSH_EVERY_NS UINT64_C(500000000)

int obd_slices_open(struct obd_slices *slices, const char *path)
{
	*slices = (struct obd_slices){0};
	if (!path)
		return 0;
	slices->file = fopen(path, "we");
	return slices->file ? 0 : -errno;
}

static void put(struct obd_slices *slices)
{
	if (slices->operation_cnt == 0)
		return;
	fprintf(slices->file, "%lu %lu %lu %lu %lu\n", slices->begin_ns, slices->operation_cnt,
		slices->total_ns, slices->worst_begun_ns, slices->worst_ended_ns);
	slices->operation_cnt = 0;
	slices->total_ns = 0;
	slices->worst_begun_ns = slices->worst_ended_ns = 0;
}

int obd_slices_close(struct obd_slices *slices)
{
	int rc = 0;

	if (!slices->file)
		return 0;
	put(slices);
	if (ferror(slices->file))
		rc = -EIO;
	if (fclose(slices->file) != 0)
		rc = -errno;
	slices->file = NULL;
	return rc;
}

void obd_slices_add(struct obd_slices *slices, uint64_t begun_ns, uint64_t ended_ns)
{
	uint64_t length_ns = ended_ns - begun_ns;

	if (!slices->file)
		return;
	if (ended_ns >= slices->begin_ns + OBD_SLICE_NS) {
		put(slices);
		slices->begin_ns = ended_ns - ended_ns % OBD_SLICE_NS;
	}
	slices->operation_cnt++;
	slices->total_ns += length_ns;
	if (length_ns >= slices->worst_ended_ns - slices->worst_begun_ns) {
		slices->worst_begun_ns = begun_ns;
		slices->worst_ended_ns = ended_ns;
	}
}

void obd_slices_tick(struct obd_slices *slices, uint64_t now_ns)
{
	if (!slices->file)
		return;
	if (now_ns >= slices->begin_ns + OBD_SLICE_NS)
		put(slices);
	if (now_ns - slices->flushed_ns < FLUSH_EVERY_NS)
		return;
	fflush(slices->file);
	slices->flushed_ns = now_ns;
}
