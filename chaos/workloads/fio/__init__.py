"""fio with crc32c verification on a raw device, chunk by chunk, again and again."""
