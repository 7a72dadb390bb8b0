"""The guest's initramfs: busybox and the modules that mount the host's root over 9p."""

from __future__ import annotations

import hashlib
import lzma
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from guest.problem import GuestError

__all__ = ["INITRAMFS_VERSION", "build_initramfs", "modules_in_order"]

_MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay")
_BUSYBOX = Path("/bin/busybox")
_HERE = Path(__file__).resolve().parent


def _version() -> str:
    """Changes when what goes into an initramfs changes."""
    return hashlib.sha256((_HERE / "init.sh").read_bytes() + repr(_MODULES).encode()).hexdigest()[
        :12
    ]


INITRAMFS_VERSION = _version()


def modules_in_order(listing: str) -> list[Path]:
    """The module files of one ``modprobe --show-depends`` output, each after what it needs."""
    return [Path(match) for match in re.findall(r"^insmod (\S+)", listing, re.MULTILINE)]


def _needed_modules(tree: Path, release: str) -> list[Path]:
    found: list[Path] = []
    for name in _MODULES:
        command = ["modprobe", "-d", str(tree), "-S", release, "--show-depends", name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise GuestError(f"kernel {release} lacks the module {name}: {done.stderr.strip()}")
        found += [path for path in modules_in_order(done.stdout) if path not in found]
    return found


def build_initramfs(modules: Path, release: str, target: Path) -> None:
    """Writes the initramfs for the kernel whose ``/lib/modules/RELEASE`` is ``modules``.

    Raises:
        GuestError: a module or busybox is missing, or cpio failed.
    """
    if not _BUSYBOX.is_file():
        raise GuestError(f"{_BUSYBOX} is missing (package busybox-static)")
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        root = Path(name)
        for folder in ("bin", "dev", "lib", "new", "proc", "lower", "upper"):
            (root / folder).mkdir()
        shutil.copy2(_BUSYBOX, root / "bin" / "busybox")
        shutil.copy2(_HERE / "init.sh", root / "init")
        (root / "init").chmod(0o755)
        order = []
        for path in _needed_modules(modules.parents[2], release):
            data = path.read_bytes()
            plain = path.name.removesuffix(".xz")
            (root / "lib" / plain).write_bytes(
                lzma.decompress(data) if plain != path.name else data
            )
            order.append(plain)
        (root / "lib" / "order").write_text("".join(f"{line}\n" for line in order))
        names = sorted(str(path.relative_to(root)) for path in root.rglob("*"))
        with target.open("wb") as sink:
            done = subprocess.run(
                ["cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0"],
                input="\n".join(names).encode(), stdout=sink, stderr=subprocess.PIPE,
                cwd=root, check=False,
            )  # fmt: skip
        if done.returncode:
            raise GuestError(f"cpio failed: {done.stderr.decode(errors='replace')}")
