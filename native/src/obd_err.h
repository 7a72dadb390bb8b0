/*
 * Errors of the native core: a closed enum, and one caller-owned record with the details.
 *
 * Every fallible function returns 0 or a negative enum obd_err and, when it fails, fills the
 * struct obd_errinfo it was given (NULL is allowed: the code alone is then all there is).
 * Reporting never allocates. Numbers are part of the contract with Python: never reused.
 */
#ifndef OBD_ERR_H
#define OBD_ERR_H

#include <stdint.h>

enum obd_err {
	OBD_OK = 0,
	OBD_E_IO = -1,		/* the operating system refused: see sys_errno */
	OBD_E_NOMEM = -2,	/* out of memory */
	OBD_E_FORMAT = -3,	/* a file is not what it must be: path, offset, expected, got */
	OBD_E_CHECKSUM = -4,	/* a stored CRC does not match */
	OBD_E_RANGE = -5,	/* LBA or offset beyond the end */
	OBD_E_READONLY = -6,	/* a write to a device without a writable layer */
	OBD_E_NOSPACE = -7,	/* the disk below the writable layer is full */
	OBD_E_AGAIN = -8,	/* would block: not in the page cache */
	OBD_E_UNSUPPORTED = -9, /* valid, but not offered (algorithm, flag) */
	OBD_E_LOCKED = -10,	/* somebody else serves this ring or owns this writable layer */
	OBD_E_STALE = -11,	/* our generation is over: a successor took the ring */
	OBD_E_RING = -12,	/* the ring itself is inconsistent or broken */
	OBD_E_JOURNAL = -13,	/* the journal can not be trusted: use reset_ring */
	OBD_E_INVAL = -14,	/* the caller's mistake */
	OBD_E_TIMEOUT = -15,	/* a bound passed */
	OBD_E_SHORT = -16,	/* a file ends before the data it must hold */
	OBD_E_RESET = -17,	/* somebody else reset the ring we serve */
	OBD_E_CANCELLED = -18,	/* the caller wished a long call to stop */
};

struct obd_errinfo {
	int32_t code;	       /* enum obd_err */
	int32_t sys_errno;     /* errno of the failed call, 0 if none */
	uint64_t offset_bytes; /* where in the file, if it is a file */
	uint64_t expected;     /* what had to be there, when a number says it */
	uint64_t got;	       /* what was there */
	char what[96];	       /* the field or step, NUL-terminated, e.g. "zfile block crc" */
	char path[512];	       /* the file, NUL-terminated, possibly cut at the front */
};

/* Fills *info (if not NULL) and returns code, so that `return obd_fail(...)` reads as one step. */
int obd_fail(struct obd_errinfo *info, int code, const char *path, const char *what);
int obd_fail_errno(struct obd_errinfo *info, int code, int sys_errno, const char *path,
		   const char *what);
int obd_fail_value(struct obd_errinfo *info, int code, const char *path, const char *what,
		   uint64_t offset_bytes, uint64_t expected, uint64_t got);

/* The name of a code, e.g. "OBD_E_CHECKSUM"; never NULL. */
const char *obd_err_name(int code);

#endif
