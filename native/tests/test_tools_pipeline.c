/*
 * Jobs in parallel: all are made once and put in order; of several failures the earliest is told;
 * nothing is put behind it; a wish to stop is obeyed. With one thread and with many.
 */
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "obd_pipeline.h"
#include "obd_zfile_read.h"
#include "obd_zfile_write.h"
#include "support_image_files.h"

#define JOBS 500u

struct load {
	uint64_t end;	   /* take says that there is no more */
	uint64_t bad_make; /* UINT64_MAX: none */
	uint64_t also_bad;
	uint64_t bad_put;
	uint64_t cancel_at;
	struct obd_progress *progress;
	uint64_t taken;
	uint64_t put;
	uint32_t made[JOBS];
};

struct slot {
	uint64_t job;
	uint64_t square;
};

static int take(void *ctx, uint64_t job, void *at, struct obd_errinfo *info)
{
	struct load *load = ctx;
	struct slot *slot = at;

	(void)info;
	REQUIRE(job == load->taken++);
	if (job == load->cancel_at)
		__atomic_store_n(&load->progress->is_cancelled, 1, __ATOMIC_RELAXED);
	if (job == load->end)
		return OBD_PIPELINE_END;
	slot->job = job;
	return 0;
}

static int make(void *ctx, uint64_t job, void *at, struct obd_errinfo *info)
{
	struct load *load = ctx;
	struct slot *slot = at;
	uint64_t spin = job * 7919 % 400;

	REQUIRE(slot->job == job);
	__atomic_fetch_add(&load->made[job], 1, __ATOMIC_RELAXED);
	for (volatile uint64_t i = 0; i < spin; i++)
		;
	slot->square = job * job;
	if (job == load->bad_make || job == load->also_bad)
		return obd_fail_value(info, OBD_E_FORMAT, NULL, "made badly", job, 0, 0);
	return 0;
}

static int put(void *ctx, uint64_t job, void *at, struct obd_errinfo *info)
{
	struct load *load = ctx;
	struct slot *slot = at;

	REQUIRE(job == load->put);
	REQUIRE(slot->job == job && slot->square == job * job);
	if (job == load->bad_put)
		return obd_fail_value(info, OBD_E_NOSPACE, NULL, "put badly", job, 0, 0);
	load->put++;
	return 0;
}

static void drop(void *at)
{
	REQUIRE(((struct slot *)at)->job < JOBS);
}

static int run(struct load *load, uint64_t job_cnt, uint32_t threads, struct obd_errinfo *info)
{
	struct obd_pipeline pipeline = {
		.ctx = load,
		.slot_bytes = sizeof(struct slot),
		.job_cnt = job_cnt,
		.take = take,
		.make = make,
		.put = put,
		.drop = drop,
	};

	return obd_pipeline_run(&pipeline, threads, load->progress, info);
}

static struct load load_of(void)
{
	return (struct load){
		.end = UINT64_MAX,
		.bad_make = UINT64_MAX,
		.also_bad = UINT64_MAX,
		.bad_put = UINT64_MAX,
		.cancel_at = UINT64_MAX,
	};
}

static void test_all_in_order(uint32_t threads)
{
	struct load load = load_of();

	REQUIRE(run(&load, JOBS, threads, NULL) == 0);
	REQUIRE(load.put == JOBS);
	for (uint32_t i = 0; i < JOBS; i++)
		REQUIRE(load.made[i] == 1);
	load = load_of();
	load.end = 37;
	REQUIRE(run(&load, UINT64_MAX, threads, NULL) == 0);
	REQUIRE(load.put == 37);
	load = load_of();
	REQUIRE(run(&load, 0, threads, NULL) == 0);
	REQUIRE(load.put == 0);
}

static void test_failures(uint32_t threads)
{
	struct obd_errinfo info = {0};
	struct load load = load_of();

	load.bad_make = 120;
	load.also_bad = 121;
	REQUIRE(run(&load, JOBS, threads, &info) == OBD_E_FORMAT);
	REQUIRE(info.code == OBD_E_FORMAT && info.offset_bytes == 120);
	REQUIRE(load.put == 120);
	load = load_of();
	load.bad_put = 60;
	load.bad_make = 63;
	REQUIRE(run(&load, JOBS, threads, &info) == OBD_E_NOSPACE);
	REQUIRE(info.offset_bytes == 60 && load.put == 60);
}

static void test_cancel(uint32_t threads)
{
	struct obd_progress progress = {0};
	struct obd_errinfo info = {0};
	struct load load = load_of();

	load.progress = &progress;
	load.cancel_at = 40;
	REQUIRE(run(&load, JOBS, threads, &info) == OBD_E_CANCELLED);
	REQUIRE(load.taken == 41 && load.put == 41);
	/* before the first */
	load.taken = load.put = 0;
	REQUIRE(run(&load, JOBS, threads, &info) == OBD_E_CANCELLED);
	REQUIRE(load.put == 0);
}

/* The real thing by several threads, for the sanitizers. */
static void test_zfile(uint32_t algorithm)
{
	struct obd_zfile_options options = {
		.algorithm = algorithm, .block_bytes = 4096, .has_crc = 1, .thread_cnt = 4};
	size_t length = (5u << 20) + 1234;
	uint8_t *content = malloc(length);
	struct obd_zfile_written written;
	struct obd_zfile_checked checked;
	struct obd_zfile_damage damage;
	struct obd_progress progress = {0};
	uint64_t state = 5;
	uint64_t extracted;
	char path[64];
	int source = memfd_create("source", MFD_CLOEXEC);
	int out = memfd_create("out", MFD_CLOEXEC);
	int plain = memfd_create("plain", MFD_CLOEXEC);

	REQUIRE(content && source >= 0 && out >= 0 && plain >= 0);
	image_fill(content, length, &state);
	REQUIRE(pwrite(source, content, length, 0) == (ssize_t)length);
	REQUIRE(!obd_zfile_write_fd(source, "source", out, "out", 0, &options, &progress, NULL,
				    &written));
	REQUIRE(progress.done_bytes == length && progress.total_bytes == length);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", out);
	REQUIRE(!obd_zfile_check(path, 3, NULL, NULL, &damage, 1, &checked));
	REQUIRE(checked.damage_cnt == 0 && checked.content_bytes == length);
	REQUIRE(!obd_zfile_extract(path, plain, "plain", 3, NULL, NULL, &extracted));
	REQUIRE(extracted == length);
	uint8_t *got = malloc(length);

	REQUIRE(got && pread(plain, got, length, 0) == (ssize_t)length);
	REQUIRE(memcmp(got, content, length) == 0);
	free(got);
	free(content);
	close(source);
	close(out);
	close(plain);
}

int main(void)
{
	for (uint32_t threads = 1; threads <= 8; threads += threads == 1 ? 1 : 6) {
		test_all_in_order(threads);
		test_failures(threads);
		test_cancel(threads);
	}
	test_zfile(OBD_ALGORITHM_LZ4);
	test_zfile(OBD_ALGORITHM_ZSTD);
	return 0;
}
