/* A small ext4 in an upper, copied for each input: for targets that apply tars and read trees. */
#ifndef FUZZ_EXT4_H
#define FUZZ_EXT4_H

#include <fcntl.h>
#include <sys/stat.h>

#include "fuzz_image.h"
#include "obd_apply.h"
#include "obd_tree.h"

#define FUZZ_DISK_BYTES (4u << 20)

/* The pair as it is after mkfs; filled by the first fuzz_ext4_make. */
static uint8_t *fuzz_pair[2];
static size_t fuzz_pair_bytes[2];

static inline void fuzz_header(uint32_t flags, uint64_t index_offset, uint8_t out[4096])
{
	static const uint8_t magic[24] = {0x4c, 0x53, 0x4d, 0x54, 0x00, 0x01, 0x02, 0x00,
					  0x65, 0x7e, 0x63, 0xd2, 0x94, 0x44, 0x08, 0x4c,
					  0xa2, 0xd2, 0xc8, 0xec, 0x4f, 0xcf, 0xae, 0x8a};
	const uint64_t disk_bytes = FUZZ_DISK_BYTES;
	const uint32_t size = 390;

	memset(out, 0, 4096);
	memcpy(out, magic, sizeof(magic));
	memcpy(out + 24, &size, 4);
	memcpy(out + 28, &flags, 4);
	memcpy(out + 32, &index_offset, 8);
	memcpy(out + 48, &disk_bytes, 8);
	memcpy(out + 56, "00000000-0000-4000-8000-000000000001", 36);
	out[132] = out[133] = 1;
}

struct fuzz_pair {
	int fd[2];
	char path[2][64];
	struct obd_image_spec spec;
};

static inline void fuzz_open_pair(struct fuzz_pair *pair, uint8_t *const content[2],
				  const size_t bytes[2])
{
	for (int i = 0; i < 2; i++)
		pair->fd[i] = fuzz_file(content[i], bytes[i], pair->path[i]);
	pair->spec =
		(struct obd_image_spec){.upper_data = pair->path[0], .upper_index = pair->path[1]};
}

static inline void fuzz_close_pair(struct fuzz_pair *pair)
{
	close(pair->fd[0]);
	close(pair->fd[1]);
}

/* A fresh copy of the pair; what is put on top of the file system is up to the caller. */
static inline void fuzz_ext4_make(struct fuzz_pair *pair)
{
	if (!fuzz_pair[0]) {
		uint8_t headers[2][4096];
		uint8_t *empty[2] = {headers[0], headers[1]};
		const size_t bytes[2] = {4096, 4096};
		struct obd_errinfo info;

		fuzz_header(3, 0, headers[0]);
		fuzz_header(1, 4096, headers[1]);
		fuzz_open_pair(pair, empty, bytes);
		if (obd_apply_mkfs(&pair->spec, &info))
			abort();
		for (int i = 0; i < 2; i++) {
			struct stat status;

			if (fstat(pair->fd[i], &status))
				abort();
			fuzz_pair_bytes[i] = (size_t)status.st_size;
			fuzz_pair[i] = malloc(fuzz_pair_bytes[i]);
			if (pread(pair->fd[i], fuzz_pair[i], fuzz_pair_bytes[i], 0) !=
			    (ssize_t)fuzz_pair_bytes[i])
				abort();
		}
		fuzz_close_pair(pair);
	}
	fuzz_open_pair(pair, fuzz_pair, fuzz_pair_bytes);
}

/* Applies bytes as a tar; the code. */
static inline int fuzz_apply(const struct obd_image_spec *spec, const uint8_t *tar, size_t size)
{
	static struct obd_apply_result result;
	struct obd_errinfo info = {0};
	char path[64];
	int fd = fuzz_file(tar, size, path);
	const struct obd_apply_options options = {.tar_path = path, .tar_fd = fd};
	int rc;

	if (lseek(fd, 0, SEEK_SET))
		abort();
	rc = obd_apply(spec, &options, NULL, &info, &result);
	close(fd);
	if (rc && (info.code != rc || !info.what[0]))
		abort(); /* every failure says what it is */
	return rc;
}

/* Lists every directory and reads the beginning of every file. */
static inline void fuzz_walk(struct obd_tree *tree, uint32_t ino, unsigned int depth)
{
	static uint8_t buffer[1 << 16];
	struct obd_tree_bytes names = {0};
	struct obd_tree_bytes more = {0};
	struct obd_tree_stat stat;
	struct obd_errinfo info;
	size_t got;

	if (obd_tree_stat(tree, ino, &info, &stat))
		return;
	(void)obd_tree_xattrs(tree, ino, &info, &more);
	obd_tree_free(&more);
	if (S_ISLNK(stat.mode) && !obd_tree_link(tree, ino, &info, &more))
		obd_tree_free(&more);
	if (S_ISREG(stat.mode))
		(void)obd_tree_read(tree, ino, 100, buffer, sizeof(buffer), &info, &got);
	if (!S_ISDIR(stat.mode) || depth > 8)
		return;
	if (!obd_tree_list(tree, ino, &info, &names))
		for (size_t at = 0, cnt = 0; at + 5 <= names.length && cnt < 64; cnt++) {
			uint32_t child;

			memcpy(&child, names.bytes + at, 4);
			at += 5u + names.bytes[at + 4];
			fuzz_walk(tree, child, depth + 1);
		}
	obd_tree_free(&names);
}

static inline int fuzz_read_tree(const struct obd_image_spec *spec)
{
	struct obd_errinfo info;
	struct obd_tree *tree;
	uint32_t ino;
	int rc = obd_tree_create(spec, &info, &tree);

	if (rc)
		return rc;
	fuzz_walk(tree, OBD_TREE_ROOT, 0);
	(void)obd_tree_find(tree, "/d/../f/x", 1, &info, &ino);
	obd_tree_destroy(tree);
	return 0;
}

#endif
