/* Directories in memory: names by hash, and the table of directories. */
#include "obd_ext4_dirs_internal.h"

#include <stdlib.h>
#include <string.h>

#define NO_NAME UINT32_MAX

static uint32_t hash_of(const char *name, size_t length)
{
	uint32_t hash = 2166136261u;

	for (size_t i = 0; i < length; i++)
		hash = (hash ^ (uint8_t)name[i]) * 16777619u;
	return hash ^ hash >> 15;
}

/* ---- names of one directory ---- */

/* The slot of a name, or the free one where it would be. */
static uint32_t *slot_of(struct obd_ext4_dir *dir, const char *name, size_t length)
{
	uint32_t mask = dir->slot_cnt - 1;
	uint32_t at = hash_of(name, length) & mask;

	for (;; at = (at + 1) & mask) {
		struct obd_ext4_name *one = &dir->names[dir->slots[at]];

		if (dir->slots[at] == NO_NAME ||
		    (one->length == length && !memcmp(dir->text + one->name, name, length)))
			return &dir->slots[at];
	}
}

static int grow_names(struct obd_ext4_dir *dir)
{
	uint32_t room = dir->name_room ? dir->name_room * 2 : 8;
	struct obd_ext4_name *names = realloc(dir->names, room * sizeof(*names));
	uint32_t *slots;

	if (!names)
		return OBD_E_NOMEM;
	dir->names = names;
	slots = malloc(2ul * room * sizeof(*slots));
	if (!slots)
		return OBD_E_NOMEM;
	free(dir->slots);
	dir->slots = slots;
	dir->slot_cnt = 2 * room;
	dir->name_room = room;
	memset(slots, 0xff, dir->slot_cnt * sizeof(*slots));
	for (uint32_t i = 0; i < dir->name_cnt; i++)
		*slot_of(dir, dir->text + names[i].name, names[i].length) = i;
	return 0;
}

static int grow_text(struct obd_ext4_dir *dir, size_t more)
{
	uint64_t room = dir->text_room ? dir->text_room * 2ull : 256;
	char *text;

	if (dir->text_length + more <= dir->text_room)
		return 0;
	if (room > UINT32_MAX)
		return OBD_E_NOMEM;
	text = realloc(dir->text, room);
	if (!text)
		return OBD_E_NOMEM;
	dir->text = text;
	dir->text_room = (uint32_t)room;
	return 0;
}

/* A removed name keeps its place and may come back; so names that go and come need no more room. */
struct obd_ext4_name *obd_ext4_dir_find(struct obd_ext4_dir *dir, const char *name, size_t length)
{
	uint32_t *slot = dir->slot_cnt ? slot_of(dir, name, length) : NULL;

	if (!slot || *slot == NO_NAME || !dir->names[*slot].ino)
		return NULL;
	return &dir->names[*slot];
}

int obd_ext4_dir_put(struct obd_ext4_dir *dir, const char *name, size_t length, ext2_ino_t ino,
		     uint8_t type, struct obd_errinfo *info)
{
	struct obd_ext4_dirs *dirs = dir->dirs;
	ext2_filsys fs = dirs->ext4->fs;
	uint32_t *slot;
	int rc = 0;

	if (dir->name_cnt == dir->name_room)
		rc = grow_names(dir);
	if (!rc)
		rc = grow_text(dir, length);
	if (rc)
		return obd_fail(info, rc, NULL, "names of a directory");
	/* what can not be written in the end need not be kept until then */
	dirs->bytes += sizeof(struct obd_ext4_name) + length;
	if (dirs->bytes / fs->blocksize > ext2fs_blocks_count(fs->super))
		return obd_fail(info, OBD_E_NOSPACE, NULL, "the file system in the image is full");
	slot = slot_of(dir, name, length);
	if (*slot == NO_NAME) {
		*slot = dir->name_cnt++;
		memcpy(dir->text + dir->text_length, name, length);
		dir->names[*slot] =
			(struct obd_ext4_name){.name = dir->text_length, .length = (uint8_t)length};
		dir->text_length += (uint32_t)length;
	}
	dir->names[*slot].ino = ino;
	dir->names[*slot].type = type;
	dir->names[*slot].is_new = 0;
	dir->is_changed = true;
	return 0;
}

void obd_ext4_dir_remove(struct obd_ext4_dir *dir, struct obd_ext4_name *name)
{
	name->ino = 0;
	dir->is_changed = true;
}

struct obd_ext4_name *obd_ext4_dir_names(struct obd_ext4_dir *dir, size_t *ret_cnt)
{
	*ret_cnt = dir->name_cnt;
	return dir->names;
}

const char *obd_ext4_dir_text(const struct obd_ext4_dir *dir, const struct obd_ext4_name *name)
{
	return dir->text + name->name;
}

ext2_ino_t obd_ext4_dir_parent(const struct obd_ext4_dir *dir)
{
	return dir->parent;
}

static void destroy_dir(struct obd_ext4_dir *dir)
{
	if (!dir)
		return;
	free(dir->names);
	free(dir->slots);
	free(dir->text);
	free(dir);
}

/* ---- the table: sorted by inode, as few come and most are asked for often ---- */

static size_t place_of(const struct obd_ext4_dirs *dirs, ext2_ino_t ino)
{
	size_t low = 0;
	size_t high = dirs->cnt;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (dirs->dirs[middle]->ino < ino)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static int insert(struct obd_ext4_dirs *dirs, struct obd_ext4_dir *dir)
{
	size_t at = place_of(dirs, dir->ino);

	if (dirs->cnt == dirs->room) {
		size_t room = dirs->room ? dirs->room * 2 : 64;
		struct obd_ext4_dir **more = realloc(dirs->dirs, room * sizeof(*more));

		if (!more)
			return OBD_E_NOMEM;
		dirs->dirs = more;
		dirs->room = room;
	}
	memmove(dirs->dirs + at + 1, dirs->dirs + at, (dirs->cnt - at) * sizeof(*dirs->dirs));
	dirs->dirs[at] = dir;
	dirs->cnt++;
	return 0;
}

static struct obd_ext4_dir *find_dir(const struct obd_ext4_dirs *dirs, ext2_ino_t ino)
{
	size_t at = place_of(dirs, ino);

	return at < dirs->cnt && dirs->dirs[at]->ino == ino ? dirs->dirs[at] : NULL;
}

static struct obd_ext4_dir *new_dir(struct obd_ext4_dirs *dirs, ext2_ino_t ino, ext2_ino_t parent)
{
	struct obd_ext4_dir *dir = calloc(1, sizeof(*dir));

	if (dir)
		*dir = (struct obd_ext4_dir){.dirs = dirs, .ino = ino, .parent = parent};
	return dir;
}

int obd_ext4_dirs_add(struct obd_ext4_dirs *dirs, ext2_ino_t ino, ext2_ino_t parent,
		      struct obd_errinfo *info)
{
	struct obd_ext4_dir *dir = new_dir(dirs, ino, parent);

	if (!dir || insert(dirs, dir)) {
		destroy_dir(dir);
		return obd_fail(info, OBD_E_NOMEM, NULL, "directory");
	}
	dir->is_changed = true;
	return 0;
}

void obd_ext4_dirs_forget(struct obd_ext4_dirs *dirs, ext2_ino_t ino)
{
	size_t at = place_of(dirs, ino);

	if (at == dirs->cnt || dirs->dirs[at]->ino != ino)
		return;
	destroy_dir(dirs->dirs[at]);
	dirs->cnt--;
	memmove(dirs->dirs + at, dirs->dirs + at + 1, (dirs->cnt - at) * sizeof(*dirs->dirs));
}

/* ---- reading ---- */

struct reading {
	struct obd_ext4_dir *dir;
	struct obd_errinfo *info;
	int rc;
};

static bool is_name(const char *name, size_t length)
{
	return length && !memchr(name, '/', length) && !memchr(name, 0, length);
}

static int type_of(struct obd_ext4 *ext4, ext2_ino_t ino, struct obd_errinfo *info, uint8_t *ret)
{
	struct ext2_inode_large inode;
	int rc = obd_ext4_read_inode(ext4, ino, &inode, info);

	if (!rc)
		*ret = obd_ext4_type_of(inode.i_mode);
	return rc;
}

static int take_name(ext2_ino_t dir_ino, int entry, struct ext2_dir_entry *dirent, int offset,
		     int block_bytes, char *buffer, void *context)
{
	struct reading *reading = context;
	struct obd_ext4_dir *dir = reading->dir;
	size_t length = (size_t)ext2fs_dirent_name_len(dirent);
	uint8_t type = (uint8_t)ext2fs_dirent_file_type(dirent);

	(void)dir_ino;
	(void)offset;
	(void)block_bytes;
	(void)buffer;
	if (entry == DIRENT_DOT_DOT_FILE)
		dir->parent = dirent->inode;
	if (entry == DIRENT_DOT_FILE || entry == DIRENT_DOT_DOT_FILE)
		return 0;
	if (type == EXT2_FT_UNKNOWN) /* no feature filetype */
		reading->rc = type_of(dir->dirs->ext4, dirent->inode, reading->info, &type);
	if (reading->rc)
		return DIRENT_ABORT;
	if (!is_name(dirent->name, length) || obd_ext4_dir_find(dir, dirent->name, length))
		reading->rc = obd_fail_value(reading->info, OBD_E_FORMAT, NULL,
					     "name in a directory (run e2fsck); its inode", 0,
					     dir->ino, dirent->inode);
	else
		reading->rc =
			obd_ext4_dir_put(dir, dirent->name, length, dirent->inode,
					 (uint8_t)ext2fs_dirent_file_type(dirent), reading->info);
	return reading->rc ? DIRENT_ABORT : 0;
}

static int read_dir(struct obd_ext4_dirs *dirs, struct obd_ext4_dir *dir, struct obd_errinfo *info)
{
	struct reading reading = {.dir = dir, .info = info};
	struct obd_ext4 *ext4 = dirs->ext4;
	struct ext2_inode_large inode;
	int rc = obd_ext4_read_inode(ext4, dir->ino, &inode, info);

	if (rc)
		return rc;
	if (!LINUX_S_ISDIR(inode.i_mode) ||
	    EXT2_I_SIZE(&inode) / ext4->fs->blocksize > ext2fs_blocks_count(ext4->fs->super))
		return obd_fail_value(info, OBD_E_FORMAT, NULL, "inode of a directory", dir->ino,
				      LINUX_S_IFDIR, inode.i_mode);
	rc = obd_ext4_told(ext4,
			   ext2fs_dir_iterate2(ext4->fs, dir->ino, 0, NULL, take_name, &reading),
			   "read a directory", info);
	dir->is_changed = false;
	return rc ? rc : reading.rc;
}

int obd_ext4_dirs_get(struct obd_ext4_dirs *dirs, ext2_ino_t ino, struct obd_errinfo *info,
		      struct obd_ext4_dir **ret)
{
	struct obd_ext4_dir *dir = find_dir(dirs, ino);
	int rc;

	if (dir) {
		*ret = dir;
		return 0;
	}
	dir = new_dir(dirs, ino, 0);
	if (!dir)
		return obd_fail(info, OBD_E_NOMEM, NULL, "directory");
	rc = read_dir(dirs, dir, info);
	if (!rc && insert(dirs, dir))
		rc = obd_fail(info, OBD_E_NOMEM, NULL, "directory");
	if (rc) {
		destroy_dir(dir);
		return rc;
	}
	*ret = dir;
	return 0;
}

int obd_ext4_dirs_create(struct obd_ext4 *ext4, struct obd_errinfo *info,
			 struct obd_ext4_dirs **ret)
{
	struct obd_ext4_dirs *dirs = calloc(1, sizeof(*dirs));

	if (!dirs)
		return obd_fail(info, OBD_E_NOMEM, NULL, "directories");
	dirs->ext4 = ext4;
	*ret = dirs;
	return 0;
}

void obd_ext4_dirs_destroy(struct obd_ext4_dirs *dirs)
{
	if (!dirs)
		return;
	for (size_t i = 0; i < dirs->cnt; i++)
		destroy_dir(dirs->dirs[i]);
	free(dirs->dirs);
	free(dirs);
}
