"""The supervisor: life cycles of devices and workers. Control only: no I/O passes through it.

Starts workers by command line, never by import. See DESIGN.md.
"""
