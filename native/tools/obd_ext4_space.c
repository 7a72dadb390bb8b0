/* Blocks and inodes: set aside, mapped to files, freed at the end. */
#include <stdlib.h>
#include <string.h>

#include "obd_ext4.h"

#define RUN_WANTED 2048u /* blocks: shorter gaps are passed over while there are longer ones */

static int add_run(struct obd_ext4_run **runs, size_t *cnt, uint64_t block, uint64_t length)
{
	struct obd_ext4_run *more = *runs;

	/* the array doubles at powers of two */
	if (!(*cnt & (*cnt - 1)))
		more = realloc(*runs, (*cnt ? *cnt * 2 : 1) * sizeof(*more));
	if (!more)
		return OBD_E_NOMEM;
	*runs = more;
	more[(*cnt)++] = (struct obd_ext4_run){.block = block, .cnt = length};
	return 0;
}

/* The next free run in [from, end): where it begins, or end; *ret_cnt: its length, at most `max`.
 */
static uint64_t next_free(const struct obd_ext4 *ext4, uint64_t from, uint64_t end, uint64_t max,
			  uint64_t *ret_cnt)
{
	blk64_t begin;
	blk64_t stop;

	if (from >= end ||
	    ext2fs_find_first_zero_block_bitmap2(ext4->fs->block_map, from, end - 1, &begin))
		return end;
	stop = end - begin < max ? end : begin + max;
	if (ext2fs_find_first_set_block_bitmap2(ext4->fs->block_map, begin, stop - 1, &stop))
		stop = end - begin < max ? end : begin + max;
	*ret_cnt = stop - begin;
	return begin;
}

/* Takes from [from, end), runs of at least `least`, until `*left` is 0. */
static int take_from(struct obd_ext4 *ext4, uint64_t from, uint64_t end, uint64_t least,
		     uint64_t *left, struct obd_ext4_run **runs, size_t *cnt)
{
	while (*left && from < end) {
		uint64_t length = 0;
		uint64_t block = next_free(ext4, from, end, *left, &length);

		if (block == end)
			break;
		from = block + length;
		if (length < least && length < *left)
			continue;
		if (add_run(runs, cnt, block, length))
			return OBD_E_NOMEM;
		ext2fs_block_alloc_stats_range(ext4->fs, block, (blk_t)length, +1);
		ext4->cursor = from;
		*left -= length;
	}
	return 0;
}

int obd_ext4_take_blocks(struct obd_ext4 *ext4, uint64_t cnt, struct obd_errinfo *info,
			 struct obd_ext4_run **ret, size_t *ret_cnt)
{
	uint64_t first = ext4->fs->super->s_first_data_block;
	uint64_t end = ext2fs_blocks_count(ext4->fs->super);
	uint64_t cursor = ext4->cursor > first ? ext4->cursor : first;
	uint64_t least = cnt < RUN_WANTED ? cnt : RUN_WANTED;
	uint64_t left = cnt;
	int rc;

	*ret = NULL;
	*ret_cnt = 0;
	if (cnt > ext2fs_free_blocks_count(ext4->fs->super))
		return obd_fail_value(info, OBD_E_NOSPACE, NULL,
				      "the file system in the image is full; blocks wanted, free",
				      0, cnt, ext2fs_free_blocks_count(ext4->fs->super));
	rc = take_from(ext4, cursor, end, least, &left, ret, ret_cnt);
	if (!rc)
		rc = take_from(ext4, first, end, least, &left, ret, ret_cnt);
	if (!rc)
		rc = take_from(ext4, first, end, 1, &left, ret, ret_cnt);
	if (!rc && !left)
		return 0;
	free(*ret);
	*ret = NULL;
	*ret_cnt = 0;
	return rc ? obd_fail(info, rc, NULL, "runs of blocks")
		  : obd_fail(info, OBD_E_NOSPACE, NULL, "the file system in the image is full");
}

/* File systems of ext2 and ext3 map one block at a time. */
static errcode_t map_one_by_one(ext2_filsys fs, ext2_ino_t ino, struct ext2_inode *inode,
				uint64_t logical, const struct obd_ext4_run *run)
{
	errcode_t error = 0;

	for (uint64_t i = 0; i < run->cnt && !error; i++) {
		blk64_t block = run->block + i;

		error = ext2fs_bmap2(fs, ino, inode, NULL, BMAP_SET, logical + i, NULL, &block);
	}
	return error;
}

static errcode_t map_extents(ext2_extent_handle_t handle, uint64_t logical,
			     const struct obd_ext4_run *run)
{
	errcode_t error = 0;

	for (uint64_t done = 0, length; done < run->cnt && !error; done += length) {
		struct ext2fs_extent extent = {.e_pblk = run->block + done,
					       .e_lblk = logical + done};

		length = run->cnt - done;
		if (length > EXT_INIT_MAX_LEN)
			length = EXT_INIT_MAX_LEN;
		extent.e_len = (uint32_t)length;
		error = ext2fs_extent_insert(handle, EXT2_EXTENT_INSERT_AFTER, &extent);
	}
	return error;
}

int obd_ext4_map_blocks(struct obd_ext4 *ext4, ext2_ino_t ino, struct ext2_inode_large *inode,
			uint64_t logical, const struct obd_ext4_run *runs, size_t cnt,
			struct obd_errinfo *info)
{
	struct ext2_inode *small = (struct ext2_inode *)inode;
	ext2_extent_handle_t handle = NULL;
	struct ext2fs_extent last;
	uint64_t blocks = 0;
	errcode_t error = 0;

	if (inode->i_flags & EXT4_EXTENTS_FL) {
		error = ext2fs_extent_open2(ext4->fs, ino, small, &handle);
		if (!error && logical) /* to the last: what is inserted comes behind it */
			error = ext2fs_extent_get(handle, EXT2_EXTENT_LAST_LEAF, &last);
		if (error == EXT2_ET_EXTENT_NO_NEXT || error == EXT2_ET_NO_CURRENT_NODE)
			error = 0; /* none yet */
	}
	for (size_t i = 0; i < cnt && !error; i++) {
		error = handle ? map_extents(handle, logical, &runs[i])
			       : map_one_by_one(ext4->fs, ino, small, logical, &runs[i]);
		logical += runs[i].cnt;
		blocks += runs[i].cnt;
	}
	if (handle)
		ext2fs_extent_free(handle);
	if (!error)
		error = ext2fs_iblk_add_blocks(ext4->fs, small, blocks);
	return obd_ext4_told(ext4, error, "map a file's blocks", info);
}

/* ---- what is removed ---- */

int obd_ext4_free_later(struct obd_ext4 *ext4, ext2_ino_t ino, struct obd_errinfo *info)
{
	if (ext4->freed_cnt == ext4->freed_room) {
		size_t room = ext4->freed_room ? ext4->freed_room * 2 : 64;
		ext2_ino_t *more = realloc(ext4->freed, room * sizeof(*more));

		if (!more)
			return obd_fail(info, OBD_E_NOMEM, NULL, "removed files");
		ext4->freed = more;
		ext4->freed_room = room;
	}
	ext4->freed[ext4->freed_cnt++] = ino;
	return 0;
}

static errcode_t free_inode(ext2_filsys fs, ext2_ino_t ino)
{
	struct ext2_inode_large inode = {0};
	struct ext2_inode *small = (struct ext2_inode *)&inode;
	errcode_t error = ext2fs_read_inode_full(fs, ino, small, sizeof(inode));
	bool is_dir = LINUX_S_ISDIR(inode.i_mode);

	if (!error && ext2fs_file_acl_block(fs, small))
		error = ext2fs_free_ext_attr(fs, ino, &inode);
	if (!error && ext2fs_inode_has_valid_blocks2(fs, small))
		error = ext2fs_punch(fs, ino, small, NULL, 0, ~0ull);
	if (error)
		return error;
	ext2fs_inode_alloc_stats2(fs, ino, -1, is_dir);
	/* all zeros: as an inode that was never used, and nothing to compress */
	memset(&inode, 0, sizeof(inode));
	return ext2fs_write_inode_full(fs, ino, small, sizeof(inode));
}

int obd_ext4_free_now(struct obd_ext4 *ext4, struct obd_errinfo *info)
{
	int rc = 0;

	for (size_t i = 0; i < ext4->freed_cnt && !rc; i++)
		rc = obd_ext4_told(ext4, free_inode(ext4->fs, ext4->freed[i]),
				   "free a removed file", info);
	ext4->freed_cnt = 0;
	return rc;
}

/* ---- inodes ---- */

uint8_t obd_ext4_type_of(uint32_t mode)
{
	switch (mode & LINUX_S_IFMT) {
	case LINUX_S_IFREG:
		return EXT2_FT_REG_FILE;
	case LINUX_S_IFDIR:
		return EXT2_FT_DIR;
	case LINUX_S_IFCHR:
		return EXT2_FT_CHRDEV;
	case LINUX_S_IFBLK:
		return EXT2_FT_BLKDEV;
	case LINUX_S_IFIFO:
		return EXT2_FT_FIFO;
	case LINUX_S_IFSOCK:
		return EXT2_FT_SOCK;
	case LINUX_S_IFLNK:
		return EXT2_FT_SYMLINK;
	default:
		return EXT2_FT_UNKNOWN;
	}
}

int obd_ext4_read_inode(struct obd_ext4 *ext4, ext2_ino_t ino, struct ext2_inode_large *ret,
			struct obd_errinfo *info)
{
	memset(ret, 0, sizeof(*ret));
	return obd_ext4_told(
		ext4, ext2fs_read_inode_full(ext4->fs, ino, (struct ext2_inode *)ret, sizeof(*ret)),
		"read an inode", info);
}

int obd_ext4_write_inode(struct obd_ext4 *ext4, ext2_ino_t ino, struct ext2_inode_large *inode,
			 struct obd_errinfo *info)
{
	return obd_ext4_told(
		ext4,
		ext2fs_write_inode_full(ext4->fs, ino, (struct ext2_inode *)inode, sizeof(*inode)),
		"write an inode", info);
}

int obd_ext4_take_inode(struct obd_ext4 *ext4, ext2_ino_t dir, bool is_dir,
			struct obd_errinfo *info, ext2_ino_t *ret)
{
	errcode_t error =
		ext2fs_new_inode(ext4->fs, dir, is_dir ? LINUX_S_IFDIR : LINUX_S_IFREG, NULL, ret);

	if (error == EXT2_ET_INODE_ALLOC_FAIL)
		return obd_fail_value(info, OBD_E_NOSPACE, NULL,
				      "no inode left in the file system of the image, of", 0, 1,
				      ext4->fs->super->s_inodes_count);
	if (error)
		return obd_ext4_told(ext4, error, "take an inode", info);
	ext2fs_inode_alloc_stats2(ext4->fs, *ret, +1, is_dir);
	return 0;
}

int obd_ext4_read_link(struct obd_ext4 *ext4, ext2_ino_t ino, struct obd_errinfo *info, char **ret,
		       size_t *ret_length)
{
	uint32_t block_bytes = ext4->fs->blocksize;
	struct ext2_inode_large inode;
	char *target;
	int rc = obd_ext4_read_inode(ext4, ino, &inode, info);

	if (rc)
		return rc;
	if (!LINUX_S_ISLNK(inode.i_mode) || EXT2_I_SIZE(&inode) >= block_bytes)
		return obd_fail_value(info, OBD_E_FORMAT, NULL, "symlink's inode, length", ino,
				      block_bytes - 1, EXT2_I_SIZE(&inode));
	target = calloc(1, block_bytes);
	if (!target)
		return obd_fail(info, OBD_E_NOMEM, NULL, "symlink");
	if (ext2fs_is_fast_symlink((struct ext2_inode *)&inode)) {
		if (inode.i_size > sizeof(inode.i_block))
			rc = obd_fail_value(info, OBD_E_FORMAT, NULL, "length of a short symlink",
					    ino, sizeof(inode.i_block), inode.i_size);
		else
			memcpy(target, inode.i_block, inode.i_size);
	} else {
		blk64_t block = 0;
		errcode_t error = ext2fs_bmap2(ext4->fs, ino, (struct ext2_inode *)&inode, NULL, 0,
					       0, NULL, &block);

		if (!error)
			error = block ? io_channel_read_blk64(ext4->fs->io, block, 1, target)
				      : EXT2_ET_BAD_BLOCK_NUM;
		rc = obd_ext4_told(ext4, error, "read a symlink", info);
	}
	if (rc) {
		free(target);
		return rc;
	}
	*ret = target;
	*ret_length = inode.i_size;
	return 0;
}
