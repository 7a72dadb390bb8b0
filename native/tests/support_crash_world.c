#include "support_crash_world.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "support_image_files.h"

#define OP_TMR 2u /* target_core_user.h, which does not go together with sys/uio.h */

struct crash_world crash_world;

void crash_violate(const char *what)
{
	crash_world.violation = what;
	longjmp(crash_world.escape, CRASH_VIOLATED);
}

uint32_t crash_add_work(uint8_t opcode, uint32_t lba)
{
	struct crash_world *world = &crash_world;

	world->works[world->work_cnt] = (struct crash_work){.opcode = opcode, .lba = lba};
	return world->work_cnt++;
}

bool crash_queue_one(void)
{
	struct crash_world *world = &crash_world;
	struct crash_work *work = &world->works[world->queued_cnt];
	uint32_t tag = world->queued_cnt, stamp = tag + 1;
	uint8_t cdb[10], sector[OBD_SECTOR_BYTES];

	if (world->queued_cnt == world->work_cnt)
		return false;
	if (work->opcode == CRASH_TMR) {
		if (!fake_kernel_queue_op(&world->kernel, tag, OP_TMR))
			return false;
		work->completions = 1;
		world->completed_cnt++;
		world->queued_cnt++;
		return true;
	}
	fake_cdb_10(cdb, work->opcode, work->lba, 1);
	cdb[6] = (uint8_t)tag; /* group number: tells commands apart */
	memset(sector, 0, sizeof(sector));
	memcpy(sector, &stamp, sizeof(stamp));
	work->expected = world->acknowledged[work->lba];
	if (!fake_kernel_queue(&world->kernel, tag, cdb, sizeof(cdb), sector, sizeof(sector),
			       work->opcode == CRASH_READ))
		return false;
	world->queued_cnt++;
	return true;
}

static void on_complete(void *context, const struct fake_completion *completion)
{
	struct crash_world *world = context;
	struct crash_work *work = &world->works[completion->tag];
	uint32_t stamp = completion->tag + 1, found;

	if (work->completions++)
		crash_violate("I1: answered twice");
	world->completed_cnt++;
	if (completion->status)
		crash_violate("answered with an error");
	if (work->opcode == CRASH_READ) {
		memcpy(&found, completion->data, sizeof(found));
		if (found != work->expected)
			crash_violate("a read returned other data than was acknowledged");
	} else {
		memcpy(&found, fake_image_bytes(world->disk) + work->lba * OBD_SECTOR_BYTES,
		       sizeof(found));
		if (found != stamp)
			crash_violate("acknowledged but not on the disk");
		world->acknowledged[work->lba] = stamp;
	}
	/* The next command for this sector, only now: nobody overlaps on purpose. */
	if (world->work_cnt < world->work_max)
		crash_add_work((uint8_t)world->follows_with(work->opcode), work->lba);
}

void crash_complete(void)
{
	fake_kernel_complete(&crash_world.kernel);
	if (crash_world.kernel.is_broken)
		crash_violate(crash_world.kernel.broken_reason);
}

bool crash_is_over(void)
{
	return crash_world.completed_cnt == crash_world.work_cnt;
}

bool crash_is_waiting(uint16_t cmd_id, const uint8_t *cdb)
{
	const struct fake_command *command = &crash_world.kernel.commands[cmd_id];

	return cmd_id < FAKE_MAX_COMMANDS && command->is_queued && (uint8_t)command->tag == cdb[6];
}

void crash_world_init(uint32_t cmdr_bytes, uint32_t block_cnt)
{
	struct fake_image_options options = {.bytes = CRASH_SECTORS * OBD_SECTOR_BYTES};
	struct crash_world *world = &crash_world;
	static uint64_t reserved;

	fake_kernel_init(&world->kernel, cmdr_bytes, block_cnt, 0);
	world->kernel.on_complete = on_complete;
	world->kernel.context = world;
	world->disk = fake_image_create(&options);
	world->unit = (struct obd_unit){.sectors = CRASH_SECTORS, .is_writable = true};
	REQUIRE(!obd_image_start_writing(world->disk, &reserved, NULL));
	world->journal_fd = memfd_create("journal", MFD_CLOEXEC);
	REQUIRE(world->journal_fd >= 0);
}

void crash_world_deinit(void)
{
	fake_kernel_deinit(&crash_world.kernel);
	obd_image_destroy(crash_world.disk);
	close(crash_world.journal_fd);
}

void crash_world_reset(uint32_t head)
{
	struct crash_world *world = &crash_world;

	fake_kernel_reset(&world->kernel, head);
	memset(fake_image_bytes(world->disk), 0, CRASH_SECTORS * OBD_SECTOR_BYTES);
	memset(world->acknowledged, 0, sizeof(world->acknowledged));
	world->work_cnt = world->queued_cnt = world->completed_cnt = 0;
	world->violation = NULL;
}
