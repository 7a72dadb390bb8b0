/*
 * The tree of files in an image's ext4, read without mounting it.
 *
 * Symlinks are resolved inside the image. A damaged file system gives OBD_E_FORMAT, never a crash
 * or a read that does not end.
 */
#ifndef OBD_TREE_H
#define OBD_TREE_H

#include <stddef.h>
#include <stdint.h>

#include "obd_image.h"

#define OBD_TREE_ROOT 2u

struct obd_tree;

struct obd_tree_stat {
	uint32_t mode;
	uint32_t uid;
	uint32_t gid;
	uint32_t link_cnt;
	uint64_t size_bytes;
	int64_t mtime_s;
	uint32_t mtime_ns;
	uint32_t device_major;
	uint32_t device_minor;
	uint32_t reserved;
};

/* Variable data that a call returns: the caller's, given back by obd_tree_free. */
struct obd_tree_bytes {
	uint8_t *bytes;
	size_t length;
	size_t room;
};

int obd_tree_create(const struct obd_image_spec *spec, struct obd_errinfo *info,
		    struct obd_tree **ret);
void obd_tree_destroy(struct obd_tree *tree); /* NULL is fine */

/* The inode of a path. OBD_E_INVAL with `what` when there is none. */
int obd_tree_find(struct obd_tree *tree, const char *path, uint32_t follows_last,
		  struct obd_errinfo *info, uint32_t *ret);
int obd_tree_stat(struct obd_tree *tree, uint32_t ino, struct obd_errinfo *info,
		  struct obd_tree_stat *ret);
/*
 * Names of a directory, without "." and "..", in the order of the disk: each a u32 inode, a u8
 * length and the name.
 */
int obd_tree_list(struct obd_tree *tree, uint32_t ino, struct obd_errinfo *info,
		  struct obd_tree_bytes *ret);
int obd_tree_link(struct obd_tree *tree, uint32_t ino, struct obd_errinfo *info,
		  struct obd_tree_bytes *ret);
/* Extended attributes: each a u32 length and the name, a u32 length and the value. */
int obd_tree_xattrs(struct obd_tree *tree, uint32_t ino, struct obd_errinfo *info,
		    struct obd_tree_bytes *ret);
void obd_tree_free(struct obd_tree_bytes *bytes);

/* Data of a regular file; *ret_length is short only at its end. */
int obd_tree_read(struct obd_tree *tree, uint32_t ino, uint64_t offset, void *to, size_t length,
		  struct obd_errinfo *info, size_t *ret_length);

#endif
