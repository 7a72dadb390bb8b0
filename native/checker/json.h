/* JSON as far as reports need it. */
#ifndef OBD_CHECKER_JSON_H
#define OBD_CHECKER_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

/* The text in quotes; what would need an escape becomes '?'. */
void obd_json_string(const char *text, FILE *file);
const char *obd_json_bool(bool value);
/* Replaces the file at path in one step. Returns 0 or a negative errno. */
int obd_json_save(const char *path, const char *text, size_t bytes);

#endif
