/*
 * Ring, in-flight journal, recovery, and who serves: as native/src and obdsup/supervisor do it, for
 * an exhaustive check with Spin. What each part stands for, what is left out and why: DESIGN.md.
 *
 * Two worker processes, one supervisor, the kernel. Every line of a worker that is not in an atomic
 * block is one store that another process can find. Processes die at any point: NDEATH workers (also
 * by the supervisor's hand, when it fences one that does not answer in time), NSUPER supervisors. A
 * process that hangs is one that is not scheduled: no step of its own is needed for that.
 *
 * Properties: I1 to I6 of the design, below as `ltl i1` to `ltl i6`; the same as assertions where a
 * violation would happen, so that a search for safety alone finds all of them at once. Known-bad
 * variants: see VARIANTS in check.py; each is refuted, its trail is kept in trails/.
 */
#ifndef NREQ
#define NREQ 3 /* commands */
#endif
#ifndef RING
#define RING 3 /* offsets of the ring; one always stays free */
#endif
#ifndef NSLOT
#define NSLOT 2
#endif
#ifndef NDEATH
#define NDEATH 1
#endif
#ifndef NSUPER
#define NSUPER 1
#endif
#ifndef NHAND
#define NHAND 1 /* hand-overs asked for */
#endif
#ifndef NFOREIGN
#define NFOREIGN 0 /* journals found that another release wrote, or that are torn */
#endif
#ifdef COARSE /* a group of stores between two that others wait for is one step: see DESIGN.md */
#define STORES atomic {
#define END    }
#else
#define STORES
#define END
#endif
#define NID    (RING - 1)
#define NOBODY 2
#ifndef TWO_SERVERS
#define TWO_SERVERS false /* true: go on, and see what comes of it */
#endif

#define after(off) ((off + 1) % RING)
#define is_write(req) (req != 2) /* 2 is a read */

mtype = { SERVE, FRESH, DRAIN, SERVES, LOCKED, JOURNAL, STALE, DRAINED, BUSY, NOT_SERVED, LOST };

/* ---- the kernel's own tables ---- */
byte owner[NID]; /* cmd_id -> command whose data blocks it holds; 0: free */
bool unsent[NREQ + 1];
bool done[NREQ + 1];
byte cleaned;
bool broken; /* met an unknown id: every command fails from then on, and it is logged */

/* ---- the ring: shared, survives every process ---- */
byte head, tail;
byte entry_id[RING];
byte entry_req[RING];	 /* the request; 0 once the response overlays it */
byte entry_answer[RING]; /* whose answer the response holds */
bool kicked;

/* ---- the journal: shared, survives every process ---- */
bool good = true; /* magic, version, crc: false for another release's or a torn one */
byte generation;
byte owner_pid = NOBODY;
byte next_off, next_seq; /* one 64-bit word: always stored together */
bool slot_valid[NSLOT];
byte slot_id[NSLOT], slot_req[NSLOT], slot_off[NSLOT], slot_seq[NSLOT];
bool pub_valid;
byte pub_slot, pub_before;
byte lock = NOBODY; /* flock of the journal */

/* ---- processes ---- */
bool dead[2];  /* the pidfd is readable: proof of death */
bool dying[2]; /* SIGKILL was sent: no store of its own any more, but it may hold the lock for long */
byte shown[2]; /* what hello tells */
#define HIDDEN	0
#define SHOWN	1 /* it serves */
#define LEAVING 2 /* it serves until it is drained */
bool ordered[2]; /* carries out a request */
chan to[2] = [1] of { mtype, byte, bit };
chan from[2] = [1] of { mtype };
bool kill_super;
bit life;   /* of the supervisor: an answer to a dead one goes nowhere */
byte row;   /* generation in state.db */
byte deaths, supers, hands, foreigns;

/* ---- ghosts: what the properties speak of ---- */
bool serving[2];	  /* stores to ring and journal are its */
bool published[NREQ + 1]; /* set at the commit point */
bool stale;		  /* executed after its completion was published */
bool overtaken;		  /* a recovered write landed over one picked up after it */
bool needless;		  /* the ring was reset with a good journal */
bool trampled;		  /* the ring was reset under somebody who serves */
#ifdef GHOSTS
bool in_recovery[2];
bool interrupted; /* somebody died while it recovered */
bool was_foreign;
#endif

#define all_done (done[1] && done[2] && done[NREQ] && (NREQ < 4 || done[NREQ - 1]))

#ifdef GHOSTS
ltl i1 { <> all_done }
ltl i2 { [] !stale }
ltl i3 { [] !(serving[0] && serving[1]) }
ltl i4 { [] (!broken && !needless) }
ltl i5 { [] (interrupted -> <> all_done) }
ltl i6 { [] (!trampled && (was_foreign -> <> (good && all_done))) }
#endif

/* ---- kernel ---- */

inline queue(req)
{
	id = 0;
	do
	:: owner[id] != 0 -> id++
	:: else -> break
	od;
	unsent[req] = false;
	owner[id] = req;
	entry_id[head] = id;
	entry_req[head] = req;
	entry_answer[head] = 0;
	head = after(head);
	id = 0
}

inline complete()
{
	id = entry_id[cleaned];
	if
	:: id < NID && owner[id] != 0 -> skip
	:: else -> broken = true
	fi;
	assert(!broken);			    /* I4 */
	assert(entry_answer[cleaned] == owner[id]); /* the answer is the command's own */
	assert(!done[owner[id]]);		    /* I1 */
	done[owner[id]] = true;
	owner[id] = 0; /* its id and its data blocks are free for the next one */
	entry_id[cleaned] = 0;
	entry_answer[cleaned] = 0;
	cleaned = after(cleaned)
}

/* action/reset_ring = 1: what is in flight is answered BUSY, and SCSI sends it again. */
inline reset_ring()
{
	d_step {
		needless = needless || good;
		trampled = trampled || serving[0] || serving[1];
		assert(!needless); /* I4 */
		assert(!trampled); /* I6 */
		w = 0;
		do
		:: w < NID && owner[w] != 0 ->
			unsent[owner[w]] = true;
			published[owner[w]] = false; /* nobody was told */
			owner[w] = 0;
			w++
		:: w < NID && owner[w] == 0 -> w++
		:: else -> break
		od;
		w = 0;
		do
		:: w < RING ->
			entry_id[w] = 0;
			entry_req[w] = 0;
			entry_answer[w] = 0;
			w++
		:: else -> break
		od;
		w = 0;
		head = 0;
		tail = 0;
		cleaned = 0;
		broken = false
	}
}

proctype Kernel()
{
	byte id, req;
	do
	:: d_step {
		after(head) != cleaned && (unsent[1] || unsent[2] || unsent[NREQ] || unsent[NREQ - 1]) ->
		req = 1;
		do
		:: !unsent[req] -> req++
		:: else -> break
		od;
		queue(req);
		req = 0
	   }
	:: d_step {
		kicked -> kicked = false;
		do
		:: cleaned != tail -> complete()
		:: else -> break
		od;
		id = 0
	   }
	:: all_done -> break
	od
}

/* ---- worker ---- */

inline answer(what)
{
	ordered[me] = false;
	if
	:: asker == life -> from[me]!what
	:: else
	fi
}

/* Of a free slot nobody reads anything: zeros, so that equal states look equal. */
inline wipe(s)
{
	slot_id[s] = 0;
	slot_req[s] = 0;
	slot_off[s] = 0;
	slot_seq[s] = 0
}

/* native/src/obd_flight.c: obd_flight_publish. */
inline publish(s)
{
#ifndef NO_GENERATION
	if
	:: generation != gen -> goto failed
	:: else
	fi;
#endif
	STORES
	before = tail;
#if !defined(NO_RECORD) && !defined(RECORD_AFTER_TAIL)
	d_step { pub_slot = s; pub_before = before };
	pub_valid = true;
#endif
	entry_id[before] = slot_id[s];
	d_step { entry_req[before] = 0; entry_answer[before] = slot_req[s] }
	END;
#ifdef FREE_BEFORE_TAIL
	slot_valid[s] = false;
#endif
	d_step { published[slot_req[s]] = true; tail = after(before) }; /* the commit point */
#ifdef RECORD_AFTER_TAIL
	d_step { pub_slot = s; pub_before = before };
	pub_valid = true;
#endif
	STORES
	slot_valid[s] = false;
	d_step {
		pub_valid = false;
		pub_slot = 0;
		pub_before = 0;
		wipe(s);
		phase[s] = 0;
		again[s] = false;
		before = 0;
		needs_kick = true
	}
	END
}

/* obd_flight_start, obd_command_run: the image's work is one step here, see upper.pml. */
inline execute(s)
{
	d_step {
		stale = stale || published[slot_req[s]];
		assert(!stale);				  /* I2 */
		assert(owner[slot_id[s]] == slot_req[s]); /* its data blocks are still its own */
		overtaken = overtaken || (again[s] && is_write(slot_req[s]) && picked_new);
		assert(!overtaken);
		phase[s] = 2
	}
}

/* obd_flight_pick_up. */
inline pick_up()
{
	STORES
	d_step {
		slot_id[s] = entry_id[next_off];
		slot_req[s] = entry_req[next_off];
		slot_off[s] = next_off;
		slot_seq[s] = next_seq;
		assert(slot_req[s] != 0) /* never a request that a response overlays */
	};
	slot_valid[s] = true;
	d_step {
		picked_new = picked_new || is_write(slot_req[s]);
		phase[s] = 1;
		again[s] = false;
		s = 0;
#ifndef SPLIT_NEXT
		next_seq++;
#endif
		next_off = after(next_off)
	}
#ifdef SPLIT_NEXT
	;
	next_seq++
#endif
	END
}

#define is_done(s)    (pub_valid && tail != pub_before && pub_slot == s)
#define is_dropped(s) (slot_seq[s] == next_seq)
#define in_flight(s)  (slot_valid[s] && !is_dropped(s) && !is_done(s))

/* obd_flight_check: as many slots in flight as commands between tail and next. */
inline check_flight()
{
#ifdef CHECK
	s = 0;
	before = 0;
	do
	:: s < NSLOT ->
		before = before + (in_flight(s) -> 1 : 0);
		s++
	:: else -> break
	od;
	assert(before == (next_off + RING - tail) % RING);
	s = 0;
	before = 0
#else
	skip
#endif
}

/* obd_flight_recover. */
#if defined(DROP_BY_OFFSET)
#define to_drop(s) (slot_off[s] == next_off)
#elif defined(NO_SEQUENCE_CHECK)
#define to_drop(s) (false)
#else
#define to_drop(s) is_dropped(s)
#endif
inline recover()
{
	STORES
#ifdef RING_ONLY
	d_step {
		s = 0;
		do
		:: s < NSLOT -> slot_valid[s] = false; wipe(s); s++
		:: else -> break
		od;
		s = 0;
		next_off = tail
	};
#else
	if
	:: pub_valid && tail != pub_before -> slot_valid[pub_slot] = false
	:: else
	fi;
	d_step { pub_valid = false; pub_slot = 0; pub_before = 0; s = 0 };
	do
	:: atomic { s < NSLOT && slot_valid[s] && to_drop(s) -> slot_valid[s] = false }
	:: atomic { s < NSLOT && !(slot_valid[s] && to_drop(s)) -> s++ }
	:: s == NSLOT -> break
	od;
#endif
	atomic {
		s = 0;
		do
		:: s < NSLOT ->
			again[s] = slot_valid[s];
			phase[s] = (slot_valid[s] -> 1 : 0);
			if
			:: !slot_valid[s] -> wipe(s)
			:: else
			fi;
			s++
		:: else -> break
		od;
		s = 0
	}
	END
}

#define waits(t)       (again[t] && phase[t] != 0 && is_write(slot_req[t]))
#define is_older(t, s) (waits(t) && slot_seq[t] < slot_seq[s])
#if NSLOT == 2
#define busy		 (phase[0] || phase[1])
#define any_replay	 (waits(0) || waits(1))
#define older_replay(s)	 (is_older(0, s) || is_older(1, s))
#define any_free	 (phase[0] == 0 || phase[1] == 0)
#else
#define busy		 (phase[0] || phase[1] || phase[2])
#define any_replay	 (waits(0) || waits(1) || waits(2))
#define older_replay(s)	 (is_older(0, s) || is_older(1, s) || is_older(2, s))
#define any_free	 (phase[0] == 0 || phase[1] == 0 || phase[2] == 0)
#endif

#ifdef NEW_BEFORE_REPLAY
#define may_pick_up (any_free && next_off != head)
#define may_start(s) (phase[s] == 1)
#else
#define may_pick_up (any_free && next_off != head && !any_replay)
#define may_start(s) (phase[s] == 1 && !(waits(s) && older_replay(s)))
#endif

inline forget()
{
	s = 0;
	do
	:: s < NSLOT -> phase[s] = 0; again[s] = false; s++
	:: else -> break
	od;
	s = 0;
	before = 0;
	op = 0;
	gen = 0;
	picked_new = false;
	needs_kick = false;
	serving[me] = false;
	ordered[me] = false;
	shown[me] = HIDDEN
#ifdef GHOSTS
	;
	in_recovery[me] = false
#endif
}

inline let_go()
{
	op = 0;
	gen = 0;
	if
	:: lock == me -> lock = NOBODY
	:: else
	fi
}

proctype Worker(bit me)
{
	byte s, before, gen;
	byte phase[NSLOT]; /* 0: none, 1: picked up, 2: executed. Lost with the process, as all here */
	bool again[NSLOT]; /* recovered */
	bool needs_kick, picked_new;
	byte gen_asked;
	bit asker;
	mtype op;
start:
	{
		assert(!serving[me] && shown[me] == HIDDEN);
end_standby:
		do
		:: atomic { !dead[me] && len(to[me]) > 0 -> to[me]?op, gen, asker; ordered[me] = true; break }
		od;
#ifndef NO_LOCK
		/* obd_journal_lock */
		atomic {
			if
			:: op == DRAIN -> answer(NOT_SERVED); goto end_standby
			:: op != DRAIN && lock != NOBODY -> answer(LOCKED); goto end_standby
			:: else -> lock = me
			fi
		};
#endif
		if
		:: op == SERVE ->
			/* obd_journal_open, obd_flight_check: nothing is written */
			atomic {
				if
				:: !good -> let_go(); answer(JOURNAL); goto end_standby
#ifndef NO_GENERATION
				:: good && gen <= generation -> let_go(); answer(STALE); goto end_standby
				:: good && gen > generation -> check_flight()
#else
				:: good -> check_flight()
#endif
				fi
			}
		:: op == FRESH ->
			/* obd_journal_prepare, obd_journal_format */
			atomic {
				if
				:: good && gen <= generation -> let_go(); answer(STALE); goto end_standby
				:: good && gen > generation
				:: !good -> generation = 0
				fi;
				serving[me] = true;
				assert(TWO_SERVERS || !serving[1 - me]) /* I3 */
			};
			good = false;
			d_step {
				s = 0;
				do
				:: s < NSLOT -> slot_valid[s] = false; wipe(s); s++
				:: else -> break
				od;
				s = 0;
				pub_valid = false;
				pub_slot = 0;
				pub_before = 0;
				next_off = tail;
				next_seq = 1
			};
			good = true
		fi;
		atomic {
			serving[me] = true;
			assert(TWO_SERVERS || !serving[1 - me]); /* I3 */
#ifdef GHOSTS
			in_recovery[me] = true;
#endif
			generation = gen;
			owner_pid = me
		};
		recover();
#ifdef GHOSTS
		in_recovery[me] = false;
#endif
#ifndef NO_KICK
		needs_kick = true; /* the predecessor may have died between tail and kick */
#endif
end_serve:
		do
		:: atomic { shown[me] == HIDDEN -> shown[me] = SHOWN; answer(SERVES) }
		:: atomic {
			may_pick_up && shown[me] != LEAVING ->
			do
			:: phase[s] != 0 -> s++
			:: else -> break
			od
		   };
		   pick_up()
		:: atomic { may_start(0) -> execute(0) }
		:: atomic { may_start(1) -> execute(1) }
		:: phase[0] == 2 -> publish(0)
		:: phase[1] == 2 -> publish(1)
#if NSLOT > 2
		:: atomic { may_start(2) -> execute(2) }
		:: phase[2] == 2 -> publish(2)
#endif
		:: atomic { needs_kick -> needs_kick = false; kicked = true }
		:: atomic { shown[me] == SHOWN && nempty(to[me]) -> to[me]?op, gen_asked, asker;
			if
			:: op == DRAIN -> shown[me] = LEAVING
			:: else -> answer(LOCKED) /* served here already */
			fi;
			gen_asked = 0
		   }
		:: atomic { shown[me] == LEAVING && !busy && !needs_kick -> forget(); let_go();
			owner_pid = NOBODY; answer(DRAINED); goto end_standby }
		:: atomic { shown[me] == LEAVING && busy -> shown[me] = SHOWN; answer(BUSY) } /* time is up */
		od;
failed:
		assert(TWO_SERVERS); /* OBD_E_STALE: the lock has kept everybody from here */
end_failed:
		false
	} unless {
		atomic {
			dying[me] ->
#ifdef GHOSTS
			interrupted = interrupted || in_recovery[me] || again[0] || again[1];
#endif
			forget();
			let_go();
			asker = 0;
			do
			:: len(to[me]) > 0 -> to[me]?_, _, _
			:: len(from[me]) > 0 -> from[me]?_
			:: else -> break
			od;
			dying[me] = false;
			dead[me] = true
		}
	};
	goto start
}

/* ---- supervisor ---- */

#define usable(w) (dead[w] || !dying[w])

/* One request and its end: an answer, or LOST: it died, or did not answer in time and was fenced.
 * Even then it may not be dead yet: SIGKILL does not end a thread that the kernel holds. */
inline call(w, what)
{
	atomic {
		if
		:: !dead[w] && nfull(to[w]) -> to[w]!what, row, life
		:: dead[w] -> skip
		fi
	};
	if
	:: atomic { nempty(from[w]) -> from[w]?ans }
	:: atomic { (dead[w] || dying[w]) && empty(from[w]) -> ans = LOST }
#ifdef NO_PROOF
	:: atomic { deaths < NDEATH && empty(from[w]) -> deaths++; life = 1 - life; ans = LOST }
#else
	:: atomic { deaths < NDEATH && !dead[w] && !dying[w] -> deaths++; dying[w] = true; ans = LOST }
#endif
	fi
}

inline call_serve(w, what)
{
	atomic {
		if
		:: dead[w] -> dead[w] = false /* a new process in its place */
		:: else
		fi;
		row = (good && generation > row -> generation : row) + 1;
		assert(row < 32) /* no way to ask for ever */
	};
	call(w, what)
}

inline fence(w)
{
	atomic {
		if
		:: !dead[w] -> dying[w] = true
		:: else
		fi
	}
}

/* serving.py: _serve, _serve_failed, _reset_ring; states RECOVERING, RESETTING, WAITING. */
inline take_over()
{
	if
	:: atomic { usable(0) -> w = 0 }
	:: atomic { usable(1) && row > 0 -> w = 1 } /* the first time it makes no difference */
	fi;
	call_serve(w, mode);
	if
	:: ans == SERVES -> atomic { srv = w; mode = SERVE }
	:: ans == JOURNAL ->
		reset_ring();
		mode = FRESH
	:: ans == LOCKED ->
		/* _fence_owner; another try before anything changed would end the same way */
		atomic {
			lock == NOBODY || owner_pid == lock ->
			mode = SERVE;
			if
#ifdef NO_LOCK
			:: owner_pid != NOBODY && !dead[owner_pid] -> dying[owner_pid] = true
#else
			:: lock != NOBODY && !dead[owner_pid] -> dying[owner_pid] = true
#endif
			:: else
			fi
		};
		lock == NOBODY
	:: ans == STALE || ans == LOST -> mode = SERVE
	fi
}

/* serving.py: _hand_over, _drain_worker, _fall_back. */
inline hand_over()
{
	w = 1 - srv;
	call(srv, DRAIN);
	if
	:: ans == BUSY || ans == NOT_SERVED -> skip /* served as before */
	:: ans == DRAINED || ans == LOST ->
		call_serve(w, SERVE);
		if
		:: ans == SERVES -> srv = w
		:: else ->
			fence(w);
			if
			:: dead[srv] -> srv = NOBODY
			:: else ->
				call_serve(srv, SERVE);
				if
				:: ans == SERVES
				:: else -> fence(srv); srv = NOBODY
				fi
			fi
		fi
	fi
}

/* One that still carries out an order of the dead supervisor is killed: nobody waits for its end. */
#ifdef ADOPT_LEAVING
#define is_leaving(x) false
#else
#define is_leaving(x) (shown[x] == LEAVING)
#endif
#ifdef ADOPT_ATTACHING
#define is_coming(x) false
#else
#define is_coming(x) (shown[x] == HIDDEN && (ordered[x] || len(to[x]) > 0))
#endif
inline hello(x)
{
	if
	:: !dead[x] && !dying[x] && (is_leaving(x) || is_coming(x)) -> dying[x] = true
	:: !dead[x] && !dying[x] && !is_leaving(x) && !is_coming(x) && shown[x] != HIDDEN -> srv = x
	:: dead[x] || dying[x] || (shown[x] == HIDDEN && !is_coming(x))
	fi
}

/* adoption.py: who serves is asked of those who live. */
/* A worker reads what the dead supervisor sent before it reads hello: both wait in its sockets. */
#define answers(x)  (dead[x] || dying[x] || !to[x]?[DRAIN, _, _])
#define may_hang(x) (deaths < NDEATH && !dead[x] && !dying[x])
inline adopt()
{
	if
	:: atomic {
		answers(0) && answers(1) ->
		hello(0);
		hello(1)
	   }
	:: atomic { answers(1) && may_hang(0) -> deaths++; dying[0] = true; hello(1) }
	:: atomic { answers(0) && may_hang(1) -> deaths++; dying[1] = true; hello(0) }
	fi
}

proctype Supervisor()
{
	byte srv = NOBODY, w;
	mtype ans, mode = SERVE;
start:
	{
		adopt();
end_watch:
		do
		:: srv == NOBODY -> take_over(); atomic { ans = 0; w = 0 }
		:: atomic { srv != NOBODY && dead[srv] -> srv = NOBODY }
#ifdef NO_PROOF
		/* one that hangs is taken for dead, and wakes up later */
		:: atomic { srv != NOBODY && deaths < NDEATH -> deaths++; srv = NOBODY }
#endif
		:: atomic {
			srv != NOBODY && !dead[srv] && hands < NHAND && usable(1 - srv) ->
			hands++
		   };
		   hand_over(); atomic { ans = 0; w = 0 }
		od
	} unless {
		atomic {
			kill_super ->
			kill_super = false;
			life = 1 - life;
			srv = NOBODY;
			w = 0;
			ans = 0;
			mode = SERVE;
			if
			:: true
			:: row > generation -> row-- /* state.db is written behind */
			fi;
			do
			:: len(from[0]) > 0 -> from[0]?_
			:: len(from[1]) > 0 -> from[1]?_
			:: else -> break
			od
		}
	};
	goto start
}

/* What may happen at any moment. */
proctype Chaos()
{
end_chaos:
	do
	:: atomic { deaths < NDEATH && !dead[0] && !dying[0] -> deaths++; dying[0] = true }
	:: atomic { deaths < NDEATH && !dead[1] && !dying[1] -> deaths++; dying[1] = true }
	:: atomic { supers < NSUPER && !kill_super -> supers++; kill_super = true }
	:: atomic {
		foreigns < NFOREIGN && good && lock == NOBODY ->
		foreigns++;
#ifdef GHOSTS
		was_foreign = true;
#endif
		good = false
	   }
	od
}

init
{
	byte r;
	atomic {
		r = 1;
		do
		:: r <= NREQ -> unsent[r] = true; r++
		:: else -> break
		od;
		run Worker(0);
		run Worker(1);
		run Supervisor();
		run Kernel();
		run Chaos()
	}
}
