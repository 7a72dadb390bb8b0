"""Power loss: what lies on the disk after the power was cut at any moment, and what we make of it.

A recording (in the guest) keeps every write of a file system that holds writable layers and state;
crash states are made of it and examined on the host.
"""
