/*
 * obdsup-sectors: writes stamped sectors to a block device or file and checks every one it reads.
 *
 * Exit status: 0 all is well; 1 something was lost, stale, misplaced, corrupt, failed or did not
 * end; 2 it could not be carried out.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clock.h"
#include "report.h"
#include "run.h"

#define PROBLEM_BYTES 256u

/* Everything a run stands on; mapped and open until the process ends. */
struct bench {
	struct obd_sectors_options options;
	struct obd_target target;
	struct obd_ledger ledger;
	struct obd_ledger since;
	struct obd_owner owner;
	struct obd_slices slices;
	const uint8_t *base; /* NULL, or base_bytes of --expect from the offset on */
	uint64_t base_bytes;
	char problem[PROBLEM_BYTES];
};

static void on_signal(int number)
{
	(void)number;
	obd_run_stop();
}

static void catch_signals(void)
{
	struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};

	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
}

static int fail(struct bench *bench, const char *path, const char *what)
{
	snprintf(bench->problem, PROBLEM_BYTES, "%.120s: %s", path, what);
	return -EINVAL;
}

static int map_expected(struct bench *bench)
{
	const char *path = bench->options.expect;
	uint64_t offset_bytes = bench->options.offset_bytes;
	struct stat status;
	uint8_t *at = NULL;
	int fd;

	if (!path)
		return 0;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &status) < 0)
		return fail(bench, path, strerror(errno));
	if (status.st_size == 0 || status.st_size % (off_t)OBD_TARGET_SECTOR_BYTES)
		return fail(bench, path, "its size is not a multiple of 512, or it is empty");
	at = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_SHARED, fd, 0);
	if (at == MAP_FAILED)
		return fail(bench, path, strerror(errno));
	close(fd);
	bench->base_bytes = (uint64_t)status.st_size > offset_bytes
				    ? (uint64_t)status.st_size - offset_bytes
				    : 0;
	bench->base = at + (bench->base_bytes ? offset_bytes : 0);
	return 0;
}

/* Sectors from offset to the end of the span, in whole units; 0 with a problem: none. */
static uint64_t find_span(struct bench *bench)
{
	struct obd_sectors_options *o = &bench->options;
	uint64_t unit_bytes = (uint64_t)bench->target.unit_sectors * OBD_TARGET_SECTOR_BYTES;
	uint64_t left_bytes = 0;

	if (bench->target.size_bytes > o->offset_bytes)
		left_bytes = bench->target.size_bytes - o->offset_bytes;
	if (o->span_bytes > left_bytes || left_bytes < unit_bytes)
		fail(bench, o->target, "it ends before the end of the span");
	else if (o->offset_bytes % unit_bytes || o->span_bytes % unit_bytes)
		fail(bench, o->target, "--offset and --span must be multiples of its block size");
	else
		return (o->span_bytes ? o->span_bytes : left_bytes) / unit_bytes *
		       bench->target.unit_sectors;
	return 0;
}

static int open_target(struct bench *bench, uint64_t *sector_cnt)
{
	struct obd_sectors_options *o = &bench->options;
	bool is_read_only = o->is_read_only || o->is_verifying;
	int rc = obd_target_open(&bench->target, o->target, is_read_only, o->is_buffered,
				 bench->problem);

	if (rc)
		return rc;
	bench->target.offset_bytes = o->offset_bytes;
	o->mix.unit_sectors = bench->target.unit_sectors;
	o->mix.max_sectors -= o->mix.max_sectors % o->mix.unit_sectors;
	if (o->mix.max_sectors == 0)
		o->mix.max_sectors = o->mix.unit_sectors;
	*sector_cnt = find_span(bench);
	return *sector_cnt ? 0 : -EINVAL;
}

/* The ledger to verify against says which part of the device it is about. */
static int load_ledgers(struct bench *bench)
{
	struct obd_sectors_options *o = &bench->options;
	int rc = obd_ledger_load(&bench->ledger, o->ledger, bench->problem);

	if (rc)
		return rc;
	o->offset_bytes = bench->ledger.header->offset_bytes;
	o->span_bytes = bench->ledger.header->sector_cnt * OBD_TARGET_SECTOR_BYTES;
	if (!o->since)
		return 0;
	rc = obd_ledger_load(&bench->since, o->since, bench->problem);
	if (rc)
		return rc;
	if (bench->since.header->run != bench->ledger.header->run ||
	    bench->since.header->sector_cnt != bench->ledger.header->sector_cnt)
		return fail(bench, o->since, "not an earlier copy of the ledger");
	return 0;
}

static int open_ledger(struct bench *bench, uint64_t sector_cnt)
{
	struct obd_sectors_options *o = &bench->options;
	/* Two runs with one seed do the same things, but never take the other's data for theirs. */
	struct obd_ledger_identity identity = {
		.name = o->name,
		.run = obd_clock_ns() ^ ((uint64_t)getpid() << 48),
		.sector_cnt = sector_cnt,
		.offset_bytes = o->offset_bytes,
	};
	int rc = obd_ledger_open(&bench->ledger, o->ledger, &identity, bench->problem);

	if (rc)
		return rc;
	if (o->ledger)
		o->is_surveying |= !bench->ledger.is_resumed && !o->expect;
	return 0;
}

static int set_up(struct bench *bench, uint64_t *sector_cnt)
{
	const struct obd_sectors_options *o = &bench->options;
	bool is_loading = o->is_verifying && o->ledger;
	int rc = is_loading ? load_ledgers(bench) : 0;

	if (rc == 0)
		rc = open_target(bench, sector_cnt);
	if (rc == 0)
		rc = map_expected(bench);
	if (rc == 0 && !is_loading)
		rc = open_ledger(bench, *sector_cnt);
	if (rc)
		return rc;
	obd_owner_init(&bench->owner, o->journal);
	rc = obd_slices_open(&bench->slices, o->latency);
	if (rc)
		fail(bench, o->latency, strerror(-rc));
	return rc;
}

static int complain(const char *what)
{
	fprintf(stderr, "obdsup-sectors: %s\n", what);
	return 2;
}

static int run_and_report(struct bench *bench, uint64_t sector_cnt)
{
	struct obd_model_options model = {
		.ledger = &bench->ledger,
		.since = bench->options.since ? &bench->since : NULL,
		.base = bench->base,
		.base_bytes = bench->base_bytes,
		.is_durable_only = bench->options.is_durable_only,
	};
	struct obd_run *run = calloc(1, sizeof(*run)); /* threads may outlive this function */
	int rc;

	if (!run)
		return complain(strerror(ENOMEM));
	*run = (struct obd_run){
		.options = &bench->options,
		.target = &bench->target,
		.model = obd_model_create(&model),
		.ledger = &bench->ledger,
		.owner = &bench->owner,
		.slices = &bench->slices,
		.sector_cnt = sector_cnt,
	};
	rc = run->model ? obd_run_all(run) : -ENOMEM;
	if (rc)
		return complain(strerror(-rc));
	rc = obd_slices_close(&bench->slices);
	if (rc == 0)
		rc = obd_sectors_report(run);
	if (rc)
		return complain(strerror(-rc));
	return obd_sectors_is_good(&run->counts) ? 0 : 1;
}

int main(int argc, char **argv)
{
	static struct bench bench;
	uint64_t sector_cnt = 0;

	switch (obd_sectors_options_parse(argc, argv, &bench.options)) {
	case OBD_PARSED_HELP:
		return 0;
	case OBD_PARSED_WRONG:
		return 2;
	case OBD_PARSED:
		break;
	}
	catch_signals();
	if (set_up(&bench, &sector_cnt))
		return complain(bench.problem);
	/* _exit: a thread that waits for the device for ever must not hold up the end */
	_exit(run_and_report(&bench, sector_cnt));
}
