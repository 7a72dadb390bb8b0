#include "kring.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <linux/target_core_user.h>

#include "bitmap.h"
#include "log.h"
#include "obd_barrier.h"
#include "ringmem.h"
#include "scsi.h"

#define CMDR_SIZE    (OBD_KRING_RING_BYTES - OBD_KRING_CMDR_OFF)
#define RESPONSE_END ((uint32_t)sizeof(struct tcmu_cmd_entry))
#define CMD_ID_MIN   1u
#define CMD_ID_CNT   65536u
#define ATTEMPTS_MAX 5u /* of what is not BUSY, as sd does */
#define MAILBOX_FLAGS                                                                              \
	(TCMU_MAILBOX_FLAG_CAP_OOOC | TCMU_MAILBOX_FLAG_CAP_READ_LEN | TCMU_MAILBOX_FLAG_CAP_TMR | \
	 TCMU_MAILBOX_FLAG_CAP_KEEP_BUF)

_Static_assert(offsetof(struct tcmu_mailbox, cmd_head) == 12, "mailbox layout");
_Static_assert(offsetof(struct tcmu_mailbox, cmd_tail) == 64, "mailbox layout");
_Static_assert(offsetof(struct tcmu_cmd_entry, req.iov) == 48, "entry layout");
_Static_assert(sizeof(struct tcmu_cmd_entry) == 112, "entry layout");
_Static_assert(CMDR_SIZE % TCMU_OP_ALIGN_SIZE == 0, "entries never straddle the end");

struct cmd_list {
	struct obd_kring_cmd *first;
	struct obd_kring_cmd *last;
	uint32_t cnt;
};

struct obd_kring {
	pthread_mutex_t lock; /* everything below */
	struct obd_ringmem mem;
	int wait_fd;
	int kick_fd;
	bool is_checking;
	bool must_notify; /* entries were added since the last notify */
	struct tcmu_mailbox *mailbox;
	uint32_t head;	       /* our own: the shared copy is only written */
	uint32_t last_cleaned; /* first entry whose completion was not taken in */
	uint32_t fresh_block;  /* this data block and those above were never used */
	struct obd_bitmap ids;
	struct obd_bitmap blocks;
	struct cmd_list waiting;
	struct cmd_list in_flight; /* oldest first */
	struct cmd_list done;
	struct obd_kring_cmd **by_id; /* CMD_ID_CNT */
	uint32_t *len_op; /* what was written as len_op, by ring offset / 8: entries are not trusted
			   */
	struct obd_kring_stat stat;
	struct obd_gaps gaps;
};

static void list_append(struct cmd_list *list, struct obd_kring_cmd *cmd)
{
	cmd->next = NULL;
	cmd->prev = list->last;
	if (list->last)
		list->last->next = cmd;
	else
		list->first = cmd;
	list->last = cmd;
	list->cnt++;
}

static void list_remove(struct cmd_list *list, struct obd_kring_cmd *cmd)
{
	if (cmd->prev)
		cmd->prev->next = cmd->next;
	else
		list->first = cmd->next;
	if (cmd->next)
		cmd->next->prev = cmd->prev;
	else
		list->last = cmd->prev;
	list->cnt--;
}

/* Puts all of from before the first of list. */
static void list_prepend_all(struct cmd_list *list, struct cmd_list *from)
{
	if (!from->first)
		return;
	from->last->next = list->first;
	if (list->first)
		list->first->prev = from->last;
	else
		list->last = from->last;
	list->first = from->first;
	list->cnt += from->cnt;
	*from = (struct cmd_list){0};
}

static void signal_event(int fd)
{
	uint64_t one = 1;

	/* Non-blocking: a counter at its limit is readable, which is all that is wanted. */
	if (write(fd, &one, sizeof(one)) < 0)
		return;
}

static uint32_t ring_used(const struct obd_kring *ring)
{
	return (ring->head + CMDR_SIZE - ring->last_cleaned) % CMDR_SIZE;
}

static uint8_t *block_at(struct obd_kring *ring, uint32_t block)
{
	return ring->mem.map + OBD_KRING_RING_BYTES + (uint64_t)block * OBD_KRING_BLOCK_BYTES;
}

static void free_blocks(struct obd_kring *ring, struct obd_kring_cmd *cmd)
{
	for (uint32_t i = 0; i < cmd->block_cnt; i++) {
		if (ring->is_checking)
			memset(block_at(ring, cmd->block[i]), OBD_KRING_POISON,
			       OBD_KRING_BLOCK_BYTES);
		obd_bitmap_put(&ring->blocks, cmd->block[i]);
	}
	cmd->block_cnt = 0;
}

/* Returns the number of iovecs: neighbouring blocks share one. */
static uint32_t take_blocks(struct obd_kring *ring, struct obd_kring_cmd *cmd, uint32_t block_cnt)
{
	uint32_t iov_cnt = 0;

	for (uint32_t i = 0; i < block_cnt; i++) {
		uint32_t block = obd_bitmap_take(&ring->blocks);

		cmd->block[i] = block;
		iov_cnt += i == 0 || block != cmd->block[i - 1] + 1;
		for (; ring->fresh_block <= block; ring->fresh_block++) {
			if (ring->is_checking)
				memset(block_at(ring, ring->fresh_block), OBD_KRING_POISON,
				       OBD_KRING_BLOCK_BYTES);
		}
	}
	cmd->block_cnt = (uint16_t)block_cnt;
	return iov_cnt;
}

/* Copies between the command's data and its blocks. */
static void copy_data(struct obd_kring *ring, struct obd_kring_cmd *cmd, uint32_t data_bytes,
		      bool is_to_ring)
{
	uint32_t at = 0;

	for (uint32_t i = 0; at < data_bytes; i++) {
		uint32_t bytes = data_bytes - at;

		if (bytes > OBD_KRING_BLOCK_BYTES)
			bytes = OBD_KRING_BLOCK_BYTES;
		if (is_to_ring)
			memcpy(block_at(ring, cmd->block[i]), cmd->data + at, bytes);
		else
			memcpy(cmd->data + at, block_at(ring, cmd->block[i]), bytes);
		at += bytes;
	}
}

/* at: where the iovecs start; entries are 8-byte aligned, struct tcmu_cmd_entry is packed. */
static void write_iovs(const struct obd_kring_cmd *cmd, uint8_t *at)
{
	struct iovec iov = {NULL, 0};
	uint32_t left = cmd->data_bytes;

	for (uint32_t i = 0; i < cmd->block_cnt; i++) {
		uint32_t bytes = left < OBD_KRING_BLOCK_BYTES ? left : OBD_KRING_BLOCK_BYTES;

		if (i == 0 || cmd->block[i] != cmd->block[i - 1] + 1) {
			uint64_t offset = OBD_KRING_RING_BYTES +
					  (uint64_t)cmd->block[i] * OBD_KRING_BLOCK_BYTES;

			at += i == 0 ? 0 : sizeof(iov);
			iov = (struct iovec){(void *)(uintptr_t)offset, 0};
		}
		iov.iov_len += bytes;
		memcpy(at, &iov, sizeof(iov));
		left -= bytes;
	}
}

/* Release on cmd_head: pairs with the worker's acquire, makes the entry visible before it. */
static void advance_head(struct obd_kring *ring, uint32_t bytes)
{
	ring->head = (ring->head + bytes) % CMDR_SIZE;
	obd_store_release(&ring->mailbox->cmd_head, ring->head);
	ring->must_notify = true;
}

static struct tcmu_cmd_entry *entry_at(struct obd_kring *ring, uint32_t offset)
{
	return (struct tcmu_cmd_entry *)(void *)(ring->mem.map + OBD_KRING_CMDR_OFF + offset);
}

static void start_entry(struct obd_kring *ring, enum tcmu_opcode op, uint32_t bytes)
{
	struct tcmu_cmd_entry_hdr header = {.len_op = bytes | op};

	memcpy(entry_at(ring, ring->head), &header, sizeof(header));
	ring->len_op[ring->head / 8] = header.len_op;
}

static void insert_pad(struct obd_kring *ring, uint32_t bytes)
{
	start_entry(ring, TCMU_OP_PAD, bytes);
	ring->stat.pads++;
	advance_head(ring, bytes);
}

static void write_entry(struct obd_kring *ring, struct obd_kring_cmd *cmd, uint32_t iov_cnt,
			uint32_t base_bytes, uint32_t entry_bytes)
{
	uint8_t *at = (uint8_t *)entry_at(ring, ring->head);
	struct tcmu_cmd_entry *entry = (struct tcmu_cmd_entry *)(void *)at;

	memset(at, 0, entry_bytes);
	start_entry(ring, TCMU_OP_CMD, entry_bytes);
	entry->hdr.cmd_id = cmd->cmd_id;
	entry->req.iov_cnt = iov_cnt;
	entry->req.cdb_off = OBD_KRING_CMDR_OFF + ring->head + base_bytes;
	write_iovs(cmd, at + offsetof(struct tcmu_cmd_entry, req.iov));
	memcpy(at + base_bytes, cmd->cdb, cmd->cdb_bytes);
	advance_head(ring, entry_bytes);
}

/* Puts a command on the ring; false: no room now, nothing changed. */
static bool place(struct obd_kring *ring, struct obd_kring_cmd *cmd)
{
	uint32_t block_cnt = (cmd->data_bytes + OBD_KRING_BLOCK_BYTES - 1) / OBD_KRING_BLOCK_BYTES;
	uint32_t to_end = CMDR_SIZE - ring->head;
	uint32_t iov_cnt, base_bytes, entry_bytes, needed_bytes;

	if (ring->blocks.free_cnt < block_cnt || ring->ids.free_cnt == 0)
		return false;
	iov_cnt = take_blocks(ring, cmd, block_cnt);
	base_bytes = (uint32_t)sizeof(struct tcmu_cmd_entry_hdr) + 40u + 16u * iov_cnt;
	if (base_bytes < RESPONSE_END)
		base_bytes = RESPONSE_END;
	entry_bytes = base_bytes + ((cmd->cdb_bytes + 7u) & ~7u);
	needed_bytes = entry_bytes + (to_end < entry_bytes ? to_end : 0);
	if (CMDR_SIZE - ring_used(ring) - 1 < needed_bytes) {
		free_blocks(ring, cmd);
		return false;
	}
	if (to_end < entry_bytes)
		insert_pad(ring, to_end);
	cmd->cmd_id = (uint16_t)obd_bitmap_take(&ring->ids);
	ring->by_id[cmd->cmd_id] = cmd;
	if (cmd->dir == OBD_KRING_TO_DEVICE)
		copy_data(ring, cmd, cmd->data_bytes, true);
	write_entry(ring, cmd, iov_cnt, base_bytes, entry_bytes);
	return true;
}

static void finish(struct obd_kring *ring, struct obd_kring_cmd *cmd)
{
	if (cmd->is_failed || cmd->status != OBD_STATUS_GOOD)
		ring->stat.errors++;
	list_append(&ring->done, cmd);
}

/* Moves commands from the waiting list to the ring, or back to their owners when it is broken. */
static void pump(struct obd_kring *ring)
{
	struct obd_kring_cmd *cmd;

	while ((cmd = ring->waiting.first)) {
		if (!ring->stat.is_broken && !place(ring, cmd))
			return;
		list_remove(&ring->waiting, cmd);
		if (ring->stat.is_broken) {
			cmd->is_failed = true;
			finish(ring, cmd);
			signal_event(ring->kick_fd); /* to ourselves: there is something to reap */
		} else {
			list_append(&ring->in_flight, cmd);
		}
	}
}

static void take_back(struct obd_kring *ring, struct obd_kring_cmd *cmd)
{
	ring->by_id[cmd->cmd_id] = NULL;
	obd_bitmap_put(&ring->ids, cmd->cmd_id);
	free_blocks(ring, cmd);
}

__attribute__((format(printf, 2, 3))) static void break_ring(struct obd_kring *ring,
							     const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(ring->stat.broken_reason, sizeof(ring->stat.broken_reason), format, arguments);
	va_end(arguments);
	ring->stat.is_broken = true;
	obd_log("ring broken: %s", ring->stat.broken_reason);
}

/* Takes the response in; response is a private copy. Returns false when it can not be right. */
static bool accept_response(struct obd_kring *ring, struct obd_kring_cmd *cmd,
			    const struct tcmu_cmd_entry *response)
{
	uint32_t read_bytes = cmd->dir == OBD_KRING_FROM_DEVICE ? cmd->data_bytes : 0;

	if (response->hdr.uflags & TCMU_UFLAG_KEEP_BUF) {
		break_ring(ring, "cmd_id %u: KEEP_BUF asked for, nobody would free the blocks",
			   cmd->cmd_id);
		return false;
	}
	if (response->hdr.uflags & TCMU_UFLAG_READ_LEN) {
		if (response->rsp.read_len > cmd->data_bytes) {
			break_ring(ring, "cmd_id %u: read_len %u of %u bytes", cmd->cmd_id,
				   response->rsp.read_len, cmd->data_bytes);
			return false;
		}
		if (cmd->dir == OBD_KRING_FROM_DEVICE)
			read_bytes = response->rsp.read_len;
	} else if (response->rsp.scsi_status != OBD_STATUS_GOOD) {
		read_bytes = 0;
	}
	cmd->status = response->rsp.scsi_status;
	memcpy(cmd->sense, response->rsp.sense_buffer, sizeof(cmd->sense));
	if (response->hdr.uflags & TCMU_UFLAG_UNKNOWN_OP) {
		cmd->status = OBD_STATUS_CHECK_CONDITION;
		memset(cmd->sense, 0, sizeof(cmd->sense));
	}
	cmd->read_bytes = read_bytes;
	copy_data(ring, cmd, read_bytes, false);
	return true;
}

static bool is_sent_again(const struct obd_kring_cmd *cmd)
{
	struct obd_sense sense = obd_sense_parse(cmd->sense, sizeof(cmd->sense));

	if (!obd_scsi_is_retried(cmd->status, sense))
		return false;
	return cmd->status != OBD_STATUS_CHECK_CONDITION || cmd->attempts < ATTEMPTS_MAX;
}

static bool complete_entry(struct obd_kring *ring, uint32_t len_op)
{
	struct tcmu_cmd_entry response;
	struct obd_kring_cmd *cmd;

	memcpy(&response, entry_at(ring, ring->last_cleaned), sizeof(response));
	if (response.hdr.len_op != len_op) {
		break_ring(ring, "entry at %u: len_op 0x%x was written as 0x%x", ring->last_cleaned,
			   response.hdr.len_op, len_op);
		return false;
	}
	cmd = ring->by_id[response.hdr.cmd_id];
	if (!cmd) {
		break_ring(ring, "entry at %u: unknown cmd_id %u", ring->last_cleaned,
			   response.hdr.cmd_id);
		return false;
	}
	if (!accept_response(ring, cmd, &response))
		return false;
	take_back(ring, cmd);
	list_remove(&ring->in_flight, cmd);
	ring->stat.completed++;
	cmd->attempts++;
	if (is_sent_again(cmd)) {
		ring->stat.resent++;
		list_append(&ring->waiting, cmd);
	} else {
		finish(ring, cmd);
	}
	return true;
}

/* Walks the entries in [last_cleaned, tail). */
static void take_completions(struct obd_kring *ring, uint32_t tail)
{
	uint32_t distance = (tail + CMDR_SIZE - ring->last_cleaned) % CMDR_SIZE;

	if (tail >= CMDR_SIZE || tail % TCMU_OP_ALIGN_SIZE || distance > ring_used(ring)) {
		break_ring(ring, "cmd_tail %u is outside [%u, %u)", tail, ring->last_cleaned,
			   ring->head);
		return;
	}
	while (distance > 0) {
		uint32_t len_op = ring->len_op[ring->last_cleaned / 8];
		uint32_t bytes = tcmu_hdr_get_len(len_op);

		if (bytes > distance) {
			break_ring(ring, "cmd_tail %u is inside the entry at %u", tail,
				   ring->last_cleaned);
			return;
		}
		if (tcmu_hdr_get_op(len_op) == TCMU_OP_CMD && !complete_entry(ring, len_op))
			return;
		ring->last_cleaned = (ring->last_cleaned + bytes) % CMDR_SIZE;
		distance -= bytes;
	}
}

struct obd_kring_cmd *obd_kring_reap(struct obd_kring *ring)
{
	struct obd_kring_cmd *done;
	uint64_t completed;

	pthread_mutex_lock(&ring->lock);
	completed = ring->stat.completed;
	/* Acquire: pairs with the worker's release of cmd_tail. */
	if (!ring->stat.is_broken)
		take_completions(ring, obd_load_acquire(&ring->mailbox->cmd_tail));
	if (ring->stat.completed != completed)
		obd_gaps_completed(&ring->gaps, obd_now_ns());
	pump(ring);
	done = ring->done.first;
	ring->done = (struct cmd_list){0};
	pthread_mutex_unlock(&ring->lock);
	return done;
}

void obd_kring_submit(struct obd_kring *ring, struct obd_kring_cmd *cmd)
{
	cmd->is_failed = false;
	cmd->status = OBD_STATUS_GOOD;
	cmd->read_bytes = 0;
	cmd->attempts = 0;
	cmd->block_cnt = 0;
	pthread_mutex_lock(&ring->lock);
	ring->stat.commands++;
	if (ring->in_flight.cnt + ring->waiting.cnt == 0)
		obd_gaps_begin(&ring->gaps, obd_now_ns());
	list_append(&ring->waiting, cmd);
	if (ring->waiting.first == cmd)
		pump(ring);
	ring->stat.waits += ring->waiting.last == cmd;
	pthread_mutex_unlock(&ring->lock);
}

void obd_kring_notify(struct obd_kring *ring)
{
	bool must_notify;

	pthread_mutex_lock(&ring->lock);
	must_notify = ring->must_notify;
	ring->must_notify = false;
	pthread_mutex_unlock(&ring->lock);
	if (must_notify)
		signal_event(ring->wait_fd);
}

bool obd_kring_wait(struct obd_kring *ring, int timeout_ms)
{
	struct pollfd kick = {.fd = ring->kick_fd, .events = POLLIN};
	uint64_t cnt;

	if (poll(&kick, 1, timeout_ms) <= 0)
		return false;
	return read(ring->kick_fd, &cnt, sizeof(cnt)) == sizeof(cnt);
}

void obd_kring_wake(struct obd_kring *ring)
{
	signal_event(ring->kick_fd);
}

void obd_kring_reset(struct obd_kring *ring)
{
	pthread_mutex_lock(&ring->lock);
	for (struct obd_kring_cmd *cmd = ring->in_flight.first; cmd; cmd = cmd->next)
		take_back(ring, cmd);
	ring->stat.resent += ring->in_flight.cnt;
	list_prepend_all(&ring->waiting, &ring->in_flight);
	ring->head = 0;
	ring->last_cleaned = 0;
	obd_store_relaxed(&ring->mailbox->cmd_tail, 0u);
	obd_store_release(&ring->mailbox->cmd_head, 0u); /* pairs with the worker's acquire */
	ring->stat.is_broken = false;
	ring->stat.resets++;
	obd_log("ring reset: %u commands are sent again", ring->waiting.cnt);
	pump(ring);
	pthread_mutex_unlock(&ring->lock);
	obd_kring_notify(ring);
}

void obd_kring_stat(struct obd_kring *ring, struct obd_kring_stat *ret)
{
	pthread_mutex_lock(&ring->lock);
	*ret = ring->stat;
	ret->in_flight = ring->in_flight.cnt;
	ret->waiting = ring->waiting.cnt;
	ret->cmd_head = ring->head;
	ret->cmd_tail = obd_load_relaxed(&ring->mailbox->cmd_tail);
	ret->gap_cnt = ring->gaps.cnt;
	ret->longest_gap_ns = ring->gaps.longest_ns;
	if (ret->in_flight + ret->waiting > 0 && ring->gaps.since_ns)
		ret->open_gap_ns = obd_now_ns() - ring->gaps.since_ns;
	pthread_mutex_unlock(&ring->lock);
}

uint32_t obd_kring_take_gaps(struct obd_kring *ring, struct obd_gap *list)
{
	uint32_t cnt;

	pthread_mutex_lock(&ring->lock);
	cnt = ring->gaps.list_cnt;
	memcpy(list, ring->gaps.list, cnt * sizeof(*list));
	ring->gaps.list_cnt = 0;
	ring->gaps.list_dropped = 0;
	pthread_mutex_unlock(&ring->lock);
	return cnt;
}

void obd_kring_gap_summary(struct obd_kring *ring, struct obd_gap_summary *ret)
{
	pthread_mutex_lock(&ring->lock);
	obd_gaps_summary(&ring->gaps, ret);
	pthread_mutex_unlock(&ring->lock);
}

uint64_t obd_kring_fds(const struct obd_kring *ring, int fd[3])
{
	fd[0] = ring->mem.fd;
	fd[1] = ring->wait_fd;
	fd[2] = ring->kick_fd;
	return ring->mem.map_bytes;
}

static int create_memory(struct obd_kring *ring, uint64_t data_bytes)
{
	int rc = obd_ringmem_init(&ring->mem, OBD_KRING_RING_BYTES + data_bytes);

	if (rc)
		return rc;
	ring->mailbox = (struct tcmu_mailbox *)(void *)ring->mem.map;
	ring->mailbox->version = TCMU_MAILBOX_VERSION;
	ring->mailbox->flags = MAILBOX_FLAGS;
	ring->mailbox->cmdr_off = OBD_KRING_CMDR_OFF;
	ring->mailbox->cmdr_size = CMDR_SIZE;
	return 0;
}

static int create_tables(struct obd_kring *ring, uint32_t block_cnt)
{
	ring->by_id = calloc(CMD_ID_CNT, sizeof(struct obd_kring_cmd *));
	ring->len_op = calloc(CMDR_SIZE / 8, sizeof(uint32_t));
	if (!ring->by_id || !ring->len_op || obd_bitmap_init(&ring->ids, CMD_ID_CNT) ||
	    obd_bitmap_init(&ring->blocks, block_cnt))
		return -ENOMEM;
	for (uint32_t id = 0; id < CMD_ID_MIN; id++)
		obd_bitmap_take(&ring->ids); /* 0 is never handed out */
	return 0;
}

int obd_kring_create(const struct obd_kring_options *options, struct obd_kring **ret)
{
	struct obd_kring *ring;
	int rc;

	if (options->data_bytes % OBD_KRING_BLOCK_BYTES || options->data_bytes < (1u << 20) ||
	    options->data_bytes > (1u << 30))
		return -EINVAL;
	ring = calloc(1, sizeof(*ring));
	if (!ring)
		return -ENOMEM;
	pthread_mutex_init(&ring->lock, NULL);
	ring->is_checking = options->is_checking;
	ring->mem.fd = -1;
	ring->wait_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	ring->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	rc = ring->wait_fd < 0 || ring->kick_fd < 0 ? -errno
						    : create_memory(ring, options->data_bytes);
	if (rc == 0)
		rc = create_tables(ring, (uint32_t)(options->data_bytes / OBD_KRING_BLOCK_BYTES));
	if (rc) {
		obd_kring_destroy(ring);
		return rc;
	}
	*ret = ring;
	return 0;
}

void obd_kring_destroy(struct obd_kring *ring)
{
	if (!ring)
		return;
	obd_ringmem_deinit(&ring->mem);
	if (ring->wait_fd >= 0)
		close(ring->wait_fd);
	if (ring->kick_fd >= 0)
		close(ring->kick_fd);
	obd_bitmap_deinit(&ring->ids);
	obd_bitmap_deinit(&ring->blocks);
	free(ring->by_id);
	free(ring->len_op);
	pthread_mutex_destroy(&ring->lock);
	free(ring);
}
