"""SQLite databases, one with a rollback journal and one in WAL mode, whose writers are killed."""
