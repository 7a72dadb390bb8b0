"""How long I/O stands still: kills and hand-overs under ringd's load front end, measured."""
