#include "options.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kring.h"
#include "scsi.h"

static const char usage[] =
	"usage: obdsup-ringd fuse --name N --size BYTES --socket PATH --mount DIR [--read-only]\n"
	"       obdsup-ringd load --name N --size BYTES --socket PATH [--seed S] [--qd 32]\n"
	"           [--seconds T] [--read-percent 50] [--discard-percent 2] [--flush-percent 1]\n"
	"           [--max-sectors 128] [--span BYTES] [--drain-seconds 60] [--json FILE]\n"
	"           [--iops N]\n"
	"           [--linger] [--latency FILE] [--journal FILE] [--ledger FILE] [--survey]\n"
	"       both: [--data-area BYTES] [--log FILE] [--detach] [--verify | --no-verify]\n"
	"--verify fills data blocks that are not in use with a pattern of 0xdb; default for load, "
	"which\n"
	"then takes a sector that holds it for a block nobody filled in.\n";

enum {
	OPT_NAME = 256,
	OPT_SIZE,
	OPT_SOCKET,
	OPT_LOG,
	OPT_DATA_AREA,
	OPT_DETACH,
	OPT_VERIFY,
	OPT_NO_VERIFY,
	OPT_MOUNT,
	OPT_READ_ONLY,
	OPT_JSON,
	OPT_SEED,
	OPT_SECONDS,
	OPT_SPAN,
	OPT_DRAIN,
	OPT_QD,
	OPT_IOPS,
	OPT_MAX_SECTORS,
	OPT_READ_PERCENT,
	OPT_DISCARD_PERCENT,
	OPT_FLUSH_PERCENT,
	OPT_LINGER,
	OPT_LATENCY,
	OPT_JOURNAL,
	OPT_LEDGER,
	OPT_SURVEY,
};

static const struct option known[] = {
	{"name", required_argument, NULL, OPT_NAME},
	{"size", required_argument, NULL, OPT_SIZE},
	{"socket", required_argument, NULL, OPT_SOCKET},
	{"log", required_argument, NULL, OPT_LOG},
	{"data-area", required_argument, NULL, OPT_DATA_AREA},
	{"detach", no_argument, NULL, OPT_DETACH},
	{"verify", no_argument, NULL, OPT_VERIFY},
	{"no-verify", no_argument, NULL, OPT_NO_VERIFY},
	{"mount", required_argument, NULL, OPT_MOUNT},
	{"read-only", no_argument, NULL, OPT_READ_ONLY},
	{"json", required_argument, NULL, OPT_JSON},
	{"seed", required_argument, NULL, OPT_SEED},
	{"seconds", required_argument, NULL, OPT_SECONDS},
	{"span", required_argument, NULL, OPT_SPAN},
	{"drain-seconds", required_argument, NULL, OPT_DRAIN},
	{"qd", required_argument, NULL, OPT_QD},
	{"iops", required_argument, NULL, OPT_IOPS},
	{"max-sectors", required_argument, NULL, OPT_MAX_SECTORS},
	{"read-percent", required_argument, NULL, OPT_READ_PERCENT},
	{"discard-percent", required_argument, NULL, OPT_DISCARD_PERCENT},
	{"flush-percent", required_argument, NULL, OPT_FLUSH_PERCENT},
	{"linger", no_argument, NULL, OPT_LINGER},
	{"latency", required_argument, NULL, OPT_LATENCY},
	{"journal", required_argument, NULL, OPT_JOURNAL},
	{"ledger", required_argument, NULL, OPT_LEDGER},
	{"survey", no_argument, NULL, OPT_SURVEY},
	{NULL, 0, NULL, 0},
};

static int mistake(const char *what)
{
	fprintf(stderr, "obdsup-ringd: %s\n%s", what, usage);
	return -1;
}

/* Parses a decimal number within [min, max]; *is_good is cleared otherwise. */
static uint64_t number(const char *text, uint64_t min, uint64_t max, bool *is_good)
{
	char *end;
	unsigned long long value;

	errno = 0;
	value = strtoull(text, &end, 10);
	if (errno || *end || end == text || *text == '-' || value < min || value > max)
		*is_good = false;
	return value;
}

static uint32_t number32(const char *text, uint32_t min, uint32_t max, bool *is_good)
{
	return (uint32_t)number(text, min, max, is_good);
}

static bool set_option(struct obd_options *o, int option, const char *value)
{
	bool is_good = true;

	switch (option) {
	case OPT_NAME:
		o->name = value;
		break;
	case OPT_SIZE:
		o->size_bytes = number(value, OBD_SECTOR_BYTES, UINT64_C(1) << 50, &is_good);
		break;
	case OPT_SOCKET:
		o->socket = value;
		break;
	case OPT_LOG:
		o->log = value;
		break;
	case OPT_DATA_AREA:
		o->data_area_bytes = number(value, 1u << 20, 1u << 30, &is_good);
		break;
	case OPT_DETACH:
		o->is_detached = true;
		break;
	case OPT_VERIFY:
		o->is_checking = true;
		break;
	case OPT_NO_VERIFY:
		o->is_checking = false;
		break;
	case OPT_MOUNT:
		o->mount = value;
		break;
	case OPT_READ_ONLY:
		o->is_read_only = true;
		break;
	case OPT_JSON:
		o->json = value;
		break;
	case OPT_SEED:
		o->seed = number(value, 0, UINT64_MAX, &is_good);
		break;
	case OPT_SECONDS:
		o->seconds = number(value, 0, 1u << 30, &is_good);
		break;
	case OPT_SPAN:
		o->span_bytes = number(value, OBD_SECTOR_BYTES, UINT64_C(1) << 40, &is_good);
		break;
	case OPT_DRAIN:
		o->drain_seconds = number(value, 1, 1u << 20, &is_good);
		break;
	case OPT_QD:
		o->queue_depth = number32(value, 1, 1024, &is_good);
		break;
	case OPT_IOPS:
		o->iops = number32(value, 0, 1u << 24, &is_good);
		break;
	case OPT_MAX_SECTORS:
		o->mix.max_sectors =
			number32(value, 1, OBD_KRING_CMD_MAX / OBD_SECTOR_BYTES, &is_good);
		break;
	case OPT_READ_PERCENT:
		o->mix.read_percent = number32(value, 0, 100, &is_good);
		break;
	case OPT_DISCARD_PERCENT:
		o->mix.discard_percent = number32(value, 0, 100, &is_good);
		break;
	case OPT_FLUSH_PERCENT:
		o->mix.flush_percent = number32(value, 0, 100, &is_good);
		break;
	case OPT_LATENCY:
		o->latency = value;
		break;
	case OPT_JOURNAL:
		o->journal = value;
		break;
	case OPT_LEDGER:
		o->ledger = value;
		break;
	case OPT_SURVEY:
		o->is_surveying = true;
		break;
	case OPT_LINGER:
		o->is_lingering = true;
		break;
	default:
		return false;
	}
	return is_good;
}

static int check(struct obd_options *o)
{
	if (!o->name || !o->socket || !o->size_bytes)
		return mistake("--name, --size and --socket are needed");
	if (strlen(o->name) > 64)
		return mistake("--name is longer than 64 characters");
	if (o->size_bytes % OBD_SECTOR_BYTES || o->span_bytes % OBD_SECTOR_BYTES)
		return mistake("--size and --span must be multiples of 512");
	if (o->data_area_bytes % OBD_KRING_BLOCK_BYTES)
		return mistake("--data-area must be a multiple of 4096");
	if (o->is_fuse)
		return o->mount ? 0 : mistake("fuse needs --mount");
	if (o->mix.read_percent + o->mix.discard_percent + o->mix.flush_percent > 100)
		return mistake("the percentages add up to more than 100");
	if (o->span_bytes == 0)
		o->span_bytes = UINT64_C(1) << 30;
	if (o->span_bytes > o->size_bytes)
		o->span_bytes = o->size_bytes;
	return 0;
}

int obd_options_parse(int argc, char **argv, struct obd_options *ret)
{
	struct obd_options o = {
		.data_area_bytes = 64u << 20,
		.seed = 1,
		.drain_seconds = 60,
		.queue_depth = 32,
		.mix = {.read_percent = 50,
			.discard_percent = 2,
			.flush_percent = 1,
			.fua_percent = 2,
			.max_sectors = 128,
			.unit_sectors = 1},
	};
	char problem[128];
	int option, rc;

	o.is_fuse = argc > 1 && strcmp(argv[1], "fuse") == 0;
	if (argc < 2 || (!o.is_fuse && strcmp(argv[1], "load") != 0))
		return mistake("the first argument is fuse or load");
	o.is_checking = !o.is_fuse;
	opterr = 0;
	optind = 2;
	while ((option = getopt_long(argc, argv, "", known, NULL)) != -1) {
		if (set_option(&o, option, optarg))
			continue;
		snprintf(problem, sizeof(problem), "not understood: %.80s %s", argv[optind - 1],
			 option == '?' ? "" : "(value out of bounds?)");
		return mistake(problem);
	}
	if (optind != argc)
		return mistake("too many arguments");
	rc = check(&o);
	if (rc == 0)
		*ret = o;
	return rc;
}
