"""``obdsup image commit|seal|compact|merge`` and ``obdsup zfile`` as a user runs them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.conftest import eventually
from tests.format.disk_model import GOLDEN, substituted

DIGESTS: dict[str, str] = json.loads((GOLDEN / "digests.json").read_text())
M0 = (GOLDEN / "m0.data", GOLDEN / "m0.idx")
UUID = "000000aa-1111-4111-8111-111111111111"


def obdsup(*arguments: object, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "obdsup.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, input=stdin, timeout=120)


def answer(*arguments: object, stdin: bytes = b"") -> dict[str, Any]:
    done = obdsup(*arguments, "--json", stdin=stdin)
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    value: dict[str, Any] = json.loads(done.stdout)
    return value


def test_commit_writes_what_the_reference_writes(tmp_path: Path) -> None:
    made = answer("image", "commit", *M0, "-o", tmp_path / "raw", "--uuid", UUID)
    assert made["uuid"] == UUID.upper()
    assert (tmp_path / "raw").read_bytes() == (GOLDEN / "m0.raw.obd").read_bytes()
    options = ("--zfile", "lz4", "--block-size", "4k", "--tar", "--uuid", UUID)
    answer("image", "commit", *M0, "-o", tmp_path / "tar", *options)
    assert (tmp_path / "tar").read_bytes() == (GOLDEN / "m0.tar.obd").read_bytes()
    again = obdsup("image", "commit", *M0, "-o", tmp_path / "tar")
    assert again.returncode == 10
    assert b"--force replaces it" in again.stderr


def test_compact_and_merge_read_as_before(tmp_path: Path) -> None:
    config = substituted(GOLDEN / "config.m2.upper.json", tmp_path, "@GOLDEN@", GOLDEN)
    before = answer("image", "export", config, "--sha256")["sha256"]
    merged, small = tmp_path / "merged", tmp_path / "small"
    answer("image", "merge", config, "-o", merged)
    assert answer("image", "export", merged, "--sha256")["sha256"] == before
    answer("image", "compact", merged, "-o", small, "--zfile", "zstd", "--block-size", "16k")
    assert answer("image", "export", small, "--sha256")["sha256"] == before
    assert small.stat().st_size < merged.stat().st_size
    own = obdsup("image", "merge", config, "-o", GOLDEN / "m0.lz4.obd", "--force")
    assert own.returncode == 10
    assert b"is an input" in own.stderr


def test_seal_makes_a_layer_of_the_data_file(tmp_path: Path) -> None:
    data, index = tmp_path / "d", tmp_path / "i"
    data.write_bytes(M0[0].read_bytes())
    index.write_bytes(M0[1].read_bytes())
    sealed = answer("image", "seal", data, index)
    assert sealed["garbage_bytes"] > 0
    alone = answer("image", "export", data, "--sha256")["sha256"]
    assert alone == answer("image", "export", GOLDEN / "m0.raw.obd", "--sha256")["sha256"]
    assert obdsup("image", "seal", data, index).returncode == 14


def test_zfile_from_standard_input_and_back(tmp_path: Path) -> None:
    content = b"some content, " * 50_000
    made = answer("zfile", "compress", "-", tmp_path / "z", "--threads", "2", stdin=content)
    assert made["content_bytes"] == len(content)
    assert made["is_readable_by_overlaybd"] is True
    assert answer("zfile", "verify", tmp_path / "z")["ok"] is True
    answer("zfile", "extract", tmp_path / "z", tmp_path / "plain")
    assert (tmp_path / "plain").read_bytes() == content
    raw = bytearray((tmp_path / "z").read_bytes())
    raw[520] ^= 1
    (tmp_path / "z").write_bytes(raw)
    damaged = obdsup("zfile", "verify", tmp_path / "z")
    assert damaged.returncode == 11
    assert b"content at byte 0:" in damaged.stderr
    broken = obdsup("zfile", "extract", tmp_path / "z", tmp_path / "new")
    assert broken.returncode == 11
    assert not (tmp_path / "new").exists()


def test_what_overlaybd_can_not_read_is_told(tmp_path: Path) -> None:
    noise = os.urandom(70_000)
    done = obdsup("zfile", "compress", "--block-size", "64k", "-", tmp_path / "z", stdin=noise)
    assert done.returncode == 0
    assert b"overlaybd can not read this file" in done.stderr


def test_wrong_usage_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for wrong in (
        ("image", "commit", *M0, "-o", out, "--block-size", "8k"),
        ("zfile", "compress", "--block-size", "5k", M0[0], out),
        ("zfile", "compress", "--algorithm", "lzo", M0[0], out),
    ):
        assert obdsup(*wrong).returncode == 2
    for wrong in (
        ("image", "commit", *M0, "-o", out, "--zfile", "lz4", "--threads", "-1"),
        ("zfile", "verify", M0[0], "--threads", "65"),
        ("zfile", "compress", tmp_path / "missing", out),
        ("image", "commit", *M0, "-o", out, "--parent", "nonsense"),
    ):
        assert obdsup(*wrong).returncode == 10, wrong
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "obdsup.cli", "zfile", "compress", "-", str(tmp_path / "out")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin
    with process.stdin as pipe:
        pipe.write(bytes(1 << 20))
        pipe.flush()
        # past the header: the first batch is compressed, the call waits for more
        eventually(lambda: any(path.stat().st_size > 512 for path in tmp_path.iterdir()), 60)
        process.send_signal(signal.SIGINT)  # nothing more comes, and the pipe stays open
        assert process.wait(timeout=60) == 130
    assert process.stderr
    with process.stderr as errors:
        assert b"interrupted" in errors.read()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    """The limit on the size of files stands for the disk's end."""
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); "
        "from obdsup.cli.__main__ import main; sys.argv[0] = 'obdsup'; main()"
    )
    for arguments in (
        ("image", "commit", *M0, "-o", tmp_path / "out"),
        ("image", "commit", *M0, "-o", tmp_path / "out", "--zfile", "lz4", "--threads", "3"),
        ("zfile", "extract", GOLDEN / "m0.lz4.obd", tmp_path / "out"),
    ):
        command = [sys.executable, "-c", program, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 14, done.stderr
        assert "out: " in done.stderr
        assert "write: File too large" in done.stderr
        assert list(tmp_path.iterdir()) == []
