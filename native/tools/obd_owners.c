#include "obd_owners.h"

#include <stdlib.h>

#include "obd_ext4.h"

struct search {
	const struct obd_disk_range *ranges;
	size_t range_cnt;
	uint64_t block_sectors;
	uint64_t bytes; /* of the inode that is looked at */
	struct obd_owner *owners;
	size_t cnt;
	size_t room;
};

/* Whether the sectors of a block are in a range, in part at least. */
static bool is_wanted(const struct search *search, uint64_t block)
{
	uint64_t begin = block * search->block_sectors;
	size_t low = 0;
	size_t high = search->range_cnt;

	/* the first range that ends behind the block's beginning */
	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (search->ranges[middle].end <= begin)
			low = middle + 1;
		else
			high = middle;
	}
	return low < search->range_cnt && search->ranges[low].begin < begin + search->block_sectors;
}

static int look_at_block(ext2_filsys fs, blk64_t *block, e2_blkcnt_t logical, blk64_t ref_block,
			 int ref_offset, void *context)
{
	struct search *search = context;

	(void)logical;
	(void)ref_block;
	(void)ref_offset;
	if (is_wanted(search, *block))
		search->bytes += fs->blocksize;
	return 0;
}

static int keep(struct search *search, uint32_t ino, struct obd_errinfo *info)
{
	if (search->cnt == search->room) {
		size_t room = search->room ? search->room * 2 : 64;
		struct obd_owner *more = reallocarray(search->owners, room, sizeof(*more));

		if (!more)
			return obd_fail(info, OBD_E_NOMEM, NULL, "list of files");
		search->owners = more;
		search->room = room;
	}
	search->owners[search->cnt++] = (struct obd_owner){.ino = ino, .bytes = search->bytes};
	return 0;
}

static int look_at_inode(struct obd_ext4 *ext4, struct search *search, ext2_ino_t ino,
			 struct ext2_inode *inode, struct obd_errinfo *info)
{
	errcode_t error;
	int rc;

	if (!inode->i_links_count || !ext2fs_inode_has_valid_blocks2(ext4->fs, inode))
		return 0;
	search->bytes = 0;
	error = ext2fs_block_iterate3(ext4->fs, ino, BLOCK_FLAG_READ_ONLY, NULL, look_at_block,
				      search);
	rc = obd_ext4_told(ext4, error, "read the blocks of a file", info);
	if (!rc && search->bytes)
		rc = keep(search, ino, info);
	return rc;
}

static int look_at_all(struct obd_ext4 *ext4, struct search *search, struct obd_errinfo *info)
{
	ext2_inode_scan scan;
	int rc = obd_ext4_told(ext4, ext2fs_open_inode_scan(ext4->fs, 0, &scan), "read the inodes",
			       info);

	if (rc)
		return rc;
	for (;;) {
		struct ext2_inode inode;
		ext2_ino_t ino;

		rc = obd_ext4_told(ext4, ext2fs_get_next_inode(scan, &ino, &inode),
				   "read the inodes", info);
		if (rc || !ino)
			break;
		/* the reserved ones have no names; the root directory does */
		if (ino >= EXT2_FIRST_INODE(ext4->fs->super) || ino == EXT2_ROOT_INO)
			rc = look_at_inode(ext4, search, ino, &inode, info);
		if (rc)
			break;
	}
	ext2fs_close_inode_scan(scan);
	return rc;
}

int obd_owners_find(const struct obd_image_spec *spec, const struct obd_disk_range *ranges,
		    size_t cnt, struct obd_errinfo *info, struct obd_owner **ret, size_t *ret_cnt)
{
	struct search search = {.ranges = ranges, .range_cnt = cnt};
	struct obd_ext4 *ext4 = NULL;
	struct obd_image *image;
	int rc = obd_image_create(spec, info, &image);

	if (rc)
		return rc;
	rc = obd_ext4_open(image, false, info, &ext4);
	if (!rc) {
		search.block_sectors = ext4->fs->blocksize / 512;
		rc = look_at_all(ext4, &search, info);
		obd_ext4_close(ext4);
	}
	obd_image_destroy(image);
	if (rc) {
		free(search.owners);
		return rc;
	}
	*ret = search.owners;
	*ret_cnt = search.cnt;
	return 0;
}

void obd_owners_free(struct obd_owner *owners)
{
	free(owners);
}
