#include "obd.h"
