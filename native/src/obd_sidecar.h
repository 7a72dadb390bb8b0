/*
 * The merged index of a stack of lowers, kept in a cache directory and read back at the next open.
 *
 *	[header 64][segments, 16 bytes each, as in an LSMT index, tag = layer]
 *
 * | off | size | field       | value                                                          |
 * |-----|------|-------------|----------------------------------------------------------------|
 * | 0   | 8    | magic       | "OBDSIDE" 00                                                   |
 * | 8   | 4    | version     | 1                                                              |
 * | 12  | 4    | layers      |                                                                |
 * | 16  | 8    | identity    | of the layers, obd_sidecar_identity()                          |
 * | 24  | 8    | segments    |                                                                |
 * | 32  | 8    | data hash   | of the segments, keyed as the identity                         |
 * | 40  | 20   | reserved    | 0                                                              |
 * | 60  | 4    | header crc  | raw CRC-32C of the 60 bytes before, seed 0                     |
 *
 * Never trusted: the name says of which layers it is, by a keyed hash of what their indexes are
 * made of; hash and checksum must match; every segment must be in order and inside of its layer.
 *Anything else is as if there were none, and the next save replaces it.
 */
#ifndef OBD_SIDECAR_H
#define OBD_SIDECAR_H

#include "obd_identity.h"
#include "obd_index.h"
#include "obd_layer.h"

#define OBD_SIDECAR_MIN_SEGMENTS 4096u /* below it an index is merged before a file is opened */

/* Where the sidecar of a stack is. */
struct obd_sidecar {
	char path[512];
	uint64_t identity;
	struct obd_identity_key key;
};

/*
 * Reads what the layers' indexes are stored in (of ZFile layers compressed) and finds the name.
 * OBD_E_IO: the directory can not be used; OBD_E_RANGE: the stack is too small to be worth it.
 */
int obd_sidecar_find(const char *dir, struct obd_layer *layers, uint32_t layer_cnt,
		     struct obd_errinfo *info, struct obd_sidecar *ret);

/* Loads and builds the index; any failure leaves *index empty and is no reason not to merge. */
int obd_sidecar_load(const struct obd_sidecar *sidecar, const struct obd_layer *layers,
		     uint32_t layer_cnt, struct obd_errinfo *info, struct obd_index *index);

/* Writes the file anew and puts it in place in one step; concurrent writers write the same. */
int obd_sidecar_save(const struct obd_sidecar *sidecar, uint32_t layer_cnt,
		     const struct obd_index *index, struct obd_errinfo *info);

#endif
