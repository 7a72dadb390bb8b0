/* What a run of obdsup-sectors found, as JSON. */
#ifndef OBD_SECTORS_REPORT_H
#define OBD_SECTORS_REPORT_H

#include "run.h"

bool obd_sectors_is_good(const struct obd_counts *counts);
/* To stdout and, if wanted, to a file in one step. Returns 0 or a negative errno. */
int obd_sectors_report(const struct obd_run *run);

#endif
