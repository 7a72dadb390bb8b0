/* Opening, committing and closing of a file system in an image. */
#include "obd_ext4.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "obd_ext4_dirs.h"

#define NAME	 "image" /* libext2fs wants one */
#define NO_TIME	 1	 /* of the superblock: what is written is a function of what goes in */
#define FEATURES EXT2_FLAG_64BITS

int obd_ext4_told(const struct obd_ext4 *ext4, errcode_t error, const char *what,
		  struct obd_errinfo *info)
{
	char text[sizeof(info->what)];
	struct obd_errinfo failure;

	if (!error)
		return 0;
	if (ext4->io && obd_ext4_io_failure(ext4->io, &failure)) {
		if (info)
			*info = failure;
		return failure.code;
	}
	if (error == ENOSPC || error == EXT2_ET_BLOCK_ALLOC_FAIL)
		return obd_fail(info, OBD_E_NOSPACE, NULL, "the file system in the image is full");
	if (error == EXT2_ET_NO_MEMORY || error == ENOMEM)
		return obd_fail(info, OBD_E_NOMEM, NULL, what);
	snprintf(text, sizeof(text), "%s: %s", what, error_message(error));
	return obd_fail(info, OBD_E_FORMAT, NULL, text);
}

static int create(struct obd_image *image, bool will_write, struct obd_errinfo *info,
		  struct obd_ext4 **ret)
{
	struct obd_ext4 *ext4 = calloc(1, sizeof(*ext4));
	int rc;

	initialize_ext2_error_table();
	if (!ext4)
		return obd_fail(info, OBD_E_NOMEM, NULL, "file system");
	ext4->image = image;
	rc = obd_ext4_io_create(image, info, &ext4->io);
	if (!rc && will_write) {
		rc = obd_image_start_writing(image, &ext4->reserved, info);
		ext4->is_writable = !rc;
	}
	if (!rc)
		rc = obd_ext4_dirs_create(ext4, info, &ext4->dirs);
	if (rc) {
		obd_ext4_close(ext4);
		return rc;
	}
	*ret = ext4;
	return 0;
}

/* By these libext2fs fills bitmaps, without a look at them. */
static bool has_sound_groups(ext2_filsys fs)
{
	const struct ext2_super_block *super = fs->super;
	uint32_t most = 8u * fs->blocksize;
	uint64_t blocks = ext2fs_blocks_count(fs->super);
	uint32_t first = fs->blocksize == 1024 ? 1 : 0;

	return super->s_first_data_block == first && blocks > first && super->s_blocks_per_group &&
	       super->s_blocks_per_group <= most && super->s_blocks_per_group % 8 == 0 &&
	       super->s_clusters_per_group == super->s_blocks_per_group &&
	       super->s_inodes_per_group && super->s_inodes_per_group <= most &&
	       super->s_inodes_per_group % 8 == 0 &&
	       fs->group_desc_count == (blocks - first + super->s_blocks_per_group - 1) /
					       super->s_blocks_per_group &&
	       (uint64_t)super->s_inodes_per_group * fs->group_desc_count == super->s_inodes_count;
}

static int check_usable(const struct obd_ext4 *ext4, struct obd_errinfo *info)
{
	struct ext2_super_block *super = ext4->fs->super;

	if (ext2fs_blocks_count(super) >
	    obd_image_virtual_size_bytes(ext4->image) / (unsigned int)ext4->fs->blocksize)
		return obd_fail_value(info, OBD_E_FORMAT, NULL,
				      "ext4 is larger than the disk, in blocks", 1024,
				      obd_image_virtual_size_bytes(ext4->image) /
					      (unsigned int)ext4->fs->blocksize,
				      ext2fs_blocks_count(super));
	if (ext2fs_has_feature_bigalloc(super))
		return obd_fail(info, OBD_E_UNSUPPORTED, NULL, "ext4 with bigalloc");
	if (!has_sound_groups(ext4->fs))
		return obd_fail_value(
			info, OBD_E_FORMAT, NULL, "sizes of ext4's groups (run e2fsck); inodes",
			1024, (uint64_t)super->s_inodes_per_group * ext4->fs->group_desc_count,
			super->s_inodes_count);
	if (!ext4->is_writable)
		return 0;
	if (ext2fs_has_feature_journal_needs_recovery(super))
		return obd_fail(info, OBD_E_FORMAT, NULL,
				"ext4 has a journal to replay: mount it once, then unmount it");
	if (!(super->s_state & EXT2_VALID_FS) || (super->s_state & EXT2_ERROR_FS))
		return obd_fail(info, OBD_E_FORMAT, NULL,
				"ext4 was left unfinished (not clean): run e2fsck on its device");
	return 0;
}

static bool is_erofs(struct obd_ext4 *ext4)
{
	uint32_t magic = 0;

	return !obd_ext4_io_read(ext4->io, 1024, &magic, sizeof(magic), NULL) &&
	       ext2fs_le32_to_cpu(magic) == 0xe0f5e1e2;
}

int obd_ext4_open(struct obd_image *image, bool will_write, struct obd_errinfo *info,
		  struct obd_ext4 **ret)
{
	struct obd_ext4 *ext4;
	errcode_t error;
	int rc = create(image, will_write, info, &ext4);

	if (rc)
		return rc;
	error = ext2fs_open2(NAME, NULL, FEATURES | (will_write ? EXT2_FLAG_RW : 0), 0, 0,
			     obd_ext4_io_manager(ext4->io), &ext4->fs);
	if (error == EXT2_ET_BAD_MAGIC || error == EXT2_ET_SHORT_READ)
		rc = obd_fail(info, OBD_E_FORMAT, NULL,
			      is_erofs(ext4) ? "an erofs, which is not read here: mount its device"
					     : "no ext4 file system in the image");
	else
		rc = obd_ext4_told(ext4, error, "open ext4", info);
	if (!rc)
		rc = check_usable(ext4, info);
	if (!rc && will_write) {
		ext4->fs->now = NO_TIME;
		rc = obd_ext4_told(ext4, ext2fs_read_bitmaps(ext4->fs), "read the bitmaps", info);
	}
	if (rc) {
		obd_ext4_close(ext4);
		return rc;
	}
	*ret = ext4;
	return 0;
}

/* Parameters of mkfs.ext4 -O ^has_journal, without what differs from one run to the next. */
static void set_parameters(struct ext2_super_block *param, uint64_t disk_bytes)
{
	const uint32_t block_bytes = 4096;

	ext2fs_set_feature_xattr(param);
	ext2fs_set_feature_resize_inode(param);
	ext2fs_set_feature_dir_index(param);
	ext2fs_set_feature_filetype(param);
	ext2fs_set_feature_extents(param);
	ext2fs_set_feature_64bit(param);
	ext2fs_set_feature_flex_bg(param);
	ext2fs_set_feature_sparse_super(param);
	ext2fs_set_feature_large_file(param);
	ext2fs_set_feature_huge_file(param);
	ext2fs_set_feature_dir_nlink(param);
	ext2fs_set_feature_extra_isize(param);
	param->s_rev_level = EXT2_DYNAMIC_REV;
	param->s_log_block_size = 2;
	param->s_log_cluster_size = 2;
	param->s_log_groups_per_flex = 4;
	param->s_inode_size = 256;
	param->s_errors = EXT2_ERRORS_CONTINUE;
	ext2fs_blocks_count_set(param, disk_bytes / block_bytes);
	ext2fs_r_blocks_count_set(param, disk_bytes / block_bytes / 20);
	param->s_inodes_count = (uint32_t)(disk_bytes / 16384 < UINT32_MAX / 2 ? disk_bytes / 16384
									       : UINT32_MAX / 2);
	if (param->s_inodes_count < 64)
		param->s_inodes_count = 64;
}

/* The inodes below the first that files get, and the directories that are always there. */
static errcode_t fill_new(ext2_filsys fs)
{
	ext2_ino_t lost_found;
	errcode_t error = ext2fs_allocate_tables(fs);

	if (!error)
		error = ext2fs_mkdir(fs, EXT2_ROOT_INO, EXT2_ROOT_INO, NULL);
	for (ext2_ino_t ino = 1; ino < EXT2_FIRST_INODE(fs->super) && !error; ino++)
		if (ino != EXT2_ROOT_INO)
			ext2fs_inode_alloc_stats2(fs, ino, +1, 0);
	if (!error)
		error = ext2fs_mkdir(fs, EXT2_ROOT_INO, 0, "lost+found");
	if (!error)
		error = ext2fs_lookup(fs, EXT2_ROOT_INO, "lost+found", 10, NULL, &lost_found);
	for (int i = 0; i < 3 && !error; i++)
		error = ext2fs_expand_dir(fs, lost_found);
	if (!error) {
		struct ext2_inode inode;

		error = ext2fs_read_inode(fs, lost_found, &inode);
		inode.i_mode = LINUX_S_IFDIR | 0700;
		if (!error)
			error = ext2fs_write_inode(fs, lost_found, &inode);
	}
	if (!error)
		error = ext2fs_update_bb_inode(fs, NULL);
	if (!error)
		error = ext2fs_create_resize_inode(fs);
	return error;
}

/* Tables and free blocks must read as zeros, whatever the layers hold. */
static int clear(struct obd_image *image, struct obd_errinfo *info)
{
	struct obd_image_stat stat;

	obd_image_stat(image, &stat);
	if (!stat.lower_segments && !stat.upper_segments)
		return 0;
	return obd_image_discard(image, 0, obd_image_virtual_size_bytes(image) / 512, info);
}

int obd_ext4_mkfs(struct obd_image *image, struct obd_errinfo *info, struct obd_ext4 **ret)
{
	uint64_t disk_bytes = obd_image_virtual_size_bytes(image);
	struct ext2_super_block param = {0};
	struct obd_ext4 *ext4;
	errcode_t error;
	int rc = create(image, true, info, &ext4);

	if (rc)
		return rc;
	rc = clear(image, info);
	set_parameters(&param, disk_bytes);
	if (!rc) {
		error = ext2fs_initialize(NAME, EXT2_FLAG_64BITS, &param,
					  obd_ext4_io_manager(ext4->io), &ext4->fs);
		if (error == EXT2_ET_TOOSMALL || error == EXT2_ET_INVALID_ARGUMENT)
			rc = obd_fail_value(info, OBD_E_INVAL, NULL,
					    "disk too small for an ext4, in bytes", 0, 1u << 20,
					    disk_bytes);
		else
			rc = obd_ext4_told(ext4, error, "make an ext4", info);
	}
	if (!rc) {
		ext4->fs->now = NO_TIME;
		ext4->fs->super->s_def_hash_version = EXT2_HASH_HALF_MD4;
		ext4->fs->super->s_flags |= EXT2_FLAGS_SIGNED_HASH;
		ext4->fs->super->s_mkfs_time = NO_TIME;
		ext4->fs->super->s_lastcheck = NO_TIME;
		ext4->fs->super->s_max_mnt_count = -1;
		ext4->fs->super->s_state = EXT2_VALID_FS;
		ext4->fs->super->s_min_extra_isize = 32;
		ext4->fs->super->s_want_extra_isize = 32;
		rc = obd_ext4_told(ext4, fill_new(ext4->fs), "make an ext4", info);
	}
	if (rc) {
		obd_ext4_close(ext4);
		return rc;
	}
	*ret = ext4;
	return 0;
}

int obd_ext4_commit(struct obd_ext4 *ext4, struct obd_errinfo *info)
{
	int rc = obd_ext4_free_now(ext4, info);

	if (!rc)
		rc = obd_ext4_dirs_write(ext4->dirs, info);
	if (!rc)
		rc = obd_ext4_told(ext4, ext2fs_flush(ext4->fs), "write ext4", info);
	if (!rc)
		rc = obd_ext4_io_flush(ext4->io, true, info);
	if (rc)
		return rc;
	obd_image_stop_writing(ext4->image);
	ext4->is_writable = false;
	return obd_image_settle(ext4->image, info);
}

void obd_ext4_close(struct obd_ext4 *ext4)
{
	if (!ext4)
		return;
	if (ext4->fs)
		ext2fs_free(ext4->fs); /* and not ext2fs_close: that would write */
	obd_ext4_dirs_destroy(ext4->dirs);
	obd_ext4_io_destroy(ext4->io);
	if (ext4->is_writable)
		obd_image_stop_writing(ext4->image);
	free(ext4->freed);
	free(ext4);
}
