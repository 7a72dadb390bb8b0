/*
 * Round trip of layers: any writes and discards on a writable layer, committed raw and compressed,
 * sealed in place, and merged with a layer below, read as the writable layer did.
 */
#include "fuzz_image.h"

#include <sys/stat.h>

#include "obd_commit.h"
#include "obd_seal.h"

#define SECTORS	 512u
#define BYTES	 (SECTORS * OBD_SECTOR_BYTES)
#define OP_BYTES 4u

static char dir[] = "/dev/shm/fuzz-layer-XXXXXX";
static char data_path[64];
static char index_path[64];
static char pending_path[80];

static void require(bool holds)
{
	if (!holds)
		abort();
}

static void remove_files(void)
{
	unlink(data_path);
	unlink(index_path);
	unlink(pending_path);
	rmdir(dir);
}

static void put_area(const char *path, uint32_t flags, uint64_t index_offset)
{
	static const uint8_t magic[24] = {'L',	'S',  'M',  'T',  0,	1,    2,    0,
					  0x65, 0x7e, 0x63, 0xd2, 0x94, 0x44, 0x08, 0x4c,
					  0xa2, 0xd2, 0xc8, 0xec, 0x4f, 0xcf, 0xae, 0x8a};
	uint8_t area[4096] = {0};
	FILE *file = fopen(path, "wb");

	memcpy(area, magic, sizeof(magic));
	memcpy(area + 28, &flags, 4);
	memcpy(area + 32, &index_offset, 8);
	memcpy(area + 48, &(uint64_t){BYTES}, 8);
	memcpy(area + 56, "00000000-0000-0000-0000-000000000001", 36);
	require(file && fwrite(area, sizeof(area), 1, file) == 1 && !fclose(file));
}

/* Each operation: what, where, how long, of what. */
static void write_pair(const uint8_t *data, size_t size, uint8_t *model)
{
	struct obd_image_spec spec = {.upper_data = data_path, .upper_index = index_path};
	struct obd_image *image;
	uint64_t reserved = 0;

	put_area(data_path, 3, 0);
	put_area(index_path, 1, 4096);
	require(!obd_image_create(&spec, NULL, &image));
	require(!obd_image_start_writing(image, &reserved, NULL));
	for (; size >= OP_BYTES; data += OP_BYTES, size -= OP_BYTES) {
		uint32_t lba = (data[0] | (data[1] & 1u) << 8) % SECTORS;
		uint32_t cnt = 1u + data[2] % 64u;
		uint8_t *at = model + (size_t)lba * OBD_SECTOR_BYTES;

		cnt = cnt < SECTORS - lba ? cnt : SECTORS - lba;
		if (data[1] & 2) {
			memset(at, 0, (size_t)cnt * OBD_SECTOR_BYTES);
			require(!obd_image_discard(image, lba, cnt, NULL));
			continue;
		}
		memset(at, data[3], (size_t)cnt * OBD_SECTOR_BYTES);
		struct iovec iov = {.iov_base = at, .iov_len = (size_t)cnt * OBD_SECTOR_BYTES};

		require(!obd_image_write(image, lba, cnt, &iov, 1, 0, NULL));
	}
	obd_image_stop_writing(image);
	obd_image_destroy(image);
}

static void require_reads(const char *const *lowers, uint32_t cnt, const uint8_t *model)
{
	static uint8_t got[BYTES];
	struct obd_image_spec spec = {.lower_paths = lowers, .lower_cnt = cnt};
	struct iovec iov = {.iov_base = got, .iov_len = BYTES};
	struct obd_image *image;

	require(!obd_image_create(&spec, NULL, &image));
	require(obd_image_virtual_size_bytes(image) == BYTES);
	require(!obd_image_read(image, 0, SECTORS, &iov, 1, 0, NULL));
	require(memcmp(got, model, BYTES) == 0);
	obd_image_destroy(image);
}

static int commit(const struct obd_commit_spec *spec, char path[64])
{
	struct obd_committed done;
	struct obd_errinfo info;
	int fd = memfd_create("layer", MFD_CLOEXEC);

	require(fd >= 0 && !obd_commit(spec, fd, "layer", 0, NULL, &info, &done));
	snprintf(path, 64, "/proc/self/fd/%d", fd);
	return fd;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t model[BYTES];
	struct obd_commit_spec spec = {.upper_data = data_path, .upper_index = index_path};
	struct obd_sealed_in_place sealed;
	const char *lowers[2];
	char raw[64];
	char packed[64];
	char merged[64];
	int fds[3];

	if (!data_path[0]) {
		require(mkdtemp(dir) != NULL);
		snprintf(data_path, sizeof(data_path), "%s/d", dir);
		snprintf(index_path, sizeof(index_path), "%s/i", dir);
		snprintf(pending_path, sizeof(pending_path), "%s.pending", index_path);
		atexit(remove_files);
	}
	if (size < 1)
		return 0;
	memset(model, 0, sizeof(model));
	write_pair(data + 1, size - 1, model);
	spec.zfile.thread_cnt = 1u + (data[0] & 1u);
	fds[0] = commit(&spec, raw);
	spec.zfile.algorithm = data[0] & 2 ? OBD_ALGORITHM_LZ4 : OBD_ALGORITHM_ZSTD;
	spec.zfile.block_bytes = 4096u << (data[0] >> 4) % 5;
	spec.zfile.has_crc = data[0] >> 2 & 1;
	spec.zfile.overwrites_header = data[0] >> 3 & 1;
	fds[1] = commit(&spec, packed);
	lowers[0] = raw;
	require_reads(lowers, 1, model);
	lowers[0] = packed;
	require_reads(lowers, 1, model);

	/* on top of itself, and merged with itself: nothing changes */
	lowers[1] = raw;
	require_reads(lowers, 2, model);
	spec = (struct obd_commit_spec){
		.lower_paths = lowers, .lower_cnt = 2, .keeps_tags = 1, .zfile = spec.zfile};
	fds[2] = commit(&spec, merged);
	lowers[0] = merged;
	require_reads(lowers, 1, model);

	require(!obd_seal(data_path, index_path, NULL, &sealed));
	lowers[0] = data_path;
	require_reads(lowers, 1, model);
	for (int i = 0; i < 3; i++)
		close(fds[i]);
	unlink(pending_path);
	return 0;
}
