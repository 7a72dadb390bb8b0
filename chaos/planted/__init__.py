"""Planted bugs: every fault that a worker of a test build can be given is caught, by seed."""
