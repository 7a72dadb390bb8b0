/* What the two parts of directories in memory share: names (_dirs.c), writing (_dirs_write.c). */
#ifndef OBD_EXT4_DIRS_INTERNAL_H
#define OBD_EXT4_DIRS_INTERNAL_H

#include "obd_ext4_dirs.h"

struct obd_ext4_dir {
	struct obd_ext4_dirs *dirs;
	ext2_ino_t ino;
	ext2_ino_t parent;
	bool is_changed;
	struct obd_ext4_name *names;
	uint32_t name_cnt;
	uint32_t name_room;
	uint32_t *slots; /* open addressing: index into names */
	uint32_t slot_cnt;
	char *text; /* all names, one after the other */
	uint32_t text_length;
	uint32_t text_room;
};

struct obd_ext4_dirs {
	struct obd_ext4 *ext4;
	struct obd_ext4_dir **dirs; /* by inode */
	size_t cnt;
	size_t room;
	uint64_t bytes; /* of names ever put */
};

#endif
