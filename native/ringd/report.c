#include "report.h"

#include <errno.h>
#include <stdio.h>

#include "json.h"

bool obd_report_is_good(const struct obd_report *r)
{
	return r->is_complete && !r->is_broken && obd_tally_sum(&r->tally) + r->unfinished == 0;
}

static void write_ring(const struct obd_kring_stat *ring, const struct obd_gap_summary *gaps,
		       FILE *file)
{
	fprintf(file,
		"\"resets\": %lu, \"resent\": %lu, \"pads\": %lu, \"waits\": %lu, "
		"\"gaps\": {\"count\": %lu, \"p50_ns\": %lu, \"p99_ns\": %lu, \"max_ns\": %lu}",
		ring->resets, ring->resent, ring->pads, ring->waits, gaps->cnt, gaps->p50_ns,
		gaps->p99_ns, gaps->max_ns);
}

int obd_report_format(const struct obd_report *r, const char *name, uint64_t seed,
		      const struct obd_kring_stat *ring, const struct obd_gap_summary *gaps,
		      char **ret, size_t *ret_bytes)
{
	uint64_t elapsed_us = r->elapsed_ns / 1000 ? r->elapsed_ns / 1000 : 1;
	FILE *file = open_memstream(ret, ret_bytes);

	if (!file)
		return -errno;
	fputs("{\"name\": ", file);
	obd_json_string(name, file);
	fprintf(file,
		", \"seed\": %lu, \"good\": %s, \"complete\": %s, \"commands\": %lu, "
		"\"reads\": %lu, \"writes\": %lu, \"discards\": %lu, \"flushes\": %lu, "
		"\"sectors_checked\": %lu, \"read_back\": %lu, ",
		seed, obd_json_bool(obd_report_is_good(r)), obd_json_bool(r->is_complete),
		ring->commands, r->reads, r->writes, r->discards, r->flushes, r->sectors_checked,
		r->read_back);
	obd_tally_write_counts(&r->tally, file);
	fprintf(file, ", \"unfinished\": %lu, \"broken\": %s, \"elapsed_ns\": %lu, \"iops\": %lu, ",
		r->unfinished, obd_json_bool(r->is_broken), r->elapsed_ns,
		r->generated * 1000000 / elapsed_us);
	write_ring(ring, gaps, file);
	fputs(", ", file);
	obd_tally_write_findings(&r->tally, file);
	fputs("}\n", file);
	return fclose(file) == 0 ? 0 : -errno;
}
