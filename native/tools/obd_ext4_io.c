#include "obd_ext4_io.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define UNIT_BYTES	4096u
#define MAX_UNITS	32768u /* 128 MiB of metadata; more is written early */
#define RUN_UNITS	512u   /* units of one write */
#define STAGE_BYTES	(4u << 20)
#define FIRST_SLOTS	1024u
#define NO_UNIT		UINT32_MAX
#define SUPERBLOCK_UNIT 0u
#define SUPERBLOCK_AT	1024u /* in its unit */

/* A piece of the disk in memory. */
struct unit {
	uint64_t no; /* disk offset / UNIT_BYTES */
	uint8_t *bytes;
	bool is_dirty;
};

struct obd_ext4_io {
	struct obd_image *image;
	uint64_t disk_bytes;

	struct unit *units;
	uint32_t unit_cnt;
	uint32_t unit_room;
	uint32_t *slots; /* open addressing: index into units, or NO_UNIT */
	uint32_t slot_cnt;

	uint8_t *stage;
	uint64_t stage_at;
	size_t stage_length;
	struct writer *writer; /* NULL: none yet */
	int behind_fd;	       /* for the writer */

	bool is_marked; /* the superblock on the disk says: not valid */
	bool has_failed;
	struct obd_errinfo failure;
};

/*
 * A thread that writes what was collected while the next is: the one who collects is busy reading,
 * inflating and parsing. It begins with the first piece; one piece is on its way at a time.
 */
struct writer {
	pthread_t thread;
	struct obd_image *image;
	int behind_fd; /* of the file that grows, or -1 */

	pthread_mutex_t lock; /* of all below */
	pthread_cond_t changed;
	uint8_t *piece; /* never NULL; goes back and forth with the stage */
	uint64_t at;
	size_t length; /* 0: nothing to write */
	bool is_over;
	int rc; /* of the first failure */
	struct obd_errinfo info;
};

static _Thread_local struct obd_ext4_io *opened_next;

/* ---- the image in sectors ---- */

static int read_image(struct obd_ext4_io *io, uint64_t offset, void *to, size_t length,
		      struct obd_errinfo *info)
{
	while (length) {
		size_t step = length < STAGE_BYTES ? length : STAGE_BYTES;
		struct iovec iov = {.iov_base = to, .iov_len = step};
		int rc = obd_image_read(io->image, offset / 512, (uint32_t)(step / 512), &iov, 1, 0,
					info);

		if (rc)
			return rc;
		offset += step;
		to = (uint8_t *)to + step;
		length -= step;
	}
	return 0;
}

static int write_image(struct obd_ext4_io *io, uint64_t offset, const struct iovec *iov,
		       uint32_t iov_cnt, struct obd_errinfo *info)
{
	size_t length = 0;

	for (uint32_t i = 0; i < iov_cnt; i++)
		length += iov[i].iov_len;
	return obd_image_write(io->image, offset / 512, (uint32_t)(length / 512), iov, iov_cnt, 0,
			       info);
}

/* ---- units ---- */

static size_t unit_length(const struct obd_ext4_io *io, uint64_t no)
{
	uint64_t left = io->disk_bytes - no * UNIT_BYTES;

	return left < UNIT_BYTES ? (size_t)left : UNIT_BYTES;
}

static uint32_t slot_of(const struct obd_ext4_io *io, uint64_t no)
{
	uint32_t slot = (uint32_t)((no * 0x9e3779b97f4a7c15ull) >> 32) & (io->slot_cnt - 1);

	while (io->slots[slot] != NO_UNIT && io->units[io->slots[slot]].no != no)
		slot = (slot + 1) & (io->slot_cnt - 1);
	return slot;
}

static struct unit *find_unit(const struct obd_ext4_io *io, uint64_t no)
{
	uint32_t at = io->slots[slot_of(io, no)];

	return at == NO_UNIT ? NULL : &io->units[at];
}

static int grow(struct obd_ext4_io *io)
{
	uint32_t room = io->unit_room ? io->unit_room * 2 : FIRST_SLOTS / 2;
	struct unit *units = realloc(io->units, room * sizeof(*units));
	uint32_t *slots;

	if (!units)
		return OBD_E_NOMEM;
	io->units = units;
	slots = malloc(2ul * room * sizeof(*slots));
	if (!slots)
		return OBD_E_NOMEM;
	free(io->slots);
	io->slots = slots;
	io->slot_cnt = 2 * room;
	io->unit_room = room;
	memset(slots, 0xff, io->slot_cnt * sizeof(*slots));
	for (uint32_t i = 0; i < io->unit_cnt; i++)
		slots[slot_of(io, units[i].no)] = i;
	return 0;
}

static void forget_clean(struct obd_ext4_io *io)
{
	uint32_t kept = 0;

	memset(io->slots, 0xff, io->slot_cnt * sizeof(*io->slots));
	for (uint32_t i = 0; i < io->unit_cnt; i++) {
		if (io->units[i].is_dirty) {
			io->units[kept] = io->units[i];
			io->slots[slot_of(io, io->units[kept].no)] = kept;
			kept++;
		} else {
			free(io->units[i].bytes);
		}
	}
	io->unit_cnt = kept;
}

static bool has_changes(const struct obd_ext4_io *io)
{
	for (uint32_t i = 0; i < io->unit_cnt; i++)
		if (io->units[i].is_dirty)
			return true;
	return false;
}

/* A unit with the disk's content, or, if all of it will be overwritten, with zeros. */
static int get_unit(struct obd_ext4_io *io, uint64_t no, bool will_overwrite,
		    struct obd_errinfo *info, struct unit **ret)
{
	struct unit *unit = find_unit(io, no);
	int rc = 0;

	if (unit) {
		*ret = unit;
		return 0;
	}
	if (io->unit_cnt >= MAX_UNITS) {
		if (has_changes(io))
			rc = obd_ext4_io_flush(io, false, info);
		if (!rc)
			forget_clean(io);
	}
	if (!rc && io->unit_cnt == io->unit_room)
		rc = grow(io);
	if (rc)
		return rc == OBD_E_NOMEM ? obd_fail(info, rc, NULL, "metadata cache") : rc;
	unit = &io->units[io->unit_cnt];
	*unit = (struct unit){.no = no, .bytes = calloc(1, UNIT_BYTES)};
	if (!unit->bytes)
		return obd_fail(info, OBD_E_NOMEM, NULL, "metadata cache");
	if (!will_overwrite)
		rc = read_image(io, no * UNIT_BYTES, unit->bytes, unit_length(io, no), info);
	if (rc) {
		free(unit->bytes);
		return rc;
	}
	io->slots[slot_of(io, no)] = io->unit_cnt++;
	*ret = unit;
	return 0;
}

static int check_range(const struct obd_ext4_io *io, uint64_t offset, uint64_t length,
		       struct obd_errinfo *info)
{
	if (offset > io->disk_bytes || length > io->disk_bytes - offset)
		return obd_fail_value(info, OBD_E_RANGE, NULL, "file system beyond the disk's end",
				      offset, io->disk_bytes, offset + length);
	return 0;
}

/* Copies between a range of the disk and memory, through the cache. */
static int copy(struct obd_ext4_io *io, uint64_t offset, uint8_t *memory, size_t length,
		bool is_write, struct obd_errinfo *info)
{
	int rc = check_range(io, offset, length, info);

	while (!rc && length) {
		size_t in_unit = offset % UNIT_BYTES;
		size_t step = UNIT_BYTES - in_unit;
		struct unit *unit = NULL;

		if (step > length)
			step = length;
		rc = get_unit(io, offset / UNIT_BYTES, is_write && step == UNIT_BYTES, info, &unit);
		if (rc)
			break;
		if (is_write) {
			memcpy(unit->bytes + in_unit, memory, step);
			unit->is_dirty = true;
		} else {
			memcpy(memory, unit->bytes + in_unit, step);
		}
		offset += step;
		memory += step;
		length -= step;
	}
	return rc;
}

/* ---- flush ---- */

static int by_number(const void *left, const void *right)
{
	const struct unit *const *a = left;
	const struct unit *const *b = right;

	return (*a)->no < (*b)->no ? -1 : (*a)->no > (*b)->no;
}

/* Writes the changed ones of up to RUN_UNITS neighbours. */
static int flush_run(struct obd_ext4_io *io, struct unit **units, uint32_t cnt, uint8_t *old,
		     struct obd_errinfo *info)
{
	struct iovec iov[RUN_UNITS];
	uint64_t first = units[0]->no;
	size_t length = (cnt - 1) * (size_t)UNIT_BYTES + unit_length(io, units[cnt - 1]->no);
	int rc = read_image(io, first * UNIT_BYTES, old, length, info);

	for (uint32_t i = 0, begin = 0; i < cnt && !rc; i++) {
		size_t bytes = unit_length(io, units[i]->no);
		bool is_same = !memcmp(units[i]->bytes, old + i * (size_t)UNIT_BYTES, bytes);

		iov[i] = (struct iovec){.iov_base = units[i]->bytes, .iov_len = bytes};
		if (is_same && begin < i)
			rc = write_image(io, (first + begin) * UNIT_BYTES, iov + begin, i - begin,
					 info);
		else if (!is_same && i + 1 == cnt)
			rc = write_image(io, (first + begin) * UNIT_BYTES, iov + begin,
					 i + 1 - begin, info);
		if (is_same)
			begin = i + 1;
	}
	for (uint32_t i = 0; i < cnt && !rc; i++)
		units[i]->is_dirty = false;
	return rc;
}

/* Writes what changed of all units but the one with the superblock. */
static int flush_units(struct obd_ext4_io *io, struct obd_errinfo *info)
{
	struct unit **dirty = malloc((io->unit_cnt + 1ul) * sizeof(struct unit *));
	uint8_t *old = malloc((size_t)RUN_UNITS * UNIT_BYTES);
	uint32_t cnt = 0;
	int rc = 0;

	if (!dirty || !old)
		rc = obd_fail(info, OBD_E_NOMEM, NULL, "metadata to write");
	for (uint32_t i = 0; i < io->unit_cnt && !rc; i++)
		if (io->units[i].is_dirty && io->units[i].no != SUPERBLOCK_UNIT)
			dirty[cnt++] = &io->units[i];
	if (!rc)
		qsort(dirty, cnt, sizeof(struct unit *), by_number);
	for (uint32_t i = 0, run; i < cnt && !rc; i += run) {
		run = 1;
		while (run < RUN_UNITS && i + run < cnt && dirty[i + run]->no == dirty[i]->no + run)
			run++;
		rc = flush_run(io, dirty + i, run, old, info);
	}
	free(dirty);
	free(old);
	return rc;
}

/* On the disk, the file system is not valid from here on: what follows is half of a change. */
static int mark_superblock(struct obd_ext4_io *io, struct obd_errinfo *info)
{
	uint8_t bytes[UNIT_BYTES] = {0};
	struct iovec iov = {.iov_base = bytes, .iov_len = unit_length(io, SUPERBLOCK_UNIT)};
	struct ext2_super_block *super = (void *)(bytes + SUPERBLOCK_AT);
	int rc = read_image(io, 0, bytes, iov.iov_len, info);

	if (rc || super->s_magic != ext2fs_cpu_to_le16(EXT2_SUPER_MAGIC))
		return rc;
	super->s_state &= (uint16_t)~ext2fs_cpu_to_le16(EXT2_VALID_FS);
	rc = write_image(io, 0, &iov, 1, info);
	return rc ? rc : obd_image_flush(io->image, info);
}

int obd_ext4_io_flush(struct obd_ext4_io *io, bool with_superblock, struct obd_errinfo *info)
{
	struct unit *super = find_unit(io, SUPERBLOCK_UNIT);
	int rc = obd_ext4_io_put_end(io, info);

	if (!rc && !io->is_marked)
		rc = mark_superblock(io, info);
	io->is_marked = true;
	if (!rc)
		rc = flush_units(io, info);
	if (rc || !with_superblock || !super)
		return rc;
	rc = obd_image_flush(io->image, info);
	if (!rc) {
		struct iovec iov = {.iov_base = super->bytes,
				    .iov_len = unit_length(io, SUPERBLOCK_UNIT)};

		rc = write_image(io, 0, &iov, 1, info);
		super->is_dirty = false;
		io->is_marked = false;
	}
	return rc;
}

/* ---- file data ---- */

int obd_ext4_io_read(struct obd_ext4_io *io, uint64_t offset, void *to, size_t length,
		     struct obd_errinfo *info)
{
	int rc = check_range(io, offset, length, info);

	if (rc)
		return rc;
	if (offset % 512 || length % 512)
		return copy(io, offset, to, length, false, info);
	rc = read_image(io, offset, to, length, info);
	if (rc || !io->unit_cnt)
		return rc;
	for (uint64_t no = offset / UNIT_BYTES; no * UNIT_BYTES < offset + length && !rc; no++) {
		uint64_t from = no * UNIT_BYTES > offset ? no * UNIT_BYTES : offset;
		uint64_t end = (no + 1) * UNIT_BYTES;

		if (end > offset + length)
			end = offset + length;
		if (find_unit(io, no))
			rc = copy(io, from, (uint8_t *)to + (from - offset), end - from, false,
				  info);
	}
	return rc;
}

int obd_ext4_io_write(struct obd_ext4_io *io, uint64_t offset, const void *from, size_t length,
		      struct obd_errinfo *info)
{
	return copy(io, offset, (void *)(uintptr_t)from, length, true, info);
}

/* ---- the writer ---- */

static void *write_pieces(void *context)
{
	struct writer *writer = context;

	pthread_mutex_lock(&writer->lock);
	for (;;) {
		struct obd_errinfo info = {0};
		struct iovec iov;
		int rc;

		while (!writer->length && !writer->is_over)
			pthread_cond_wait(&writer->changed, &writer->lock);
		if (!writer->length)
			break;
		iov = (struct iovec){.iov_base = writer->piece, .iov_len = writer->length};
		pthread_mutex_unlock(&writer->lock);
		rc = obd_image_write(writer->image, writer->at / 512, (uint32_t)(iov.iov_len / 512),
				     &iov, 1, 0, &info);
		/* to the disk already, so that the sync in the end finds little; only a hint */
		if (!rc && writer->behind_fd >= 0)
			(void)sync_file_range(writer->behind_fd, 0, 0, SYNC_FILE_RANGE_WRITE);
		pthread_mutex_lock(&writer->lock);
		if (rc && !writer->rc) {
			writer->rc = rc;
			writer->info = info;
		}
		writer->length = 0;
		pthread_cond_broadcast(&writer->changed);
	}
	pthread_mutex_unlock(&writer->lock);
	return NULL;
}

static int start_writer(struct obd_ext4_io *io, struct obd_errinfo *info)
{
	struct writer *writer = calloc(1, sizeof(*writer));
	int err;

	if (!writer)
		return obd_fail(info, OBD_E_NOMEM, NULL, "file data");
	*writer = (struct writer){
		.image = io->image, .behind_fd = io->behind_fd, .piece = malloc(STAGE_BYTES)};
	pthread_mutex_init(&writer->lock, NULL);
	pthread_cond_init(&writer->changed, NULL);
	err = writer->piece ? pthread_create(&writer->thread, NULL, write_pieces, writer) : ENOMEM;
	if (err) {
		free(writer->piece);
		free(writer);
		return obd_fail_errno(info, OBD_E_NOMEM, err, NULL, "file data");
	}
	io->writer = writer;
	return 0;
}

static void stop_writer(struct obd_ext4_io *io)
{
	struct writer *writer = io->writer;

	if (!writer)
		return;
	pthread_mutex_lock(&writer->lock);
	writer->is_over = true;
	pthread_cond_broadcast(&writer->changed);
	pthread_mutex_unlock(&writer->lock);
	pthread_join(writer->thread, NULL);
	pthread_cond_destroy(&writer->changed);
	pthread_mutex_destroy(&writer->lock);
	free(writer->piece);
	free(writer);
	io->writer = NULL;
}

/* With the lock held: until the piece before is written; how all of them went. */
static int wait_written(struct writer *writer, struct obd_errinfo *info)
{
	while (writer->length)
		pthread_cond_wait(&writer->changed, &writer->lock);
	if (writer->rc && info)
		*info = writer->info;
	return writer->rc;
}

/* What was collected is on its way. */
static int send_stage(struct obd_ext4_io *io, struct obd_errinfo *info)
{
	struct writer *writer;
	uint8_t *piece;
	int rc = 0;

	if (!io->stage_length)
		return 0;
	if (!io->writer)
		rc = start_writer(io, info);
	if (rc)
		return rc;
	writer = io->writer;
	pthread_mutex_lock(&writer->lock);
	rc = wait_written(writer, info);
	if (!rc) {
		piece = writer->piece;
		writer->piece = io->stage;
		writer->at = io->stage_at;
		writer->length = io->stage_length;
		io->stage = piece;
		pthread_cond_broadcast(&writer->changed);
	}
	pthread_mutex_unlock(&writer->lock);
	io->stage_length = 0;
	return rc;
}

int obd_ext4_io_put_end(struct obd_ext4_io *io, struct obd_errinfo *info)
{
	int rc = send_stage(io, info);

	if (rc || !io->writer)
		return rc;
	pthread_mutex_lock(&io->writer->lock);
	rc = wait_written(io->writer, info);
	pthread_mutex_unlock(&io->writer->lock);
	return rc;
}

void obd_ext4_io_write_behind(struct obd_ext4_io *io, int fd)
{
	io->behind_fd = fd;
}

/* A cached copy of what is overwritten would come back with the next flush. */
static void overwrite_units(struct obd_ext4_io *io, uint64_t offset, const uint8_t *from,
			    size_t length)
{
	while (length) {
		size_t in_unit = offset % UNIT_BYTES;
		size_t step = UNIT_BYTES - in_unit;
		struct unit *unit = find_unit(io, offset / UNIT_BYTES);

		if (step > length)
			step = length;
		if (unit && from)
			memcpy(unit->bytes + in_unit, from, step);
		else if (unit)
			memset(unit->bytes + in_unit, 0, step);
		offset += step;
		if (from)
			from += step;
		length -= step;
	}
}

static int put(struct obd_ext4_io *io, uint64_t offset, const uint8_t *from, size_t length,
	       struct obd_errinfo *info)
{
	int rc = check_range(io, offset, length, info);

	if (!rc && offset != io->stage_at + io->stage_length)
		rc = send_stage(io, info);
	while (!rc && length) {
		size_t step = STAGE_BYTES - io->stage_length;

		if (step > length)
			step = length;
		if (!io->stage_length)
			io->stage_at = offset;
		if (from)
			memcpy(io->stage + io->stage_length, from, step);
		else
			memset(io->stage + io->stage_length, 0, step);
		overwrite_units(io, offset, from, step);
		io->stage_length += step;
		offset += step;
		if (from)
			from += step;
		length -= step;
		if (io->stage_length == STAGE_BYTES)
			rc = send_stage(io, info);
	}
	return rc;
}

int obd_ext4_io_put(struct obd_ext4_io *io, uint64_t offset, const void *from, size_t length,
		    struct obd_errinfo *info)
{
	return put(io, offset, from, length, info);
}

int obd_ext4_io_put_zeros(struct obd_ext4_io *io, uint64_t offset, size_t length,
			  struct obd_errinfo *info)
{
	return put(io, offset, NULL, length, info);
}

/* ---- libext2fs' side ---- */

static struct obd_ext4_io *io_of(io_channel channel)
{
	return channel->private_data;
}

/* Remembers the first failure; libext2fs gets an errno. */
static errcode_t told(struct obd_ext4_io *io, int rc, const struct obd_errinfo *info)
{
	if (!rc)
		return 0;
	if (!io->has_failed)
		io->failure = *info;
	io->has_failed = true;
	return rc == OBD_E_NOSPACE ? ENOSPC : EIO;
}

static errcode_t channel_copy(io_channel channel, unsigned long long block, int count, void *memory,
			      bool is_write)
{
	struct obd_errinfo info = {0};
	size_t length =
		count < 0 ? (size_t) - (long)count : (size_t)count * (size_t)channel->block_size;

	if (block > UINT64_MAX / (unsigned int)channel->block_size)
		return EXT2_ET_BAD_BLOCK_NUM;
	return told(io_of(channel),
		    copy(io_of(channel), block * (unsigned int)channel->block_size, memory, length,
			 is_write, &info),
		    &info);
}

static errcode_t channel_open(const char *name, int flags, io_channel *ret)
{
	io_channel channel;

	(void)flags;
	channel = calloc(1, sizeof(*channel));
	if (!channel || !opened_next) {
		free(channel);
		return EXT2_ET_NO_MEMORY;
	}
	channel->magic = EXT2_ET_MAGIC_IO_CHANNEL;
	channel->manager = obd_ext4_io_manager(opened_next);
	channel->name = strdup(name);
	channel->block_size = 1024;
	channel->refcount = 1;
	channel->private_data = opened_next;
	*ret = channel;
	return 0;
}

static errcode_t channel_close(io_channel channel)
{
	if (--channel->refcount > 0)
		return 0;
	free(channel->name);
	free(channel);
	return 0;
}

static errcode_t channel_set_blksize(io_channel channel, int bytes)
{
	channel->block_size = bytes;
	return 0;
}

static errcode_t channel_read64(io_channel channel, unsigned long long block, int count, void *data)
{
	return channel_copy(channel, block, count, data, false);
}

static errcode_t channel_write64(io_channel channel, unsigned long long block, int count,
				 const void *data)
{
	return channel_copy(channel, block, count, (void *)(uintptr_t)data, true);
}

static errcode_t channel_read(io_channel channel, unsigned long block, int count, void *data)
{
	return channel_copy(channel, block, count, data, false);
}

static errcode_t channel_write(io_channel channel, unsigned long block, int count, const void *data)
{
	return channel_copy(channel, block, count, (void *)(uintptr_t)data, true);
}

static errcode_t channel_write_byte(io_channel channel, unsigned long offset, int count,
				    const void *data)
{
	struct obd_errinfo info = {0};

	return told(
		io_of(channel),
		copy(io_of(channel), offset, (void *)(uintptr_t)data, (size_t)count, true, &info),
		&info);
}

/* Everything is written by obd_ext4_io_flush. */
static errcode_t channel_flush(io_channel channel)
{
	(void)channel;
	return 0;
}

static struct struct_io_manager manager = {
	.magic = EXT2_ET_MAGIC_IO_MANAGER,
	.name = "obdsup image",
	.open = channel_open,
	.close = channel_close,
	.set_blksize = channel_set_blksize,
	.read_blk = channel_read,
	.write_blk = channel_write,
	.flush = channel_flush,
	.write_byte = channel_write_byte,
	.read_blk64 = channel_read64,
	.write_blk64 = channel_write64,
};

io_manager obd_ext4_io_manager(struct obd_ext4_io *io)
{
	opened_next = io;
	return &manager;
}

bool obd_ext4_io_failure(const struct obd_ext4_io *io, struct obd_errinfo *info)
{
	if (io->has_failed && info)
		*info = io->failure;
	return io->has_failed;
}

int obd_ext4_io_create(struct obd_image *image, struct obd_errinfo *info, struct obd_ext4_io **ret)
{
	struct obd_ext4_io *io = calloc(1, sizeof(*io));

	if (!io)
		return obd_fail(info, OBD_E_NOMEM, NULL, "metadata cache");
	io->image = image;
	io->behind_fd = -1;
	io->disk_bytes = obd_image_virtual_size_bytes(image) / 512 * 512;
	io->stage = malloc(STAGE_BYTES);
	if (!io->stage || grow(io)) {
		obd_ext4_io_destroy(io);
		return obd_fail(info, OBD_E_NOMEM, NULL, "metadata cache");
	}
	*ret = io;
	return 0;
}

void obd_ext4_io_destroy(struct obd_ext4_io *io)
{
	if (!io)
		return;
	stop_writer(io);
	for (uint32_t i = 0; i < io->unit_cnt; i++)
		free(io->units[i].bytes);
	free(io->units);
	free(io->slots);
	free(io->stage);
	free(io);
}
