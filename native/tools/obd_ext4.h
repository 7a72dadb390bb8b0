/*
 * An ext4 file system inside an image, through libext2fs, without mounting anything.
 *
 * Opened for writing it has the writer's lock of the image's upper. Changes stay in memory, new
 * file data goes to blocks that were free, and what is removed keeps its blocks until the end:
 * whoever gives up before obd_ext4_commit leaves the file system as it was (only space in the
 * upper's files is lost). A commit that is cut off leaves a superblock that says "not valid";
 * opening such a one for writing is refused.
 *
 * One thread uses one obd_ext4.
 */
#ifndef OBD_EXT4_H
#define OBD_EXT4_H

#include <ext2fs/ext2fs.h>
#include <stdbool.h>
#include <stdint.h>

#include "obd_ext4_io.h"
#include "obd_image.h"
#include "obd_progress.h"

struct obd_ext4_dirs;

/* Blocks that follow each other on the disk. */
struct obd_ext4_run {
	uint64_t block;
	uint64_t cnt;
};

struct obd_ext4 {
	ext2_filsys fs;
	struct obd_image *image; /* borrowed */
	struct obd_ext4_io *io;
	struct obd_ext4_dirs *dirs;
	bool is_writable;
	uint64_t reserved; /* the image's append position (obd_image_start_writing) */
	uint64_t cursor;   /* where the search for free blocks goes on */
	ext2_ino_t *freed; /* inodes without a name, freed at the end */
	size_t freed_cnt;
	size_t freed_room;
};

/* Opens for reading; or becomes the image's writer and opens for writing. */
int obd_ext4_open(struct obd_image *image, bool will_write, struct obd_errinfo *info,
		  struct obd_ext4 **ret);
/* Writes an empty file system over all of the image, for writing at once; seen after a commit. */
int obd_ext4_mkfs(struct obd_image *image, struct obd_errinfo *info, struct obd_ext4 **ret);
/* Everything gets into the image, durably; nothing but close may follow. */
int obd_ext4_commit(struct obd_ext4 *ext4, struct obd_errinfo *info);
void obd_ext4_close(struct obd_ext4 *ext4); /* NULL is fine; gives the writer's role back */

/* Code and *info for an error of libext2fs; 0 for none. */
int obd_ext4_told(const struct obd_ext4 *ext4, errcode_t error, const char *what,
		  struct obd_errinfo *info);

/* ---- space ---- */

/* Sets free blocks aside, in runs as long as there are; *ret is the caller's to free. */
int obd_ext4_take_blocks(struct obd_ext4 *ext4, uint64_t cnt, struct obd_errinfo *info,
			 struct obd_ext4_run **ret, size_t *ret_cnt);
/* Maps runs to a file's blocks from `logical` on; counts them in the inode, which it may write. */
int obd_ext4_map_blocks(struct obd_ext4 *ext4, ext2_ino_t ino, struct ext2_inode_large *inode,
			uint64_t logical, const struct obd_ext4_run *runs, size_t cnt,
			struct obd_errinfo *info);
/* The inode and its blocks are free after the next commit. */
int obd_ext4_free_later(struct obd_ext4 *ext4, ext2_ino_t ino, struct obd_errinfo *info);
int obd_ext4_free_now(struct obd_ext4 *ext4, struct obd_errinfo *info); /* all of those */

/* ---- inodes ---- */

/* EXT2_FT_ of an inode's mode. */
uint8_t obd_ext4_type_of(uint32_t mode);

int obd_ext4_read_inode(struct obd_ext4 *ext4, ext2_ino_t ino, struct ext2_inode_large *ret,
			struct obd_errinfo *info);
int obd_ext4_write_inode(struct obd_ext4 *ext4, ext2_ino_t ino, struct ext2_inode_large *inode,
			 struct obd_errinfo *info);
/* Sets an inode aside, near its directory's. */
int obd_ext4_take_inode(struct obd_ext4 *ext4, ext2_ino_t dir, bool is_dir,
			struct obd_errinfo *info, ext2_ino_t *ret);
/* The target of a symlink, not terminated; at most one block, allocated: the caller's to free. */
int obd_ext4_read_link(struct obd_ext4 *ext4, ext2_ino_t ino, struct obd_errinfo *info, char **ret,
		       size_t *ret_length);

#endif
