"""The overlaybd formats in Python: the readable reference, and what the image tools are made of.

Codecs (``lsmt_header``, ``lsmt_index``, ``zfile_header``, ``jump_table``) turn bytes into records
without I/O. Readers (``sealed``, ``upper``, ``zfile``, ``stack``, ``image``) work over a
``blob.Blob``; writers (``layer_writer``, ``upper_writer``, ``zfile_writer``) over a ``Sink``. See
DESIGN.md. Import the module you need: this package imports none, so that
``obdsup.format.config`` stays cheap for the worker.
"""
