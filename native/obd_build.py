"""cffi API-mode build of obdsup._native: every file of native/src, declarations from obd.cdef.txt.

The generated C is not kept: it is made anew at each build from the declarations, which the
compiler checks against the headers, so nothing can drift.

``python native/obd_build.py ARCHIVE MODULE``: the same module from an archive of native/src that
was compiled otherwise (with test hooks). MODULE is replaced in one step.
"""

import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent
LIBRARIES = ["lz4", "zstd", "z"]
COMPILE_ARGS = [
    "-std=gnu11",
    "-D_GNU_SOURCE",
    "-pthread",
    "-O2",
    "-g",
    "-fvisibility=hidden",
]

ffibuilder = FFI()
ffibuilder.cdef((HERE / "obd.cdef.txt").read_text())
ffibuilder.set_source(
    "obdsup._native",
    (HERE / "obd.csrc.c").read_text(),
    # relative to the project's root, where setuptools runs
    sources=sorted(f"native/src/{path.name}" for path in (HERE / "src").glob("*.c")),
    depends=sorted(f"native/src/{path.name}" for path in (HERE / "src").glob("*.h")),
    include_dirs=["native/src"],
    libraries=LIBRARIES,
    extra_compile_args=COMPILE_ARGS,
)


def link(builder: FFI, archives: list[Path], libraries: list[str], module: Path) -> None:
    """Makes a module from whole archives: also from what is only run when it is loaded."""
    with tempfile.TemporaryDirectory(dir=module.parent) as folder:
        source, made = Path(folder, "binding.c"), Path(folder, module.name)
        builder.emit_c_code(str(source))
        folders = (HERE / "src", HERE / "tools", sysconfig.get_path("include"))
        includes = [f"-I{one}" for one in folders]
        whole = ["-Wl,--whole-archive", *map(str, archives), "-Wl,--no-whole-archive"]
        command = ["gcc", *COMPILE_ARGS, "-fPIC", "-shared", *includes, str(source)]
        linked = [f"-l{name}" for name in libraries]
        subprocess.run([*command, *whole, *linked, "-o", str(made)], check=True)
        os.replace(made, module)


if __name__ == "__main__":
    link(ffibuilder, [Path(sys.argv[1])], LIBRARIES, Path(sys.argv[2]))
