/*
 * The writable layer under take-over: where a successor appends, for an exhaustive check with Spin.
 *
 * native/src/obd_upper_write.c, obd_upper_role.c: a write reserves an extent of the data file (and
 * moves the high-water mark in the journal before a byte is written), writes the data, appends a
 * record to the index file in the order of reservation, and only then is the command answered.
 * ring.pml shows what is assumed here of ring and journal: one server at a time, and no command
 * executed after its answer.
 *
 * A data write is under way in the kernel for as long as the kernel likes, also after its process is
 * gone: it lands late, at any later moment, or never. That is more than pwrite on page cache does; it
 * is what io_uring, direct I/O or a stuck network file system may do. An index append does not: see
 * INDEX_LATE.
 *
 * Property, as `ltl kept` and as an assertion after each step that could break it: what was answered
 * stays there. Known-bad variants: VARIANTS in check.py.
 */
#ifndef NREQ
#define NREQ 3 /* writes, each to a sector of its own */
#endif
#ifndef NDEATH
#define NDEATH 2
#endif
#ifndef NHAND
#define NHAND 1
#endif
#ifndef NFAIL
#define NFAIL 1 /* data writes that end with an error */
#endif
#define NEXTENT 12
#define NRECORD 8
#define NLATE	4
#define NOBODY	2

/* ---- files and journal: survive every process; one extent or record is one unit ---- */
byte data[NEXTENT]; /* whose data; 0: a hole or garbage */
byte data_size;
byte record_req[NRECORD], record_at[NRECORD];
byte index_size;
byte reserved; /* the high-water mark in the journal */
byte lock = NOBODY;

/* ---- in the kernel, after the process that asked is gone ---- */
byte late_req[NLATE], late_at[NLATE];
#ifdef INDEX_LATE
byte late_index_req, late_index_at, late_index_pos;
#endif

bool picked[NREQ + 1]; /* a slot of the journal */
bool answered[NREQ + 1];
bool failed[NREQ + 1]; /* answered with an error: nothing is promised */
bool dead[2];
bool kill[2];
byte deaths, hands, fails;
byte found; /* extent that the last record for a sector names */

#define all_answered (answered[1] && answered[2] && answered[NREQ])

inline find(r)
{
	found = NEXTENT;
	k = 0;
	do
	:: k < index_size ->
		if
		:: record_req[k] == r -> found = record_at[k]
		:: else
		fi;
		k++
	:: else -> break
	od
}

/* What was answered without an error is what a reader gets. */
inline check_kept()
{
	q = 1;
	do
	:: q <= NREQ ->
		if
		:: answered[q] && !failed[q] ->
			find(q);
			lost = lost || found == NEXTENT || data[found] != q
		:: else
		fi;
		q++
	:: else -> break
	od;
	assert(!lost);
	q = 0;
	k = 0;
	found = 0
}

bool lost;
ltl kept { [] !lost }

inline land(at_, req_)
{
	data[at_] = req_;
	data_size = (at_ >= data_size -> at_ + 1 : data_size)
}

proctype Kernel()
{
	byte k, q, i;
end_kernel:
	do
	:: d_step { late_req[0] -> land(late_at[0], late_req[0]); late_req[0] = 0; late_at[0] = 0; check_kept() }
	:: d_step { late_req[1] -> land(late_at[1], late_req[1]); late_req[1] = 0; late_at[1] = 0; check_kept() }
	:: d_step { late_req[2] -> land(late_at[2], late_req[2]); late_req[2] = 0; late_at[2] = 0; check_kept() }
	:: d_step { late_req[3] -> land(late_at[3], late_req[3]); late_req[3] = 0; late_at[3] = 0; check_kept() }
#ifdef INDEX_LATE
	:: d_step {
		late_index_req ->
		record_req[late_index_pos] = late_index_req;
		record_at[late_index_pos] = late_index_at;
		index_size = (late_index_pos >= index_size -> late_index_pos + 1 : index_size);
		late_index_req = 0;
		late_index_at = 0;
		late_index_pos = 0;
		check_kept()
	   }
#endif
	od
}

#define IDLE	  0
#define RESERVED  1
#define WRITING	  2 /* pwritev */
#define WRITTEN	  3
#define INDEXING  4 /* pwrite of the record */
#define COMMITTED 5

inline put_late(t)
{
	k = 0;
	do
	:: late_req[k] != 0 -> k++
	:: else -> break
	od;
	late_req[k] = req[t];
	late_at[k] = at[t];
	k = 0
}

/* Of a dead process: its writes may still land; every store of its own is over. */
inline bury(t)
{
	if
	:: stage[t] == WRITING -> put_late(t)
#ifdef INDEX_LATE
	:: stage[t] == INDEXING ->
		late_index_req = req[t];
		late_index_at = at[t];
		late_index_pos = index_end
#endif
	:: else
	fi;
	stage[t] = IDLE;
	req[t] = 0;
	at[t] = 0
}

/* Recovered writes run alone, oldest first, before anything new. */
inline choose(t)
{
	q = 1;
	do
	:: q <= NREQ && !(picked[q] && !mine[q]) -> q++
	:: else -> break
	od;
	if
	:: q > NREQ ->
		q = 1;
		do
		:: q <= NREQ && (answered[q] || picked[q]) -> q++
		:: else -> break
		od
	:: else -> replaying = true
	fi;
	req[t] = q;
	picked[q] = true;
	mine[q] = true;
	q = 0;
	at[t] = data_end;
	data_end++;
	stage[t] = RESERVED;
#ifndef MARK_AFTER_DATA
	reserved = (data_end > reserved -> data_end : reserved)
#endif
}

#define something_recovered \
	((picked[1] && !mine[1]) || (picked[2] && !mine[2]) || (picked[NREQ] && !mine[NREQ]))
#define something_new \
	((!answered[1] && !picked[1]) || (!answered[2] && !picked[2]) || (!answered[NREQ] && !picked[NREQ]))
#define idle	    (stage[0] == IDLE && stage[1] == IDLE)
#define may_start(t) \
	(stage[t] == IDLE && !replaying && ((something_recovered && idle) || (!something_recovered && something_new)))

inline answer(t)
{
	answered[req[t]] = true;
	picked[req[t]] = false;
	mine[req[t]] = false;
	replaying = false;
	stage[t] = IDLE;
	req[t] = 0;
	at[t] = 0
}

/* The steps of one write; o is the other one of this process. */
#define STEPS(t, o)                                                                                \
	::d_step { may_start(t) -> choose(t) }                                                     \
	::d_step { stage[t] == RESERVED -> stage[t] = WRITING }                                    \
	::d_step { stage[t] == WRITING -> land(at[t], req[t]); MARK(t); stage[t] = WRITTEN; check_kept() }  \
	::d_step { stage[t] == WRITING && fails < NFAIL -> fails++; failed[req[t]] = true;         \
		if ::data_end == at[t] + 1 -> data_end = at[t] ::else fi; answer(t) }              \
	::d_step { stage[t] == WRITTEN && (stage[o] == IDLE || at[o] > at[t] || stage[o] == COMMITTED) -> \
		stage[t] = INDEXING }                                                              \
	::d_step { stage[t] == INDEXING -> record_req[index_end] = req[t];                         \
		record_at[index_end] = at[t]; index_end++;                                         \
		index_size = (index_end > index_size -> index_end : index_size);                   \
		stage[t] = COMMITTED; check_kept() }                                               \
	::d_step { stage[t] == COMMITTED -> answer(t); check_kept() }

#ifdef MARK_AFTER_DATA
#define MARK(t) reserved = (at[t] >= reserved -> at[t] + 1 : reserved)
#else
#define MARK(t) skip
#endif

proctype Worker(bit me)
{
	byte stage[2], req[2], at[2];
	byte data_end, index_end, k, q;
	bool mine[NREQ + 1], replaying;
start:
	{
		assert(idle && !replaying);
end_standby:
		do
		:: d_step {
			!dead[me] &&
#ifndef TWO_WRITERS
			lock == NOBODY &&
#endif
			!all_answered ->
			lock = me;
			/* become_writer: follows the index, then appends behind everything */
			index_end = index_size;
#if defined(NO_HIGH_WATER)
			data_end = data_size
#else
			data_end = (reserved > data_size -> reserved : data_size)
#endif
		   }; break
		od;
end_serve:
		do
		STEPS(0, 1)
		STEPS(1, 0)
		:: atomic {
			idle && hands < NHAND ->
			hands++;
			/* stop_writing, then detach */
			lock = NOBODY;
			data_end = 0;
			index_end = 0;
			goto end_standby
		   }
		od
	} unless {
		atomic {
			kill[me] ->
			bury(0);
			bury(1);
			q = 1;
			do
			:: q <= NREQ -> mine[q] = false; q++
			:: else -> break
			od;
			q = 0;
			data_end = 0;
			index_end = 0;
			replaying = false;
#ifdef FORGET_MARK
			reserved = 0; /* its journal is refused by a successor, and started over */
#endif
			if
			:: lock == me -> lock = NOBODY
			:: else
			fi;
			kill[me] = false;
			dead[me] = true
		};
		dead[me] = false /* a new process in its place */
	};
	goto start
}

proctype Chaos()
{
end_chaos:
	do
	:: atomic { deaths < NDEATH && lock == 0 && !kill[0] -> deaths++; kill[0] = true }
	:: atomic { deaths < NDEATH && lock == 1 && !kill[1] -> deaths++; kill[1] = true }
	od
}

/* Ends when every command was answered: a search that finds it stuck shows a lost command. */
proctype Caller()
{
	all_answered
}

init
{
	atomic {
		run Worker(0);
		run Worker(1);
		run Kernel();
		run Chaos();
		run Caller()
	}
}
