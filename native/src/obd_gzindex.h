/*
 * A gzip file with random access through its index ("gzip.meta", ddgzidx).
 *
 * Index, little-endian, packed:
 * | off | size | field                | note                                                 |
 * |-----|------|----------------------|------------------------------------------------------|
 * | 0   | 8    | magic                | "ddgzidx" 00                                         |
 * | 8   | 2    | major, minor         | 1, 0                                                 |
 * | 10  | 1    | window compression   | 0 none, 1 zlib                                       |
 * | 11  | 2    | level, flag          | 6, 0                                                 |
 * | 13  | 4    | span                 | 1048576                                              |
 * | 17  | 4    | window               | 32768                                                |
 * | 21  | 4    | entry size           | 29                                                   |
 * | 25  | 8    | entries              |                                                      |
 * | 33  | 8    | gzip file size       | exactly                                              |
 * | 41  | 8    | index file size      | exactly                                              |
 * | 49  | 8    | uncompressed size    |                                                      |
 * | 57  | 256  | reserved             |                                                      |
 * | 313 | 16   | table offset, length | stored as a zlib stream                              |
 * | 329 | 4    | crc                  | raw CRC-32C of the 329 bytes before, seed 0           |
 *
 * Entry, 29 bytes: uncompressed offset i64, offset in the gzip file i64, offset of the window in
 * the index i64, bits of the byte before that belong to it u8, stored length of the window u32.
 *
 * Behind the end of a member reading goes on at the point of the next: each has one where it
 * begins. A member's checksum is compared when it is read from its beginning to its end.
 *
 * Source: overlaybd-formats 4.1.
 */
#ifndef OBD_GZINDEX_H
#define OBD_GZINDEX_H

#include <stdbool.h>

#include "obd_file.h"

#define OBD_GZINDEX_HEADER_BYTES 333u
#define OBD_GZINDEX_POINT_BYTES	 29u
#define OBD_GZINDEX_WINDOW_BYTES 32768u
#define OBD_GZINDEX_MAGIC	 "ddgzidx" /* and its NUL */

struct obd_gzip;

/* Whether the file begins like gzip. */
int obd_gzip_detect(struct obd_file *file, struct obd_errinfo *info, bool *ret);

/*
 * Opens and checks the index of `packed`, which is borrowed until obd_gzip_destroy.
 * Memory: 32 bytes a point, never more than the stored table justifies.
 */
int obd_gzip_create(struct obd_file *packed, const char *index_path, struct obd_errinfo *info,
		    struct obd_gzip **ret);
void obd_gzip_destroy(struct obd_gzip *gzip); /* NULL is fine; nobody may be reading */

uint64_t obd_gzip_size_bytes(const struct obd_gzip *gzip); /* uncompressed */
uint64_t obd_gzip_memory_bytes(const struct obd_gzip *gzip);

/*
 * Reads uncompressed bytes [offset, offset + length) to the cursor and moves it. Reads that follow
 * one another go on inflating where the one before stopped; others inflate from the point before,
 * about half a span. Any number of threads. With OBD_READ_NOWAIT always OBD_E_AGAIN: it is work
 * for another thread than the one that must answer.
 */
int obd_gzip_read(struct obd_gzip *gzip, uint64_t offset_bytes, uint64_t length,
		  struct obd_cursor *cursor, uint32_t flags, struct obd_errinfo *info);

#endif
