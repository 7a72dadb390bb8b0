/*
 * Memory ordering, all of it: every shared store and load of this project goes through here.
 *
 * Three parties share memory with us: the kernel (or ringd) through the ring, a successor process
 * through the journal, and our own threads. A release store makes everything written before it
 * visible to whoever acquires the stored value; each use names the acquire it pairs with.
 *
 * A SIGKILL is not a power cut. A thread dies between two instructions: every store in front of
 * that place reaches memory, whatever the machine's store buffers do, and none behind it. And x86
 * keeps the order of stores for all observers (TSO: only a later load may pass an older store). So
 * what is left to reorder stores is the compiler. It may move a plain store up over a release
 * store, which orders only what is older: where a plain store must stay behind an older one,
 * obd_fence_stores() stands between them. On x86 neither costs an instruction.
 *
 * We do not lean on TSO: tests/test_crash_order.c goes through everything that these rules, not
 * those of x86, allow a dead process to have left.
 */
#ifndef OBD_BARRIER_H
#define OBD_BARRIER_H

#define obd_load_acquire(ptr)	      __atomic_load_n((ptr), __ATOMIC_ACQUIRE)
#define obd_store_release(ptr, value) __atomic_store_n((ptr), (value), __ATOMIC_RELEASE)
#define obd_load_relaxed(ptr)	      __atomic_load_n((ptr), __ATOMIC_RELAXED)
#define obd_store_relaxed(ptr, value) __atomic_store_n((ptr), (value), __ATOMIC_RELAXED)
#define obd_add_relaxed(ptr, value)   __atomic_fetch_add((ptr), (value), __ATOMIC_RELAXED)
/* Stores `value` if `expected` is there; true if it was. */
#define obd_replace_release(ptr, expected, value)                                                  \
	__atomic_compare_exchange_n((ptr), &(__typeof__(*(ptr))){expected}, (value), 0,            \
				    __ATOMIC_RELEASE, __ATOMIC_RELAXED)
#define obd_fence() __atomic_thread_fence(__ATOMIC_SEQ_CST)
/* No store behind it becomes visible before any store in front of it. */
#define obd_fence_stores() __atomic_thread_fence(__ATOMIC_RELEASE)

#endif
