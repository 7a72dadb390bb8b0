"""cffi API-mode build of obdsup._native: every file of native/src, declarations from obd.cdef.txt.

The generated C is not kept: it is made anew at each build from the declarations, which the
compiler checks against the headers, so nothing can drift.
"""

from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent

ffibuilder = FFI()
ffibuilder.cdef((HERE / "obd.cdef.txt").read_text())
ffibuilder.set_source(
    "obdsup._native",
    (HERE / "obd.csrc.c").read_text(),
    # relative to the project's root, where setuptools runs
    sources=sorted(f"native/src/{path.name}" for path in (HERE / "src").glob("*.c")),
    depends=sorted(f"native/src/{path.name}" for path in (HERE / "src").glob("*.h")),
    include_dirs=["native/src"],
    libraries=["lz4", "zstd"],
    extra_compile_args=[
        "-std=gnu11",
        "-D_GNU_SOURCE",
        "-pthread",
        "-O2",
        "-g",
        "-fvisibility=hidden",
    ],
)
