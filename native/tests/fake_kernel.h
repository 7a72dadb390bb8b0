/*
 * The kernel's side of a TCMU ring, in this process, for tests.
 *
 * Like the real one it hands out the lowest free cmd_id, frees data blocks on completion (and
 * fills them with 0xdb here), wraps with a PAD, and is broken for good by a cmd_id it does not
 * know. Each command has a tag of the test's; a completion is reported with its tag.
 */
#ifndef FAKE_KERNEL_H
#define FAKE_KERNEL_H

#include <stdbool.h>
#include <stdint.h>

#define FAKE_BLOCK_BYTES    4096u
#define FAKE_MAX_COMMANDS   1024u
#define FAKE_COMMAND_BLOCKS 128u

struct fake_command {
	bool is_queued;
	uint32_t tag;
	uint32_t bytes;
	uint32_t block_cnt;
	bool is_read; /* the completion copies the data out */
	uint32_t blocks[FAKE_COMMAND_BLOCKS];
};

struct fake_completion {
	uint32_t tag;
	uint8_t status;
	bool has_read_len;
	bool is_unknown_op;
	uint32_t read_len;
	uint8_t sense[96];
	uint8_t *data; /* bytes of a read; valid until the callback returns */
	uint32_t bytes;
};

struct fake_kernel {
	int mem_fd;
	int wait_fd; /* eventfd: the kernel writes */
	int kick_fd; /* eventfd: the server writes */
	uint8_t *map;
	uint64_t map_bytes;
	uint32_t cmdr_bytes;
	uint32_t block_cnt;
	uint32_t last_cleaned;
	bool is_broken;
	const char *broken_reason;
	uint32_t id_end; /* above every id ever used */
	uint32_t queued; /* not completed */
	uint64_t queued_total;
	uint64_t completed_total;
	uint8_t *block_used;
	uint8_t *copy; /* of a read's data */
	struct fake_command commands[FAKE_MAX_COMMANDS];
	void (*on_complete)(void *context, const struct fake_completion *completion);
	void *context;
};

/* `head` is where the (empty) ring starts, so that a wrap can be near. Ends the process if the
 * system refuses. */
void fake_kernel_init(struct fake_kernel *kernel, uint32_t cmdr_bytes, uint32_t block_cnt,
		      uint32_t head);
/* Empties the ring and forgets every command; fds and memory stay. */
void fake_kernel_reset(struct fake_kernel *kernel, uint32_t head);
void fake_kernel_deinit(struct fake_kernel *kernel);

/* Queues a command; data goes into its blocks (NULL: they hold garbage). False: no room. */
bool fake_kernel_queue(struct fake_kernel *kernel, uint32_t tag, const uint8_t *cdb,
		       uint32_t cdb_bytes, const void *data, uint32_t bytes, bool is_read);
/* An entry with this opcode that nobody answers (TCMU_OP_TMR), or one nobody knows (7). */
bool fake_kernel_queue_op(struct fake_kernel *kernel, uint32_t tag, uint32_t op);
/* Signals wait_fd. */
void fake_kernel_notify(struct fake_kernel *kernel);
/* Takes completions up to cmd_tail, as the kernel does when it is kicked. */
void fake_kernel_complete(struct fake_kernel *kernel);

uint32_t fake_kernel_head(const struct fake_kernel *kernel);
uint32_t fake_kernel_tail(const struct fake_kernel *kernel);

/* CDBs. */
void fake_cdb_10(uint8_t cdb[10], uint8_t opcode, uint32_t lba, uint16_t sectors);

#endif
