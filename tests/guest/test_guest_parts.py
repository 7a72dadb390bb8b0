"""What the guest harness decides without booting: sources, kernel image, kernel log."""

from __future__ import annotations

import lzma
import struct
from pathlib import Path

import pytest
import zstandard

from guest import dmesg
from guest.debian import DebianSource, read_sources
from guest.initramfs import modules_in_order
from guest.kernel import extract_vmlinux
from guest.problem import GuestError, run_logged

DEB822 = """Types: deb
# a comment
URIs: http://mirror.test/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /keys/debian.gpg

Types: deb
URIs: http://mirror.test/security
Suites: bookworm-security
Components: main contrib

Types: deb
Enabled: no
URIs: http://disabled.test/debian
Suites: bookworm

Types: deb
URIs: http://tools.test/apt
Suites: nodistro
Components: main
"""


def test_backports_come_from_the_mirror_the_host_uses(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list.d" / "debian.sources").write_text(DEB822)
    sources = read_sources(tmp_path, "bookworm")
    assert {source.suite for source in sources} == {
        "bookworm", "bookworm-updates", "bookworm-security", "bookworm-backports",
    }  # fmt: skip
    assert sources[-1] == DebianSource(
        "http://mirror.test/debian", "bookworm-backports", "main", "/keys/debian.gpg"
    )
    assert sources[-1].line() == (
        "deb [signed-by=/keys/debian.gpg] http://mirror.test/debian bookworm-backports main"
    )


def test_one_line_sources_are_read(tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_text(
        "# deb http://old.test/debian bookworm main\n"
        "deb-src http://mirror.test/debian bookworm main\n"
        "deb [arch=amd64 signed-by=/k.gpg] http://mirror.test/debian bookworm main contrib\n"
    )
    sources = read_sources(tmp_path, "bookworm")
    assert sources[0] == DebianSource(
        "http://mirror.test/debian", "bookworm", "main contrib", "/k.gpg"
    )
    assert len(sources) == 2


def test_host_without_debian_sources_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(GuestError, match="suite bookworm"):
        read_sources(tmp_path, "bookworm")


def _bzimage(payload: bytes) -> bytes:
    header = bytearray(1024)
    header[0x1F1] = 1
    header[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", header, 0x248, 40, len(payload))
    return bytes(header) + bytes(40) + payload + bytes(100)


ELF = b"\x7fELF" + bytes(5000)


@pytest.mark.parametrize("pack", [lzma.compress, zstandard.compress])
def test_vmlinux_is_found_by_the_boot_header(pack: object) -> None:
    assert callable(pack)
    assert extract_vmlinux(_bzimage(pack(ELF))) == ELF


@pytest.mark.parametrize(
    "image",
    [
        b"",
        bytes(2048),
        _bzimage(b"\x1f\x8b whatever"),
        _bzimage(lzma.compress(b"no ELF")),
        _bzimage(lzma.compress(ELF)[:40] + b"\xff" * 40),
        _bzimage(zstandard.compress(ELF)[:6] + b"\xff" * 40),
    ],
)
def test_images_without_a_kernel_are_refused(image: bytes) -> None:
    with pytest.raises(GuestError, match="kernel image"):
        extract_vmlinux(image)


def test_modules_keep_their_order() -> None:
    listing = "insmod /m/a.ko \nbuiltin x\ninsmod /m/b.ko.xz opt=1\n"
    assert modules_in_order(listing) == [Path("/m/a.ko"), Path("/m/b.ko.xz")]


def test_failed_step_shows_the_end_of_its_log(tmp_path: Path) -> None:
    with pytest.raises(GuestError, match="the reason"):
        run_logged(["sh", "-c", "echo the reason; exit 3"], tmp_path / "log")


HEALTHY = """[ 1.0] sd 0:0:1:0: [sda] I/O error, dev sda
[ 2.0] MARKER
[ 3.0] scsi 0:0:1:0: Direct-Access     OBDSUP   DISK             0001 PQ: 0 ANSI: 5
[ 3.1] sd 0:0:1:0: [sda] 131072 512-byte logical blocks: (67.1 MB/64.0 MiB)
[ 3.1] sd 0:0:1:0: [sda] Write Protect is off
[ 3.1] sd 0:0:1:0: [sda] Mode Sense: 17 00 00 00
[ 3.1] sd 0:0:1:0: [sda] Write cache: enabled, read cache: enabled, doesn't support DPO or FUA
[ 3.2] sd 0:0:1:0: [sda] Attached SCSI disk
[ 4.0] EXT4-fs (sda): mounted filesystem with ordered data mode. Quota mode: none.
[ 4.1] EXT4-fs (sda): unmounting filesystem.
[ 5.0] sd 0:0:1:0: [sda] Synchronizing SCSI cache
"""


def test_life_of_a_healthy_disk_is_no_complaint() -> None:
    assert dmesg.complaints(HEALTHY, "MARKER") == []


@pytest.mark.parametrize(
    "line",
    [
        "cmd_id 29 not found, ring is broken",
        "sd 0:0:1:0: [sda] tag#5 FAILED Result: hostbyte=DID_OK driverbyte=DRIVER_OK",
        "sd 0:0:1:0: [sda] tag#5 Add. Sense: Logical unit communication failure",
        "I/O error, dev sda, sector 0 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 2",
        "Buffer I/O error on dev sda, logical block 0, async page read",
        "EXT4-fs error (device sda): ext4_find_entry:1455: inode #2: comm ls: reading directory",
        "EXT4-fs (sda): Remounting filesystem read-only",
        "WARNING: CPU: 0 PID: 77 at drivers/target/target_core_user.c:100 foo+0x1",
        "BUG: kernel NULL pointer dereference, address: 0000000000000000",
        "INFO: task mkfs.ext4:300 blocked for more than 120 seconds.",
        "sd 0:0:1:0: rejecting I/O to offline device",
        "sd 0:0:1:0: Device offlined - not ready after error recovery",
    ],
)
def test_complaints_after_the_marker_are_found(line: str) -> None:
    assert dmesg.complaints(HEALTHY + f"[ 6.0] {line}\n", "MARKER") == [f"[ 6.0] {line}"]


def test_lost_marker_is_an_error_not_a_pass() -> None:
    with pytest.raises(ValueError, match="marker"):
        dmesg.complaints("nothing\n", "MARKER")
