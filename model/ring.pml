/*
 * Ring, in-flight journal and recovery, as native/src does it, for an exhaustive check with Spin.
 *
 * The kernel sends NREQ commands through a ring of RING offsets (one always stays free), hands out
 * the lowest free cmd_id, and looks a completion up by the id it finds in the entry. The worker picks
 * up, executes and publishes in any order; it may be killed between any two stores, also while it
 * recovers, MAXCRASH times. Only shared memory (ring, journal) survives a kill.
 *
 * Checked: I1 each command completed exactly once and with its own answer; I2 nothing is executed
 * after its completion was published; I4 the kernel never meets an unknown id; and, as the absence of
 * invalid end states, that every command is completed at all.
 *
 * Known-bad variants, each refuted by tests/model: -DRING_ONLY (trust [tail, head) alone),
 * -DRECORD_AFTER_TAIL, -DFREE_BEFORE_TAIL, -DNO_RECORD, -DDROP_BY_OFFSET (slot offset compared with
 * the next offset, without the sequence number).
 */
#ifndef NREQ
#define NREQ 4
#endif
#ifndef MAXCRASH
#define MAXCRASH 2
#endif
#define RING 3
#define NID  3
#define NSLOT 3
#define NONE 255

/* the kernel's own table: cmd_id -> command (0: free) */
byte owner[NID];
byte sent;
byte cleaned;
bool done[NREQ + 1];

/* the ring: shared, survives the worker */
byte head, tail;
byte entry_id[RING];
byte entry_req[RING];	 /* the request; 0 once the response overlays it */
byte entry_answer[RING]; /* whose answer the response holds */

/* the journal: shared, survives the worker */
byte next_off, next_seq; /* one 64-bit word: always stored together */
bool slot_valid[NSLOT];
byte slot_id[NSLOT], slot_req[NSLOT], slot_off[NSLOT], slot_seq[NSLOT];
bool pub_valid;
byte pub_slot, pub_before;

/* the worker's memory: lost when it is killed */
bool executed[NSLOT];

bool kill_worker;
byte kills;
bool published[NREQ + 1]; /* ghost: set at the commit point */

#define after(off) ((off + 1) % RING)

active proctype Kernel()
{
	byte id, req;
	do
	:: atomic {
		sent < NREQ && after(head) != cleaned &&
		(owner[0] == 0 || owner[1] == 0 || owner[2] == 0) ->
		if
		:: owner[0] == 0 -> id = 0
		:: owner[0] != 0 && owner[1] == 0 -> id = 1
		:: else -> id = 2
		fi;
		sent++;
		owner[id] = sent;
		entry_id[head] = id;
		entry_req[head] = sent;
		entry_answer[head] = 0;
		head = after(head);
		id = 0
	   }
	:: atomic {
		cleaned != tail ->
		id = entry_id[cleaned];
		assert(id < NID);
		req = owner[id];
		assert(req != 0);		     /* I4: else the ring is broken */
		assert(entry_answer[cleaned] == req); /* the answer is the command's own */
		assert(!done[req]);		     /* I1 */
		done[req] = true;
		owner[id] = 0;
		cleaned = after(cleaned);
		id = 0;
		req = 0
	   }
	:: atomic {
		sent == NREQ && owner[0] == 0 && owner[1] == 0 && owner[2] == 0 -> break
	   }
	od
}

inline free_slot(out)
{
	if
	:: !slot_valid[0] -> out = 0
	:: slot_valid[0] && !slot_valid[1] -> out = 1
	:: slot_valid[0] && slot_valid[1] && !slot_valid[2] -> out = 2
	fi
}

inline execute(slot)
{
	atomic {
		assert(!published[slot_req[slot]]); /* I2: no stale replay */
		executed[slot] = true
	}
}

/* Each line that is not in an atomic block is one store another process could find. */
inline publish(slot)
{
#if !defined(NO_RECORD) && !defined(RECORD_AFTER_TAIL)
	atomic { pub_slot = slot; pub_before = tail };
	pub_valid = true;
#endif
	entry_id[tail] = slot_id[slot];
	atomic { entry_req[tail] = 0; entry_answer[tail] = slot_req[slot] };
#ifdef FREE_BEFORE_TAIL
	slot_valid[slot] = false;
#endif
	atomic { published[slot_req[slot]] = true; tail = after(tail) }; /* the commit point */
#ifdef RECORD_AFTER_TAIL
	atomic { pub_slot = slot; pub_before = (tail + RING - 1) % RING };
	pub_valid = true;
#endif
	atomic { executed[slot] = false; slot_valid[slot] = false };
	pub_valid = false
}

inline pick_up()
{
	free_slot(s);
	atomic {
		slot_id[s] = entry_id[next_off];
		slot_req[s] = entry_req[next_off];
		slot_off[s] = next_off;
		slot_seq[s] = next_seq;
		executed[s] = false
	};
	assert(slot_req[s] != 0); /* never a request that a response overlays */
	slot_valid[s] = true;
	atomic { next_off = after(next_off); next_seq++ }
}

inline recover()
{
#ifdef RING_ONLY
	atomic {
		slot_valid[0] = false;
		slot_valid[1] = false;
		slot_valid[2] = false;
		next_off = tail
	};
#else
	if
	:: pub_valid && tail != pub_before -> slot_valid[pub_slot] = false
	:: else
	fi;
	pub_valid = false;
	s = 0;
	do
	:: s < NSLOT ->
#ifdef DROP_BY_OFFSET
		if
		:: slot_valid[s] && slot_off[s] == next_off -> slot_valid[s] = false
		:: else
		fi;
#else
		if
		:: slot_valid[s] && slot_seq[s] == next_seq -> slot_valid[s] = false
		:: else
		fi;
#endif
		s++
	:: else -> break
	od;
	/* what is left runs again in sequence order, before anything new is picked up */
	do
	:: atomic {
		slot_valid[0] || slot_valid[1] || slot_valid[2] ->
		oldest = NONE;
		s = 0;
		do
		:: s < NSLOT ->
			if
			:: slot_valid[s] && (oldest == NONE || slot_seq[s] < slot_seq[oldest]) ->
				oldest = s
			:: else
			fi;
			s++
		:: else -> break
		od
	   };
	   execute(oldest);
	   publish(oldest)
	:: else -> break
	od
#endif
}

active proctype Worker()
{
	byte s, oldest;
life:
	{
		recover();
end_serve:
		do
		:: atomic {
			next_off != head && (!slot_valid[0] || !slot_valid[1] || !slot_valid[2]) -> skip
		   };
		   pick_up()
		:: slot_valid[0] && !executed[0] -> execute(0)
		:: slot_valid[1] && !executed[1] -> execute(1)
		:: slot_valid[2] && !executed[2] -> execute(2)
		:: slot_valid[0] && executed[0] -> publish(0)
		:: slot_valid[1] && executed[1] -> publish(1)
		:: slot_valid[2] && executed[2] -> publish(2)
		od
	} unless {
		atomic {
			kill_worker ->
			kill_worker = false;
			s = 0;
			oldest = 0;
			executed[0] = false;
			executed[1] = false;
			executed[2] = false
		}
	};
	goto life
}

active proctype Killer()
{
	do
	:: atomic { kills < MAXCRASH && !kill_worker -> kills++; kill_worker = true }
	:: break
	od
}
