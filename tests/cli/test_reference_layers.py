"""overlaybd-commit, -merge, -zfile: the reference's options give the reference's bytes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from obdsup.cli.reference.commit import commit
from obdsup.cli.reference.merge import merge
from obdsup.cli.reference.zfile import zfile
from obdsup.errors import ConfigError, FormatError
from tests.format.disk_model import GOLDEN, config_file, substituted

M0 = [str(GOLDEN / "m0.data"), str(GOLDEN / "m0.idx")]
UUID = "000000AA-1111-4111-8111-111111111111"


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ([], "m0.raw.obd"),
        (["-z"], "m0.lz4.obd"),
        (["-z", "--algorithm", "zstd", "--bs", "4", "--compress_threads", "2"], "m0.zstd.obd"),
        (["-z", "-t", "--verbose", "-f"], "m0.tar.obd"),
    ],
)
def test_commit(tmp_path: Path, options: list[str], name: str) -> None:
    out = str(tmp_path / "out")
    commit([*options, "--uuid", UUID, *M0, out])
    assert Path(out).read_bytes() == (GOLDEN / name).read_bytes()


def test_commit_refuses_to_replace_unless_told(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    commit(["-m", "tag", "-p", UUID, *M0, out])
    with pytest.raises(ConfigError, match="exists already"):
        commit([*M0, out])
    commit(["-f", *M0, out])


def test_seal_and_commit_of_what_was_sealed(tmp_path: Path) -> None:
    data, index = str(tmp_path / "d"), str(tmp_path / "i")
    shutil.copyfile(M0[0], data)
    shutil.copyfile(M0[1], index)
    commit(["--seal", data, index])
    commit(["--commit_sealed", "-z", "-t", "--uuid", UUID, data, str(tmp_path / "out")])
    assert (tmp_path / "out").read_bytes() == (GOLDEN / "m0.tar.obd").read_bytes()


def test_merge_takes_the_lowers_alone(vectors: Path, tmp_path: Path) -> None:
    config = substituted(vectors / "rw" / "config.d2.json", tmp_path, "@VECTORS@", vectors)
    merge(["--service_config_path", "/missing", "--compress", config, str(tmp_path / "out")])
    assert (tmp_path / "out").read_bytes() == (vectors / "stack" / "M.lz4.obd").read_bytes()


def test_merge_without_compression(tmp_path: Path) -> None:
    config = config_file(tmp_path, [GOLDEN / "m0.lz4.obd"])
    merge(["--compress=false", config, str(tmp_path / "out")])
    assert (tmp_path / "out").read_bytes()[4096:] == (GOLDEN / "m0.raw.obd").read_bytes()[
        4096:-4096
    ] + (tmp_path / "out").read_bytes()[-4096:]


def test_zfile_there_and_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, plain = str(tmp_path / "z"), str(tmp_path / "plain")
    zfile(["--bs", "16", "--algorithm", "zstd", M0[0], out])
    zfile(["--verify", out])
    assert "all good" in capsys.readouterr().out
    zfile(["-x", out, plain])
    assert Path(plain).read_bytes() == Path(M0[0]).read_bytes()
    with open(M0[0], "rb") as source:
        monkeypatch.setattr(sys, "stdin", source)
        zfile(["--bs", "16", "--algorithm", "zstd", str(tmp_path / "piped")])
    assert (tmp_path / "piped").read_bytes() == Path(out).read_bytes()
    raw = bytearray(Path(out).read_bytes())
    raw[514] ^= 4
    Path(out).write_bytes(raw)
    with pytest.raises(FormatError):
        zfile(["--verify", out])


@pytest.mark.parametrize(
    "arguments",
    [
        ["-t", *M0, "out"],
        [*M0],
        ["--seal", M0[0]],
        ["--commit_sealed", *M0, "out"],
        ["--bs", "5", *M0, "out"],
    ],
)
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        commit(arguments)
    assert ended.value.code == 2
    assert "usage: overlaybd-commit" in capsys.readouterr().err


def test_what_is_not_offered_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--turboOCI is not offered"):
        commit(["--turboOCI", *M0, str(tmp_path / "out")])
    with pytest.raises(ConfigError, match="--upload is not offered"):
        merge(["--upload", "http://registry/", "config", str(tmp_path / "out")])


def test_an_error_is_told_with_its_exit_code(tmp_path: Path) -> None:
    program = "from obdsup.cli.reference.commit import main; main()"
    command = [sys.executable, "-c", program, *M0, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == ConfigError.exit_code
    assert str(tmp_path) in done.stderr
    assert os.listdir(tmp_path) == []
