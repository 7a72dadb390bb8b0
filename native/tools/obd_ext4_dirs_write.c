/* Directories onto the disk: one block, or a hash tree over blocks of names in hash order. */
#include <stdlib.h>
#include <string.h>

#include "obd_ext4_dirs_internal.h"

#define DOT_BYTES     12u /* the entry "." */
#define DX_ROOT_AT    24u /* behind "." and the head of "..": dx_root_info, then entries */
#define DX_INFO_BYTES 8u
#define DX_NODE_AT    8u /* behind an empty entry */
#define MAX_LINKS     65000u

/* A name in the order in which it is written. */
struct placed {
	uint32_t hash;
	uint32_t minor;
	uint32_t index;
};

/* A directory's content before it has blocks. */
struct content {
	struct obd_ext4_dir *dir;
	ext2_filsys fs;
	uint32_t block_bytes;
	uint32_t usable;      /* bytes of a block without the checksum's tail */
	struct placed *order; /* the names that are there */
	uint32_t order_cnt;
	uint8_t *blocks;
	uint32_t block_cnt;
	uint32_t subdirs;
};

static int by_hash(const void *left, const void *right)
{
	const struct placed *a = left;
	const struct placed *b = right;

	if (a->hash != b->hash)
		return a->hash < b->hash ? -1 : 1;
	if (a->minor != b->minor)
		return a->minor < b->minor ? -1 : 1;
	return a->index < b->index ? -1 : a->index > b->index;
}

static uint32_t entry_bytes(uint32_t name_length)
{
	return (8 + name_length + 3) & ~3u;
}

static uint8_t *block_at(const struct content *content, uint32_t no)
{
	return content->blocks + (size_t)no * content->block_bytes;
}

static void put_entry(const struct content *content, uint8_t *at, uint32_t record_bytes,
		      ext2_ino_t ino, const char *name, size_t length, uint8_t type)
{
	struct ext2_dir_entry *entry = (void *)at;

	entry->inode = ino;
	(void)ext2fs_set_rec_len(content->fs, record_bytes, entry);
	ext2fs_dirent_set_name_len(entry, (int)length);
	ext2fs_dirent_set_file_type(
		entry, ext2fs_has_feature_filetype(content->fs->super) ? type : EXT2_FT_UNKNOWN);
	memcpy(entry->name, name, length);
}

static int add_block(struct content *content, uint32_t *ret_no)
{
	uint8_t *more = realloc(content->blocks, (content->block_cnt + 1ul) * content->block_bytes);

	if (!more)
		return OBD_E_NOMEM;
	content->blocks = more;
	*ret_no = content->block_cnt++;
	memset(block_at(content, *ret_no), 0, content->block_bytes);
	return 0;
}

static void end_leaf(const struct content *content, uint8_t *block)
{
	if (content->usable < content->block_bytes)
		ext2fs_initialize_dirent_tail(content->fs,
					      EXT2_DIRENT_TAIL(block, content->block_bytes));
}

/*
 * Fills one block from `at` on with names from `*next` on. The last entry reaches to the end, and
 * an empty block holds one entry without an inode.
 */
static void fill_leaf(const struct content *content, uint8_t *block, uint32_t at, uint32_t *next)
{
	struct obd_ext4_dir *dir = content->dir;
	uint32_t last = at;

	for (; *next < content->order_cnt; (*next)++) {
		struct obd_ext4_name *name = &dir->names[content->order[*next].index];
		uint32_t bytes = entry_bytes(name->length);

		if (at + bytes > content->usable)
			break;
		put_entry(content, block + at, bytes, name->ino, dir->text + name->name,
			  name->length, name->type);
		last = at;
		at += bytes;
	}
	if (at == last) /* none */
		put_entry(content, block + at, content->usable - at, 0, "", 0, 0);
	else
		(void)ext2fs_set_rec_len(content->fs, content->usable - last,
					 (void *)(block + last));
	end_leaf(content, block);
}

static void put_dots(const struct content *content, uint8_t *block, uint32_t dot_dot_bytes)
{
	put_entry(content, block, DOT_BYTES, content->dir->ino, ".", 1, EXT2_FT_DIR);
	put_entry(content, block + DOT_BYTES, dot_dot_bytes, content->dir->parent, "..", 2,
		  EXT2_FT_DIR);
}

static uint64_t bytes_of_all(const struct content *content)
{
	uint64_t bytes = 2 * DOT_BYTES;

	for (uint32_t i = 0; i < content->order_cnt; i++)
		bytes += entry_bytes(content->dir->names[content->order[i].index].length);
	return bytes;
}

/* Block after block in the order in which names came. */
static int lay_out_linear(struct content *content)
{
	uint32_t next = 0;
	uint32_t no;

	do {
		if (add_block(content, &no))
			return OBD_E_NOMEM;
		if (no == 0)
			put_dots(content, block_at(content, 0), DOT_BYTES);
		fill_leaf(content, block_at(content, no), no ? 0 : 2 * DOT_BYTES, &next);
	} while (next < content->order_cnt);
	return 0;
}

/* ---- hash tree ---- */

static int hash_names(struct content *content)
{
	struct ext2_super_block *super = content->fs->super;
	int version = super->s_def_hash_version;

	if (version <= EXT2_HASH_TEA && super->s_flags & EXT2_FLAGS_UNSIGNED_HASH)
		version += 3;
	for (uint32_t i = 0; i < content->order_cnt; i++) {
		struct placed *placed = &content->order[i];
		struct obd_ext4_name *name = &content->dir->names[placed->index];
		ext2_dirhash_t hash;
		ext2_dirhash_t minor;

		if (ext2fs_dirhash2(version, content->dir->text + name->name, name->length, NULL, 0,
				    super->s_hash_seed, &hash, &minor))
			return OBD_E_UNSUPPORTED;
		placed->hash = hash;
		placed->minor = minor;
	}
	qsort(content->order, content->order_cnt, sizeof(*content->order), by_hash);
	return 0;
}

/* Entries of an index block: how many fit, how many are there, and the first, whose hash is 0. */
static struct ext2_dx_entry *begin_entries(const struct content *content, uint8_t *block,
					   uint32_t at, uint32_t cnt)
{
	struct ext2_dx_countlimit *head = (void *)(block + at);
	uint32_t tail = content->usable < content->block_bytes ? 8 : 0;

	head->limit = ext2fs_cpu_to_le16((uint16_t)((content->block_bytes - at - tail) / 8));
	head->count = ext2fs_cpu_to_le16((uint16_t)cnt);
	return (void *)(block + at);
}

static void put_entries(struct ext2_dx_entry *entries, const uint32_t *hashes, uint32_t first_block,
			uint32_t cnt)
{
	for (uint32_t i = 0; i < cnt; i++) {
		if (i) /* the first one's place holds limit and count */
			entries[i].hash = ext2fs_cpu_to_le32(hashes[i]);
		entries[i].block = ext2fs_cpu_to_le32(first_block + i);
	}
}

static void put_root(const struct content *content, uint8_t levels)
{
	struct ext2_dx_root_info *root = (void *)(block_at(content, 0) + DX_ROOT_AT);

	put_dots(content, block_at(content, 0), content->block_bytes - DOT_BYTES);
	root->hash_version = content->fs->super->s_def_hash_version;
	root->info_length = DX_INFO_BYTES;
	root->indirect_levels = levels;
}

/*
 * Block 0 is the root, then all leaves, then, when the root can not name them all, index blocks
 * between the two. hashes[i]: the first hash of leaf i, odd when the leaf before ends with it too.
 */
static int lay_out_tree(struct content *content, uint32_t *hashes)
{
	uint32_t root_limit = (content->usable - DX_ROOT_AT - DX_INFO_BYTES) / 8;
	uint32_t node_limit = (content->usable - DX_NODE_AT) / 8;
	uint32_t leaves = 0;
	uint32_t nodes;
	uint32_t next = 0;
	uint32_t no;

	if (add_block(content, &no))
		return OBD_E_NOMEM;
	for (; next < content->order_cnt; leaves++) {
		uint32_t hash = content->order[next].hash;

		if (next && content->order[next - 1].hash == hash)
			hash |= 1;
		hashes[leaves] = hash;
		if (add_block(content, &no))
			return OBD_E_NOMEM;
		fill_leaf(content, block_at(content, no), 0, &next);
	}
	nodes = leaves <= root_limit ? 0 : (leaves + node_limit - 1) / node_limit;
	if (nodes > root_limit)
		return OBD_E_NOSPACE;
	for (uint32_t i = 0; i < nodes; i++) {
		uint32_t first = i * node_limit;
		uint32_t cnt = leaves - first < node_limit ? leaves - first : node_limit;

		if (add_block(content, &no))
			return OBD_E_NOMEM;
		put_entry(content, block_at(content, no), content->block_bytes, 0, "", 0, 0);
		put_entries(begin_entries(content, block_at(content, no), DX_NODE_AT, cnt),
			    hashes + first, 1 + first, cnt);
		hashes[i] = hashes[first]; /* i <= first: what is behind is still whole */
	}
	put_root(content, nodes ? 1 : 0);
	put_entries(begin_entries(content, block_at(content, 0), DX_ROOT_AT + DX_INFO_BYTES,
				  nodes ? nodes : leaves),
		    hashes, nodes ? 1 + leaves : 1, nodes ? nodes : leaves);
	return 0;
}

static int lay_out(struct content *content, bool *ret_is_tree)
{
	uint32_t *hashes;
	int rc;

	*ret_is_tree = bytes_of_all(content) > content->usable &&
		       ext2fs_has_feature_dir_index(content->fs->super);
	if (!*ret_is_tree)
		return lay_out_linear(content);
	hashes = malloc((content->order_cnt + 1ul) * sizeof(*hashes));
	rc = hashes ? hash_names(content) : OBD_E_NOMEM;
	if (!rc)
		rc = lay_out_tree(content, hashes);
	free(hashes);
	return rc;
}

/* ---- onto the disk ---- */

struct mapped {
	blk64_t *blocks;
	uint32_t cnt; /* found so far, without a gap */
	uint32_t room;
	bool is_odd;
};

static int take_block(ext2_filsys fs, blk64_t *block, e2_blkcnt_t logical, blk64_t ref_block,
		      int ref_offset, void *context)
{
	struct mapped *mapped = context;

	(void)fs;
	(void)ref_block;
	(void)ref_offset;
	if (logical != (e2_blkcnt_t)mapped->cnt || mapped->cnt == mapped->room) {
		mapped->is_odd = true;
		return BLOCK_ABORT;
	}
	mapped->blocks[mapped->cnt++] = *block;
	return 0;
}

/* The blocks a directory has, if they are as many as it needs; otherwise it gets new ones. */
static int get_blocks(struct content *content, struct ext2_inode_large *inode, blk64_t *blocks,
		      struct obd_errinfo *info)
{
	struct obd_ext4 *ext4 = content->dir->dirs->ext4;
	struct mapped mapped = {.blocks = blocks, .room = content->block_cnt};
	struct ext2_inode *small = (struct ext2_inode *)inode;
	ext2_ino_t ino = content->dir->ino;
	struct obd_ext4_run *runs;
	size_t run_cnt;
	errcode_t error = 0;
	int rc;

	if (ext2fs_inode_has_valid_blocks2(content->fs, small))
		error = ext2fs_block_iterate3(content->fs, ino,
					      BLOCK_FLAG_DATA_ONLY | BLOCK_FLAG_READ_ONLY, NULL,
					      take_block, &mapped);
	if (!error && !mapped.is_odd && mapped.cnt == content->block_cnt)
		return 0;
	if (!error && (mapped.cnt || mapped.is_odd))
		error = ext2fs_punch(content->fs, ino, small, NULL, 0, ~0ull);
	rc = obd_ext4_told(ext4, error, "blocks of a directory", info);
	if (!rc)
		rc = obd_ext4_take_blocks(ext4, content->block_cnt, info, &runs, &run_cnt);
	if (rc)
		return rc;
	for (size_t i = 0, at = 0; i < run_cnt; i++)
		for (uint64_t j = 0; j < runs[i].cnt; j++)
			blocks[at++] = runs[i].block + j;
	rc = obd_ext4_map_blocks(ext4, ino, inode, 0, runs, run_cnt, info);
	free(runs);
	return rc;
}

static int put_on_disk(struct content *content, bool is_tree, struct obd_errinfo *info)
{
	struct obd_ext4 *ext4 = content->dir->dirs->ext4;
	blk64_t *blocks = malloc(content->block_cnt * sizeof(*blocks));
	struct ext2_inode_large inode;
	int rc = blocks ? 0 : obd_fail(info, OBD_E_NOMEM, NULL, "blocks of a directory");

	if (!rc)
		rc = obd_ext4_read_inode(ext4, content->dir->ino, &inode, info);
	if (!rc && inode.i_flags & (EXT4_INLINE_DATA_FL | EXT4_CASEFOLD_FL | EXT4_ENCRYPT_FL))
		rc = obd_fail_value(info, OBD_E_UNSUPPORTED, NULL,
				    "directory with inline data, case folding or encryption; inode",
				    0, 0, content->dir->ino);
	if (!rc)
		rc = get_blocks(content, &inode, blocks, info);
	for (uint32_t i = 0; i < content->block_cnt && !rc; i++)
		rc = obd_ext4_told(ext4,
				   ext2fs_write_dir_block4(content->fs, blocks[i],
							   block_at(content, i), 0,
							   content->dir->ino),
				   "write a directory", info);
	free(blocks);
	if (rc)
		return rc;
	inode.i_flags &= ~(uint32_t)EXT2_INDEX_FL;
	if (is_tree)
		inode.i_flags |= EXT2_INDEX_FL;
	inode.i_links_count =
		content->subdirs + 2 < MAX_LINKS ? (uint16_t)(content->subdirs + 2) : 1;
	rc = obd_ext4_told(
		ext4,
		ext2fs_inode_size_set(content->fs, (struct ext2_inode *)&inode,
				      content->block_cnt * (uint64_t)content->block_bytes),
		"size of a directory", info);
	return rc ? rc : obd_ext4_write_inode(ext4, content->dir->ino, &inode, info);
}

static int write_dir(struct obd_ext4_dir *dir, struct obd_errinfo *info)
{
	ext2_filsys fs = dir->dirs->ext4->fs;
	struct content content = {.dir = dir, .fs = fs, .block_bytes = fs->blocksize};
	bool is_tree = false;
	int rc;

	content.usable = content.block_bytes;
	if (ext2fs_has_feature_metadata_csum(fs->super))
		content.usable -= (uint32_t)sizeof(struct ext2_dir_entry_tail);
	content.order = malloc((dir->name_cnt + 1ul) * sizeof(*content.order));
	if (!content.order)
		return obd_fail(info, OBD_E_NOMEM, NULL, "directory");
	for (uint32_t i = 0; i < dir->name_cnt; i++) {
		if (!dir->names[i].ino)
			continue;
		content.order[content.order_cnt++] = (struct placed){.index = i};
		content.subdirs += dir->names[i].type == EXT2_FT_DIR;
	}
	rc = lay_out(&content, &is_tree);
	if (rc)
		rc = obd_fail(info, rc, NULL, "directory: too many names, or out of memory");
	else
		rc = put_on_disk(&content, is_tree, info);
	free(content.order);
	free(content.blocks);
	return rc;
}

int obd_ext4_dirs_write(struct obd_ext4_dirs *dirs, struct obd_errinfo *info)
{
	int rc = 0;

	for (size_t i = 0; i < dirs->cnt && !rc; i++) {
		if (!dirs->dirs[i]->is_changed)
			continue;
		rc = write_dir(dirs->dirs[i], info);
		dirs->dirs[i]->is_changed = rc != 0;
	}
	return rc;
}
