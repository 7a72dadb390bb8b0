"""The other side of the drop-in: who makes devices in configfs, and who served them before us."""
