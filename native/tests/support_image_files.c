#include "support_image_files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <lz4.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

#include "obd_crc.h"

static const uint8_t lsmt_magic[24] = {
	'L',  'S',  'M',  'T',	0x00, 0x01, 0x02, 0x00, 0x65, 0x7e, 0x63, 0xd2,
	0x94, 0x44, 0x08, 0x4c, 0xa2, 0xd2, 0xc8, 0xec, 0x4f, 0xcf, 0xae, 0x8a,
};

static void put(uint8_t *at, uint64_t value, unsigned int bytes)
{
	for (unsigned int i = 0; i < bytes; i++)
		at[i] = (uint8_t)(value >> (8 * i));
}

static uint8_t *zeroed(size_t length)
{
	uint8_t *at = calloc(1, length ? length : 1);

	REQUIRE(at);
	return at;
}

char *image_dir_make(char path[64])
{
	/* memory: thousands of damaged files are written */
	strcpy(path,
	       access("/dev/shm", W_OK) == 0 ? "/dev/shm/obd-test-XXXXXX" : "/tmp/obd-test-XXXXXX");
	REQUIRE(mkdtemp(path));
	return path;
}

void image_dir_remove(const char *path)
{
	DIR *dir = opendir(path);
	struct dirent *entry;

	REQUIRE(dir);
	while ((entry = readdir(dir)))
		if (entry->d_name[0] != '.')
			REQUIRE(unlinkat(dirfd(dir), entry->d_name, 0) == 0);
	closedir(dir);
	REQUIRE(rmdir(path) == 0);
}

void image_file_write(const char *path, const uint8_t *at, size_t length)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	REQUIRE(fd >= 0);
	while (length) {
		ssize_t done = write(fd, at, length);

		REQUIRE(done > 0);
		at += done;
		length -= (size_t)done;
	}
	close(fd);
}

struct image_bytes image_file_read(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct image_bytes bytes;
	struct stat st;

	REQUIRE(fd >= 0 && fstat(fd, &st) == 0);
	bytes.length = (size_t)st.st_size;
	bytes.at = zeroed(bytes.length);
	REQUIRE(read(fd, bytes.at, bytes.length) == st.st_size);
	close(fd);
	return bytes;
}

static void put_lsmt(uint8_t *area, uint32_t flags, uint64_t index_offset, uint64_t entries,
		     uint64_t virtual_bytes)
{
	memset(area, 0, OBD_LSMT_SPACE_BYTES);
	memcpy(area, lsmt_magic, sizeof(lsmt_magic));
	put(area + 24, 390, 4);
	put(area + 28, flags, 4);
	put(area + 32, index_offset, 8);
	put(area + 40, entries, 8);
	put(area + 48, virtual_bytes, 8);
	memcpy(area + 56, "00000000-0000-0000-0000-000000000000", 36);
	area[132] = 1;
	area[133] = 1;
}

struct image_bytes image_layer_make(const uint8_t *disk, uint64_t sectors,
				    const struct obd_segment *segments, size_t cnt)
{
	size_t entries = (cnt + 255) / 256 * 256;
	size_t data_sectors = 0;
	struct image_bytes layer;
	uint64_t at = OBD_LSMT_FIRST_SECTOR;
	uint8_t *index;

	for (size_t i = 0; i < cnt; i++)
		if (!obd_segment_zeroed(segments[i]))
			data_sectors += obd_segment_length(segments[i]);
	layer.length = 2 * OBD_LSMT_SPACE_BYTES + data_sectors * 512 + entries * 16;
	layer.at = zeroed(layer.length);
	index = layer.at + OBD_LSMT_SPACE_BYTES + data_sectors * 512;
	for (size_t i = 0; i < cnt; i++) {
		uint64_t offset = obd_segment_offset(segments[i]);
		uint64_t length = obd_segment_length(segments[i]);
		bool is_zeroed = obd_segment_zeroed(segments[i]);

		obd_lsmt_encode_entry(obd_segment_make(offset, length, at, is_zeroed, 0),
				      index + i * 16);
		if (is_zeroed)
			continue;
		memcpy(layer.at + at * 512, disk + offset * 512, length * 512);
		at += length;
	}
	for (size_t i = cnt; i < entries; i++)
		put(index + i * 16, OBD_SEGMENT_OFFSET_MASK, 8);
	put_lsmt(layer.at, 7, 0, 0, sectors * 512);
	put_lsmt(layer.at + layer.length - OBD_LSMT_SPACE_BYTES, 6, (uint64_t)(index - layer.at),
		 entries, sectors * 512);
	return layer;
}

static size_t pack(uint8_t algo, const uint8_t *from, size_t length, uint8_t *to, size_t room)
{
	size_t got;

	if (algo == 1) {
		int packed = LZ4_compress_default((const char *)from, (char *)to, (int)length,
						  (int)room);

		REQUIRE(packed > 0);
		return (size_t)packed;
	}
	got = ZSTD_compress(to, room, from, length, 3);
	REQUIRE(!ZSTD_isError(got));
	return got;
}

static void put_zfile(uint8_t *area, uint64_t flags, const struct image_zfile_options *options,
		      uint64_t index_offset, uint64_t entries, uint64_t original,
		      uint32_t index_crc)
{
	memset(area, 0, 512);
	memcpy(area, "ZFile\0\1\0tuji.yyf@Alibaba", 24);
	put(area + 24, 96, 4);
	put(area + 32, flags | options->garbage_flags | (options->has_digest ? 16 : 0), 8);
	put(area + 40, index_offset, 8);
	put(area + 48, entries, 8);
	put(area + 56, original, 8);
	put(area + 64, index_crc, 4);
	put(area + 72, options->block_size, 4);
	area[76] = options->algo;
	area[88] = options->verify;
	if (options->has_digest)
		put(area + 28, obd_crc32c_raw(0, area, 512), 4);
}

struct image_bytes image_zfile_make(const uint8_t *from, size_t length,
				    const struct image_zfile_options *options)
{
	size_t blocks = (length + options->block_size - 1) / options->block_size;
	size_t bound = ZSTD_compressBound(options->block_size) + options->block_size / 200 + 64;
	struct image_bytes zfile = {.at = zeroed(1024 + blocks * (bound + 8))};
	uint8_t *table = zeroed(blocks * 4);
	size_t at = 512;
	size_t index_at;
	uint32_t crc;

	for (size_t i = 0; i < blocks; i++) {
		size_t begin = i * options->block_size;
		size_t plain =
			length - begin < options->block_size ? length - begin : options->block_size;
		size_t stored = pack(options->algo, from + begin, plain, zfile.at + at, bound);

		if (options->verify) {
			put(zfile.at + at + stored, obd_crc32c_raw(100007, zfile.at + at, stored),
			    4);
			stored += 4;
		}
		put(table + i * 4, stored, 4);
		at += stored;
	}
	index_at = at;
	memcpy(zfile.at + at, table, blocks * 4);
	crc = obd_crc32c_raw(0, table, blocks * 4);
	free(table);
	at += blocks * 4;
	put_zfile(zfile.at + at, 6, options, index_at, blocks, length, crc);
	zfile.length = at + 512;
	if (options->is_overwritten)
		put_zfile(zfile.at, 8 | 7, options, index_at, blocks, length, crc);
	else
		put_zfile(zfile.at, 3, options, 0, 0, 0, 0);
	return zfile;
}

static void put_tar_header(uint8_t *block, const char *name, char type, size_t size)
{
	unsigned int sum = 0;

	snprintf((char *)block, 100, "%s", name);
	snprintf((char *)block + 100, 8, "%07o", 0100644u);
	snprintf((char *)block + 124, 12, "%011zo", size);
	memcpy(block + 257, "ustar", 6);
	memcpy(block + 263, "00", 2);
	block[156] = (uint8_t)type;
	memset(block + 148, ' ', 8);
	for (int i = 0; i < 512; i++)
		sum += block[i];
	snprintf((char *)block + 148, 8, "%06o", sum);
}

struct image_bytes image_tar_make(const uint8_t *from, size_t length, bool with_pax)
{
	size_t base = with_pax ? 1536 : 512;
	struct image_bytes tar = {.length = base + (length + 511) / 512 * 512 + 1024};

	tar.at = zeroed(tar.length);
	if (with_pax) {
		char number[32];
		char record[64];
		int digits = snprintf(number, sizeof(number), "%zu", length);
		int total = digits + 7 + 2; /* "NN size=" + digits + newline */

		REQUIRE(total >= 10 && total <= 99);
		snprintf(record, sizeof(record), "%d size=%s\n", total + 0, number);
		REQUIRE((int)strlen(record) == total);
		put_tar_header(tar.at, "overlaybd.pax", 'x', strlen(record));
		memcpy(tar.at + 512, record, strlen(record));
		put_tar_header(tar.at + 1024, "overlaybd.commit", '0', 0);
	} else {
		put_tar_header(tar.at, "overlaybd.commit", '0', length);
	}
	memcpy(tar.at + base, from, length);
	return tar;
}

void image_upper_make(const char *data_path, const char *index_path, uint64_t virtual_bytes)
{
	uint8_t area[OBD_LSMT_SPACE_BYTES];

	put_lsmt(area, 3, 0, 0, virtual_bytes);
	image_file_write(data_path, area, sizeof(area));
	put_lsmt(area, 1, OBD_LSMT_SPACE_BYTES, 0, virtual_bytes);
	image_file_write(index_path, area, sizeof(area));
}

void image_sparse_make(const char *data_path, const char *index_path, uint64_t virtual_bytes)
{
	uint8_t area[OBD_LSMT_SPACE_BYTES];
	char zeroes_path[256];

	put_lsmt(area, 3 | OBD_LSMT_FLAG_SPARSE, 0, 0, virtual_bytes);
	image_file_write(data_path, area, sizeof(area));
	REQUIRE(truncate(data_path, (off_t)(sizeof(area) + virtual_bytes)) == 0);
	image_file_write(index_path, area, 0);
	snprintf(zeroes_path, sizeof(zeroes_path), "%s.zeroes", data_path);
	REQUIRE(unlink(zeroes_path) == 0 || errno == ENOENT);
}

uint64_t image_random(uint64_t *state)
{
	uint64_t z = (*state += 0x9e3779b97f4a7c15ull);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

void image_fill(uint8_t *at, size_t length, uint64_t *state)
{
	while (length) {
		uint64_t r = image_random(state);
		size_t run = 1 + (size_t)(r >> 8) % 64;

		run = run < length ? run : length;
		memset(at, (int)(r & 0xff), run);
		at += run;
		length -= run;
	}
}
