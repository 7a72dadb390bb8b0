"""The demo: a redis container on a device whose backstore is killed again and again."""
