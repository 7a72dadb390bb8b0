/* Recovery: from a journal and a ring that a dead process left, to the state between two commands.
 */
#include <stdlib.h>
#include <string.h>

#include "obd_barrier.h"
#include "obd_crash.h"
#include "obd_flight.h"

/* The slot whose completion passed the commit point without being freed, or UINT32_MAX. */
static uint32_t done_slot(const struct obd_flight *flight)
{
	const struct obd_journal_header *header = flight->journal.header;
	uint32_t tail;

	if (!obd_load_acquire(&header->pub_valid) || obd_ring_tail(&flight->ring, &tail))
		return UINT32_MAX;
	return tail != header->pub_tail_before ? header->pub_slot : UINT32_MAX;
}

static bool is_dropped(const struct obd_flight *flight, const struct obd_journal_slot *slot)
{
	uint64_t next = flight->journal.header->next;

	if (OBD_CHEAT(no_sequence_check))
		return false;
	if (OBD_CHEAT(drop_by_offset))
		return slot->ring_offset == obd_next_offset(next);
	return slot->sequence == obd_next_sequence(next);
}

static bool is_in_flight(const struct obd_flight *flight, uint32_t index)
{
	const struct obd_journal_slot *slot = &flight->journal.slots[index];

	return obd_load_acquire(&slot->state) != OBD_SLOT_FREE && !is_dropped(flight, slot);
}

static int bad(struct obd_errinfo *info, const char *name, const char *what, uint64_t offset,
	       uint64_t expected, uint64_t got)
{
	return obd_fail_value(info, OBD_E_JOURNAL, name, what, offset, expected, got);
}

static int check_record(const struct obd_flight *flight, uint32_t tail, const char *name,
			struct obd_errinfo *info)
{
	const struct obd_journal_header *h = flight->journal.header;

	if (h->pub_valid > 1)
		return bad(info, name, "publication record valid", 192, 1, h->pub_valid);
	if (!h->pub_valid)
		return 0;
	if (h->pub_slot >= flight->journal.slot_cnt)
		return bad(info, name, "publication record slot", 196, flight->journal.slot_cnt,
			   h->pub_slot);
	if (tail != h->pub_tail_before && tail != h->pub_tail_after)
		return bad(info, name, "cmd_tail against the publication record", 204,
			   h->pub_tail_after, tail);
	return 0;
}

static int check_slot(const struct obd_flight *flight, uint32_t index, uint8_t *seen_ids,
		      const char *name, struct obd_errinfo *info)
{
	const struct obd_journal_slot *slot = &flight->journal.slots[index];
	uint64_t at = OBD_JOURNAL_HEADER_BYTES + (uint64_t)index * sizeof(*slot);
	const struct obd_ring *ring = &flight->ring;

	if (slot->state > OBD_SLOT_EXECUTING)
		return bad(info, name, "slot state", at, OBD_SLOT_EXECUTING, slot->state);
	if (slot->iov_cnt > OBD_JOURNAL_MAX_IOV)
		return bad(info, name, "slot iov_cnt", at + 16, OBD_JOURNAL_MAX_IOV, slot->iov_cnt);
	if (slot->cdb_bytes > OBD_JOURNAL_MAX_CDB && slot->cdb_bytes != OBD_SLOT_UNKNOWN_OP)
		return bad(info, name, "slot cdb_bytes", at + 14, OBD_JOURNAL_MAX_CDB,
			   slot->cdb_bytes);
	for (uint32_t i = 0; i < slot->iov_cnt; i++) {
		uint64_t begin = slot->iov[i].offset_bytes;

		if (begin < ring->data_off || begin + slot->iov[i].length_bytes > ring->map_bytes)
			return bad(info, name, "slot iov", at + 64 + 8ull * i, ring->data_off,
				   begin);
	}
	if (seen_ids[slot->cmd_id / 8] & (1u << slot->cmd_id % 8))
		return bad(info, name, "cmd_id in flight twice", at + 12, 0, slot->cmd_id);
	seen_ids[slot->cmd_id / 8] |= (uint8_t)(1u << slot->cmd_id % 8);
	return 0;
}

/* Commands between two offsets; OBD_E_RING when the entries do not lead from one to the other. */
static int count_commands(const struct obd_ring *ring, uint32_t from, uint32_t to, uint32_t *ret)
{
	struct obd_entry entry;

	for (*ret = 0; from != to; from = entry.next) {
		if (obd_ring_entry(ring, from, obd_ring_distance(ring, from, to), &entry))
			return OBD_E_RING;
		*ret += entry.kind == OBD_ENTRY_COMMAND;
	}
	return 0;
}

int obd_flight_check(struct obd_flight *flight, const char *name, struct obd_errinfo *info)
{
	const struct obd_journal *journal = &flight->journal;
	const struct obd_ring *ring = &flight->ring;
	uint32_t tail, head, next, on_ring, done, in_flight = 0;
	uint8_t seen_ids[65536 / 8] = {0};
	int rc;

	if (obd_ring_tail(ring, &tail) || obd_ring_head(ring, &head))
		return obd_fail(info, OBD_E_RING, name, "ring positions");
	next = obd_next_offset(journal->header->next);
	if (next >= ring->cmdr_bytes || next % OBD_RING_ALIGN_BYTES ||
	    obd_ring_distance(ring, tail, next) > obd_ring_distance(ring, tail, head))
		return bad(info, name, "journal next against the ring", 136, head, next);
	rc = check_record(flight, tail, name, info);
	if (rc)
		return rc;
	done = done_slot(flight);
	for (uint32_t i = 0; i < journal->slot_cnt; i++) {
		if (!is_in_flight(flight, i) || i == done)
			continue;
		rc = check_slot(flight, i, seen_ids, name, info);
		if (rc)
			return rc;
		in_flight++;
	}
	if (count_commands(ring, tail, next, &on_ring))
		return bad(info, name, "entries between cmd_tail and next", 136, next, tail);
	if (on_ring != in_flight)
		return bad(info, name, "commands in flight against the ring", 136, on_ring,
			   in_flight);
	flight->tail = tail;
	return 0;
}

/* Sequence numbers wrap; all that are in flight lie within half the range behind `next`. */
static int by_sequence(const void *left, const void *right, void *context)
{
	const struct obd_flight *flight = context;
	const struct obd_journal_slot *slots = flight->journal.slots;
	uint32_t next = obd_next_sequence(flight->journal.header->next);
	uint32_t age_left = next - slots[*(const uint32_t *)left].sequence;
	uint32_t age_right = next - slots[*(const uint32_t *)right].sequence;

	return age_left < age_right ? 1 : age_left > age_right ? -1 : 0;
}

static void finish_publication(struct obd_flight *flight, struct obd_recovery *ret)
{
	struct obd_journal_header *header = flight->journal.header;
	uint32_t done = done_slot(flight);

	if (done != UINT32_MAX) {
		ret->already_done++;
		OBD_CRASH_POINT("recover.free");
		obd_store_release(&flight->journal.slots[done].state, OBD_SLOT_FREE);
	}
	OBD_CRASH_POINT("recover.clear");
	obd_store_release(&header->pub_valid, 0);
}

/*
 * Nothing is executing any more. Each time it was EXECUTING at a death is counted once at most:
 * the state goes first, so that a successor who dies in between forgets a death and nobody counts
 * one twice.
 */
static void demote(struct obd_journal_slot *slot, bool is_blamed)
{
	if (slot->state != OBD_SLOT_EXECUTING)
		return;
	OBD_CRASH_POINT("recover.demote");
	obd_store_release(&slot->state, OBD_SLOT_VALID);
	if (!is_blamed || slot->deaths == UINT16_MAX)
		return;
	OBD_CRASH_POINT("recover.blame");
	obd_fence_stores(); /* not EXECUTING before it is counted */
	slot->deaths++;
}

#ifdef OBD_TEST_HOOKS
/* The known-bad design: what lies on the ring is taken for what is unfinished. */
static void forget_journal(struct obd_flight *flight)
{
	struct obd_journal_header *header = flight->journal.header;
	uint32_t tail = 0;

	for (uint32_t i = 0; i < flight->journal.slot_cnt; i++)
		flight->journal.slots[i].state = OBD_SLOT_FREE;
	header->pub_valid = 0;
	if (!obd_ring_tail(&flight->ring, &tail))
		header->next = obd_next(obd_next_sequence(header->next), tail);
}
#endif

void obd_flight_recover(struct obd_flight *flight, bool is_blamed, struct obd_recovery *ret)
{
	struct obd_journal *journal = &flight->journal;
	struct obd_journal_counters *counters = obd_journal_counters(journal);

	ret->recovered = ret->already_done = ret->dropped = 0;
#ifdef OBD_TEST_HOOKS
	if (OBD_CHEAT(ring_only))
		forget_journal(flight);
#endif
	finish_publication(flight, ret);
	if (!flight->tail && obd_next_offset(journal->header->next))
		obd_ring_mark_first(&flight->ring); /* a predecessor of a release without marks */
	flight->free_cnt = 0;
	for (uint32_t i = journal->slot_cnt; i-- > 0;) {
		bool is_lost = OBD_CHEAT(lose_in_flight) && !ret->recovered && !ret->dropped;

		if (is_in_flight(flight, i) && !is_lost) {
			demote(&journal->slots[i], is_blamed);
			ret->slots[ret->recovered++] = i;
			continue;
		}
		if (journal->slots[i].state != OBD_SLOT_FREE) {
			ret->dropped++;
			OBD_CRASH_POINT("recover.drop");
			obd_store_release(&journal->slots[i].state, OBD_SLOT_FREE);
		}
		flight->free_slots[flight->free_cnt++] = i;
	}
	qsort_r(ret->slots, ret->recovered, sizeof(*ret->slots), by_sequence, flight);
	flight->in_flight = ret->recovered;
	obd_store_relaxed(&counters->in_flight, ret->recovered);
	obd_store_relaxed(&counters->recovered_last, ret->recovered);
	obd_add_relaxed(&counters->recovered, ret->recovered);
	obd_add_relaxed(&counters->already_done, ret->already_done);
	OBD_CRASH_POINT("recover.done");
}
