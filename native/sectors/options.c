#include "options.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SECTOR_BYTES 512u
#define UNSET	     UINT32_MAX

static const char usage[] =
	"usage: obdsup-sectors [options] PATH          (a block device, or a file)\n"
	"Writes, discards, flushes and reads sectors, checks each one that is read, and at the "
	"end\n"
	"reads all of them back. What was on the span before is overwritten.\n"
	"  --seed S             [1] decides on the operations\n"
	"  --qd N               [16] operations at a time\n"
	"  --iops N             at most so many operations a second\n"
	"  --seconds T, --operations N     when to end; else at SIGTERM or SIGINT\n"
	"  --read-percent P     [50]   --discard-percent P  [2]   --flush-percent P  [1]\n"
	"  --fua-percent P      [1] of the writes         --max-sectors N  [128] of one operation\n"
	"  --span BYTES, --offset BYTES    the part of PATH that is used\n"
	"  --read-only          reads only; compares with --expect, or with what it read first\n"
	"  --expect FILE        what every sector holds before it is written; beyond its end "
	"zeros\n"
	"  --buffered           without O_DIRECT\n"
	"  --survey             reads the span before the first write (with --ledger always)\n"
	"  --no-read-back       leaves out the reading back at the end\n"
	"  --drain-seconds T    [60] how long one operation may take at the end\n"
	"  --ledger FILE        keeps there what was acknowledged and flushed; goes on when it "
	"exists\n"
	"  --verify-only        only reads back, against --ledger (or --expect)\n"
	"  --durable-only       so: what was flushed must be there, later writes may be\n"
	"  --since FILE         so: flushes of this earlier copy of the ledger count, writes of "
	"--ledger\n"
	"  --name N             [file name of PATH] of the device, in stamps and findings\n"
	"  --journal FILE       the device's journal: which worker generation serves\n"
	"  --json FILE          the report, also on stdout\n"
	"  --latency FILE       a line per 20 ms: begin_ns operations total_ns worst_begun_ns "
	"worst_ended_ns\n"
	"Exit status: 0 all is well, 1 something was lost, stale, misplaced, corrupt or failed,\n"
	"2 it could not be carried out.\n";

enum {
	OPT_HELP = 256,
	OPT_SEED,
	OPT_QD,
	OPT_SECONDS,
	OPT_OPERATIONS,
	OPT_IOPS,
	OPT_READ_PERCENT,
	OPT_DISCARD_PERCENT,
	OPT_FLUSH_PERCENT,
	OPT_FUA_PERCENT,
	OPT_MAX_SECTORS,
	OPT_SPAN,
	OPT_OFFSET,
	OPT_READ_ONLY,
	OPT_EXPECT,
	OPT_BUFFERED,
	OPT_SURVEY,
	OPT_NO_READ_BACK,
	OPT_DRAIN_SECONDS,
	OPT_LEDGER,
	OPT_VERIFY_ONLY,
	OPT_DURABLE_ONLY,
	OPT_SINCE,
	OPT_NAME,
	OPT_JOURNAL,
	OPT_JSON,
	OPT_LATENCY,
};

static const struct option known[] = {
	{"help", no_argument, NULL, OPT_HELP},
	{"seed", required_argument, NULL, OPT_SEED},
	{"qd", required_argument, NULL, OPT_QD},
	{"seconds", required_argument, NULL, OPT_SECONDS},
	{"operations", required_argument, NULL, OPT_OPERATIONS},
	{"iops", required_argument, NULL, OPT_IOPS},
	{"read-percent", required_argument, NULL, OPT_READ_PERCENT},
	{"discard-percent", required_argument, NULL, OPT_DISCARD_PERCENT},
	{"flush-percent", required_argument, NULL, OPT_FLUSH_PERCENT},
	{"fua-percent", required_argument, NULL, OPT_FUA_PERCENT},
	{"max-sectors", required_argument, NULL, OPT_MAX_SECTORS},
	{"span", required_argument, NULL, OPT_SPAN},
	{"offset", required_argument, NULL, OPT_OFFSET},
	{"read-only", no_argument, NULL, OPT_READ_ONLY},
	{"expect", required_argument, NULL, OPT_EXPECT},
	{"buffered", no_argument, NULL, OPT_BUFFERED},
	{"survey", no_argument, NULL, OPT_SURVEY},
	{"no-read-back", no_argument, NULL, OPT_NO_READ_BACK},
	{"drain-seconds", required_argument, NULL, OPT_DRAIN_SECONDS},
	{"ledger", required_argument, NULL, OPT_LEDGER},
	{"verify-only", no_argument, NULL, OPT_VERIFY_ONLY},
	{"durable-only", no_argument, NULL, OPT_DURABLE_ONLY},
	{"since", required_argument, NULL, OPT_SINCE},
	{"name", required_argument, NULL, OPT_NAME},
	{"journal", required_argument, NULL, OPT_JOURNAL},
	{"json", required_argument, NULL, OPT_JSON},
	{"latency", required_argument, NULL, OPT_LATENCY},
	{NULL, 0, NULL, 0},
};

/* Where an option's text goes; NULL: it is something else. */
static const char **text_of(struct obd_sectors_options *o, int option)
{
	switch (option) {
	case OPT_EXPECT:
		return &o->expect;
	case OPT_LEDGER:
		return &o->ledger;
	case OPT_SINCE:
		return &o->since;
	case OPT_NAME:
		return &o->name;
	case OPT_JOURNAL:
		return &o->journal;
	case OPT_JSON:
		return &o->json;
	case OPT_LATENCY:
		return &o->latency;
	default:
		return NULL;
	}
}

static bool set_number(struct obd_sectors_options *o, int option, const char *text)
{
	uint64_t *wide = NULL, min = 0, max = 100;
	uint32_t *narrow = NULL;
	unsigned long long value;
	char *end;

	switch (option) {
	case OPT_SEED:
		wide = &o->seed, max = UINT64_MAX;
		break;
	case OPT_QD:
		narrow = &o->queue_depth, min = 1, max = 256;
		break;
	case OPT_SECONDS:
		wide = &o->seconds, max = 1u << 30;
		break;
	case OPT_OPERATIONS:
		wide = &o->operations, max = OBD_SEQUENCE_MAX;
		break;
	case OPT_IOPS:
		wide = &o->iops, max = 1u << 30;
		break;
	case OPT_READ_PERCENT:
		narrow = &o->mix.read_percent;
		break;
	case OPT_DISCARD_PERCENT:
		narrow = &o->mix.discard_percent;
		break;
	case OPT_FLUSH_PERCENT:
		narrow = &o->mix.flush_percent;
		break;
	case OPT_FUA_PERCENT:
		narrow = &o->mix.fua_percent;
		break;
	case OPT_MAX_SECTORS:
		narrow = &o->mix.max_sectors, min = 1, max = 2048;
		break;
	case OPT_SPAN:
		wide = &o->span_bytes, min = SECTOR_BYTES, max = UINT64_C(1) << 44;
		break;
	case OPT_OFFSET:
		wide = &o->offset_bytes, max = UINT64_C(1) << 60;
		break;
	case OPT_DRAIN_SECONDS:
		wide = &o->drain_seconds, min = 1, max = 1u << 20;
		break;
	default:
		return false;
	}
	errno = 0;
	value = strtoull(text, &end, 10);
	if (errno || *end || end == text || *text == '-' || value < min || value > max)
		return false;
	if (wide)
		*wide = value;
	else
		*narrow = (uint32_t)value;
	return true;
}

static bool set_option(struct obd_sectors_options *o, int option, const char *value)
{
	const char **text = text_of(o, option);

	if (text) {
		*text = value;
		return true;
	}
	switch (option) {
	case OPT_READ_ONLY:
		return o->is_read_only = true;
	case OPT_BUFFERED:
		return o->is_buffered = true;
	case OPT_SURVEY:
		return o->is_surveying = true;
	case OPT_NO_READ_BACK:
		o->is_reading_back = false;
		return true;
	case OPT_VERIFY_ONLY:
		return o->is_verifying = true;
	case OPT_DURABLE_ONLY:
		return o->is_durable_only = true;
	default:
		return set_number(o, option, value);
	}
}

static enum obd_parsed mistake(const char *what)
{
	fprintf(stderr, "obdsup-sectors: %s\nobdsup-sectors --help tells the options\n", what);
	return OBD_PARSED_WRONG;
}

static const char *problem_of(const struct obd_sectors_options *o)
{
	if (o->span_bytes % SECTOR_BYTES || o->offset_bytes % SECTOR_BYTES)
		return "--span and --offset must be multiples of 512";
	if (o->mix.read_percent + o->mix.discard_percent + o->mix.flush_percent > 100)
		return "the percentages add up to more than 100";
	if (o->is_verifying && !o->ledger && !o->expect)
		return "--verify-only needs --ledger or --expect: what to compare with";
	if (o->is_verifying && !o->is_reading_back)
		return "--verify-only and --no-read-back leave nothing to do";
	if ((o->is_durable_only || o->since) && !(o->is_verifying && o->ledger))
		return "--durable-only and --since go with --verify-only --ledger";
	if (o->is_read_only && o->ledger && !o->is_verifying)
		return "--read-only writes nothing that a --ledger could keep";
	return NULL;
}

enum obd_parsed obd_sectors_options_parse(int argc, char **argv, struct obd_sectors_options *ret)
{
	struct obd_sectors_options o = {
		.seed = 1,
		.drain_seconds = 60,
		.queue_depth = 16,
		.mix = {.read_percent = UNSET,
			.discard_percent = 2,
			.flush_percent = 1,
			.fua_percent = 1,
			.max_sectors = 128,
			.unit_sectors = 1},
		.is_reading_back = true,
	};
	char text[128];
	int option;

	opterr = 0;
	while ((option = getopt_long(argc, argv, "", known, NULL)) != -1) {
		if (option == OPT_HELP) {
			fputs(usage, stdout);
			return OBD_PARSED_HELP;
		}
		if (option != '?' && set_option(&o, option, optarg))
			continue;
		snprintf(text, sizeof(text), "not understood: %.80s%s", argv[optind - 1],
			 option == '?' ? "" : " (value out of bounds?)");
		return mistake(text);
	}
	if (optind + 1 != argc)
		return mistake("one block device or file is needed");
	o.target = argv[optind];
	if (!o.name)
		o.name = strrchr(o.target, '/') ? strrchr(o.target, '/') + 1 : o.target;
	if (o.mix.read_percent == UNSET)
		o.mix.read_percent = o.is_read_only ? 100 : 50;
	if (o.is_read_only && o.mix.read_percent == 100)
		o.mix.discard_percent = o.mix.flush_percent = 0;
	if (problem_of(&o))
		return mistake(problem_of(&o));
	if (o.is_read_only && o.mix.read_percent < 100)
		return mistake("--read-only reads only");
	*ret = o;
	return OBD_PARSED;
}
