/*
 * The disk under libext2fs: an opened image, behind a cache that is written when it is told to.
 *
 * Two ways in. Metadata comes through libext2fs' io_manager, in blocks, over and over: it stays in
 * memory until obd_ext4_io_flush, which leaves out what did not change and writes the rest in disk
 * order. File data goes past the cache, in long writes.
 *
 * One thread uses one io (which has one of its own for file data). The image is borrowed and
 * outlives it.
 */
#ifndef OBD_EXT4_IO_H
#define OBD_EXT4_IO_H

#include <ext2fs/ext2fs.h>
#include <stdbool.h>
#include <stdint.h>

#include "obd_image.h"

struct obd_ext4_io;

int obd_ext4_io_create(struct obd_image *image, struct obd_errinfo *info, struct obd_ext4_io **ret);
void obd_ext4_io_destroy(struct obd_ext4_io *io); /* NULL is fine; after ext2fs_close/free */

/* What ext2fs_open2 and ext2fs_initialize of this thread open next, by any name, is `io`. */
io_manager obd_ext4_io_manager(struct obd_ext4_io *io);

/*
 * The first failure of a read or write that libext2fs asked for: true and *info, when there was
 * one. libext2fs itself can only say "input/output error".
 */
bool obd_ext4_io_failure(const struct obd_ext4_io *io, struct obd_errinfo *info);

/* Any range of the disk, cached changes included; past the cache otherwise. */
int obd_ext4_io_read(struct obd_ext4_io *io, uint64_t offset, void *to, size_t length,
		     struct obd_errinfo *info);

/* Metadata: stays in the cache until a flush. */
int obd_ext4_io_write(struct obd_ext4_io *io, uint64_t offset, const void *from, size_t length,
		      struct obd_errinfo *info);

/*
 * Data for whole blocks (offset and length: multiples of 512), collected while it follows on the
 * last and written, by another thread, when it does not or when there is much. A failure comes
 * with a later call; after put_end all is written.
 */
int obd_ext4_io_put(struct obd_ext4_io *io, uint64_t offset, const void *from, size_t length,
		    struct obd_errinfo *info);
int obd_ext4_io_put_zeros(struct obd_ext4_io *io, uint64_t offset, size_t length,
			  struct obd_errinfo *info);
int obd_ext4_io_put_end(struct obd_ext4_io *io, struct obd_errinfo *info);

/* Before the first put: the file that grows by what is put; its pages go to the disk early. */
void obd_ext4_io_write_behind(struct obd_ext4_io *io, int fd);

/*
 * Writes the data that was put and the changed metadata: first of all a superblock that says "not
 * valid", last the true one, and a sync between each two, so that whatever cuts it off leaves the
 * old state, one that says that it is not whole, or the new state. The last write is not synced.
 * Without the superblock the state stays "not whole".
 */
int obd_ext4_io_flush(struct obd_ext4_io *io, bool with_superblock, struct obd_errinfo *info);

#endif
