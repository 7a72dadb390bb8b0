/*
 * Buffers of one thread, kept from one read to the next and freed when the thread ends.
 *
 * The plain buffer doubles as a cache of one decompressed block. It can not be wrong: a block of
 * a sealed file never changes, zfile ids are never reused in a process, and the key is cleared
 * before the buffer is written.
 */
#ifndef OBD_SCRATCH_H
#define OBD_SCRATCH_H

#include <stddef.h>
#include <stdint.h>

#include "obd_lsmt.h"

#define OBD_SCRATCH_PACKED_BYTES (256u << 10)
#define OBD_SCRATCH_PLAIN_BYTES	 (64u << 10)

struct obd_scratch {
	uint64_t plain_zfile_id; /* 0: nothing cached */
	uint64_t plain_block;
	void *zstd; /* ZSTD_DCtx, made at first use */
	struct obd_segment *segments;
	size_t segment_cap;
	uint8_t plain[OBD_SCRATCH_PLAIN_BYTES];
	uint8_t packed[OBD_SCRATCH_PACKED_BYTES];
};

/* The calling thread's; NULL when out of memory. */
struct obd_scratch *obd_scratch_get(void);

/* Makes room for at least `cnt` segments, or OBD_E_NOMEM. Contents are lost. */
int obd_scratch_grow_segments(struct obd_scratch *scratch, size_t cnt);

#endif
