#include "support_crash_state.h"

#include <string.h>

#include "support_image_files.h"

_Static_assert(sizeof(struct crash_shared) % 8 == 0, "hashed by words");
_Static_assert(sizeof(struct crash_outside) % 8 == 0, "hashed by words");
_Static_assert(sizeof(struct crash_own) % 8 == 0, "hashed by words");

static _Alignas(4096) uint8_t
	journal[OBD_JOURNAL_HEADER_BYTES + CRASH_STATE_SLOTS * sizeof(struct obd_journal_slot)];
static uint32_t journal_slot_cnt;

static void map_server(uint64_t generation)
{
	struct obd_flight *flight = &crash_server.flight;
	struct obd_errinfo info;

	REQUIRE(!obd_ring_init_memory(&flight->ring, crash_world.kernel.map,
				      crash_world.kernel.map_bytes, "test", &info));
	flight->journal = (struct obd_journal){
		.header = (void *)journal,
		.slots = (void *)(journal + OBD_JOURNAL_HEADER_BYTES),
		.slot_cnt = journal_slot_cnt,
		.map_bytes = sizeof(journal),
		.generation = generation,
		.lock_fd = -1,
	};
}

void crash_state_init(uint32_t slot_cnt)
{
	REQUIRE(crash_world.kernel.cmdr_bytes + 128 <= CRASH_STATE_RING);
	REQUIRE(slot_cnt <= CRASH_STATE_SLOTS);
	journal_slot_cnt = slot_cnt;
	map_server(0);
	crash_watch(CRASH_RING, crash_world.kernel.map, 128 + crash_world.kernel.cmdr_bytes);
	crash_watch(CRASH_JOURNAL, journal, sizeof(journal));
}

void crash_state_deinit(void)
{
	crash_watch(CRASH_RING, NULL, 0);
	crash_watch(CRASH_JOURNAL, NULL, 0);
}

void crash_state_start(void)
{
	static const uint8_t boot_id[16] = {1}, uuid[16] = {2};
	struct obd_journal_identity identity = {
		.boot_id = boot_id, .device_uuid = uuid, .ring = &crash_server.flight.ring};
	uint32_t tail;

	crash_bury();
	memset(journal, 0, sizeof(journal));
	map_server(0);
	REQUIRE(!obd_ring_tail(&crash_server.flight.ring, &tail));
	obd_journal_format(&crash_server.flight.journal, &identity, tail);
	crash_attach(1, true);
}

void crash_shared_save(struct crash_shared *ret)
{
	const struct obd_journal_slot *slots = crash_server.flight.journal.slots;

	memcpy(ret->ring, crash_world.kernel.map, sizeof(ret->ring));
	memcpy(ret->header, journal, sizeof(ret->header));
	for (uint32_t i = 0; i < CRASH_STATE_SLOTS; i++)
		memcpy(&ret->slots[i], &slots[i], sizeof(ret->slots[i]));
}

static void shared_load(const struct crash_shared *shared)
{
	struct obd_journal_slot *slots = crash_server.flight.journal.slots;

	memcpy(crash_world.kernel.map, shared->ring, sizeof(shared->ring));
	memcpy(journal, shared->header, sizeof(shared->header));
	for (uint32_t i = 0; i < CRASH_STATE_SLOTS; i++)
		memcpy(&slots[i], &shared->slots[i], sizeof(shared->slots[i]));
}

uint8_t *crash_shared_at(struct crash_shared *shared, enum crash_area area, uint32_t offset)
{
	uint32_t slot, in_slot;

	if (area == CRASH_RING)
		return shared->ring + offset;
	if (offset < sizeof(shared->header))
		return shared->header + offset;
	if (offset < OBD_JOURNAL_HEADER_BYTES)
		return NULL;
	slot = (offset - OBD_JOURNAL_HEADER_BYTES) / (uint32_t)sizeof(struct obd_journal_slot);
	in_slot = (offset - OBD_JOURNAL_HEADER_BYTES) % (uint32_t)sizeof(struct obd_journal_slot);
	REQUIRE(in_slot < sizeof(shared->slots[slot]));
	return (uint8_t *)&shared->slots[slot] + in_slot;
}

static uint32_t word_at(const uint8_t *at)
{
	uint32_t word;

	memcpy(&word, at, sizeof(word));
	return word;
}

#define SCRUBBED 0xa5

/* Of entries between cmd_tail and `next` only the length is read, until they are answered. */
static void scrub_requests(struct crash_shared *shared)
{
	const struct obd_ring *ring = &crash_server.flight.ring;
	uint32_t at = word_at(shared->ring + 64), next = word_at(shared->header + 136);

	for (uint32_t i = 0; at != next && i < 8; i++) {
		uint8_t *entry = shared->ring + ring->cmdr_off + at;
		uint32_t length = word_at(entry) & ~7u, is_command = word_at(entry) & 7u;

		if (at >= ring->cmdr_bytes || length < 8 || length > ring->cmdr_bytes - at)
			return;
		if (is_command == 1)
			memset(entry + 4, SCRUBBED, length - 4);
		at = (at + length) % ring->cmdr_bytes;
	}
}

void crash_shared_scrub(struct crash_shared *shared)
{
	for (uint32_t i = 0; i < CRASH_STATE_SLOTS; i++)
		if (word_at(shared->slots[i].head) == OBD_SLOT_FREE)
			memset((uint8_t *)&shared->slots[i] + 4, SCRUBBED,
			       sizeof(shared->slots[i]) - 4);
	if (!word_at(shared->header + 192))
		memset(shared->header + 196, SCRUBBED, 12);
	scrub_requests(shared);
}

static uint8_t *block_at(uint32_t block)
{
	return crash_world.kernel.map + crash_server.flight.ring.data_off +
	       (size_t)block * FAKE_BLOCK_BYTES;
}

static uint8_t *sector_at(uint32_t lba)
{
	return fake_image_bytes(crash_world.disk) + (size_t)lba * OBD_SECTOR_BYTES;
}

static void outside_save(struct crash_outside *ret)
{
	const struct crash_world *world = &crash_world;
	const struct fake_kernel *kernel = &world->kernel;

	REQUIRE(world->work_cnt <= CRASH_STATE_WORKS && kernel->id_end <= CRASH_STATE_BLOCKS);
	for (uint32_t i = 0; i < CRASH_STATE_BLOCKS; i++) {
		const struct fake_command *command = &kernel->commands[i];

		memcpy(ret->blocks[i], block_at(i), CRASH_STAMP_BYTES);
		ret->block_used[i] = kernel->block_used[i];
		ret->commands[i].is_queued = command->is_queued;
		ret->commands[i].tag = command->tag;
		ret->commands[i].bytes = command->bytes;
		ret->commands[i].block_cnt = command->block_cnt;
		ret->commands[i].block = command->blocks[0];
		ret->commands[i].is_read = command->is_read;
	}
	for (uint32_t i = 0; i < CRASH_STATE_SECTORS; i++)
		memcpy(ret->disk[i], sector_at(i), CRASH_STAMP_BYTES);
	memcpy(ret->works, world->works, sizeof(ret->works));
	memcpy(ret->acknowledged, world->acknowledged, sizeof(ret->acknowledged));
	ret->last_cleaned = kernel->last_cleaned;
	ret->id_end = kernel->id_end;
	ret->queued = kernel->queued;
	ret->work_cnt = world->work_cnt;
	ret->queued_cnt = world->queued_cnt;
	ret->completed_cnt = world->completed_cnt;
}

static void outside_load(const struct crash_outside *outside)
{
	struct crash_world *world = &crash_world;
	struct fake_kernel *kernel = &world->kernel;

	for (uint32_t i = 0; i < CRASH_STATE_BLOCKS; i++) {
		struct fake_command *command = &kernel->commands[i];

		memcpy(block_at(i), outside->blocks[i], CRASH_STAMP_BYTES);
		kernel->block_used[i] = outside->block_used[i];
		command->is_queued = outside->commands[i].is_queued;
		command->tag = outside->commands[i].tag;
		command->bytes = outside->commands[i].bytes;
		command->block_cnt = outside->commands[i].block_cnt;
		command->blocks[0] = outside->commands[i].block;
		command->is_read = outside->commands[i].is_read;
	}
	for (uint32_t i = 0; i < CRASH_STATE_SECTORS; i++)
		memcpy(sector_at(i), outside->disk[i], CRASH_STAMP_BYTES);
	memcpy(world->works, outside->works, sizeof(outside->works));
	memcpy(world->acknowledged, outside->acknowledged, sizeof(outside->acknowledged));
	kernel->last_cleaned = outside->last_cleaned;
	kernel->id_end = outside->id_end;
	kernel->queued = outside->queued;
	kernel->is_broken = false;
	world->work_cnt = outside->work_cnt;
	world->queued_cnt = outside->queued_cnt;
	world->completed_cnt = outside->completed_cnt;
}

static void own_save(struct crash_own *ret)
{
	const struct crash_server *server = &crash_server;

	memset(ret, 0, sizeof(*ret));
	ret->generation = server->flight.journal.generation;
	ret->is_alive = server->is_alive;
	if (!server->is_alive)
		return;
	ret->running_cnt = server->running_cnt;
	memcpy(ret->running, server->running, server->running_cnt * sizeof(*ret->running));
	ret->free_cnt = server->flight.free_cnt;
	memcpy(ret->free_slots, server->flight.free_slots,
	       ret->free_cnt * sizeof(*ret->free_slots));
	ret->in_flight = server->flight.in_flight;
}

static void own_load(const struct crash_own *own)
{
	struct crash_server *server = &crash_server;

	server->flight.journal.generation = own->generation;
	if (!own->is_alive)
		return crash_bury();
	if (!server->flight.free_slots)
		REQUIRE(!obd_flight_init(&server->flight));
	server->is_alive = true;
	server->running_cnt = own->running_cnt;
	memcpy(server->running, own->running, own->running_cnt * sizeof(*own->running));
	server->flight.free_cnt = own->free_cnt;
	memcpy(server->flight.free_slots, own->free_slots,
	       own->free_cnt * sizeof(*own->free_slots));
	server->flight.in_flight = own->in_flight;
	REQUIRE(!obd_ring_tail(&server->flight.ring, &server->flight.tail));
}

void crash_state_save(struct crash_state *ret)
{
	crash_shared_save(&ret->shared);
	outside_save(&ret->outside);
	own_save(&ret->own);
}

void crash_state_load(const struct crash_state *state)
{
	shared_load(&state->shared);
	outside_load(&state->outside);
	own_load(&state->own);
}

void crash_state_kill(struct crash_state *state)
{
	uint64_t generation = state->own.generation;

	memset(&state->own, 0, sizeof(state->own));
	state->own.generation = generation;
}

void crash_state_blame(struct crash_state *state)
{
	for (uint32_t i = 0; i < CRASH_STATE_SLOTS; i++) {
		const struct obd_journal_slot *slot = (const void *)state->shared.slots[i].head;

		if (slot->state == OBD_SLOT_EXECUTING && slot->cdb[6] < CRASH_STATE_WORKS)
			state->outside.works[slot->cdb[6]].blames++;
	}
}

static uint64_t mix(uint64_t left, uint64_t right)
{
	__uint128_t product = (__uint128_t)left * right;

	return (uint64_t)product ^ (uint64_t)(product >> 64);
}

struct crash_key crash_hash(const void *at, size_t bytes, struct crash_key key)
{
	const uint8_t *from = at;

	for (size_t i = 0; i < bytes; i += 8) {
		uint64_t word;

		memcpy(&word, from + i, sizeof(word));
		key.high = mix(key.high ^ word, 0x9e3779b97f4a7c15ull) + i;
		key.low = mix(key.low + word, 0xd6e8feb86659fd93ull ^ key.low << 1);
	}
	return key;
}

struct crash_key crash_state_key(const struct crash_state *state, uint64_t salt)
{
	struct crash_key key = {0x243f6a8885a308d3ull ^ salt, 0x13198a2e03707344ull + salt};

	key = crash_hash(&state->shared, sizeof(state->shared), key);
	key = crash_hash(&state->outside, sizeof(state->outside), key);
	return crash_hash(&state->own, sizeof(state->own), key);
}
