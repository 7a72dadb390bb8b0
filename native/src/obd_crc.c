#include "obd_crc.h"

#include <stdbool.h>
#include <string.h>

#include "obd_bytes.h"

#define POLYNOMIAL 0x82F63B78u

static uint32_t slices[8][256];
static bool has_instruction;

/* Before main (or at dlopen): nobody can call in earlier, so readers need no ordering. */
__attribute__((constructor)) static void build_tables(void)
{
	for (uint32_t byte = 0; byte < 256; byte++) {
		uint32_t crc = byte;

		for (int bit = 0; bit < 8; bit++)
			crc = (crc >> 1) ^ ((crc & 1) ? POLYNOMIAL : 0);
		slices[0][byte] = crc;
	}
	for (uint32_t byte = 0; byte < 256; byte++)
		for (int i = 1; i < 8; i++)
			slices[i][byte] =
				(slices[i - 1][byte] >> 8) ^ slices[0][slices[i - 1][byte] & 0xff];
#if defined(__x86_64__)
	has_instruction = __builtin_cpu_supports("sse4.2");
#endif
}

uint32_t obd_crc32c_raw_table(uint32_t seed, const void *data, size_t length)
{
	const uint8_t *at = data;
	uint32_t crc = seed;

	for (; length >= 8; length -= 8, at += 8) {
		uint32_t low = obd_le32(at) ^ crc;
		uint32_t high = obd_le32(at + 4);

		crc = slices[7][low & 0xff] ^ slices[6][(low >> 8) & 0xff] ^
		      slices[5][(low >> 16) & 0xff] ^ slices[4][low >> 24] ^
		      slices[3][high & 0xff] ^ slices[2][(high >> 8) & 0xff] ^
		      slices[1][(high >> 16) & 0xff] ^ slices[0][high >> 24];
	}
	for (; length; length--, at++)
		crc = (crc >> 8) ^ slices[0][(crc ^ *at) & 0xff];
	return crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t crc_instruction(uint32_t seed, const uint8_t *at,
								  size_t length)
{
	uint64_t crc = seed;

	for (; length >= 8; length -= 8, at += 8)
		crc = __builtin_ia32_crc32di(crc, obd_le64(at));
	for (; length; length--, at++)
		crc = __builtin_ia32_crc32qi((uint32_t)crc, *at);
	return (uint32_t)crc;
}
#endif

uint32_t obd_crc32c_raw(uint32_t seed, const void *data, size_t length)
{
#if defined(__x86_64__)
	if (has_instruction)
		return crc_instruction(seed, data, length);
#endif
	return obd_crc32c_raw_table(seed, data, length);
}
