/*
 * Seals a writable layer where it stands: the index and a trailer are appended to the data file.
 *
 * Order, and what a crash between two steps leaves:
 *	1. what is pending into the index file, synced		still the writable layer, complete
 *	2. the sorted index behind the data, synced		the same: nothing names what follows
 *	3. the trailer behind that, synced			the commit point: a sealed layer
 * Sealing again after a crash appends again; what the first attempt left stays as garbage inside.
 *
 * The header stays as it is, so the pair would still open as a writable layer; whoever seals it
 * must not write to it any more: an append would bury the trailer.
 *
 * Source: overlaybd-formats 1.8.
 */
#ifndef OBD_SEAL_H
#define OBD_SEAL_H

#include <stdint.h>

#include "obd_err.h"

struct obd_sealed_in_place {
	uint64_t file_bytes;
	uint64_t virtual_size_bytes;
	uint64_t segment_cnt;
	uint64_t garbage_bytes; /* overwritten data that stays in the file */
};

/*
 * OBD_E_LOCKED while somebody writes to the pair; OBD_E_INVAL: it is sealed already. A sparse layer
 * stays a sparse file; what was discarded in it is in the index, DATA.zeroes has no use any more.
 */
int obd_seal(const char *data_path, const char *index_path, struct obd_errinfo *info,
	     struct obd_sealed_in_place *ret);

#endif
