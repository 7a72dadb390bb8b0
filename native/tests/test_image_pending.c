/*
 * Records that wait for a sync: what another process of the same boot finds, what is left after a
 * power cut, what somebody else's writes do to them.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "obd_bytes.h"
#include "obd_image.h"
#include "support_image_files.h"

#define SECTORS 256u
#define BYTES	(SECTORS * 512u)
#define HEADER	4096u
#define RECORD	16u

static char dir[64];
static char data_path[96];
static char index_path[96];
static char pending_path[112];
static uint8_t model[BYTES];
static uint8_t got[BYTES];
static uint64_t reserved;

static struct obd_image *follow_image(void)
{
	struct obd_image_spec spec = {.upper_data = data_path, .upper_index = index_path};
	struct obd_image *image;
	struct obd_errinfo info;

	if (obd_image_create(&spec, &info, &image)) {
		fprintf(stderr, "%s %s\n", info.what, info.path);
		exit(1);
	}
	return image;
}

static struct obd_image *write_image(void)
{
	struct obd_image *image = follow_image();

	REQUIRE(obd_image_start_writing(image, &reserved, NULL) == 0);
	return image;
}

static struct obd_image *fresh(void)
{
	image_upper_make(data_path, index_path, BYTES);
	REQUIRE(unlink(pending_path) == 0 || errno == ENOENT);
	memset(model, 0, BYTES);
	reserved = 0;
	return write_image();
}

static void put(struct obd_image *image, uint64_t lba, uint32_t cnt, uint8_t value)
{
	uint8_t buffer[16 * 512];
	struct iovec iov = {.iov_base = buffer, .iov_len = (size_t)cnt * 512};

	memset(buffer, value, sizeof(buffer));
	REQUIRE(obd_image_write(image, lba, cnt, &iov, 1, 0, NULL) == 0);
	memset(model + lba * 512, value, (size_t)cnt * 512);
}

static void put_many(struct obd_image *image, int cnt, uint64_t seed)
{
	for (int i = 0; i < cnt; i++) {
		uint64_t lba = image_random(&seed) % (SECTORS - 16);

		put(image, lba, 1 + (uint32_t)image_random(&seed) % 15, (uint8_t)(1 + i));
	}
}

static void expect(struct obd_image *image, const uint8_t *bytes)
{
	struct iovec iov = {.iov_base = got, .iov_len = BYTES};

	REQUIRE(obd_image_read(image, 0, SECTORS, &iov, 1, 0, NULL) == 0);
	REQUIRE(memcmp(got, bytes, BYTES) == 0);
}

static size_t size_of(const char *path)
{
	struct stat st;

	REQUIRE(stat(path, &st) == 0);
	return (size_t)st.st_size;
}

static void only_a_flush_lets_records_into_the_index(void)
{
	static uint8_t flushed[BYTES];
	struct obd_image *image = fresh();

	put_many(image, 20, 1);
	REQUIRE(size_of(index_path) == HEADER);
	REQUIRE(size_of(pending_path) == HEADER + 20 * RECORD);
	REQUIRE(obd_image_flush(image, NULL) == 0);
	REQUIRE(size_of(index_path) == HEADER + 20 * RECORD);
	memcpy(flushed, model, BYTES);
	put_many(image, 20, 2);
	REQUIRE(size_of(index_path) == HEADER + 20 * RECORD);
	obd_image_destroy(image);
	image = write_image(); /* the page cache survived */
	expect(image, model);
	obd_image_destroy(image);
	REQUIRE(unlink(pending_path) == 0); /* it did not */
	image = write_image();
	expect(image, flushed);
	obd_image_destroy(image);
}

/* The writer died anywhere in a flush, or half of a record was appended. */
static void flush_interrupted_at_any_byte(void)
{
	struct obd_image *image = fresh();
	struct image_bytes index;
	struct image_bytes pending;

	put_many(image, 10, 3);
	REQUIRE(obd_image_flush(image, NULL) == 0);
	put_many(image, 10, 4);
	obd_image_destroy(image);
	index = image_file_read(index_path);
	pending = image_file_read(pending_path);
	index.at = realloc(index.at, pending.length);
	REQUIRE(index.at);
	memcpy(index.at + index.length, pending.at + index.length, pending.length - index.length);
	for (size_t length = index.length; length <= pending.length; length++) {
		struct obd_image *follower;

		image_file_write(index_path, index.at, length);
		image_file_write(pending_path, pending.at, pending.length);
		follower = follow_image();
		expect(follower, model);
		image = write_image();
		expect(image, model);
		REQUIRE(obd_image_flush(image, NULL) == 0);
		REQUIRE(size_of(index_path) == pending.length);
		obd_image_destroy(image);
		REQUIRE(obd_image_follow(follower, NULL) == 0);
		expect(follower, model);
		obd_image_destroy(follower);
	}
	free(index.at);
	free(pending.at);
}

/* Somebody who knows nothing of what is pending appends a sector: that is what counts then. */
static void foreign_writes_void_what_is_pending(int foreign_cnt)
{
	static uint8_t flushed[BYTES];
	struct obd_image *image = fresh();
	struct obd_image *follower = follow_image();
	uint8_t record[RECORD];
	uint8_t sector[512];
	int index_fd;
	int data_fd;

	put_many(image, 5, 5);
	REQUIRE(obd_image_flush(image, NULL) == 0);
	memcpy(flushed, model, BYTES);
	put_many(image, 5, 6);
	obd_image_destroy(image);
	REQUIRE(obd_image_follow(follower, NULL) == 0);
	expect(follower, model);
	memcpy(model, flushed, BYTES);
	index_fd = open(index_path, O_WRONLY | O_APPEND | O_CLOEXEC);
	data_fd = open(data_path, O_WRONLY | O_APPEND | O_CLOEXEC);
	REQUIRE(index_fd >= 0 && data_fd >= 0);
	memset(sector, 0xee, sizeof(sector));
	for (int i = 0; i < foreign_cnt; i++) {
		obd_lsmt_encode_entry(
			obd_segment_make((uint64_t)i * 3, 1, size_of(data_path) / 512, false, 0),
			record);
		REQUIRE(write(data_fd, sector, sizeof(sector)) == (ssize_t)sizeof(sector));
		REQUIRE(write(index_fd, record, sizeof(record)) == (ssize_t)sizeof(record));
		memcpy(model + (size_t)i * 3 * 512, sector, sizeof(sector));
	}
	close(index_fd);
	close(data_fd);
	reserved = 0;
	REQUIRE(obd_image_start_writing(follower, &reserved, NULL) == 0);
	expect(follower, model);
	put(follower, 200, 1, 9);
	obd_image_destroy(follower);
	image = write_image();
	expect(image, model);
	REQUIRE(obd_image_flush(image, NULL) == 0);
	REQUIRE(size_of(index_path) == HEADER + (size_t)(5 + foreign_cnt + 1) * RECORD);
	obd_image_destroy(image);
}

/* Any byte of the header that names boot, pair or layout, and a file of another kind. */
static void records_of_another_boot_or_pair_are_void(void)
{
	static const size_t places[] = {0, 8, 16, 40, 56, 91};
	static uint8_t flushed[BYTES];
	struct image_bytes pending;
	struct image_bytes index;
	struct obd_image *image = fresh();

	put_many(image, 5, 7);
	REQUIRE(obd_image_flush(image, NULL) == 0);
	memcpy(flushed, model, BYTES);
	put_many(image, 5, 8);
	obd_image_destroy(image);
	pending = image_file_read(pending_path);
	index = image_file_read(index_path);
	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		image_file_write(index_path, index.at, index.length);
		pending.at[places[i]] ^= 1;
		image_file_write(pending_path, pending.at, pending.length);
		pending.at[places[i]] ^= 1;
		image = follow_image();
		expect(image, flushed);
		REQUIRE(obd_image_start_writing(image, &reserved, NULL) == 0);
		expect(image, flushed);
		memcpy(model, flushed, BYTES);
		put(image, 3, 1, 77);
		obd_image_destroy(image);
		image = write_image(); /* and is started over, for this boot */
		expect(image, model);
		obd_image_destroy(image);
	}
	free(pending.at);
	free(index.at);
}

/* A power cut within a flush of many records: a page of the index file is there, one before not. */
static void hole_up_to_a_sector_is_read_over_and_filled(void)
{
	static uint8_t without[BYTES];
	struct obd_image *image = fresh();
	struct obd_image_stat stat;
	struct image_bytes index;

	for (uint32_t i = 0; i < 100; i++)
		put(image, i, 1, (uint8_t)(1 + i));
	REQUIRE(obd_image_settle(image, NULL) == OBD_E_INVAL); /* it is the writer */
	obd_image_destroy(image);
	image = follow_image();
	REQUIRE(obd_image_settle(image, NULL) == 0);
	REQUIRE(access(pending_path, F_OK) < 0);
	obd_image_destroy(image);
	memcpy(without, model, BYTES);
	memset(without + (size_t)40 * 512, 0, (size_t)24 * 512);
	index = image_file_read(index_path);
	REQUIRE(index.length == HEADER + 100 * RECORD);
	memset(index.at + HEADER + (size_t)40 * RECORD, 0, (size_t)24 * RECORD);
	image_file_write(index_path, index.at, index.length);
	image = follow_image();
	expect(image, without);
	REQUIRE(obd_image_start_writing(image, &reserved, NULL) == 0);
	obd_image_stat(image, &stat);
	REQUIRE(stat.torn_bytes_cut == 24 * RECORD);
	expect(image, without);
	obd_image_destroy(image);
	free(index.at);
	index = image_file_read(index_path);
	for (size_t i = 40; i < 64; i++)
		REQUIRE(obd_lsmt_is_padding(obd_lsmt_decode_entry(index.at + HEADER + i * RECORD)));
	image = write_image();
	obd_image_stat(image, &stat);
	REQUIRE(stat.torn_bytes_cut == 0);
	expect(image, without);
	obd_image_destroy(image);
	free(index.at);
}

static void without_a_pending_file_each_write_is_synced(void)
{
	struct obd_image *image = fresh();

	obd_image_destroy(image);
	REQUIRE(unlink(pending_path) == 0 && mkdir(pending_path, 0700) == 0);
	image_upper_make(data_path, index_path, BYTES);
	reserved = 0;
	struct obd_image_spec spec = {.upper_data = data_path, .upper_index = index_path};
	struct obd_errinfo info;

	REQUIRE(obd_image_create(&spec, &info, &image) == OBD_E_FORMAT);
	REQUIRE(strcmp(info.path, pending_path) == 0);
	REQUIRE(rmdir(pending_path) == 0);
	REQUIRE(symlink("/nowhere/at/all", pending_path) == 0); /* can not be made */
	image = write_image();
	put_many(image, 10, 9);
	REQUIRE(size_of(index_path) == HEADER + 10 * RECORD);
	REQUIRE(obd_image_flush(image, NULL) == 0);
	obd_image_destroy(image);
	image = write_image();
	expect(image, model);
	obd_image_destroy(image);
}

int main(void)
{
	image_dir_make(dir);
	snprintf(data_path, sizeof(data_path), "%s/data", dir);
	snprintf(index_path, sizeof(index_path), "%s/index", dir);
	snprintf(pending_path, sizeof(pending_path), "%s.pending", index_path);
	only_a_flush_lets_records_into_the_index();
	flush_interrupted_at_any_byte();
	for (int cnt = 1; cnt <= 7; cnt++)
		foreign_writes_void_what_is_pending(cnt);
	records_of_another_boot_or_pair_are_void();
	hole_up_to_a_sector_is_read_over_and_filled();
	without_a_pending_file_each_write_is_synced();
	image_dir_remove(dir);
	return 0;
}
