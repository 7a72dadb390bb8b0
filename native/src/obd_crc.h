/*
 * Raw CRC-32C: reflected polynomial 0x82F63B78, the register starts at `seed`, nothing is inverted.
 * Chaining: crc(crc(seed, a), b) == crc(seed, a || b).
 *
 * Source: overlaybd-formats 2.3.
 */
#ifndef OBD_CRC_H
#define OBD_CRC_H

#include <stddef.h>
#include <stdint.h>

/* Uses the SSE4.2 instruction where the CPU has it, a table elsewhere: the same result. */
uint32_t obd_crc32c_raw(uint32_t seed, const void *data, size_t length);

/* The table alone, so that a test can compare the two. */
uint32_t obd_crc32c_raw_table(uint32_t seed, const void *data, size_t length);

#endif
