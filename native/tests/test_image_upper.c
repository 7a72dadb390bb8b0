/*
 * The writable layer: against a model, torn at any byte, followed, handed over, under threads, out
 * of space.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "obd_image.h"
#include "support_image_files.h"

#define SECTORS 4096u
#define BYTES	(SECTORS * 512u)

static char dir[64];
static char data_path[96];
static char index_path[96];
static char pending_path[112];
static char lower_path[96];
static const char *lower_paths[] = {lower_path};
static uint8_t lower[BYTES];
static uint8_t model[BYTES];
static uint8_t got[BYTES];

static struct obd_image *open_image(void)
{
	struct obd_image_spec spec = {
		.lower_paths = lower_paths,
		.lower_cnt = 1,
		.upper_data = data_path,
		.upper_index = index_path,
	};
	struct obd_image *image;
	struct obd_errinfo info;

	if (obd_image_create(&spec, &info, &image)) {
		fprintf(stderr, "%s %s\n", info.what, info.path);
		exit(1);
	}
	return image;
}

/* What was pending counts for nothing after a boot; the files themselves are as the test has them
 */
static void cut_power(void)
{
	REQUIRE(unlink(pending_path) == 0 || errno == ENOENT);
}

static void fresh(void)
{
	struct obd_segment half = obd_segment_make(0, SECTORS / 2, 0, false, 0);
	struct image_bytes layer;
	uint64_t state = 4711;

	memset(lower, 0, BYTES);
	image_fill(lower, BYTES / 2, &state);
	layer = image_layer_make(lower, SECTORS, &half, 1);
	image_file_write(lower_path, layer.at, layer.length);
	free(layer.at);
	image_upper_make(data_path, index_path, BYTES);
	cut_power();
	memcpy(model, lower, BYTES);
}

static int put(struct obd_image *image, uint64_t lba, uint32_t cnt, const uint8_t *from,
	       uint32_t flags, struct obd_errinfo *info)
{
	struct iovec iov[2] = {
		{.iov_base = (void *)from, .iov_len = 100},
		{.iov_base = (void *)(from + 100), .iov_len = (size_t)cnt * 512 - 100},
	};

	return obd_image_write(image, lba, cnt, iov, 2, flags, info);
}

static void expect(struct obd_image *image, const uint8_t *bytes)
{
	struct iovec iov = {.iov_base = got, .iov_len = BYTES};

	REQUIRE(obd_image_read(image, 0, SECTORS, &iov, 1, 0, NULL) == 0);
	REQUIRE(memcmp(got, bytes, BYTES) == 0);
}

static void random_change(struct obd_image *image, uint64_t *state)
{
	static uint8_t buffer[100 * 512];
	uint32_t cnt = 1 + (uint32_t)image_random(state) % 99;
	uint64_t lba = image_random(state) % (SECTORS - cnt);

	if (image_random(state) % 4 == 0) {
		REQUIRE(obd_image_discard(image, lba, cnt, NULL) == 0);
		memset(model + lba * 512, 0, (size_t)cnt * 512);
		return;
	}
	image_fill(buffer, (size_t)cnt * 512, state);
	REQUIRE(put(image, lba, cnt, buffer, 0, NULL) == 0);
	memcpy(model + lba * 512, buffer, (size_t)cnt * 512);
}

static void writer_follower_and_reopen_agree(void)
{
	struct obd_image *writer;
	struct obd_image *follower;
	struct obd_image *reopened;
	struct obd_image_stat stat;
	struct obd_errinfo info;
	uint64_t reserved = 0;
	uint64_t other = 0;
	uint64_t state = 1;

	fresh();
	writer = open_image();
	follower = open_image();
	expect(writer, model);
	REQUIRE(put(writer, 0, 8, lower, 0, &info) == OBD_E_READONLY);
	REQUIRE(obd_image_start_writing(writer, &reserved, &info) == 0);
	REQUIRE(obd_image_start_writing(follower, &other, &info) == OBD_E_LOCKED);
	for (int i = 0; i < 600; i++) {
		random_change(writer, &state);
		if (i % 50 == 0) {
			expect(writer, model);
			REQUIRE(obd_image_follow(follower, &info) == 0);
			expect(follower, model);
		}
	}
	REQUIRE(obd_image_flush(writer, &info) == 0);
	obd_image_stat(writer, &stat);
	REQUIRE(stat.upper_records == 600 && stat.upper_data_bytes == reserved);
	reopened = open_image();
	expect(reopened, model);
	REQUIRE(put(writer, 1, 200, lower, OBD_WRITE_FUA, &info) == 0);
	memcpy(model + 512, lower, (size_t)200 * 512);
	/* hand-over: the successor goes on where the writer stopped, without being told */
	obd_image_stop_writing(writer);
	REQUIRE(put(writer, 0, 8, lower, 0, &info) == OBD_E_READONLY);
	REQUIRE(obd_image_discard(writer, 0, 8, &info) == OBD_E_READONLY);
	REQUIRE(obd_image_start_writing(follower, &reserved, &info) == 0);
	expect(follower, model);
	random_change(follower, &state);
	REQUIRE(obd_image_follow(writer, &info) == 0);
	expect(writer, model);
	expect(follower, model);
	obd_image_destroy(follower); /* takes its lock along */
	REQUIRE(obd_image_start_writing(reopened, &reserved, &info) == 0);
	expect(reopened, model);
	obd_image_destroy(reopened);
	obd_image_destroy(writer);
}

static void append_position_respects_the_high_water_mark(void)
{
	struct obd_image *image;
	struct obd_image_stat stat;
	uint64_t reserved = 4096 + 7 * 512 + 1;

	fresh();
	image = open_image();
	REQUIRE(obd_image_start_writing(image, &reserved, NULL) == 0);
	REQUIRE(put(image, 5, 3, lower, 0, NULL) == 0);
	memcpy(model + (size_t)5 * 512, lower, (size_t)3 * 512);
	REQUIRE(reserved == 4096 + (8 + 3) * 512);
	obd_image_stat(image, &stat);
	REQUIRE(stat.upper_data_bytes == reserved);
	expect(image, model);
	obd_image_destroy(image);
	/* and a ragged end of file */
	REQUIRE(truncate(data_path, (off_t)reserved + 100) == 0);
	reserved = 0;
	image = open_image();
	REQUIRE(obd_image_start_writing(image, &reserved, NULL) == 0);
	REQUIRE(put(image, 50, 1, lower, 0, NULL) == 0);
	memcpy(model + (size_t)50 * 512, lower, 512);
	REQUIRE(reserved == 4096 + (8 + 3 + 2) * 512);
	expect(image, model);
	obd_image_destroy(image);
}

/* The index ends anywhere: what whole records say is there, and writing goes on. */
static void index_torn_at_any_byte(void)
{
	static uint8_t states[40][BYTES];
	struct obd_image *image;
	struct image_bytes index;
	struct image_bytes data;
	uint64_t reserved = 0;
	uint64_t state = 2;

	fresh();
	image = open_image();
	REQUIRE(obd_image_start_writing(image, &reserved, NULL) == 0);
	for (int i = 0; i < 40; i++) {
		memcpy(states[i], model, BYTES);
		random_change(image, &state);
	}
	REQUIRE(obd_image_flush(image, NULL) == 0);
	obd_image_destroy(image);
	index = image_file_read(index_path);
	data = image_file_read(data_path);
	for (size_t length = 4096; length < index.length; length++) {
		size_t records = (length - 4096) / 16;
		struct obd_image_stat stat;

		image_file_write(index_path, index.at, length);
		cut_power();
		reserved = 0;
		image = open_image();
		memcpy(model, states[records], BYTES);
		if (length % 7 == 0)
			expect(image, model);
		REQUIRE(obd_image_start_writing(image, &reserved, NULL) == 0);
		obd_image_stat(image, &stat);
		REQUIRE(stat.torn_bytes_cut == length % 16);
		random_change(image, &state);
		obd_image_destroy(image);
		image = open_image();
		if (length % 5 == 0)
			expect(image, model);
		obd_image_destroy(image);
		image_file_write(data_path, data.at, data.length);
	}
	free(index.at);
	free(data.at);
}

/* A power cut shortened the data file: records that lost their data are cut, if they are last. */
static void data_file_cut_at_any_sector(void)
{
	static uint8_t states[31][BYTES];
	uint64_t data_ends[31];
	struct obd_image *image;
	struct image_bytes index;
	struct image_bytes data;
	struct obd_errinfo info;
	uint64_t reserved = 0;
	uint64_t state = 3;
	struct stat st;

	fresh();
	image = open_image();
	REQUIRE(obd_image_start_writing(image, &reserved, NULL) == 0);
	for (int i = 0; i < 31; i++) {
		REQUIRE(stat(data_path, &st) == 0);
		data_ends[i] = (uint64_t)st.st_size;
		memcpy(states[i], model, BYTES);
		random_change(image, &state);
	}
	REQUIRE(obd_image_flush(image, NULL) == 0);
	obd_image_destroy(image);
	index = image_file_read(index_path);
	data = image_file_read(data_path);
	for (size_t length = 4096; length < data.length; length += 1111) {
		struct obd_image_stat stats;
		size_t kept = 30;

		image_file_write(data_path, data.at, length);
		image_file_write(index_path, index.at, index.length);
		cut_power();
		while (data_ends[kept] > length / 512 * 512)
			kept--;
		reserved = 0;
		image = open_image();
		expect(image, states[kept]);
		REQUIRE(obd_image_start_writing(image, &reserved, NULL) == 0);
		expect(image, states[kept]);
		obd_image_stat(image, &stats);
		REQUIRE(stats.upper_records == kept);
		REQUIRE(stats.torn_bytes_cut == index.length - 4096 - kept * 16);
		memcpy(model, states[kept], BYTES);
		random_change(image, &state);
		expect(image, model);
		obd_image_destroy(image);
		image = open_image();
		expect(image, model);
		obd_image_destroy(image);
	}
	/* the same in the middle is damage, and says where */
	memset(index.at + 4096 + (size_t)3 * 16, 0, 16);
	image_file_write(data_path, data.at, data.length);
	image_file_write(index_path, index.at, index.length);
	cut_power();
	struct obd_image_spec spec = {.upper_data = data_path, .upper_index = index_path};

	REQUIRE(obd_image_create(&spec, &info, &image) == OBD_E_FORMAT);
	REQUIRE(info.offset_bytes == 4096 + 3 * 16 && strcmp(info.path, index_path) == 0);
	free(index.at);
	free(data.at);
}

/* A limit on file size stands in for a full disk: the data file first, then the index file. */
static void failed_writes_change_nothing(void)
{
	struct rlimit old;
	struct rlimit small;
	struct obd_image *image;
	struct obd_errinfo info;
	uint64_t reserved = 0;
	uint64_t state = 6;
	struct stat st;

	fresh();
	signal(SIGXFSZ, SIG_IGN);
	image = open_image();
	REQUIRE(obd_image_start_writing(image, &reserved, NULL) == 0);
	for (int i = 0; i < 20; i++)
		random_change(image, &state);
	REQUIRE(stat(data_path, &st) == 0 && getrlimit(RLIMIT_FSIZE, &old) == 0);
	small = old;
	small.rlim_cur = (rlim_t)st.st_size + 5 * 512 + 17;
	REQUIRE(setrlimit(RLIMIT_FSIZE, &small) == 0);
	for (int i = 0; i < 3; i++) {
		REQUIRE(put(image, 100, 64, lower, 0, &info) == OBD_E_IO);
		REQUIRE(info.sys_errno == EFBIG && strcmp(info.path, data_path) == 0);
		expect(image, model);
	}
	REQUIRE(stat(pending_path, &st) == 0);
	small.rlim_cur = (rlim_t)st.st_size + 16 + 5; /* one record fits, and a third of another */
	REQUIRE(setrlimit(RLIMIT_FSIZE, &small) == 0);
	REQUIRE(obd_image_discard(image, 3, 1, &info) == 0);
	memset(model + (size_t)3 * 512, 0, 512);
	REQUIRE(obd_image_discard(image, 100, 64, &info) == OBD_E_IO);
	REQUIRE(info.sys_errno == EFBIG && strcmp(info.path, pending_path) == 0);
	expect(image, model);
	REQUIRE(setrlimit(RLIMIT_FSIZE, &old) == 0);
	REQUIRE(stat(pending_path, &st) == 0 && st.st_size % 16 == 0);
	for (int i = 0; i < 20; i++)
		random_change(image, &state);
	expect(image, model);
	obd_image_destroy(image);
	image = open_image();
	expect(image, model);
	obd_image_destroy(image);
}

/* A write and a discard of more than one record can hold. */
static void long_ranges(void)
{
	const uint64_t sectors = 40000;
	struct obd_image_spec spec = {.upper_data = data_path, .upper_index = index_path};
	uint8_t *from = malloc(sectors * 512);
	uint8_t *to = malloc(sectors * 512);
	struct iovec iov = {.iov_base = from, .iov_len = sectors * 512};
	struct iovec back = {.iov_base = to, .iov_len = sectors * 512};
	struct obd_image_stat stat;
	struct obd_image *image;
	uint64_t reserved = 0;
	uint64_t state = 8;

	REQUIRE(from && to);
	image_upper_make(data_path, index_path, sectors * 512);
	image_fill(from, sectors * 512, &state);
	REQUIRE(obd_image_create(&spec, NULL, &image) == 0);
	REQUIRE(obd_image_start_writing(image, &reserved, NULL) == 0);
	REQUIRE(obd_image_write(image, 0, (uint32_t)sectors, &iov, 1, 0, NULL) == 0);
	obd_image_stat(image, &stat);
	REQUIRE(stat.upper_records == 3);
	REQUIRE(obd_image_discard(image, 1, sectors - 2, NULL) == 0);
	memset(from + 512, 0, (sectors - 2) * 512);
	for (int i = 0; i < 2; i++) {
		REQUIRE(obd_image_read(image, 0, (uint32_t)sectors, &back, 1, 0, NULL) == 0);
		REQUIRE(memcmp(from, to, sectors * 512) == 0);
		obd_image_destroy(image);
		REQUIRE(obd_image_create(&spec, NULL, &image) == 0);
	}
	REQUIRE(obd_image_write(image, sectors, 1, &iov, 1, 0, NULL) == OBD_E_RANGE);
	REQUIRE(obd_image_write(image, 0, 1, &iov, 1, 0, NULL) == OBD_E_INVAL);
	obd_image_destroy(image);
	free(from);
	free(to);
}

/* ---- threads ---- */

#define THREADS 4
#ifdef __SANITIZE_THREAD__
#define ROUNDS 100
#else
#define ROUNDS 400
#endif
#define SHARED_COUNT                                                                               \
	64u /* sectors at 0 that everybody writes, whole: no read may see a mixture                \
	     */

struct worker {
	struct obd_image *image;
	uint64_t state;
	unsigned int number;
};

/* Each thread has its own stripe, checked against its own model, and the shared range. */
static void *write_and_check(void *arg)
{
	struct worker *worker = arg;
	const uint64_t stripe = SECTORS / 8;
	uint64_t base = SECTORS / 2 + worker->number * stripe;
	uint8_t *mine = calloc(stripe, 512);
	uint8_t *buffer = calloc(stripe, 512);

	REQUIRE(mine && buffer);
	for (int i = 0; i < ROUNDS; i++) {
		uint32_t cnt = 1 + (uint32_t)image_random(&worker->state) % 32;
		uint64_t at = image_random(&worker->state) % (stripe - cnt);
		struct iovec iov = {.iov_base = buffer, .iov_len = (size_t)cnt * 512};

		image_fill(buffer, (size_t)cnt * 512, &worker->state);
		REQUIRE(obd_image_write(worker->image, base + at, cnt, &iov, 1, 0, NULL) == 0);
		memcpy(mine + at * 512, buffer, (size_t)cnt * 512);
		if (i % 100 == 50)
			REQUIRE(obd_image_flush(worker->image, NULL) == 0);
		iov.iov_len = (size_t)stripe * 512;
		REQUIRE(obd_image_read(worker->image, base, (uint32_t)stripe, &iov, 1, 0, NULL) ==
			0);
		REQUIRE(memcmp(buffer, mine, stripe * 512) == 0);

		iov.iov_len = (size_t)SHARED_COUNT * 512;
		memset(buffer, 1 + (int)(worker->number * 60) + i % 60, iov.iov_len);
		if (i % 16 == 3)
			REQUIRE(obd_image_discard(worker->image, 0, SHARED_COUNT, NULL) == 0);
		else
			REQUIRE(obd_image_write(worker->image, 0, SHARED_COUNT, &iov, 1, 0, NULL) ==
				0);
		REQUIRE(obd_image_read(worker->image, 0, SHARED_COUNT, &iov, 1, 0, NULL) == 0);
		REQUIRE(memcmp(buffer, buffer + 1, iov.iov_len - 1) == 0);
	}
	free(mine);
	free(buffer);
	return NULL;
}

static void threads_and_a_follower(void)
{
	struct worker workers[THREADS];
	pthread_t threads[THREADS];
	struct obd_image *image;
	struct obd_image *follower;
	struct iovec iov = {.iov_base = model, .iov_len = BYTES};
	uint64_t reserved = 0;

	fresh();
	image = open_image();
	follower = open_image();
	REQUIRE(obd_image_start_writing(image, &reserved, NULL) == 0);
	for (unsigned int i = 0; i < THREADS; i++) {
		workers[i] = (struct worker){.image = image, .state = i, .number = i};
		REQUIRE(pthread_create(&threads[i], NULL, write_and_check, &workers[i]) == 0);
	}
	for (int i = 0; i < 200; i++)
		REQUIRE(obd_image_follow(follower, NULL) == 0);
	for (unsigned int i = 0; i < THREADS; i++)
		REQUIRE(pthread_join(threads[i], NULL) == 0);
	/* memory, file and follower agree about who came last */
	REQUIRE(obd_image_read(image, 0, SECTORS, &iov, 1, 0, NULL) == 0);
	REQUIRE(obd_image_follow(follower, NULL) == 0);
	expect(follower, model);
	obd_image_destroy(follower);
	obd_image_destroy(image);
	image = open_image();
	expect(image, model);
	obd_image_destroy(image);
}

/* A header that is wrong in any one bit: refused or harmless. */
static void damaged_headers(void)
{
	struct obd_image_spec spec = {.upper_data = data_path, .upper_index = index_path};
	const char *paths[] = {data_path, index_path};

	fresh();
	for (int file = 0; file < 2; file++) {
		struct image_bytes bytes = image_file_read(paths[file]);

		for (size_t bit = 0; bit < (size_t)132 * 8; bit++) {
			struct obd_image *image;
			struct obd_errinfo info;
			int rc;

			bytes.at[bit / 8] ^= (uint8_t)(1u << bit % 8);
			image_file_write(paths[file], bytes.at, bytes.length);
			rc = obd_image_create(&spec, &info, &image);
			REQUIRE(!rc || (info.code == rc && info.what[0]));
			if (bit < (size_t)24 * 8)
				REQUIRE(rc == OBD_E_FORMAT);
			if (!rc) {
				REQUIRE(obd_image_virtual_size_bytes(image) == BYTES);
				obd_image_destroy(image);
			}
			bytes.at[bit / 8] ^= (uint8_t)(1u << bit % 8);
		}
		image_file_write(paths[file], bytes.at, bytes.length);
		free(bytes.at);
	}
}

int main(void)
{
	image_dir_make(dir);
	snprintf(data_path, sizeof(data_path), "%s/data", dir);
	snprintf(index_path, sizeof(index_path), "%s/index", dir);
	snprintf(pending_path, sizeof(pending_path), "%s.pending", index_path);
	snprintf(lower_path, sizeof(lower_path), "%s/lower", dir);
	writer_follower_and_reopen_agree();
	append_position_respects_the_high_water_mark();
#ifdef __SANITIZE_THREAD__
	/* one thread, many bytes: nothing to find for TSan, and slow; referenced to stay compiled
	 */
	(void)index_torn_at_any_byte;
	(void)data_file_cut_at_any_sector;
#else
	index_torn_at_any_byte();
	data_file_cut_at_any_sector();
#endif
	failed_writes_change_nothing();
	long_ranges();
	damaged_headers();
	threads_and_a_follower();
	image_dir_remove(dir);
	return 0;
}
