/* Carries out one decoded command against an image. Thread-safe: touches no ring, no journal. */
#ifndef OBD_COMMAND_H
#define OBD_COMMAND_H

#include "obd_image.h"
#include "obd_journal.h"
#include "obd_ring.h"
#include "obd_scsi.h"

/* Everything a command needs, borrowed. */
struct obd_command_site {
	const struct obd_ring *ring; /* for its data area */
	const struct obd_unit *unit;
	struct obd_image *image;
	const struct obd_journal_slot *slot; /* stays as it is while the command runs */
};

/* Decodes the CDB of site->slot. */
void obd_command_decode(const struct obd_command_site *site, struct obd_scsi_op *ret);

/*
 * Runs it and fills *ret, whatever happens. With OBD_READ_NOWAIT in flags a READ that would sleep
 * returns OBD_E_AGAIN and *ret means nothing; everything else returns 0.
 */
int obd_command_run(const struct obd_command_site *site, const struct obd_scsi_op *op,
		    uint32_t flags, struct obd_response *ret);

#endif
