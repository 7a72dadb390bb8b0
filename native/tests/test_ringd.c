/*
 * The ring of ringd in one process: what a worker sees, over many laps, in any order of completion,
 * through resets; and hostile shared memory, at random. Runs under the sanitizers.
 */
#include "../ringd/gaps.c"
#include "../ringd/kring.c"
#include "../ringd/scsi.c"

#undef NDEBUG
#include <assert.h>

#define QUEUE_DEPTH  24u
#define TURNS	     3000u
#define HOSTILE_RUNS 300u

static uint64_t random_state = 1;
static uint32_t log_lines;

/* Hundreds of broken rings, each with its line. */
void obd_log(const char *format, ...)
{
	log_lines += format != NULL;
}

static uint64_t random_below(uint64_t limit)
{
	random_state = random_state * UINT64_C(6364136223846793005) + 1442695040888963407;
	return (random_state >> 33) % limit;
}

struct worker {
	struct obd_kring *ring;
	uint8_t *map;
	struct tcmu_mailbox *mailbox;
	uint32_t next;
	uint32_t pads;
};

static struct worker worker_of(struct obd_kring *ring)
{
	return (struct worker){.ring = ring,
			       .map = ring->mem.map,
			       .mailbox = ring->mailbox,
			       .next = ring->mailbox->cmd_tail};
}

static uint32_t len_op_at(const struct worker *worker, uint32_t offset)
{
	uint32_t len_op;

	memcpy(&len_op, worker->map + OBD_KRING_CMDR_OFF + offset, sizeof(len_op));
	return len_op;
}

/* Picks up the next command: turns its data round in place (so that both sides can check it). */
static bool pick_up(struct worker *worker, uint16_t *cmd_id)
{
	uint8_t *at;
	uint32_t len_op, iov_cnt;

	for (;;) {
		if (worker->next == worker->mailbox->cmd_head)
			return false;
		len_op = len_op_at(worker, worker->next);
		at = worker->map + OBD_KRING_CMDR_OFF + worker->next;
		worker->next = (worker->next + tcmu_hdr_get_len(len_op)) % CMDR_SIZE;
		if (tcmu_hdr_get_op(len_op) == TCMU_OP_CMD)
			break;
		worker->pads++;
	}
	memcpy(cmd_id, at + 4, sizeof(*cmd_id));
	memcpy(&iov_cnt, at + 8, sizeof(iov_cnt));
	for (uint32_t i = 0; i < iov_cnt; i++) {
		struct iovec iov;

		memcpy(&iov, at + 48 + 16 * i, sizeof(iov));
		for (size_t byte = 0; byte < iov.iov_len; byte += 512)
			memset(worker->map + (uintptr_t)iov.iov_base + byte, *cmd_id & 0xff, 512);
	}
	return true;
}

static void publish(struct worker *worker, uint16_t cmd_id)
{
	uint32_t tail = worker->mailbox->cmd_tail;
	uint32_t len_op = len_op_at(worker, tail);
	uint8_t *at;

	if (tcmu_hdr_get_op(len_op) == TCMU_OP_PAD) {
		tail = (tail + tcmu_hdr_get_len(len_op)) % CMDR_SIZE;
		len_op = len_op_at(worker, tail);
	}
	at = worker->map + OBD_KRING_CMDR_OFF + tail;
	memcpy(at + 4, &cmd_id, sizeof(cmd_id));
	memset(at + 8, 0, 104);
	obd_store_release(&worker->mailbox->cmd_tail,
			  (tail + tcmu_hdr_get_len(len_op)) % CMDR_SIZE);
}

struct command {
	struct obd_kring_cmd cmd;
	uint8_t data[64 << 10];
};

static void submit(struct obd_kring *ring, struct command *command)
{
	command->cmd.data = command->data;
	command->cmd.data_bytes = 512 * (uint32_t)(1 + random_below(128));
	command->cmd.dir = OBD_KRING_FROM_DEVICE;
	command->cmd.cdb_bytes = obd_cdb_read(command->cmd.cdb, 0, command->cmd.data_bytes / 512);
	command->cmd.owner = command;
	obd_kring_submit(ring, &command->cmd);
}

static struct obd_kring *create(uint64_t data_bytes)
{
	struct obd_kring_options options = {.data_bytes = data_bytes, .is_checking = true};
	struct obd_kring *ring = NULL;

	assert(obd_kring_create(&options, &ring) == 0);
	return ring;
}

/* The id of a command is in every byte of its data. */
static void check_data(const struct obd_kring_cmd *cmd)
{
	assert(!cmd->is_failed && cmd->status == OBD_STATUS_GOOD);
	assert(cmd->read_bytes == cmd->data_bytes);
	for (uint32_t i = 0; i < cmd->data_bytes; i++)
		assert(cmd->data[i] == (cmd->cmd_id & 0xff));
}

static void test_any_order_over_many_laps(void)
{
	static struct command command[QUEUE_DEPTH];
	struct obd_kring *ring = create(1u << 20); /* small: it is full again and again */
	struct worker worker = worker_of(ring);
	uint16_t held[QUEUE_DEPTH];
	uint32_t held_cnt = 0, completed = 0, resets = 0;
	struct obd_kring_stat stat;

	for (uint32_t i = 0; i < QUEUE_DEPTH; i++)
		submit(ring, &command[i]);
	for (uint32_t turn = 0; turn < TURNS; turn++) {
		while (held_cnt < QUEUE_DEPTH && pick_up(&worker, &held[held_cnt]))
			held_cnt++;
		if (turn % 1000 == 999) {
			obd_kring_reset(ring);
			worker = (struct worker){ring, worker.map, worker.mailbox, 0, worker.pads};
			held_cnt = 0;
			resets++;
			continue;
		}
		for (uint64_t cnt = random_below(held_cnt + 1); cnt > 0; cnt--) {
			uint64_t which = random_below(held_cnt);

			publish(&worker, held[which]);
			held[which] = held[--held_cnt];
		}
		for (struct obd_kring_cmd *cmd = obd_kring_reap(ring), *next; cmd; cmd = next) {
			next = cmd->next;
			check_data(cmd);
			completed++;
			submit(ring, cmd->owner);
		}
	}
	obd_kring_stat(ring, &stat);
	assert(!stat.is_broken && stat.errors == 0 && stat.waits > 0);
	assert(stat.completed == completed && stat.resets == resets && resets > 0);
	assert(stat.in_flight + stat.waiting == QUEUE_DEPTH);
	assert(worker.pads > 0 && worker.pads <= stat.pads);
	obd_kring_destroy(ring);
}

/* Scribbles over mailbox and ring: whatever happens, every command comes back at most once. */
static void test_hostile_memory_breaks_the_ring_only(void)
{
	static struct command command[QUEUE_DEPTH];
	struct obd_kring_stat stat;
	uint32_t broken = 0;

	for (uint32_t run = 0; run < HOSTILE_RUNS; run++) {
		struct obd_kring *ring = create(1u << 20);
		uint8_t *map = ring->mem.map;
		uint32_t back = 0;

		for (uint32_t i = 0; i < QUEUE_DEPTH; i++)
			submit(ring, &command[i]);
		for (uint32_t i = 0; i < 64; i++) {
			uint64_t range =
				random_below(4) ? 128 + QUEUE_DEPTH * 256 : ring->mem.map_bytes;
			uint64_t at = random_below(range);

			map[at] = (uint8_t)random_below(256);
		}
		ring->mailbox->cmd_tail = random_below(2) ? (uint32_t)random_below(CMDR_SIZE) & ~7u
							  : (uint32_t)random_below(8) * 128;
		for (struct obd_kring_cmd *cmd = obd_kring_reap(ring); cmd; cmd = cmd->next)
			back++;
		obd_kring_stat(ring, &stat);
		assert(back <= QUEUE_DEPTH);
		assert(stat.in_flight + stat.waiting + back >= QUEUE_DEPTH);
		broken += stat.is_broken;
		obd_kring_reset(ring);
		obd_kring_stat(ring, &stat);
		assert(!stat.is_broken && stat.cmd_tail == 0);
		obd_kring_destroy(ring);
	}
	assert(broken > HOSTILE_RUNS / 2 && log_lines >= broken);
}

static void test_answers_of_commands(void)
{
	uint8_t fixed[18] = {0x70, 0, 7, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x27, 0x07};
	uint8_t descriptor[8] = {0x72, 3, 0x11, 0};

	assert(obd_scsi_errno(0, obd_sense_parse(fixed, 18)) == 0);
	assert(obd_scsi_errno(2, obd_sense_parse(fixed, 18)) == ENOSPC);
	assert(obd_scsi_errno(2, obd_sense_parse(descriptor, 8)) == EIO);
	assert(obd_scsi_errno(2, obd_sense_parse(NULL, 0)) == EIO);
	assert(obd_scsi_is_retried(OBD_STATUS_BUSY, obd_sense_parse(NULL, 0)));
	assert(!obd_scsi_is_retried(2, obd_sense_parse(fixed, 18)));
}

int main(void)
{
	test_answers_of_commands();
	test_any_order_over_many_laps();
	test_hostile_memory_breaks_the_ring_only();
	return 0;
}
