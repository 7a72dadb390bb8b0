/*
 * ZFile: a file compressed block by block, with a jump table.
 *
 *	[header 512][dict][blocks...][u32 index[n]][trailer 512 at the end]
 *
 * Header and trailer, 96 bytes in 512, little-endian:
 * | off | size | field              | note                                                     |
 * |-----|------|--------------------|----------------------------------------------------------|
 * | 0   | 8    | magic0             | "ZFile" 00 01 00                                         |
 * | 8   | 16   | magic1             | "tuji.yyf@Alibaba"                                       |
 * | 28  | 4    | digest             | raw CRC-32C of the 512 bytes with this field 0, if bit 4  |
 * | 32  | 8    | flags              | 0 header, 1 data, 2 sealed, 3 header holds the trailer's  |
 * |     |      |                    | values, 4 digest; other bits may hold garbage (2021)      |
 * | 40  | 8    | index_offset       | bytes                                                    |
 * | 48  | 8    | index_size         | entries                                                  |
 * | 56  | 8    | original_file_size | bytes                                                    |
 * | 64  | 4    | index_crc          | raw CRC-32C of the table, checked if bit 4                |
 * | 72  | 4    | block_size         | power of two                                             |
 * | 76  | 1    | algo               | 1 lz4, 2 zstd                                            |
 * | 78  | 1    | use_dict           | 0                                                        |
 * | 84  | 4    | dict_size          | 0                                                        |
 * | 88  | 1    | verify             | 1: each block is followed by its CRC, seed 100007         |
 *
 * index[i] is the stored length of block i, CRC included; block 0 starts at 512 + dict_size.
 *
 * Source: overlaybd-formats 2.
 */
#ifndef OBD_ZFILE_H
#define OBD_ZFILE_H

#include <stdbool.h>

#include "obd_file.h"

struct obd_zfile;

/* Whether the file begins like a ZFile. */
int obd_zfile_detect(struct obd_file *file, struct obd_errinfo *info, bool *ret);

/*
 * Validates header, trailer and jump table. The file is borrowed until obd_zfile_destroy.
 * Memory: 4.125 bytes per block; never more than the file's own table justifies.
 */
int obd_zfile_create(struct obd_file *file, struct obd_errinfo *info, struct obd_zfile **ret);
void obd_zfile_destroy(struct obd_zfile *zfile);

uint64_t obd_zfile_size_bytes(const struct obd_zfile *zfile); /* decompressed */
uint32_t obd_zfile_block_bytes(const struct obd_zfile *zfile);
/* Where in the file the blocks of content [begin, end), which must be inside, are stored. */
void obd_zfile_stored_range(const struct obd_zfile *zfile, uint64_t begin, uint64_t end,
			    uint64_t *ret_begin, uint64_t *ret_end);
uint64_t obd_zfile_memory_bytes(const struct obd_zfile *zfile);

/*
 * Reads decompressed bytes [offset, offset + length) to the cursor and moves it.
 * OBD_E_CHECKSUM or OBD_E_FORMAT name the block's place in the file.
 */
int obd_zfile_read(struct obd_zfile *zfile, uint64_t offset_bytes, uint64_t length,
		   struct obd_cursor *cursor, uint32_t flags, struct obd_errinfo *info);

#endif
