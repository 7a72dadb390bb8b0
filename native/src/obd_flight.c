#include "obd_flight.h"

#include <stdlib.h>
#include <string.h>

#include "obd_barrier.h"
#include "obd_crash.h"

static void find_free(struct obd_flight *flight)
{
	const struct obd_journal *journal = &flight->journal;

	flight->free_cnt = 0;
	for (uint32_t i = journal->slot_cnt; i-- > 0;)
		if (journal->slots[i].state == OBD_SLOT_FREE)
			flight->free_slots[flight->free_cnt++] = i;
	flight->in_flight = journal->slot_cnt - flight->free_cnt;
}

int obd_flight_init(struct obd_flight *flight)
{
	const struct obd_journal *journal = &flight->journal;

	flight->free_slots = calloc(journal->slot_cnt, sizeof(*flight->free_slots));
	if (!flight->free_slots)
		return OBD_E_NOMEM;
	find_free(flight);
	return 0;
}

void obd_flight_deinit(struct obd_flight *flight)
{
	free(flight->free_slots);
	flight->free_slots = NULL;
}

static void set_in_flight(struct obd_flight *flight, uint32_t cnt)
{
	flight->in_flight = cnt;
	obd_store_relaxed(&obd_journal_counters(&flight->journal)->in_flight, cnt);
}

/* Skips PAD and TMR from *offset on; OBD_E_RING when an entry does not fit. */
static int skip_silent(const struct obd_ring *ring, uint32_t *offset, uint32_t end)
{
	struct obd_entry entry;

	while (*offset != end) {
		if (obd_ring_entry(ring, *offset, obd_ring_distance(ring, *offset, end), &entry))
			return OBD_E_RING;
		if (entry.kind != OBD_ENTRY_SKIP)
			break;
		*offset = entry.next;
	}
	return 0;
}

/*
 * Is the tail where we left it? A reset puts it to 0. Where it was at 0 already, the head went
 * back behind `next`, or something was queued since: then the entry at 0 has lost its mark.
 */
static bool is_ours(const struct obd_flight *flight)
{
	uint32_t tail, head, next = obd_next_offset(flight->journal.header->next);

	if (obd_ring_tail(&flight->ring, &tail) || tail != flight->tail)
		return false;
	if (tail || !next)
		return true;
	return obd_ring_is_first_marked(&flight->ring) &&
	       (obd_ring_head(&flight->ring, &head) || head >= next);
}

/* The next command's entry, from *offset on; 1, or 0: there is none. *offset: behind what nobody
 * waits for. */
static int find_next(const struct obd_flight *flight, uint32_t *offset, struct obd_entry *entry)
{
	const struct obd_ring *ring = &flight->ring;
	uint32_t head;
	int rc = 1;

	if (obd_ring_head(ring, &head))
		rc = OBD_E_RING;
	else if (skip_silent(ring, offset, head))
		rc = OBD_E_RING;
	else if (*offset == head)
		rc = 0;
	else if (obd_ring_entry(ring, *offset, obd_ring_distance(ring, *offset, head), entry))
		rc = OBD_E_RING;
	/* Asked last: whoever resets stores the tail before it queues anything. */
	return is_ours(flight) ? rc : OBD_E_RESET;
}

static void move_next(struct obd_flight *flight, uint32_t sequence, uint32_t offset)
{
	obd_store_release(&flight->journal.header->next, obd_next(sequence, offset));
}

/* Is the entry at offset 0 among those from `from` to `to`, or the one picked up at `to`? */
static bool takes_first(uint32_t from, uint32_t to, bool is_picked_up)
{
	return to ? to < from || !from : is_picked_up;
}

int obd_flight_pick_up(struct obd_flight *flight, uint64_t now_ns, uint32_t *ret)
{
	struct obd_journal_header *header = flight->journal.header;
	uint64_t next = header->next;
	uint32_t offset = obd_next_offset(next), sequence = obd_next_sequence(next), index;
	struct obd_journal_slot *slot;
	struct obd_entry entry;
	int rc = find_next(flight, &offset, &entry);

	if (rc < 0)
		return rc;
	if (takes_first(obd_next_offset(next), offset, rc))
		obd_ring_mark_first(&flight->ring);
	if (offset != obd_next_offset(next)) {
		OBD_CRASH_POINT("pickup.skip");
		move_next(flight, sequence, offset);
	}
	if (!rc || obd_flight_is_full(flight))
		return 0;
	index = flight->free_slots[flight->free_cnt - 1];
	slot = &flight->journal.slots[index];
	OBD_CRASH_POINT("pickup.copy");
	obd_fence_stores(); /* the slot must be free before a byte of it changes */
	rc = obd_ring_request(&flight->ring, offset, &entry, slot);
	if (!is_ours(flight) || (!flight->tail && !obd_ring_is_first_marked(&flight->ring)))
		return OBD_E_RESET; /* a copy of what was being rewritten */
	if (rc)
		return OBD_E_RING;
	slot->sequence = sequence;
	slot->picked_up_ns = now_ns;
	OBD_CRASH_POINT("pickup.valid");
	obd_store_release(&slot->state, OBD_SLOT_VALID);
	OBD_CRASH_POINT("pickup.next");
	move_next(flight, sequence + 1, entry.next);
	OBD_CRASH_POINT("pickup.done");
	flight->free_cnt--;
	set_in_flight(flight, flight->in_flight + 1);
	obd_add_relaxed(&header->counters.picked_up, 1);
	*ret = index;
	return 1;
}

void obd_flight_start(struct obd_flight *flight, uint32_t index)
{
	struct obd_journal_slot *slot = &flight->journal.slots[index];

	OBD_CRASH_POINT("start.executing");
	obd_store_release(&slot->state, OBD_SLOT_EXECUTING);
	OBD_CRASH_POINT("start.done");
}

bool obd_flight_skip(struct obd_flight *flight)
{
	uint32_t offset = flight->tail, end = obd_next_offset(flight->journal.header->next);

	if (!is_ours(flight) || skip_silent(&flight->ring, &offset, end) || offset == flight->tail)
		return false;
	OBD_CRASH_POINT("publish.skip");
	if (!obd_ring_move_tail(&flight->ring, flight->tail, offset))
		return false;
	flight->tail = offset;
	return true;
}

static void record(struct obd_journal_header *header, uint32_t slot, uint32_t before,
		   uint32_t after)
{
	if (OBD_CHEAT(skip_record))
		return;
	OBD_CRASH_POINT("publish.record");
	/* The record before this one must be invalid, and `next` behind the entry that is going to
	 * be overwritten. */
	obd_fence_stores();
	header->pub_slot = slot;
	header->pub_tail_before = before;
	header->pub_tail_after = after;
	OBD_CRASH_POINT("publish.record_valid");
	obd_store_release(&header->pub_valid, 1);
}

static void free_slot(struct obd_flight *flight, uint32_t index)
{
	OBD_CRASH_POINT("publish.free");
	obd_store_release(&flight->journal.slots[index].state, OBD_SLOT_FREE);
}

#ifdef OBD_TEST_HOOKS
static uint16_t another_id(const struct obd_flight *flight, uint32_t index)
{
	const struct obd_journal_slot *slots = flight->journal.slots;

	for (uint32_t i = 0; i < flight->journal.slot_cnt; i++)
		if (i != index && slots[i].state != OBD_SLOT_FREE)
			return slots[i].cmd_id;
	return slots[index].cmd_id;
}
#endif

static uint16_t answered_id(const struct obd_flight *flight, uint32_t index)
{
#ifdef OBD_TEST_HOOKS
	if (OBD_CHEAT(reuse_id))
		return another_id(flight, index);
#endif
	return flight->journal.slots[index].cmd_id;
}

/* The entry that the next answer goes into, at *ret; *end is where `next` is. */
static int find_answer(const struct obd_flight *flight, uint32_t end, uint32_t *ret,
		       struct obd_entry *entry)
{
	const struct obd_ring *ring = &flight->ring;
	int rc = 0;

	*ret = flight->tail;
	if (skip_silent(ring, ret, end) || *ret == end ||
	    obd_ring_entry(ring, *ret, obd_ring_distance(ring, *ret, end), entry))
		rc = OBD_E_RING;
	return is_ours(flight) ? rc : OBD_E_RESET;
}

int obd_flight_publish(struct obd_flight *flight, uint32_t index,
		       const struct obd_response *response)
{
	struct obd_journal_header *header = flight->journal.header;
	struct obd_ring *ring = &flight->ring;
	uint32_t before, end = obd_next_offset(header->next);
	struct obd_entry entry;
	int rc;

	/* Pairs with obd_journal_own of a successor: it takes the ring only after this process is
	 * proven dead or drained; this check is the second line. */
	if (!OBD_CHEAT(no_generation_check) &&
	    obd_load_acquire(&header->generation) != flight->journal.generation)
		return OBD_E_STALE;
	rc = find_answer(flight, end, &before, &entry);
	if (rc)
		return rc;
	obd_flight_skip(flight);
	if (!OBD_CHEAT(record_after_tail))
		record(header, index, before, entry.next);
	obd_ring_respond(ring, before, answered_id(flight, index), response);
	if (OBD_CHEAT(free_before_tail))
		free_slot(flight, index);
	OBD_CRASH_POINT("publish.tail");
	if (!obd_ring_move_tail(ring, before, entry.next)) /* the commit point */
		return OBD_E_RESET;
	flight->tail = entry.next;
	OBD_CRASH_POINT("publish.committed");
	if (OBD_CHEAT(record_after_tail))
		record(header, index, before, entry.next);
	if (!OBD_CHEAT(free_before_tail))
		free_slot(flight, index);
	OBD_CRASH_POINT("publish.clear");
	obd_store_release(&header->pub_valid, 0);
	OBD_CRASH_POINT("publish.done");
	if (OBD_CHEAT(publish_twice) && entry.next != end) {
		obd_ring_respond(ring, entry.next, flight->journal.slots[index].cmd_id, response);
		obd_ring_move_tail(ring, entry.next, end);
		flight->tail = end;
	}
	flight->free_slots[flight->free_cnt++] = index;
	set_in_flight(flight, flight->in_flight - 1);
	obd_add_relaxed(&header->counters.completed, 1);
	return 0;
}

int obd_flight_restart(struct obd_flight *flight)
{
	struct obd_journal_header *header = flight->journal.header;
	uint8_t boot_id[sizeof(header->boot_id)], uuid[sizeof(header->device_uuid)];
	struct obd_journal_identity identity = {
		.boot_id = boot_id, .device_uuid = uuid, .ring = &flight->ring};
	uint32_t tail;

	if (obd_load_acquire(&header->generation) != flight->journal.generation)
		return OBD_E_STALE;
	if (obd_ring_tail(&flight->ring, &tail))
		return OBD_E_RING;
	memcpy(boot_id, header->boot_id, sizeof(boot_id));
	memcpy(uuid, header->device_uuid, sizeof(uuid));
	/* Half-way it is a journal that nobody believes, as after any reset. */
	obd_journal_format(&flight->journal, &identity, tail);
	flight->tail = tail;
	find_free(flight);
	obd_add_relaxed(&header->counters.foreign_resets, 1);
	return 0;
}
