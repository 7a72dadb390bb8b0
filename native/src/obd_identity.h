/*
 * A hash that says whether bytes are the same: keyed, 61 bits, for names in a cache.
 *
 * Whoever does not know the key can not make two inputs that meet (chance below 2^-38 for any two
 * of up to 128 MiB); who knows it can. So the key is made at random per cache and never shown, and
 * a layer of one user can not be made to pass for that of another. 8 bytes a multiplication.
 */
#ifndef OBD_IDENTITY_H
#define OBD_IDENTITY_H

#include <stddef.h>
#include <stdint.h>

#define OBD_IDENTITY_WORDS 128u

struct obd_identity_key {
	uint64_t word[OBD_IDENTITY_WORDS];
	uint64_t point[2]; /* where the polynomial is taken */
};

struct obd_identity {
	const struct obd_identity_key *key; /* borrowed */
	uint64_t value;			    /* below 2^61 - 1 */
};

void obd_identity_init(struct obd_identity *identity, const struct obd_identity_key *key);

/* Adds bytes, their length included: ("ab", "c") is not ("a", "bc"). */
void obd_identity_add(struct obd_identity *identity, const void *data, size_t length);

#endif
