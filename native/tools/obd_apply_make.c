/* Files made: an inode with its attributes, its data, its name. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "obd_apply_internal.h"

#define PERMISSIONS	07777u
#define MAX_LINKS	65000u
#define FAST_LINK	60u
#define XATTR_NAME_ROOM 300u /* a namespace and 255 bytes */

/* ---- attributes ---- */

static void set_time(uint32_t *low, uint32_t *extra, int64_t seconds, uint32_t nanoseconds)
{
	/* two more bits of the seconds are below the nanoseconds; the low half is signed */
	*low = (uint32_t)seconds;
	*extra = (uint32_t)((seconds - (int32_t)seconds) >> 32 & 3) | nanoseconds << 2;
}

static int set_attributes(struct obd_apply_run *run, struct ext2_inode_large *inode,
			  const struct obd_tar_entry *entry)
{
	const int64_t first = INT32_MIN;
	const int64_t last = INT32_MAX + (3ll << 32);
	bool has_extra = EXT2_INODE_SIZE(run->ext4->fs->super) > EXT2_GOOD_OLD_INODE_SIZE;
	uint32_t extra[3];

	if (entry->uid < 0 || entry->uid > UINT32_MAX || entry->gid < 0 || entry->gid > UINT32_MAX)
		return obd_apply_refuse(run, OBD_E_FORMAT, "owner beyond 32 bits", NULL);
	if (entry->mtime_s < first || entry->mtime_s > (has_extra ? last : INT32_MAX) ||
	    entry->mtime_ns >= 1000000000u)
		return obd_apply_refuse(run, OBD_E_FORMAT, "time beyond what ext4 can hold", NULL);
	/* a symlink's are always 0777 */
	if (!LINUX_S_ISLNK(inode->i_mode))
		inode->i_mode =
			(uint16_t)((inode->i_mode & LINUX_S_IFMT) | (entry->mode & PERMISSIONS));
	inode->i_uid = (uint16_t)entry->uid;
	inode->osd2.linux2.l_i_uid_high = (uint16_t)(entry->uid >> 16);
	inode->i_gid = (uint16_t)entry->gid;
	inode->osd2.linux2.l_i_gid_high = (uint16_t)(entry->gid >> 16);
	set_time(&inode->i_mtime, &extra[0], entry->mtime_s, entry->mtime_ns);
	set_time(&inode->i_atime, &extra[1], entry->mtime_s, entry->mtime_ns);
	set_time(&inode->i_ctime, &extra[2], entry->mtime_s, entry->mtime_ns);
	if (has_extra && inode->i_extra_isize >= 16) {
		inode->i_mtime_extra = extra[0];
		inode->i_atime_extra = extra[1];
		inode->i_ctime_extra = extra[2];
	}
	return 0;
}

static bool has_namespace(const char *name)
{
	static const char *const known[] = {"user.", "trusted.", "security."};

	if (!strcmp(name, "system.posix_acl_access") || !strcmp(name, "system.posix_acl_default"))
		return true;
	for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++)
		if (!strncmp(name, known[i], strlen(known[i])) && name[strlen(known[i])])
			return strlen(name) - strlen(known[i]) <= 255;
	return false;
}

static int take_first(char *name, char *value, size_t length, void *context)
{
	(void)value;
	(void)length;
	snprintf(context, XATTR_NAME_ROOM, "%s", name);
	return XATTR_ABORT;
}

/* One after the other: an iteration does not bear removals. */
static errcode_t forget_xattrs(struct ext2_xattr_handle *handle)
{
	errcode_t error = ext2fs_xattrs_read(handle);
	char name[XATTR_NAME_ROOM];
	size_t cnt = 0;

	if (!error)
		error = ext2fs_xattrs_count(handle, &cnt);
	for (; cnt && !error; cnt--) {
		error = ext2fs_xattrs_iterate(handle, take_first, name);
		if (!error)
			error = ext2fs_xattr_remove(handle, name);
	}
	return error;
}

/* The entry's attributes, and no others. The inode must be on the disk. */
static int set_xattrs(struct obd_apply_run *run, ext2_ino_t ino, bool had_some)
{
	struct ext2_xattr_handle *handle = NULL;
	const char *name;
	const void *value;
	size_t length;
	errcode_t error = 0;

	if (had_some) {
		error = ext2fs_xattrs_open(run->ext4->fs, ino, &handle);
		if (!error)
			error = forget_xattrs(handle);
	}
	while (!error && obd_tar_xattr(run->tar, &name, &value, &length)) {
		if (!name || !has_namespace(name)) {
			run->result->xattrs_skipped++;
			continue;
		}
		if (!handle)
			error = ext2fs_xattrs_open(run->ext4->fs, ino, &handle);
		if (!error)
			error = ext2fs_xattr_set(handle, name, value, length);
	}
	if (handle)
		ext2fs_xattrs_close(&handle);
	if (error == EXT2_ET_EA_NO_SPACE)
		return obd_apply_refuse(run, OBD_E_UNSUPPORTED,
					"extended attributes do not fit into an ext4 inode", NULL);
	return obd_ext4_told(run->ext4, error, "extended attributes", run->info);
}

int obd_apply_set_attributes(struct obd_apply_run *run, ext2_ino_t ino,
			     const struct obd_tar_entry *entry, bool with_xattrs)
{
	struct ext2_inode_large inode;
	int rc = obd_ext4_read_inode(run->ext4, ino, &inode, run->info);

	if (!rc)
		rc = set_attributes(run, &inode, entry);
	if (!rc)
		rc = obd_ext4_write_inode(run->ext4, ino, &inode, run->info);
	return rc || !with_xattrs ? rc : set_xattrs(run, ino, true);
}

/* ---- names ---- */

static int put_name(struct obd_apply_run *run, const struct obd_apply_place *place, ext2_ino_t ino,
		    uint8_t type)
{
	struct obd_ext4_name *name;
	int rc = obd_ext4_dir_put(place->dir, place->name, place->length, ino, type, run->info);

	if (rc)
		return rc;
	name = obd_ext4_dir_find(place->dir, place->name, place->length);
	name->is_new = 1;
	return 0;
}

static void begin_inode(struct obd_apply_run *run, uint32_t mode, struct ext2_inode_large *inode)
{
	struct ext2_super_block *super = run->ext4->fs->super;
	uint32_t room = EXT2_INODE_SIZE(super) - EXT2_GOOD_OLD_INODE_SIZE;

	*inode = (struct ext2_inode_large){.i_mode = (uint16_t)mode, .i_links_count = 1};
	if (room)
		inode->i_extra_isize = (uint16_t)(room < 32 ? room : 32);
	if ((LINUX_S_ISREG(mode) || LINUX_S_ISDIR(mode)) && ext2fs_has_feature_extents(super))
		inode->i_flags |= EXT4_EXTENTS_FL;
}

static int add_directory(struct obd_apply_run *run, const struct obd_apply_place *place,
			 const struct obd_tar_entry *entry, ext2_ino_t *ret)
{
	struct ext2_inode_large inode;
	int rc = obd_ext4_take_inode(run->ext4, place->dir_ino, true, run->info, ret);

	if (rc)
		return rc;
	begin_inode(run, LINUX_S_IFDIR, &inode);
	rc = set_attributes(run, &inode, entry);
	if (!rc)
		rc = obd_ext4_map_blocks(run->ext4, *ret, &inode, 0, NULL, 0, run->info);
	if (!rc)
		rc = obd_ext4_write_inode(run->ext4, *ret, &inode, run->info);
	if (!rc)
		rc = obd_ext4_dirs_add(run->ext4->dirs, *ret, place->dir_ino, run->info);
	return rc ? rc : put_name(run, place, *ret, EXT2_FT_DIR);
}

int obd_apply_make_parent(struct obd_apply_run *run, const struct obd_apply_place *place,
			  ext2_ino_t *ret)
{
	const struct obd_tar_entry entry = {.mode = 0755};

	return add_directory(run, place, &entry, ret);
}

/* ---- data ---- */

/* A stretch of a file that has blocks. */
struct stretch {
	uint64_t begin; /* bytes of the file, whole blocks */
	uint64_t end;
	uint64_t disk; /* bytes */
};

struct layout {
	struct stretch *stretches;
	size_t cnt;
	size_t present;	  /* the stretch of `written` */
	uint64_t written; /* so far the file's data is put, in stretches */
};

/* Blocks for [begin, end) of the file, mapped and noted. */
static int add_blocks(struct obd_apply_run *run, ext2_ino_t ino, struct ext2_inode_large *inode,
		      uint64_t begin, uint64_t end, struct layout *layout)
{
	uint32_t block_bytes = run->ext4->fs->blocksize;
	struct obd_ext4_run *runs;
	struct stretch *more;
	size_t cnt;
	int rc = obd_ext4_take_blocks(run->ext4, (end - begin) / block_bytes, run->info, &runs,
				      &cnt);

	if (rc)
		return rc;
	rc = obd_ext4_map_blocks(run->ext4, ino, inode, begin / block_bytes, runs, cnt, run->info);
	more = realloc(layout->stretches, (layout->cnt + cnt) * sizeof(*more));
	if (more)
		layout->stretches = more;
	else
		rc = obd_fail(run->info, OBD_E_NOMEM, NULL, "extents of a file");
	for (size_t i = 0; i < cnt && !rc; i++) {
		uint64_t length = runs[i].cnt * block_bytes;

		layout->stretches[layout->cnt++] =
			(struct stretch){begin, begin + length, runs[i].block * block_bytes};
		begin += length;
	}
	free(runs);
	return rc;
}

/* All of a plain file; of a sparse one what its header says is data. */
static int lay_out(struct obd_apply_run *run, ext2_ino_t ino, struct ext2_inode_large *inode,
		   const struct obd_tar_entry *entry, struct layout *layout)
{
	uint64_t mask = run->ext4->fs->blocksize - 1;
	uint64_t size = (uint64_t)entry->size_bytes;
	uint64_t end = 0;
	int64_t at;
	int64_t length;
	int rc = 0;

	if (entry->size_bytes < 0 || size > (uint64_t)UINT32_MAX * (mask + 1))
		return obd_apply_refuse(run, OBD_E_FORMAT, "size beyond what ext4 can hold", NULL);
	if (!entry->extent_cnt)
		return size ? add_blocks(run, ino, inode, 0, (size + mask) & ~mask, layout) : 0;
	while (!rc && obd_tar_extent(run->tar, &at, &length)) {
		uint64_t from = (uint64_t)at & ~mask;
		uint64_t to;

		if (at < 0 || length < 0 || (uint64_t)at > size ||
		    (uint64_t)length > size - (uint64_t)at)
			return obd_apply_refuse(run, OBD_E_FORMAT,
						"a piece of the sparse file lies beyond its size",
						NULL);
		to = ((uint64_t)(at + length) + mask) & ~mask;
		if (end && (uint64_t)at < layout->written)
			return obd_apply_refuse(run, OBD_E_FORMAT,
						"pieces of the sparse file are out of order", NULL);
		layout->written = (uint64_t)(at + length);
		if (from < end) /* both in one block */
			from = end;
		if (from < to)
			rc = add_blocks(run, ino, inode, from, to, layout);
		if (to > end)
			end = to;
	}
	layout->written = 0;
	return rc;
}

/* Puts `length` bytes at `layout->written`, zeros without `from`; what has no blocks is skipped. */
static int put_bytes(struct obd_apply_run *run, struct layout *layout, const uint8_t *from,
		     uint64_t length)
{
	int rc = 0;

	while (length && !rc && layout->present < layout->cnt) {
		struct stretch *one = &layout->stretches[layout->present];
		uint64_t at = layout->written;
		uint64_t bytes;

		if (at >= one->end) {
			layout->present++;
			continue;
		}
		bytes = (at < one->begin ? one->begin : one->end) - at;
		if (bytes > length)
			bytes = length;
		if (at < one->begin) {
			if (from)
				return obd_apply_refuse(run, OBD_E_FORMAT,
							"data where its header has a hole", NULL);
		} else if (from) {
			rc = obd_ext4_io_put(run->ext4->io, one->disk + (at - one->begin), from,
					     bytes, run->info);
			from += bytes;
		} else {
			rc = obd_ext4_io_put_zeros(run->ext4->io, one->disk + (at - one->begin),
						   bytes, run->info);
		}
		layout->written += bytes;
		length -= bytes;
	}
	if (length && from && !rc)
		rc = obd_apply_refuse(run, OBD_E_FORMAT, "more data than its size says", NULL);
	return rc;
}

static int put_data(struct obd_apply_run *run, struct layout *layout)
{
	const void *data;
	size_t length;
	uint64_t offset;
	int rc;

	while ((rc = obd_tar_data(run->tar, run->info, &data, &length, &offset)) > 0) {
		if (!length)
			continue;
		if (offset < layout->written)
			return obd_apply_refuse(run, OBD_E_FORMAT,
						"pieces of the sparse file are out of order", NULL);
		rc = put_bytes(run, layout, NULL, offset - layout->written);
		layout->written = offset;
		if (!rc)
			rc = put_bytes(run, layout, data, length);
		if (rc)
			return rc;
		run->result->data_bytes += length;
	}
	/* to the end of the last block: a part of it would be what was there before */
	if (!rc && layout->cnt && layout->written < layout->stretches[layout->cnt - 1].end)
		rc = put_bytes(run, layout, NULL,
			       layout->stretches[layout->cnt - 1].end - layout->written);
	return rc;
}

static int fill_file(struct obd_apply_run *run, ext2_ino_t ino, struct ext2_inode_large *inode,
		     const struct obd_tar_entry *entry)
{
	struct layout layout = {0};
	int rc = lay_out(run, ino, inode, entry, &layout);

	if (!rc)
		rc = put_data(run, &layout);
	free(layout.stretches);
	if (!rc && !layout.cnt) /* an empty extent tree is one all the same */
		rc = obd_ext4_map_blocks(run->ext4, ino, inode, 0, NULL, 0, run->info);
	if (!rc)
		rc = obd_ext4_told(run->ext4,
				   ext2fs_inode_size_set(run->ext4->fs, (struct ext2_inode *)inode,
							 (uint64_t)entry->size_bytes),
				   "size of a file", run->info);
	return rc;
}

/* ---- other types ---- */

static int fill_link(struct obd_apply_run *run, ext2_ino_t ino, struct ext2_inode_large *inode,
		     const struct obd_tar_entry *entry)
{
	uint32_t block_bytes = run->ext4->fs->blocksize;
	size_t length = strlen(entry->link);
	struct obd_ext4_run *runs;
	uint64_t disk;
	size_t cnt;
	int rc;

	if (!length || length >= block_bytes)
		return obd_apply_refuse(run, OBD_E_FORMAT, "symlink's target is empty or too long",
					NULL);
	inode->i_size = (uint32_t)length;
	if (length < FAST_LINK) {
		memcpy(inode->i_block, entry->link, length);
		return 0;
	}
	if (ext2fs_has_feature_extents(run->ext4->fs->super))
		inode->i_flags |= EXT4_EXTENTS_FL;
	rc = obd_ext4_take_blocks(run->ext4, 1, run->info, &runs, &cnt);
	if (rc)
		return rc;
	disk = runs[0].block * block_bytes;
	rc = obd_ext4_map_blocks(run->ext4, ino, inode, 0, runs, cnt, run->info);
	free(runs);
	if (!rc)
		rc = obd_ext4_io_put(run->ext4->io, disk, entry->link, length, run->info);
	if (!rc)
		rc = obd_ext4_io_put_zeros(run->ext4->io, disk + length, block_bytes - length,
					   run->info);
	return rc;
}

static void fill_device(struct ext2_inode_large *inode, const struct obd_tar_entry *entry)
{
	uint32_t major = entry->device_major;
	uint32_t minor = entry->device_minor;

	if (major < 256 && minor < 256)
		inode->i_block[0] = major << 8 | minor;
	else
		inode->i_block[1] = (minor & 0xff) | major << 8 | (minor & ~0xffu) << 12;
}

static int fill(struct obd_apply_run *run, ext2_ino_t ino, struct ext2_inode_large *inode,
		const struct obd_tar_entry *entry)
{
	if (LINUX_S_ISREG(entry->mode))
		return fill_file(run, ino, inode, entry);
	if (LINUX_S_ISLNK(entry->mode))
		return fill_link(run, ino, inode, entry);
	if (LINUX_S_ISCHR(entry->mode) || LINUX_S_ISBLK(entry->mode)) {
		if (entry->device_major > 0xfff || entry->device_minor > 0xfffff)
			return obd_apply_refuse(run, OBD_E_FORMAT, "device number too large", NULL);
		fill_device(inode, entry);
	}
	return 0;
}

int obd_apply_make(struct obd_apply_run *run, const struct obd_apply_place *place,
		   const struct obd_tar_entry *entry)
{
	struct ext2_inode_large inode;
	ext2_ino_t ino;
	int rc;

	if (obd_ext4_type_of(entry->mode) == EXT2_FT_UNKNOWN)
		return obd_apply_refuse(run, OBD_E_FORMAT, "unknown type of entry", NULL);
	if (LINUX_S_ISDIR(entry->mode)) {
		rc = add_directory(run, place, entry, &ino);
		return rc ? rc : set_xattrs(run, ino, false);
	}
	rc = obd_ext4_take_inode(run->ext4, place->dir_ino, false, run->info, &ino);
	if (rc)
		return rc;
	begin_inode(run, entry->mode & LINUX_S_IFMT, &inode);
	if (LINUX_S_ISLNK(entry->mode))
		inode.i_mode |= 0777;
	rc = set_attributes(run, &inode, entry);
	if (!rc)
		rc = fill(run, ino, &inode, entry);
	if (!rc)
		rc = obd_ext4_write_inode(run->ext4, ino, &inode, run->info);
	if (!rc)
		rc = set_xattrs(run, ino, false);
	return rc ? rc : put_name(run, place, ino, obd_ext4_type_of(entry->mode));
}

int obd_apply_link(struct obd_apply_run *run, const struct obd_apply_place *place,
		   ext2_ino_t target, uint8_t type, const struct obd_tar_entry *entry)
{
	struct ext2_inode_large inode;
	int rc = obd_ext4_read_inode(run->ext4, target, &inode, run->info);

	if (!rc && inode.i_links_count >= MAX_LINKS)
		rc = obd_apply_refuse(run, OBD_E_UNSUPPORTED, "more than 65000 hard links to",
				      entry->link);
	if (!rc)
		rc = set_attributes(run, &inode, entry);
	inode.i_links_count++;
	if (!rc)
		rc = obd_ext4_write_inode(run->ext4, target, &inode, run->info);
	return rc ? rc : put_name(run, place, target, type);
}
