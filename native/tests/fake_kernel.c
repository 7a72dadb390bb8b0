#include "fake_kernel.h"

#include <linux/target_core_user.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "obd_barrier.h"

#define CMDR_OFF 128u

static void require(bool fact, const char *what)
{
	if (fact)
		return;
	perror(what);
	exit(1);
}

static uint32_t *head_at(const struct fake_kernel *kernel)
{
	return (uint32_t *)(void *)(kernel->map + offsetof(struct tcmu_mailbox, cmd_head));
}

static uint32_t *tail_at(const struct fake_kernel *kernel)
{
	return (uint32_t *)(void *)(kernel->map + offsetof(struct tcmu_mailbox, cmd_tail));
}

uint32_t fake_kernel_head(const struct fake_kernel *kernel)
{
	return *head_at(kernel);
}

uint32_t fake_kernel_tail(const struct fake_kernel *kernel)
{
	return obd_load_acquire(tail_at(kernel));
}

void fake_kernel_init(struct fake_kernel *kernel, uint32_t cmdr_bytes, uint32_t block_cnt,
		      uint32_t head)
{
	memset(kernel, 0, sizeof(*kernel));
	kernel->cmdr_bytes = cmdr_bytes;
	kernel->block_cnt = block_cnt;
	kernel->map_bytes = CMDR_OFF + cmdr_bytes + (uint64_t)block_cnt * FAKE_BLOCK_BYTES;
	kernel->map_bytes = (kernel->map_bytes + 4095) & ~4095ull;
	kernel->mem_fd = memfd_create("fake ring", MFD_CLOEXEC);
	require(kernel->mem_fd >= 0 && !ftruncate(kernel->mem_fd, (off_t)kernel->map_bytes),
		"memfd");
	kernel->map = mmap(NULL, kernel->map_bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
			   kernel->mem_fd, 0);
	require(kernel->map != MAP_FAILED, "mmap");
	kernel->wait_fd = eventfd(0, EFD_CLOEXEC);
	kernel->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	kernel->block_used = calloc(block_cnt, 1);
	kernel->copy = malloc(FAKE_COMMAND_BLOCKS * FAKE_BLOCK_BYTES);
	require(kernel->wait_fd >= 0 && kernel->kick_fd >= 0 && kernel->block_used && kernel->copy,
		"fake kernel");
	fake_kernel_reset(kernel, head);
}

void fake_kernel_reset(struct fake_kernel *kernel, uint32_t head)
{
	struct tcmu_mailbox *mailbox = (void *)kernel->map;

	mailbox->version = TCMU_MAILBOX_VERSION;
	mailbox->flags = 0xf;
	mailbox->cmdr_off = CMDR_OFF;
	mailbox->cmdr_size = kernel->cmdr_bytes;
	kernel->last_cleaned = head;
	obd_store_release(tail_at(kernel), head); /* in this order, as action/reset_ring */
	obd_store_release(head_at(kernel), head);
	for (uint32_t i = 0; i < kernel->id_end; i++)
		kernel->commands[i].is_queued = false;
	memset(kernel->block_used, 0, kernel->block_cnt);
	kernel->is_broken = false;
	kernel->broken_reason = NULL;
	kernel->queued = 0;
	kernel->queued_total = kernel->completed_total = 0;
}

void fake_kernel_deinit(struct fake_kernel *kernel)
{
	munmap(kernel->map, kernel->map_bytes);
	close(kernel->mem_fd);
	close(kernel->wait_fd);
	close(kernel->kick_fd);
	free(kernel->block_used);
	free(kernel->copy);
}

static uint32_t free_bytes(const struct fake_kernel *kernel)
{
	uint32_t head = *head_at(kernel), tail = kernel->last_cleaned;

	/* One entry's worth stays empty so that head == tail means empty. */
	return (head >= tail ? kernel->cmdr_bytes - head + tail : tail - head) - 8;
}

/* Makes room for an entry without a wrap inside; its address, or NULL. */
static void *reserve(struct fake_kernel *kernel, uint32_t bytes)
{
	uint32_t head = *head_at(kernel), to_end = kernel->cmdr_bytes - head;
	struct tcmu_cmd_entry_hdr *pad = (void *)(kernel->map + CMDR_OFF + head);

	if (to_end >= bytes)
		return free_bytes(kernel) >= bytes ? (void *)pad : NULL;
	if (free_bytes(kernel) < to_end + bytes)
		return NULL;
	memset(pad, 0, sizeof(*pad));
	pad->len_op = to_end | TCMU_OP_PAD;
	obd_store_release(head_at(kernel), 0);
	return kernel->map + CMDR_OFF;
}

static void advance_head(struct fake_kernel *kernel, uint32_t bytes)
{
	obd_store_release(head_at(kernel), (*head_at(kernel) + bytes) % kernel->cmdr_bytes);
}

static uint32_t lowest_free_id(const struct fake_kernel *kernel)
{
	uint32_t id = 0;

	while (id < FAKE_MAX_COMMANDS && kernel->commands[id].is_queued)
		id++;
	return id;
}

static bool take_blocks(struct fake_kernel *kernel, struct fake_command *command, uint32_t cnt)
{
	uint32_t found = 0;

	for (uint32_t i = 0; i < kernel->block_cnt && found < cnt; i++)
		if (!kernel->block_used[i])
			command->blocks[found++] = i;
	if (found < cnt)
		return false;
	for (uint32_t i = 0; i < cnt; i++)
		kernel->block_used[command->blocks[i]] = 1;
	command->block_cnt = cnt;
	return true;
}

static uint64_t block_offset(const struct fake_kernel *kernel, uint32_t block)
{
	return CMDR_OFF + kernel->cmdr_bytes + (uint64_t)block * FAKE_BLOCK_BYTES;
}

static uint32_t piece(uint32_t bytes, uint32_t i)
{
	uint32_t left = bytes - i * FAKE_BLOCK_BYTES;

	return left < FAKE_BLOCK_BYTES ? left : FAKE_BLOCK_BYTES;
}

bool fake_kernel_queue(struct fake_kernel *kernel, uint32_t tag, const uint8_t *cdb,
		       uint32_t cdb_bytes, const void *data, uint32_t bytes, bool is_read)
{
	uint32_t id = lowest_free_id(kernel);
	uint32_t iov_cnt = (bytes + FAKE_BLOCK_BYTES - 1) / FAKE_BLOCK_BYTES;
	uint32_t base = (uint32_t)(offsetof(struct tcmu_cmd_entry, req.iov) +
				   iov_cnt * sizeof(struct iovec));
	uint32_t length, cdb_room = (cdb_bytes + 7) & ~7u;
	struct tcmu_cmd_entry *entry;
	struct fake_command *command;

	if (id == FAKE_MAX_COMMANDS || kernel->is_broken || iov_cnt > FAKE_COMMAND_BLOCKS)
		return false;
	if (base < sizeof(*entry))
		base = sizeof(*entry);
	length = base + cdb_room;
	command = &kernel->commands[id];
	entry = reserve(kernel, length);
	if (!entry || !take_blocks(kernel, command, iov_cnt))
		return false;
	memset(entry, 0, length);
	entry->hdr.len_op = length | TCMU_OP_CMD;
	entry->hdr.cmd_id = (uint16_t)id;
	entry->req.iov_cnt = iov_cnt;
	entry->req.cdb_off = (uint64_t)((uint8_t *)entry - kernel->map) + base;
	memcpy(kernel->map + entry->req.cdb_off, cdb, cdb_bytes);
	for (uint32_t i = 0; i < iov_cnt; i++) {
		uint64_t at = block_offset(kernel, command->blocks[i]);
		struct iovec iov = {(void *)(uintptr_t)at, piece(bytes, i)};

		memcpy((uint8_t *)entry + offsetof(struct tcmu_cmd_entry, req.iov) +
			       i * sizeof(iov),
		       &iov, sizeof(iov));
		if (data && !is_read)
			memcpy(kernel->map + at,
			       (const uint8_t *)data + (size_t)i * FAKE_BLOCK_BYTES,
			       piece(bytes, i));
	}
	command->is_queued = true;
	if (id >= kernel->id_end)
		kernel->id_end = id + 1;
	command->tag = tag;
	command->bytes = bytes;
	command->is_read = is_read;
	kernel->queued++;
	kernel->queued_total++;
	advance_head(kernel, length);
	return true;
}

bool fake_kernel_queue_op(struct fake_kernel *kernel, uint32_t tag, uint32_t op)
{
	uint32_t length = sizeof(struct tcmu_cmd_entry), id = lowest_free_id(kernel);
	struct tcmu_cmd_entry *entry = reserve(kernel, length);

	if (!entry || id == FAKE_MAX_COMMANDS)
		return false;
	memset(entry, 0, length);
	entry->hdr.len_op = length | op;
	if (op != TCMU_OP_TMR) {
		struct fake_command *command = &kernel->commands[id];

		memset(command, 0, sizeof(*command));
		command->is_queued = true;
		if (id >= kernel->id_end)
			kernel->id_end = id + 1;
		command->tag = tag;
		entry->hdr.cmd_id = (uint16_t)id;
		kernel->queued++;
		kernel->queued_total++;
	}
	advance_head(kernel, length);
	return true;
}

void fake_kernel_notify(struct fake_kernel *kernel)
{
	(void)!write(kernel->wait_fd, &(uint64_t){1}, sizeof(uint64_t));
}

static void finish(struct fake_kernel *kernel, struct fake_command *command,
		   const struct tcmu_cmd_entry *entry)
{
	struct fake_completion completion = {
		.tag = command->tag,
		.status = entry->rsp.scsi_status,
		.has_read_len = entry->hdr.uflags & TCMU_UFLAG_READ_LEN,
		.is_unknown_op = entry->hdr.uflags & TCMU_UFLAG_UNKNOWN_OP,
		.read_len = entry->rsp.read_len,
		.data = kernel->copy,
		.bytes = command->is_read ? command->bytes : 0,
	};

	memcpy(completion.sense, entry->rsp.sense_buffer, sizeof(completion.sense));
	for (uint32_t i = 0; i < command->block_cnt; i++) {
		uint8_t *at = kernel->map + block_offset(kernel, command->blocks[i]);

		if (command->is_read)
			memcpy(kernel->copy + (size_t)i * FAKE_BLOCK_BYTES, at,
			       piece(command->bytes, i));
		memset(at, 0xdb, FAKE_BLOCK_BYTES);
		kernel->block_used[command->blocks[i]] = 0;
	}
	command->is_queued = false;
	command->block_cnt = 0;
	kernel->queued--;
	kernel->completed_total++;
	if (kernel->on_complete)
		kernel->on_complete(kernel->context, &completion);
}

static void broken(struct fake_kernel *kernel, const char *why)
{
	kernel->is_broken = true;
	kernel->broken_reason = why;
}

void fake_kernel_complete(struct fake_kernel *kernel)
{
	uint64_t kicks;
	uint32_t tail;

	(void)!read(kernel->kick_fd, &kicks, sizeof(kicks));
	tail = obd_load_acquire(tail_at(kernel));
	if (tail >= kernel->cmdr_bytes || tail % 8)
		return broken(kernel, "cmd_tail outside the ring");
	while (!kernel->is_broken && kernel->last_cleaned != tail) {
		struct tcmu_cmd_entry *entry =
			(void *)(kernel->map + CMDR_OFF + kernel->last_cleaned);
		uint32_t op = entry->hdr.len_op & TCMU_OP_MASK;
		uint32_t length = tcmu_hdr_get_len(entry->hdr.len_op);

		if (kernel->last_cleaned == *head_at(kernel))
			return broken(kernel, "cmd_tail beyond cmd_head");
		if (op != TCMU_OP_PAD && op != TCMU_OP_TMR) {
			uint16_t id = entry->hdr.cmd_id;

			if (id >= FAKE_MAX_COMMANDS || !kernel->commands[id].is_queued)
				return broken(kernel, "cmd_id not found");
			finish(kernel, &kernel->commands[id], entry);
		}
		kernel->last_cleaned = (kernel->last_cleaned + length) % kernel->cmdr_bytes;
	}
}

void fake_cdb_10(uint8_t cdb[10], uint8_t opcode, uint32_t lba, uint16_t sectors)
{
	memset(cdb, 0, 10);
	cdb[0] = opcode;
	for (int i = 0; i < 4; i++)
		cdb[2 + i] = (uint8_t)(lba >> (24 - 8 * i));
	cdb[7] = (uint8_t)(sectors >> 8);
	cdb[8] = (uint8_t)sectors;
}
