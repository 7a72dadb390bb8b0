/*
 * The tar wrapper: a layer stored as the first member of a tar.
 *
 * | at  | what                                                                      |
 * |-----|---------------------------------------------------------------------------|
 * | 0   | ustar header, 512 B; magic "ustar\0" @257, version "00" @263, sum @148     |
 * |     | type (@156) 'x': pax: one 512 B block of records and the real header follow |
 * | 512 | payload, or 1536 after a pax header                                       |
 *
 * Source: overlaybd-formats 3.
 */
#ifndef OBD_TARWRAP_H
#define OBD_TARWRAP_H

#include "obd_file.h"

/*
 * Narrows the view to the payload if the file is such a tar; leaves it alone if it is none.
 * OBD_E_FORMAT: it is a tar, but its size field is unreadable. OBD_E_SHORT: its payload is cut.
 */
int obd_tarwrap_enter(struct obd_file *file, struct obd_errinfo *info);

#endif
