/*
 * The writable layer in sparse mode: against a model, reopened, followed, its record of zeroes torn
 * and damaged, under threads.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "obd_image.h"
#include "support_image_files.h"

#define SECTORS 4093u /* the last block is not whole */
#define BYTES	(SECTORS * 512u)

static char dir[64];
static char data_path[96];
static char index_path[96];
static char zeroes_path[112];
static char lower_path[96];
static const char *lower_paths[] = {lower_path};
static uint8_t lower[BYTES];
static uint8_t model[BYTES];
static uint8_t got[BYTES];

static int try_open(uint32_t lower_cnt, struct obd_errinfo *info, struct obd_image **ret)
{
	struct obd_image_spec spec = {
		.lower_paths = lower_paths,
		.lower_cnt = lower_cnt,
		.upper_data = data_path,
		.upper_index = index_path,
	};

	return obd_image_create(&spec, info, ret);
}

static struct obd_image *open_image(uint32_t lower_cnt)
{
	struct obd_image *image;
	struct obd_errinfo info;

	if (try_open(lower_cnt, &info, &image)) {
		fprintf(stderr, "%s %s\n", info.what, info.path);
		exit(1);
	}
	return image;
}

static void fresh(uint32_t lower_cnt)
{
	struct obd_segment most = obd_segment_make(0, SECTORS - 500, 0, false, 0);
	struct image_bytes layer;
	uint64_t state = 4711;

	memset(lower, 0, BYTES);
	image_fill(lower, BYTES - 500 * 512, &state);
	layer = image_layer_make(lower, SECTORS, &most, 1);
	image_file_write(lower_path, layer.at, layer.length);
	free(layer.at);
	image_sparse_make(data_path, index_path, BYTES);
	if (lower_cnt)
		memcpy(model, lower, BYTES);
	else
		memset(model, 0, BYTES);
}

static int put(struct obd_image *image, uint64_t lba, uint32_t cnt, const uint8_t *from,
	       uint32_t flags)
{
	struct iovec iov[2] = {
		{.iov_base = (void *)from, .iov_len = 100},
		{.iov_base = (void *)(from + 100), .iov_len = (size_t)cnt * 512 - 100},
	};

	return obd_image_write(image, lba, cnt, iov, 2, flags, NULL);
}

static void expect(struct obd_image *image, const uint8_t *bytes)
{
	struct iovec iov = {.iov_base = got, .iov_len = BYTES};

	REQUIRE(obd_image_read(image, 0, SECTORS, &iov, 1, 0, NULL) == 0);
	for (uint32_t i = 0; i < SECTORS; i++)
		if (memcmp(got + i * 512, bytes + i * 512, 512) != 0) {
			fprintf(stderr, "sector %u differs\n", i);
			exit(1);
		}
}

static void expect_reopened(uint32_t lower_cnt)
{
	struct obd_image *image = open_image(lower_cnt);

	expect(image, model);
	obd_image_destroy(image);
}

static void random_change(struct obd_image *image, uint64_t *state)
{
	static uint8_t buffer[100 * 512];
	uint32_t cnt = 1 + (uint32_t)image_random(state) % 40;
	uint64_t lba = image_random(state) % (SECTORS - cnt + 1);

	if (image_random(state) % 3 == 0) {
		REQUIRE(obd_image_discard(image, lba, cnt, NULL) == 0);
		memset(model + lba * 512, 0, (size_t)cnt * 512);
		return;
	}
	image_fill(buffer, (size_t)cnt * 512, state);
	REQUIRE(put(image, lba, cnt, buffer, 0) == 0);
	memcpy(model + lba * 512, buffer, (size_t)cnt * 512);
}

static void random_changes_survive_a_reopen(uint32_t lower_cnt)
{
	struct obd_image *writer;
	struct obd_image *follower;
	uint64_t reserved = 0;
	uint64_t state = 5 + lower_cnt;

	fresh(lower_cnt);
	writer = open_image(lower_cnt);
	follower = open_image(lower_cnt);
	expect(writer, model);
	REQUIRE(put(writer, 0, 8, lower, 0) == OBD_E_READONLY);
	REQUIRE(obd_image_start_writing(writer, &reserved, NULL) == 0);
	REQUIRE(obd_image_start_writing(follower, &reserved, NULL) == OBD_E_LOCKED);
	for (int i = 0; i < 400; i++) {
		random_change(writer, &state);
		if (i % 20 == 0) {
			expect(writer, model);
			expect_reopened(lower_cnt);
		}
	}
	REQUIRE(obd_image_flush(writer, NULL) == 0);
	REQUIRE(obd_image_follow(follower, NULL) == 0);
	expect(follower, model);
	obd_image_stop_writing(writer);
	REQUIRE(obd_image_discard(writer, 0, 8, NULL) == OBD_E_READONLY);
	REQUIRE(obd_image_start_writing(follower, &reserved, NULL) == 0);
	for (int i = 0; i < 50; i++)
		random_change(follower, &state);
	/* all of it, and a second time: nothing new to record */
	REQUIRE(obd_image_discard(follower, 0, SECTORS, NULL) == 0);
	REQUIRE(obd_image_discard(follower, 3, SECTORS - 3, NULL) == 0);
	memset(model, 0, BYTES);
	expect(follower, model);
	for (int i = 0; i < 50; i++)
		random_change(follower, &state);
	obd_image_stop_writing(follower);
	REQUIRE(obd_image_settle(writer, NULL) == 0);
	expect(writer, model);
	obd_image_destroy(follower);
	obd_image_destroy(writer);
	expect_reopened(lower_cnt);
}

/* What the reference would read: data where the file has some, what is below where it has not. */
static void partial_blocks_bring_what_is_below(void)
{
	struct obd_image *image;
	uint64_t reserved = 0;

	fresh(1);
	image = open_image(1);
	REQUIRE(obd_image_start_writing(image, &reserved, NULL) == 0);
	REQUIRE(put(image, 21, 1, lower, OBD_WRITE_FUA) == 0);
	obd_image_destroy(image);
	memcpy(model + (size_t)21 * 512, lower, 512);
	int fd = open(data_path, O_RDONLY);
	REQUIRE(pread(fd, got, 4096, 4096 + 16 * 512) == 4096);
	REQUIRE(memcmp(got, model + (size_t)16 * 512, 4096) == 0);
	REQUIRE(lseek(fd, 4096, SEEK_DATA) == 4096 + 16 * 512);
	REQUIRE(lseek(fd, 4096 + 16 * 512, SEEK_HOLE) == 4096 + 24 * 512);
	close(fd);
	expect_reopened(1);
}

static void write_zeroes_record(size_t length, const struct image_bytes *all, int flipped)
{
	if (flipped >= 0)
		all->at[flipped] ^= 0x10;
	image_file_write(zeroes_path, all->at, length);
	if (flipped >= 0)
		all->at[flipped] ^= 0x10;
}

/* A torn or flipped record is left out when it is the last, refused otherwise. */
static void record_of_zeroes_torn_or_damaged(void)
{
	struct obd_errinfo info;
	struct obd_image *image;
	struct image_bytes all;
	uint64_t reserved = 0;

	fresh(1);
	image = open_image(1);
	REQUIRE(obd_image_start_writing(image, &reserved, NULL) == 0);
	for (uint32_t i = 0; i < 3; i++)
		REQUIRE(obd_image_discard(image, 16 + i * 80, 16, NULL) == 0);
	obd_image_destroy(image);
	all = image_file_read(zeroes_path);
	REQUIRE(all.length == 128 + 3 * 16);
	for (size_t length = 0; length <= all.length; length++) {
		size_t whole = length < 128 ? 0 : (length - 128) / 16;

		write_zeroes_record(length, &all, -1);
		memcpy(model, lower, BYTES);
		for (size_t i = 0; i < whole; i++)
			memset(model + (16 + i * 80) * 512, 0, (size_t)16 * 512);
		if (length % 8 == 0)
			expect_reopened(1);
		image = open_image(1);
		REQUIRE(obd_image_start_writing(image, &reserved, NULL) == 0);
		REQUIRE(obd_image_discard(image, 800, 16, NULL) == 0);
		memset(model + 800 * 512, 0, (size_t)16 * 512);
		obd_image_destroy(image);
		if (length % 8 == 0)
			expect_reopened(1);
	}
	for (int at = 128; at < (int)all.length; at++) {
		write_zeroes_record(all.length, &all, at);
		if (at < 128 + 2 * 16) {
			REQUIRE(try_open(1, &info, &image) == OBD_E_FORMAT);
			REQUIRE(info.offset_bytes == (uint64_t)(at - at % 16));
		} else {
			obd_image_destroy(open_image(1));
		}
	}
	/* of another pair: counts for nothing */
	write_zeroes_record(all.length, &all, 20);
	memcpy(model, lower, BYTES);
	expect_reopened(1);
	write_zeroes_record(all.length, &all, 8 + 1);
	REQUIRE(try_open(1, &info, &image) == OBD_E_UNSUPPORTED);
	free(all.at);
}

static void wrong_files_are_refused(void)
{
	struct obd_errinfo info;
	struct obd_image *image;

	fresh(0);
	image_file_write(index_path, lower, 4096 + 16);
	REQUIRE(try_open(0, &info, &image) == OBD_E_FORMAT);
	image_sparse_make(data_path, index_path, 0);
	REQUIRE(try_open(0, &info, &image) == OBD_E_FORMAT);
	/* a file that was cut: holes, and the writer extends it */
	fresh(1);
	REQUIRE(truncate(data_path, 4096 + 700) == 0);
	expect_reopened(1);
}

/* ---- threads: neighbours in the same blocks, and discards ---- */

#define THREADS 4u

struct worker {
	pthread_t thread;
	struct obd_image *image;
	uint32_t number;
};

/* Owns every sector whose number is its own modulo THREADS; also whole blocks further on. */
static void *work(void *arg)
{
	struct worker *worker = arg;
	uint64_t state = 100 + worker->number;
	uint8_t sector[8 * 512];

	for (uint32_t i = 0; i < 1500; i++) {
		uint64_t lba = image_random(&state) % 512 * THREADS + worker->number;
		struct iovec iov = {sector, 512};

		memset(sector, (int)(i % 251 + 1), sizeof(sector));
		REQUIRE(obd_image_write(worker->image, lba, 1, &iov, 1, 0, NULL) == 0);
		memset(model + lba * 512, (int)(i % 251 + 1), 512);
		lba = 2048 + (image_random(&state) % 50 * THREADS + worker->number) * 8;
		iov.iov_len = sizeof(sector);
		if (i % 3)
			REQUIRE(obd_image_write(worker->image, lba, 8, &iov, 1, 0, NULL) == 0);
		else
			REQUIRE(obd_image_discard(worker->image, lba, 8, NULL) == 0);
		memset(model + lba * 512, i % 3 ? (int)(i % 251 + 1) : 0, sizeof(sector));
	}
	return NULL;
}

static void threads_do_not_disturb_each_other(void)
{
	struct worker workers[THREADS];
	struct obd_image *image;
	uint64_t reserved = 0;

	fresh(1);
	image = open_image(1);
	REQUIRE(obd_image_start_writing(image, &reserved, NULL) == 0);
	for (uint32_t i = 0; i < THREADS; i++) {
		workers[i] = (struct worker){.image = image, .number = i};
		REQUIRE(pthread_create(&workers[i].thread, NULL, work, &workers[i]) == 0);
	}
	for (uint32_t i = 0; i < THREADS; i++)
		pthread_join(workers[i].thread, NULL);
	expect(image, model);
	obd_image_destroy(image);
	expect_reopened(1);
}

int main(void)
{
	image_dir_make(dir);
	snprintf(data_path, sizeof(data_path), "%s/data", dir);
	snprintf(index_path, sizeof(index_path), "%s/index", dir);
	snprintf(zeroes_path, sizeof(zeroes_path), "%s.zeroes", data_path);
	snprintf(lower_path, sizeof(lower_path), "%s/lower", dir);
	random_changes_survive_a_reopen(0);
	random_changes_survive_a_reopen(1);
	partial_blocks_bring_what_is_below();
	record_of_zeroes_torn_or_damaged();
	wrong_files_are_refused();
	threads_do_not_disturb_each_other();
	image_dir_remove(dir);
	return 0;
}
