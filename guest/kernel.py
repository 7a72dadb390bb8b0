"""The guest's kernels: fetched, unpacked and made bootable under ``build/guest/VERSION``.

Cached by version: a folder with a ``ready`` file is complete and is used as it is. The file holds
the kernel release and is written last, so an interrupted preparation starts over.
"""

from __future__ import annotations

import lzma
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path

import zstandard

from guest.debian import PrivateApt, Say
from guest.initramfs import INITRAMFS_VERSION, build_initramfs
from guest.problem import GuestError, run_logged

__all__ = ["VERSIONS", "Kernel", "extract_vmlinux", "prepare"]

VERSIONS = {"6.1": False, "6.12": True}  # version: does it come from backports
_XZ_MAGIC = b"\xfd7zXZ\x00"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ELF_MAGIC = b"\x7fELF"
_VMLINUX_MAX_BYTES = 512 << 20
_HEADER_END = 0x250


@dataclass(frozen=True, slots=True)
class Kernel:
    """A bootable kernel."""

    release: str
    vmlinux: Path
    initramfs: Path
    modules: Path  # becomes /lib/modules of the guest


def extract_vmlinux(image: bytes) -> bytes:
    """The ELF kernel inside a bzImage: QEMU boots it directly (PVH), without BIOS and unpacking.

    Source: Linux Documentation/arch/x86/boot.rst, payload_offset and payload_length.

    Raises:
        GuestError: not a bzImage, or a payload that is neither xz nor zstd nor ELF within.
    """
    if len(image) < _HEADER_END or image[0x202:0x206] != b"HdrS":
        raise GuestError("kernel image: no boot header at byte 514")
    (setup_sectors,) = struct.unpack_from("<B", image, 0x1F1)
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = ((setup_sectors or 4) + 1) * 512 + offset
    packed = image[start : start + length]
    try:
        if packed.startswith(_XZ_MAGIC):
            decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=1 << 30)
            vmlinux = decoder.decompress(packed, _VMLINUX_MAX_BYTES)
        elif packed.startswith(_ZSTD_MAGIC):
            with zstandard.ZstdDecompressor().stream_reader(packed) as reader:
                vmlinux = reader.read(_VMLINUX_MAX_BYTES)
        else:
            raise GuestError(f"kernel image: unknown payload {packed[:6].hex()} at byte {start}")
    except (lzma.LZMAError, zstandard.ZstdError) as error:
        raise GuestError(f"kernel image: payload at byte {start}: {error}") from error
    if not vmlinux.startswith(_ELF_MAGIC):
        raise GuestError(f"kernel image: payload at byte {start} is not an ELF file")
    return vmlinux


def _read_ready(folder: Path) -> Kernel | None:
    try:
        release, version = (folder / "ready").read_text().split()
    except (OSError, ValueError):
        return None
    if version != INITRAMFS_VERSION:
        return None
    return _kernel_in(folder, release)


def _kernel_in(folder: Path, release: str) -> Kernel:
    return Kernel(
        release, folder / "vmlinux", folder / "initramfs.img", folder / "tree" / "lib" / "modules"
    )


def prepare(build: Path, version: str, say: Say) -> Kernel:
    """Makes the kernel of a version in ``VERSIONS`` bootable; at once when that was done before.

    Raises:
        GuestError: a download or a build step failed; says which and shows the end of its log.
    """
    folder = build / version
    kernel = _read_ready(folder)
    if kernel is not None:
        return kernel
    if (folder / "ready").is_file():  # an older initramfs: keep the download
        release = (folder / "ready").read_text().split()[0]
        (folder / "ready").unlink()
        kernel = _kernel_in(folder, release)
    else:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        kernel = _unpack(build, folder, VERSIONS[version], say)
    say("guest: building the initramfs")
    build_initramfs(kernel.modules / kernel.release, kernel.release, kernel.initramfs)
    (folder / "ready").write_text(f"{kernel.release} {INITRAMFS_VERSION}\n")
    return kernel


def _unpack(build: Path, folder: Path, is_backport: bool, say: Say) -> Kernel:
    apt = PrivateApt(build / "apt")
    apt.update(say)
    package = apt.download_kernel(folder, say, is_backport=is_backport)
    say(f"guest: unpacking {package.deb.name}")
    tree, log = folder / "tree", folder / "build.log"
    run_logged(["dpkg", "-x", str(package.deb), str(tree)], log)
    package.deb.unlink()
    kernel = _kernel_in(folder, package.release)
    kernel.vmlinux.write_bytes(
        extract_vmlinux((tree / "boot" / f"vmlinuz-{package.release}").read_bytes())
    )
    run_logged(["depmod", "-b", str(tree), package.release], log)
    return kernel
