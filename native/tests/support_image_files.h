/* Makes layers and writable pairs for tests, and checks of tests. Any failure ends the process. */
#ifndef SUPPORT_IMAGE_FILES_H
#define SUPPORT_IMAGE_FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "obd_lsmt.h"

#define REQUIRE(cond)                                                                              \
	do {                                                                                       \
		if (!(cond)) {                                                                     \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond);                 \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

struct image_bytes {
	uint8_t *at; /* malloc'ed */
	size_t length;
};

struct image_zfile_options {
	uint32_t block_size; /* 0: no ZFile */
	uint8_t algo;	     /* 1 lz4, 2 zstd */
	bool verify;
	bool is_overwritten; /* header holds the index fields; else the trailer does */
	bool has_digest;
	uint64_t garbage_flags; /* or-ed into flags */
};

/* A directory of its own for one test, and its removal with what is in it. */
char *image_dir_make(char path[64]);
void image_dir_remove(const char *path);

void image_file_write(const char *path, const uint8_t *at, size_t length);
struct image_bytes image_file_read(const char *path);

/* A sealed LSMT layer: the segments' data comes from `disk` (a segment's moffset is ignored). */
struct image_bytes image_layer_make(const uint8_t *disk, uint64_t sectors,
				    const struct obd_segment *segments, size_t cnt);
struct image_bytes image_zfile_make(const uint8_t *from, size_t length,
				    const struct image_zfile_options *options);
struct image_bytes image_tar_make(const uint8_t *from, size_t length, bool with_pax);

void image_upper_make(const char *data_path, const char *index_path, uint64_t virtual_bytes);
/* Likewise in sparse mode; takes a record of zeroes away. */
void image_sparse_make(const char *data_path, const char *index_path, uint64_t virtual_bytes);

/* A fixed sequence: splitmix64. */
uint64_t image_random(uint64_t *state);
/* Compressible bytes: runs and noise. */
void image_fill(uint8_t *at, size_t length, uint64_t *state);

#endif
