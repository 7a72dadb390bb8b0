/* Raw CRC-32C: known answers, the instruction against the table, chaining. */
#include <string.h>

#include "obd_crc.h"
#include "support_image_files.h"

/* The definition, one bit at a time. */
static uint32_t slow(uint32_t seed, const uint8_t *at, size_t length)
{
	for (; length; length--, at++) {
		seed ^= *at;
		for (int bit = 0; bit < 8; bit++)
			seed = (seed >> 1) ^ (seed & 1 ? 0x82F63B78u : 0);
	}
	return seed;
}

int main(void)
{
	uint8_t data[4099];
	uint64_t state = 1;

	/* standard CRC-32C of "123456789" is e3069283; without the inversions around it: */
	REQUIRE(~obd_crc32c_raw(~0u, "123456789", 9) == 0xe3069283u);
	REQUIRE(obd_crc32c_raw(77, "", 0) == 77);
	image_fill(data, sizeof(data), &state);
	for (size_t length = 0; length < 300; length++) {
		size_t from = (size_t)image_random(&state) % 16;
		uint32_t seed = (uint32_t)image_random(&state);
		uint32_t expected = slow(seed, data + from, length);

		REQUIRE(obd_crc32c_raw(seed, data + from, length) == expected);
		REQUIRE(obd_crc32c_raw_table(seed, data + from, length) == expected);
	}
	for (int i = 0; i < 100; i++) {
		size_t cut = (size_t)image_random(&state) % sizeof(data);
		uint32_t first = obd_crc32c_raw(100007, data, cut);

		REQUIRE(obd_crc32c_raw(first, data + cut, sizeof(data) - cut) ==
			obd_crc32c_raw(100007, data, sizeof(data)));
	}
	return 0;
}
