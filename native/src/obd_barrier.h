/*
 * Memory ordering, all of it: every shared store and load of this project goes through here.
 *
 * Three parties share memory with us: the kernel (or ringd) through the ring, a successor process
 * through the journal, and our own threads. A release store makes everything written before it
 * visible to whoever acquires the stored value; each use names the acquire it pairs with.
 *
 * A SIGKILL is not a power cut: stores that were executed reach memory, in program order on x86
 * (TSO). The compiler is the only one that could reorder them, and the release store stops it.
 */
#ifndef OBD_BARRIER_H
#define OBD_BARRIER_H

#define obd_load_acquire(ptr)	      __atomic_load_n((ptr), __ATOMIC_ACQUIRE)
#define obd_store_release(ptr, value) __atomic_store_n((ptr), (value), __ATOMIC_RELEASE)
#define obd_load_relaxed(ptr)	      __atomic_load_n((ptr), __ATOMIC_RELAXED)
#define obd_store_relaxed(ptr, value) __atomic_store_n((ptr), (value), __ATOMIC_RELAXED)
#define obd_add_relaxed(ptr, value)   __atomic_fetch_add((ptr), (value), __ATOMIC_RELAXED)
#define obd_fence()		      __atomic_thread_fence(__ATOMIC_SEQ_CST)

#endif
