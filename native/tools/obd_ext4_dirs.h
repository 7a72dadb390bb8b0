/*
 * Directories held in memory while files come and go in them, and written once, at the end.
 *
 * A directory is read when it is first asked for; from then on every look-up is one in a hash
 * table. A changed one is written anew: in one block, or as a hash tree (as far as the file system
 * has dir_index) in blocks that follow each other. The link count of a directory is counted then.
 */
#ifndef OBD_EXT4_DIRS_H
#define OBD_EXT4_DIRS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "obd_ext4.h"

struct obd_ext4_dir;

struct obd_ext4_name {
	uint32_t ino;	/* 0: removed */
	uint32_t name;	/* offset in the directory's names */
	uint8_t length; /* 1 .. 255 */
	uint8_t type;	/* EXT2_FT_ */
	uint8_t is_new; /* put since the file system was opened: see obd_ext4_dir_touch */
	uint8_t reserved;
};

int obd_ext4_dirs_create(struct obd_ext4 *ext4, struct obd_errinfo *info,
			 struct obd_ext4_dirs **ret);
void obd_ext4_dirs_destroy(struct obd_ext4_dirs *dirs);

/* Borrowed until it is forgotten. */
int obd_ext4_dirs_get(struct obd_ext4_dirs *dirs, ext2_ino_t ino, struct obd_errinfo *info,
		      struct obd_ext4_dir **ret);
/* An empty one whose inode exists already. */
int obd_ext4_dirs_add(struct obd_ext4_dirs *dirs, ext2_ino_t ino, ext2_ino_t parent,
		      struct obd_errinfo *info);
/* Forgets one that was removed. */
void obd_ext4_dirs_forget(struct obd_ext4_dirs *dirs, ext2_ino_t ino);
/* Writes all that changed. */
int obd_ext4_dirs_write(struct obd_ext4_dirs *dirs, struct obd_errinfo *info);

/* Names of one directory, without "." and ".."; pointers until the next put. */
struct obd_ext4_name *obd_ext4_dir_find(struct obd_ext4_dir *dir, const char *name, size_t length);
/* length: 1 .. 255; the name must not be there. */
int obd_ext4_dir_put(struct obd_ext4_dir *dir, const char *name, size_t length, ext2_ino_t ino,
		     uint8_t type, struct obd_errinfo *info);
void obd_ext4_dir_remove(struct obd_ext4_dir *dir, struct obd_ext4_name *name);
/* All names, removed ones (ino 0) among them. */
struct obd_ext4_name *obd_ext4_dir_names(struct obd_ext4_dir *dir, size_t *ret_cnt);
const char *obd_ext4_dir_text(const struct obd_ext4_dir *dir, const struct obd_ext4_name *name);
ext2_ino_t obd_ext4_dir_parent(const struct obd_ext4_dir *dir);

#endif
