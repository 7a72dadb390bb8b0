/*
 * Bytes as a layer's tar, applied to an ext4. Checksums of headers are set right first: otherwise
 * hardly a change would get past them. Whatever comes, the file system can be read afterwards.
 */
#include "fuzz_ext4.h"

#define MAX_BYTES (1u << 17)

static void mend_checksums(uint8_t *tar, size_t size)
{
	for (size_t at = 0; at + 512 <= size;) {
		uint8_t *header = tar + at;
		unsigned int sum = 8 * ' ';
		uint64_t length = 0;

		if (!header[0] && !header[257]) { /* no header: data of what was not understood */
			at += 512;
			continue;
		}
		for (size_t i = 0; i < 512; i++)
			sum += i >= 148 && i < 156 ? 0u : header[i];
		snprintf((char *)header + 148, 8, "%06o", sum & 0777777u);
		for (size_t i = 124; i < 136 && header[i] >= '0' && header[i] <= '7'; i++)
			length = length * 8 + (header[i] - '0');
		if (length > size)
			return;
		at += 512 + (length + 511) / 512 * 512;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t tar[MAX_BYTES];
	struct fuzz_pair pair;

	if (size > sizeof(tar))
		return 0;
	memcpy(tar, data, size);
	mend_checksums(tar, size);
	fuzz_ext4_make(&pair);
	(void)fuzz_apply(&pair.spec, tar, size);
	if (fuzz_read_tree(&pair.spec))
		abort();
	fuzz_close_pair(&pair);
	return 0;
}
