"""Plain scripts that run in the guest, driven by pytest on the host: it is slow to import there."""
