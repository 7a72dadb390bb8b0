"""What every run stands on: the node under test, its container, kills, clocks, the kernel log."""
