#include "report.h"

#include <errno.h>
#include <stdlib.h>

#include "json.h"

bool obd_sectors_is_good(const struct obd_counts *c)
{
	return c->is_complete && obd_tally_sum(&c->tally) + c->unfinished == 0;
}

static void write_errnos(const struct obd_counts *counts, FILE *file)
{
	const char *comma = "";

	fputs("\"errnos\": {", file);
	for (uint32_t i = 0; i < OBD_ERRNO_MAX; i++) {
		if (counts->errnos[i] == 0)
			continue;
		fprintf(file, "%s\"%u\": %lu", comma, i, counts->errnos[i]);
		comma = ", ";
	}
	fputs("}, ", file);
}

static void write_counts(const struct obd_run *run, FILE *file)
{
	const struct obd_counts *c = &run->counts;
	uint64_t elapsed_us = c->elapsed_ns / 1000 ? c->elapsed_ns / 1000 : 1;

	fprintf(file,
		", \"seed\": %lu, \"good\": %s, \"complete\": %s, \"commands\": %lu, "
		"\"reads\": %lu, \"writes\": %lu, \"discards\": %lu, \"flushes\": %lu, "
		"\"sectors_checked\": %lu, \"read_back\": %lu, ",
		run->options->seed, obd_json_bool(obd_sectors_is_good(c)),
		obd_json_bool(c->is_complete), c->operations, c->reads, c->writes, c->discards,
		c->flushes, c->sectors_checked, c->read_back);
	obd_tally_write_counts(&c->tally, file);
	fprintf(file,
		", \"unfinished\": %lu, \"discards_refused\": %s, \"elapsed_ns\": %lu, "
		"\"iops\": %lu, ",
		c->unfinished, obd_json_bool(c->is_discard_refused), c->elapsed_ns,
		c->generated * 1000000 / elapsed_us);
}

int obd_sectors_report(const struct obd_run *run)
{
	char *text = NULL;
	size_t bytes = 0;
	FILE *file = open_memstream(&text, &bytes);
	int rc = 0;

	if (!file)
		return -errno;
	fputs("{\"name\": ", file);
	obd_json_string(run->ledger->header->name, file);
	write_counts(run, file);
	write_errnos(&run->counts, file);
	obd_tally_write_findings(&run->counts.tally, file);
	fputs("}\n", file);
	if (fclose(file) != 0)
		rc = -errno;
	if (rc == 0 && (fwrite(text, 1, bytes, stdout) != bytes || fflush(stdout) != 0))
		rc = -errno;
	if (rc == 0 && run->options->json)
		rc = obd_json_save(run->options->json, text, bytes);
	free(text);
	return rc;
}
