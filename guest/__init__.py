"""A QEMU guest with a kernel that has TCMU, running the host's own programs (see DESIGN.md)."""
