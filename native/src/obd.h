/* What the Python binding sees. */
#ifndef OBD_H
#define OBD_H

#include "obd_engine.h"
#include "obd_err.h"
#include "obd_image.h"
#include "obd_journal.h"
#include "obd_process.h"

#endif
