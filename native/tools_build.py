"""cffi API-mode build of obdsup._tools: what makes and examines images, beside what serves them.

native/tools on top of native/src, in a module of its own: a worker never maps libext2fs or the
writers of the tools. Declarations are native/tools/cdef/*.txt; the first line of each names the
header it declares, as a C comment, and the compiler checks the one against the other.

``python native/tools_build.py ARCHIVE... MODULE``: the same module from archives of both folders,
made by native/Makefile (``make -C native tools``): only what changed is compiled.
"""

import re
import sys
from pathlib import Path

from cffi import FFI
from obd_build import COMPILE_ARGS, link

HERE = Path(__file__).parent
LIBRARIES = ["lz4", "zstd", "z", "ext2fs", "com_err", "archive", "crypto"]
CDEFS = sorted((HERE / "tools" / "cdef").glob("*.txt"))


def header(cdef: Path) -> str:
    """The header that a file of declarations names in its first line."""
    named = re.match(r"/\* (\w+\.h) \*/\n", cdef.read_text())
    if not named:
        raise ValueError(f"{cdef}: the first line must be /* HEADER.h */")
    return named[1]


ffibuilder = FFI()
for one in CDEFS:
    ffibuilder.cdef(one.read_text())
ffibuilder.set_source(
    "obdsup._tools",
    "".join(f'#include "{header(one)}"\n' for one in CDEFS),
    # relative to the project's root, where setuptools runs
    sources=sorted(
        f"native/{folder}/{path.name}"
        for folder in ("src", "tools")
        for path in (HERE / folder).glob("*.c")
    ),
    depends=sorted(
        f"native/{folder}/{path.name}"
        for folder in ("src", "tools")
        for path in (HERE / folder).glob("*.h")
    ),
    include_dirs=["native/src", "native/tools"],
    libraries=LIBRARIES,
    extra_compile_args=COMPILE_ARGS,
)

if __name__ == "__main__":
    link(ffibuilder, [Path(one) for one in sys.argv[1:-1]], LIBRARIES, Path(sys.argv[-1]))
