/*
 * Pieces of 1 KiB are reduced to 128 bits by NH, sums of (m + k) * (m' + k') modulo 2^128; these,
 * in words of 32 bits, are the coefficients of a polynomial modulo 2^61 - 1.
 */
#include "obd_identity.h"

#include <string.h>

#include "obd_bytes.h"

#define PRIME	    ((1ull << 61) - 1)
#define PIECE_BYTES (OBD_IDENTITY_WORDS * 8u)

typedef unsigned __int128 u128;

static uint64_t reduce(u128 value)
{
	uint64_t sum = (uint64_t)(value & PRIME) + (uint64_t)(value >> 61 & PRIME) +
		       (uint64_t)(value >> 122);

	sum = (sum & PRIME) + (sum >> 61);
	return sum >= PRIME ? sum - PRIME : sum;
}

static void step(struct obd_identity *identity, uint64_t coefficient)
{
	uint64_t point = identity->key->point[0] & PRIME;

	identity->value = reduce((u128)identity->value * point + coefficient);
}

static void add_piece(struct obd_identity *identity, const uint8_t *piece)
{
	const uint64_t *key = identity->key->word;
	u128 even = 0;
	u128 odd = 0;

	for (uint32_t i = 0; i < OBD_IDENTITY_WORDS; i += 4, piece += 32) {
		even += (u128)(obd_le64(piece) + key[i]) * (obd_le64(piece + 8) + key[i + 1]);
		odd += (u128)(obd_le64(piece + 16) + key[i + 2]) *
		       (obd_le64(piece + 24) + key[i + 3]);
	}
	even += odd;
	for (uint32_t i = 0; i < 4; i++)
		step(identity, (uint32_t)(even >> (32 * i)));
}

void obd_identity_init(struct obd_identity *identity, const struct obd_identity_key *key)
{
	identity->key = key;
	identity->value = key->point[1] & (PRIME >> 1);
}

void obd_identity_add(struct obd_identity *identity, const void *data, size_t length)
{
	const uint8_t *at = data;
	uint8_t last[PIECE_BYTES] = {0};

	step(identity, (uint32_t)length);
	step(identity, (uint64_t)length >> 32);
	for (; length >= PIECE_BYTES; length -= PIECE_BYTES, at += PIECE_BYTES)
		add_piece(identity, at);
	if (!length)
		return;
	memcpy(last, at, length);
	add_piece(identity, last);
}
