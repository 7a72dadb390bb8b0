/*
 * Changes to the bytes of an ext4 with some files in it, then it is read, a tar is applied, and it
 * is read again. Input: 4 bytes each, an offset of 24 bits in the upper's data file and a value.
 */
#include "fuzz_ext4.h"

#define BLOCK 512u

static uint8_t tar[BLOCK * 24];
static size_t tar_bytes;

static void add_entry(const char *name, char type, const char *link, unsigned int length)
{
	uint8_t *header = tar + tar_bytes;
	unsigned int sum = 8 * ' ';

	snprintf((char *)header, 100, "%s", name);
	memcpy(header + 100, "0000755\0000000000\0000000000", 23);
	snprintf((char *)header + 124, 12, "%011o", length);
	memcpy(header + 136, "00000000000", 11);
	header[156] = (uint8_t)type;
	snprintf((char *)header + 157, 100, "%s", link);
	memcpy(header + 257, "ustar\00000", 8);
	for (size_t i = 0; i < BLOCK; i++)
		sum += header[i];
	snprintf((char *)header + 148, 8, "%06o", sum);
	tar_bytes += BLOCK + (length + BLOCK - 1) / BLOCK * BLOCK;
}

static void make_tar(bool is_second)
{
	memset(tar, 0, sizeof(tar));
	tar_bytes = 0;
	add_entry("d/", '5', "", 0);
	add_entry(is_second ? ".wh.e" : "e/f/g", '0', "", is_second ? 0 : 1500);
	add_entry(is_second ? "f" : "d/old", '0', "", 1000);
	add_entry(is_second ? "d/.wh..wh..opq" : "link", is_second ? '0' : '2', "d", 0);
	add_entry(is_second ? "link/new" : "hard", is_second ? '0' : '1', is_second ? "" : "d/old",
		  0);
	tar_bytes += 2 * BLOCK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t *filled[2];
	static size_t bytes[2];
	struct fuzz_pair pair;
	struct stat status;

	if (!filled[0]) {
		make_tar(false);
		fuzz_ext4_make(&pair);
		if (fuzz_apply(&pair.spec, tar, tar_bytes))
			abort();
		for (int i = 0; i < 2; i++) {
			if (fstat(pair.fd[i], &status))
				abort();
			bytes[i] = (size_t)status.st_size;
			filled[i] = malloc(bytes[i]);
			if (pread(pair.fd[i], filled[i], bytes[i], 0) != (ssize_t)bytes[i])
				abort();
		}
		fuzz_close_pair(&pair);
		make_tar(true);
	}
	fuzz_open_pair(&pair, filled, bytes);
	for (size_t at = 0; at + 4 <= size; at += 4) {
		uint64_t offset = (uint64_t)(data[at] | data[at + 1] << 8 | data[at + 2] << 16);

		if (pwrite(pair.fd[0], data + at + 3, 1,
			   (off_t)(4096 + offset % (bytes[0] - 4096))) != 1)
			abort();
	}
	(void)fuzz_read_tree(&pair.spec);
	(void)fuzz_apply(&pair.spec, tar, tar_bytes);
	(void)fuzz_read_tree(&pair.spec);
	fuzz_close_pair(&pair);
	return 0;
}
