#include "obd_flight.h"

#include <stdlib.h>

#include "obd_barrier.h"
#include "obd_crash.h"

int obd_flight_init(struct obd_flight *flight)
{
	const struct obd_journal *journal = &flight->journal;

	flight->free_slots = calloc(journal->slot_cnt, sizeof(*flight->free_slots));
	if (!flight->free_slots)
		return OBD_E_NOMEM;
	flight->free_cnt = 0;
	for (uint32_t i = journal->slot_cnt; i-- > 0;)
		if (journal->slots[i].state == OBD_SLOT_FREE)
			flight->free_slots[flight->free_cnt++] = i;
	flight->in_flight = journal->slot_cnt - flight->free_cnt;
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

int obd_flight_pick_up(struct obd_flight *flight, uint64_t now_ns, uint32_t *ret)
{
	struct obd_journal_header *header = flight->journal.header;
	uint64_t next = header->next;
	uint32_t head, offset = obd_next_offset(next), sequence = obd_next_sequence(next), index;
	struct obd_journal_slot *slot;
	struct obd_entry entry;

	if (obd_ring_head(&flight->ring, &head))
		return OBD_E_RING;
	if (skip_silent(&flight->ring, &offset, head))
		return OBD_E_RING;
	if (offset != obd_next_offset(next)) {
		OBD_CRASH_POINT("pickup.skip");
		obd_store_release(&header->next, obd_next(sequence, offset));
	}
	if (offset == head || obd_flight_is_full(flight))
		return 0;
	if (obd_ring_entry(&flight->ring, offset, obd_ring_distance(&flight->ring, offset, head),
			   &entry))
		return OBD_E_RING;
	index = flight->free_slots[flight->free_cnt - 1];
	slot = &flight->journal.slots[index];
	OBD_CRASH_POINT("pickup.copy");
	obd_fence_stores(); /* the slot must be free before a byte of it changes */
	if (obd_ring_request(&flight->ring, offset, &entry, slot))
		return OBD_E_RING;
	slot->sequence = sequence;
	slot->picked_up_ns = now_ns;
	OBD_CRASH_POINT("pickup.valid");
	obd_store_release(&slot->state, OBD_SLOT_VALID);
	OBD_CRASH_POINT("pickup.next");
	obd_store_release(&header->next, obd_next(sequence + 1, entry.next));
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
	uint32_t tail, offset, end = obd_next_offset(flight->journal.header->next);

	if (obd_ring_tail(&flight->ring, &tail))
		return false;
	offset = tail;
	if (skip_silent(&flight->ring, &offset, end) || offset == tail)
		return false;
	OBD_CRASH_POINT("publish.skip");
	obd_ring_set_tail(&flight->ring, offset);
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

int obd_flight_publish(struct obd_flight *flight, uint32_t index,
		       const struct obd_response *response)
{
	struct obd_journal_header *header = flight->journal.header;
	struct obd_ring *ring = &flight->ring;
	uint32_t before, end = obd_next_offset(header->next);
	struct obd_entry entry;

	/* Pairs with obd_journal_own of a successor: it takes the ring only after this process is
	 * proven dead or drained; this check is the second line. */
	if (!OBD_CHEAT(no_generation_check) &&
	    obd_load_acquire(&header->generation) != flight->journal.generation)
		return OBD_E_STALE;
	if (obd_ring_tail(ring, &before))
		return OBD_E_RING;
	if (skip_silent(ring, &before, end) || before == end ||
	    obd_ring_entry(ring, before, obd_ring_distance(ring, before, end), &entry))
		return OBD_E_RING;
	obd_flight_skip(flight);
	if (!OBD_CHEAT(record_after_tail))
		record(header, index, before, entry.next);
	obd_ring_respond(ring, before, answered_id(flight, index), response);
	if (OBD_CHEAT(free_before_tail))
		free_slot(flight, index);
	OBD_CRASH_POINT("publish.tail");
	obd_ring_set_tail(ring, entry.next); /* the commit point */
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
		obd_ring_set_tail(ring, end);
	}
	flight->free_slots[flight->free_cnt++] = index;
	set_in_flight(flight, flight->in_flight - 1);
	obd_add_relaxed(&header->counters.completed, 1);
	return 0;
}
