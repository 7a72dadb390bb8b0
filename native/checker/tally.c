#include "tally.h"

#include "json.h"

static const char *const count_names[] = {"errors", "lost", "stale", "misplaced", "corrupt"};
static const char *const kind_names[] = {"io_error", "lost", "stale", "misplaced", "corrupt"};

bool obd_tally_count(struct obd_tally *tally, enum obd_wrong kind)
{
	__atomic_store_n(&tally->cnt[kind], tally->cnt[kind] + 1, __ATOMIC_RELAXED);
	return tally->line_cnt[kind] < OBD_TALLY_LINES;
}

char *obd_tally_line(struct obd_tally *tally, enum obd_wrong kind)
{
	return tally->line[kind][tally->line_cnt[kind]++];
}

uint64_t obd_tally_sum(const struct obd_tally *tally)
{
	uint64_t sum = 0;

	for (uint32_t kind = 0; kind < OBD_WRONG_CNT; kind++)
		sum += __atomic_load_n(&tally->cnt[kind], __ATOMIC_RELAXED);
	return sum;
}

void obd_tally_write_counts(const struct obd_tally *tally, FILE *file)
{
	for (uint32_t kind = 0; kind < OBD_WRONG_CNT; kind++)
		fprintf(file, "%s\"%s\": %lu", kind ? ", " : "", count_names[kind],
			tally->cnt[kind]);
}

void obd_tally_write_findings(const struct obd_tally *tally, FILE *file)
{
	const char *comma = "";

	fputs("\"findings\": [", file);
	for (uint32_t kind = 0; kind < OBD_WRONG_CNT; kind++) {
		for (uint32_t i = 0; i < tally->line_cnt[kind]; i++) {
			fprintf(file, "%s{\"kind\": \"%s\", \"text\": ", comma, kind_names[kind]);
			obd_json_string(tally->line[kind][i], file);
			fputc('}', file);
			comma = ", ";
		}
	}
	fputc(']', file);
}
