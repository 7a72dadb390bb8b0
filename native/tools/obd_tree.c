#include "obd_tree.h"

#include <stdlib.h>
#include <string.h>

#include "obd_ext4.h"

#define MAX_SYMLINKS   40u
#define MAX_PATH_BYTES 65536u

struct obd_tree {
	struct obd_image *image;
	struct obd_ext4 *ext4;
	/* the file that was read last: one that is read from front to end is opened once */
	uint32_t ino;
	struct ext2_inode_large inode;
};

int obd_tree_create(const struct obd_image_spec *spec, struct obd_errinfo *info,
		    struct obd_tree **ret)
{
	struct obd_tree *tree = calloc(1, sizeof(*tree));
	int rc;

	if (!tree)
		return obd_fail(info, OBD_E_NOMEM, NULL, "tree");
	rc = obd_image_create(spec, info, &tree->image);
	if (!rc)
		rc = obd_ext4_open(tree->image, false, info, &tree->ext4);
	if (rc) {
		obd_tree_destroy(tree);
		return rc;
	}
	*ret = tree;
	return 0;
}

void obd_tree_destroy(struct obd_tree *tree)
{
	if (!tree)
		return;
	obd_ext4_close(tree->ext4);
	obd_image_destroy(tree->image);
	free(tree);
}

/* ---- bytes ---- */

static int add_bytes(struct obd_tree_bytes *to, const void *from, size_t length)
{
	if (to->length + length > to->room) {
		size_t room = 2 * (to->length + length) + 256;
		uint8_t *more = realloc(to->bytes, room);

		if (!more)
			return OBD_E_NOMEM;
		to->bytes = more;
		to->room = room;
	}
	if (length)
		memcpy(to->bytes + to->length, from, length);
	to->length += length;
	return 0;
}

void obd_tree_free(struct obd_tree_bytes *bytes)
{
	free(bytes->bytes);
	*bytes = (struct obd_tree_bytes){0};
}

/* ---- names ---- */

struct listing {
	struct obd_tree_bytes *bytes;
	int rc;
};

static int take_name(struct ext2_dir_entry *entry, int offset, int block_bytes, char *buffer,
		     void *context)
{
	struct listing *listing = context;
	uint8_t length = (uint8_t)ext2fs_dirent_name_len(entry);
	uint32_t ino = entry->inode;

	(void)offset;
	(void)block_bytes;
	(void)buffer;
	if (!length || (length == 1 && entry->name[0] == '.') ||
	    (length == 2 && !memcmp(entry->name, "..", 2)))
		return 0;
	listing->rc = add_bytes(listing->bytes, &ino, sizeof(ino)) ||
		      add_bytes(listing->bytes, &length, sizeof(length)) ||
		      add_bytes(listing->bytes, entry->name, length);
	return listing->rc ? DIRENT_ABORT : 0;
}

static int need_directory(struct obd_tree *tree, uint32_t ino, struct obd_errinfo *info)
{
	struct ext2_inode_large inode;
	int rc = obd_ext4_read_inode(tree->ext4, ino, &inode, info);

	if (rc)
		return rc;
	if (!LINUX_S_ISDIR(inode.i_mode))
		return obd_fail(info, OBD_E_INVAL, NULL, "is not a directory");
	if (EXT2_I_SIZE(&inode) / tree->ext4->fs->blocksize >
	    ext2fs_blocks_count(tree->ext4->fs->super))
		return obd_fail_value(info, OBD_E_FORMAT, NULL, "size of a directory; its inode", 0,
				      ino, EXT2_I_SIZE(&inode));
	return 0;
}

int obd_tree_list(struct obd_tree *tree, uint32_t ino, struct obd_errinfo *info,
		  struct obd_tree_bytes *ret)
{
	struct listing listing = {.bytes = ret};
	int rc = need_directory(tree, ino, info);

	if (rc)
		return rc;
	rc = obd_ext4_told(tree->ext4,
			   ext2fs_dir_iterate(tree->ext4->fs, ino, 0, NULL, take_name, &listing),
			   "read a directory", info);
	return listing.rc ? obd_fail(info, OBD_E_NOMEM, NULL, "directory") : rc;
}

/* ---- paths ---- */

struct walk {
	char *rest; /* owned */
	uint32_t ino;
	uint32_t links;
};

static int follow(struct obd_tree *tree, struct walk *walk, uint32_t link, const char *behind,
		  struct obd_errinfo *info)
{
	char *target;
	char *rest;
	size_t length;
	int rc;

	if (++walk->links > MAX_SYMLINKS)
		return obd_fail(info, OBD_E_INVAL, NULL, "more than 40 symlinks on the way");
	rc = obd_ext4_read_link(tree->ext4, link, info, &target, &length);
	if (rc)
		return rc;
	rest = malloc(length + strlen(behind) + 1);
	if (!rest) {
		free(target);
		return obd_fail(info, OBD_E_NOMEM, NULL, "path");
	}
	memcpy(rest, target, length);
	strcpy(rest + length, behind); /* empty, or it begins with a slash */
	if (*target == '/')
		walk->ino = OBD_TREE_ROOT;
	free(target);
	free(walk->rest);
	walk->rest = rest;
	return 0;
}

static int find_in(struct obd_tree *tree, uint32_t dir, const char *name, size_t length,
		   struct obd_errinfo *info, uint32_t *ret)
{
	errcode_t error;
	int rc = need_directory(tree, dir, info);

	if (rc)
		return rc;
	error = ext2fs_lookup(tree->ext4->fs, dir, name, (int)length, NULL, ret);
	if (error == EXT2_ET_FILE_NOT_FOUND)
		return obd_fail(info, OBD_E_INVAL, NULL, "is not in the image");
	return obd_ext4_told(tree->ext4, error, "look a name up", info);
}

static int step(struct obd_tree *tree, struct walk *walk, bool follows_last,
		struct obd_errinfo *info)
{
	const char *name = walk->rest + strspn(walk->rest, "/");
	size_t length = strcspn(name, "/");
	const char *behind = name + length;
	struct ext2_inode_large inode;
	uint32_t ino;
	int rc = find_in(tree, walk->ino, name, length, info, &ino);

	if (!rc)
		rc = obd_ext4_read_inode(tree->ext4, ino, &inode, info);
	if (rc)
		return rc;
	if (LINUX_S_ISLNK(inode.i_mode) && (*behind || follows_last))
		return follow(tree, walk, ino, behind, info);
	walk->ino = ino;
	memmove(walk->rest, behind, strlen(behind) + 1);
	return 0;
}

int obd_tree_find(struct obd_tree *tree, const char *path, uint32_t follows_last,
		  struct obd_errinfo *info, uint32_t *ret)
{
	struct walk walk = {.rest = NULL, .ino = OBD_TREE_ROOT};
	int rc = 0;

	if (strnlen(path, MAX_PATH_BYTES) == MAX_PATH_BYTES)
		return obd_fail(info, OBD_E_INVAL, NULL, "path of 64 KiB and more");
	walk.rest = strdup(path);
	if (!walk.rest)
		return obd_fail(info, OBD_E_NOMEM, NULL, "path");
	while (!rc && walk.rest[strspn(walk.rest, "/")])
		rc = step(tree, &walk, follows_last, info);
	/* "file/": a directory is meant */
	if (!rc && *walk.rest && walk.ino != OBD_TREE_ROOT)
		rc = need_directory(tree, walk.ino, info);
	free(walk.rest);
	if (!rc)
		*ret = walk.ino;
	return rc;
}

/* ---- one file ---- */

int obd_tree_stat(struct obd_tree *tree, uint32_t ino, struct obd_errinfo *info,
		  struct obd_tree_stat *ret)
{
	struct ext2_inode_large inode;
	int rc = obd_ext4_read_inode(tree->ext4, ino, &inode, info);
	uint32_t device;
	bool has_extra;

	if (rc)
		return rc;
	has_extra = EXT2_INODE_SIZE(tree->ext4->fs->super) > EXT2_GOOD_OLD_INODE_SIZE &&
		    inode.i_extra_isize >= 12;
	device = inode.i_block[0] ? inode.i_block[0] : inode.i_block[1];
	*ret = (struct obd_tree_stat){
		.mode = inode.i_mode,
		.uid = inode_uid(inode),
		.gid = inode_gid(inode),
		.link_cnt = inode.i_links_count,
		.size_bytes = EXT2_I_SIZE(&inode),
		.mtime_s = (int32_t)inode.i_mtime,
	};
	if (has_extra) {
		ret->mtime_s += (int64_t)(inode.i_mtime_extra & 3) << 32;
		ret->mtime_ns = inode.i_mtime_extra >> 2;
	}
	if (!LINUX_S_ISCHR(inode.i_mode) && !LINUX_S_ISBLK(inode.i_mode))
		return 0;
	ret->device_major = inode.i_block[0] ? device >> 8 & 0xff : device >> 8 & 0xfff;
	ret->device_minor =
		inode.i_block[0] ? device & 0xff : (device & 0xff) | (device >> 12 & 0xfff00);
	return 0;
}

int obd_tree_link(struct obd_tree *tree, uint32_t ino, struct obd_errinfo *info,
		  struct obd_tree_bytes *ret)
{
	size_t length;
	char *target;
	int rc = obd_ext4_read_link(tree->ext4, ino, info, &target, &length);

	if (rc)
		return rc;
	*ret = (struct obd_tree_bytes){.bytes = (uint8_t *)target, .length = length};
	return 0;
}

static int take_xattr(char *name, char *value, size_t length, void *context)
{
	struct listing *listing = context;
	uint32_t name_length = (uint32_t)strlen(name);
	uint32_t value_length = (uint32_t)length;

	listing->rc = add_bytes(listing->bytes, &name_length, sizeof(name_length)) ||
		      add_bytes(listing->bytes, name, name_length) ||
		      add_bytes(listing->bytes, &value_length, sizeof(value_length)) ||
		      add_bytes(listing->bytes, value, length);
	return listing->rc ? XATTR_ABORT : 0;
}

int obd_tree_xattrs(struct obd_tree *tree, uint32_t ino, struct obd_errinfo *info,
		    struct obd_tree_bytes *ret)
{
	struct listing listing = {.bytes = ret};
	struct ext2_xattr_handle *handle = NULL;
	errcode_t error = ext2fs_xattrs_open(tree->ext4->fs, ino, &handle);

	if (!error)
		error = ext2fs_xattrs_read(handle);
	if (!error)
		error = ext2fs_xattrs_iterate(handle, take_xattr, &listing);
	if (handle)
		ext2fs_xattrs_close(&handle);
	if (listing.rc)
		return obd_fail(info, OBD_E_NOMEM, NULL, "extended attributes");
	return obd_ext4_told(tree->ext4, error, "extended attributes", info);
}

/* ---- data ---- */

/* From the block of `logical` on: where it is (0: a hole), and how many follow it, at most `max`.
 */
static errcode_t map(struct obd_tree *tree, uint64_t logical, uint64_t max, uint64_t *ret_block,
		     uint64_t *ret_cnt)
{
	ext2_filsys fs = tree->ext4->fs;
	errcode_t error = 0;
	blk64_t first = 0;
	int flags = 0;

	for (*ret_cnt = 0; *ret_cnt < max && !error; (*ret_cnt)++) {
		blk64_t block = 0;

		error = ext2fs_bmap2(fs, tree->ino, (struct ext2_inode *)&tree->inode, NULL, 0,
				     logical + *ret_cnt, &flags, &block);
		if (flags & BMAP_RET_UNINIT) /* set aside, never written */
			block = 0;
		if (!*ret_cnt)
			first = block;
		else if (block != (first ? first + *ret_cnt : 0))
			break;
	}
	*ret_block = first;
	return error;
}

static int read_data(struct obd_tree *tree, uint64_t offset, uint8_t *to, size_t length,
		     struct obd_errinfo *info)
{
	uint64_t block_bytes = tree->ext4->fs->blocksize;
	int rc = 0;

	while (length && !rc) {
		uint64_t in_block = offset % block_bytes;
		uint64_t block;
		uint64_t cnt;
		size_t step;

		rc = obd_ext4_told(tree->ext4,
				   map(tree, offset / block_bytes,
				       (in_block + length + block_bytes - 1) / block_bytes, &block,
				       &cnt),
				   "map a file's blocks", info);
		if (rc)
			break;
		step = cnt * block_bytes - in_block;
		if (step > length)
			step = length;
		if (!block) {
			memset(to, 0, step);
		} else if (step % 512 || in_block % 512) {
			/* the odd end goes through the cache, in one block */
			step = step > block_bytes - in_block ? step / 512 * 512 : step;
			rc = obd_ext4_io_read(tree->ext4->io, block * block_bytes + in_block, to,
					      step, info);
		} else {
			rc = obd_ext4_io_read(tree->ext4->io, block * block_bytes + in_block, to,
					      step, info);
		}
		offset += step;
		to += step;
		length -= step;
	}
	return rc;
}

static int read_inline(struct obd_tree *tree, uint64_t offset, void *to, size_t length,
		       struct obd_errinfo *info)
{
	size_t all = 0;
	errcode_t error = ext2fs_inline_data_size(tree->ext4->fs, tree->ino, &all);
	uint8_t *bytes = error ? NULL : calloc(1, all + 1);

	if (!error && bytes)
		error = ext2fs_inline_data_get(tree->ext4->fs, tree->ino,
					       (struct ext2_inode *)&tree->inode, bytes, &all);
	if (!error && bytes && offset <= all && length <= all - offset)
		memcpy(to, bytes + offset, length);
	else if (!error)
		error = bytes ? EXT2_ET_FILE_TOO_BIG : EXT2_ET_NO_MEMORY;
	free(bytes);
	return obd_ext4_told(tree->ext4, error, "inline data", info);
}

int obd_tree_read(struct obd_tree *tree, uint32_t ino, uint64_t offset, void *to, size_t length,
		  struct obd_errinfo *info, size_t *ret_length)
{
	uint64_t size;
	int rc = 0;

	if (tree->ino != ino) {
		tree->ino = 0;
		rc = obd_ext4_read_inode(tree->ext4, ino, &tree->inode, info);
		if (rc)
			return rc;
		tree->ino = ino;
	}
	if (!LINUX_S_ISREG(tree->inode.i_mode))
		return obd_fail(info, OBD_E_INVAL, NULL, "is not a regular file");
	size = EXT2_I_SIZE(&tree->inode);
	if (offset >= size)
		length = 0;
	else if (length > size - offset)
		length = size - offset;
	if (length && tree->inode.i_flags & EXT4_INLINE_DATA_FL)
		rc = read_inline(tree, offset, to, length, info);
	else if (length)
		rc = read_data(tree, offset, to, length, info);
	if (!rc)
		*ret_length = length;
	return rc;
}
