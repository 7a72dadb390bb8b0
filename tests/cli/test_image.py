"""``obdsup image`` as a user runs it."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from obdsup.image.commit import LayerOptions
from obdsup.image.import_disk import import_disk
from tests.format.disk_model import GOLDEN, substituted

DIGESTS: dict[str, str] = json.loads((GOLDEN / "digests.json").read_text())
MIB = 1 << 20
UUID = "11111111-2222-3333-4444-555555555555"


def image(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "obdsup.cli", "image", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def answer(*arguments: object) -> dict[str, Any]:
    done = image(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "" or "use blocks of 32k or less" in done.stderr
    value: dict[str, Any] = json.loads(done.stdout)
    return value


@pytest.fixture
def golden(tmp_path: Path) -> str:
    return substituted(GOLDEN / "config.m2.upper.json", tmp_path, "@GOLDEN@", GOLDEN)


def random_disk(path: Path, size: int, seed: int) -> bytes:
    """A disk with data, zeros inside of data, and holes."""
    source = random.Random(seed)
    disk = bytearray(size)
    for _ in range(40):
        at = source.randrange(size // 512 - 64) * 512
        length = source.randrange(1, 64) * 512
        disk[at : at + length] = (
            source.randbytes(length) if source.random() < 0.7 else bytes(length)
        )
    path.write_bytes(disk)
    return bytes(disk)


def config_of(folder: Path, *lowers: Path) -> Path:
    path = folder / "made.json"
    path.write_text(json.dumps({"lowers": [{"file": str(lower)} for lower in lowers]}))
    return path


def test_info_names_layers_and_upper(golden: str) -> None:
    facts = answer("info", golden)
    assert facts["virtual_size_bytes"] == 1 << 30
    assert [lower["compression"] for lower in facts["lowers"]] == ["lz4", "zstd"]
    assert facts["upper"]["records"] == 30
    text = image("info", golden)
    assert "virtual size 1G" in text.stdout
    assert "m1.zstd.obd" in text.stdout


def test_info_of_a_layer_file_shows_its_wrappings() -> None:
    (lower,) = answer("info", GOLDEN / "m0.tar.obd")["lowers"]
    assert lower["tar_base_bytes"] == 1536
    assert lower["compression"] == "lz4"
    assert answer("info", GOLDEN / "m0.raw.obd")["lowers"][0]["compression"] == "none"


def test_verify_names_file_layer_and_offset(golden: str, tmp_path: Path) -> None:
    assert answer("verify", golden)["ok"] is True
    damaged = bytearray((GOLDEN / "m1.zstd.obd").read_bytes())
    damaged[50_000] ^= 1
    (tmp_path / "bad.obd").write_bytes(damaged)
    config = config_of(tmp_path, GOLDEN / "m0.lz4.obd", tmp_path / "bad.obd")
    done = image("verify", config, "--json")
    assert done.returncode == 11
    facts = json.loads(done.stdout)
    (problem,) = facts["problems"]
    assert facts["ok"] is False
    assert problem["layer"] == 1
    assert problem["file"] == str(tmp_path / "bad.obd")
    assert 50_000 - 4200 < problem["offset"] <= 50_000
    text = image("verify", config)
    assert text.returncode == 11
    assert f"layer 1: {tmp_path / 'bad.obd'} at byte {problem['offset']}" in text.stderr


def test_export_digest_and_file_agree(golden: str, tmp_path: Path) -> None:
    digest = DIGESTS["config.m2.upper.json"]
    assert image("export", golden, "--sha256").stdout == digest + "\n"
    output = tmp_path / "disk.raw"
    assert answer("export", golden, "-o", output)["output"] == str(output)
    assert output.stat().st_size == 1 << 30
    assert output.stat().st_blocks * 512 < 8 * MIB
    with output.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == digest


def test_export_without_a_target_is_wrong_usage(golden: str) -> None:
    done = image("export", golden)
    assert done.returncode == 2
    assert "--sha256" in done.stderr


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--zfile", "lz4"],
        ["--zfile", "zstd", "--block-size", "16k"],
        ["--zfile", "lz4", "--block-size", "64k"],
    ],
)
def test_import_then_export_is_the_disk(options: list[str], tmp_path: Path) -> None:
    disk = random_disk(tmp_path / "disk.raw", 2 * MIB, 1)
    layer = tmp_path / "layer.obd"
    facts = answer("import", tmp_path / "disk.raw", "-o", layer, *options)
    assert facts["file_bytes"] == layer.stat().st_size
    assert answer("verify", layer)["ok"] is True
    assert answer("export", layer, "-o", tmp_path / "back.raw")["virtual_size_bytes"] == 2 * MIB
    assert (tmp_path / "back.raw").read_bytes() == disk
    again = tmp_path / "again.obd"
    answer("import", tmp_path / "back.raw", "-o", again, *options)
    assert again.read_bytes() == layer.read_bytes()


def test_import_over_a_base_keeps_the_difference(tmp_path: Path) -> None:
    random_disk(tmp_path / "one.raw", 2 * MIB, 2)
    disk = random_disk(tmp_path / "two.raw", 3 * MIB, 3)
    uuid = "0a000000-0000-4000-8000-000000000001"
    answer("import", tmp_path / "one.raw", "-o", tmp_path / "one.obd", "--uuid", uuid)
    base = config_of(tmp_path, tmp_path / "one.obd")
    top = tmp_path / "two.obd"
    facts = answer("import", tmp_path / "two.raw", "-o", top, "--base", base, "--zfile", "zstd")
    assert facts["parent_uuid"] == uuid.upper()
    assert facts["zeroed_bytes"] > 0
    both = config_of(tmp_path, tmp_path / "one.obd", top)
    assert answer("export", both, "--sha256")["sha256"] == hashlib.sha256(disk).hexdigest()
    same = answer("import", tmp_path / "two.raw", "-o", tmp_path / "none.obd", "--base", both)
    assert (same["data_bytes"], same["zeroed_bytes"], same["segments"]) == (0, 0, 0)


def test_existing_output_needs_force_and_inputs_are_never_replaced(tmp_path: Path) -> None:
    random_disk(tmp_path / "disk.raw", MIB, 4)
    layer = tmp_path / "layer.obd"
    layer.write_bytes(b"precious")
    refused = image("import", tmp_path / "disk.raw", "-o", layer)
    assert refused.returncode == 10
    assert "exists already" in refused.stderr
    assert layer.read_bytes() == b"precious"
    answer("import", tmp_path / "disk.raw", "-o", layer, "--force")
    before = (tmp_path / "disk.raw").read_bytes()
    own = image("import", tmp_path / "disk.raw", "-o", tmp_path / "disk.raw", "--force")
    assert own.returncode == 10
    assert image("export", layer, "-o", layer, "--force").returncode == 10
    assert (tmp_path / "disk.raw").read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["disk.raw", "layer.obd"]


def test_interrupted_import_leaves_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    random_disk(disk, 2 * MIB, 5)
    out = tmp_path / "out"
    out.mkdir()

    def interrupt(done: int, total: int) -> None:
        assert os.listdir(out)  # it is writing
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_disk(str(disk), str(out / "layer.obd"), LayerOptions(), report=interrupt)
    assert os.listdir(out) == []


def test_new_upper_reads_as_zeros_and_is_not_replaced(tmp_path: Path) -> None:
    pair = (tmp_path / "data", tmp_path / "index")
    facts = answer("new-upper", "--size", "1M", *pair)
    config = tmp_path / "c.json"
    config.write_text(json.dumps({"upper": {"data": str(pair[0]), "index": str(pair[1])}}))
    info = answer("info", config)
    assert info["upper"]["uuid"] == facts["uuid"]
    zeros = hashlib.sha256(bytes(MIB)).hexdigest()
    assert answer("export", config, "--sha256")["sha256"] == zeros
    assert image("new-upper", "--size", "1M", *pair).returncode == 10
    assert image("new-upper", "--size", "1000", tmp_path / "x", tmp_path / "y").returncode == 10
    assert image("new-upper", "--size", "1M", tmp_path / "x", tmp_path / "x").returncode == 10
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("command", ["info", "verify"])
def test_errors_have_their_exit_codes(command: str, tmp_path: Path) -> None:
    missing = image(command, tmp_path / "none.json")
    assert missing.returncode == 10
    (tmp_path / "wrong.json").write_text('{"lowers": 5}')
    wrong = image(command, tmp_path / "wrong.json", "--json")
    assert wrong.returncode == 10
    assert "lowers: expected an array" in json.loads(wrong.stdout)["error"]["message"]
    (tmp_path / "cut.obd").write_bytes((GOLDEN / "m0.lz4.obd").read_bytes()[:100_000])
    assert image(command, tmp_path / "cut.obd").returncode == 11


def test_disk_that_is_not_whole_sectors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "odd.raw").write_bytes(bytes(1000))
    done = image("import", tmp_path / "odd.raw", "-o", tmp_path / "l")
    assert done.returncode == 10
    assert "multiple of 512" in done.stderr
    (tmp_path / "empty.raw").write_bytes(b"")
    assert image("import", tmp_path / "empty.raw", "-o", tmp_path / "l").returncode == 10


@pytest.mark.parametrize(
    "command", [[], ["info"], ["verify"], ["export"], ["import"], ["new-upper"]]
)
def test_help_has_examples(command: list[str]) -> None:
    done = image(*command, "--help")
    assert done.returncode == 0
    assert "examples:\n  obdsup image" in done.stdout


def test_sparse_layer_is_repaired_compared_and_shown(tmp_path: Path) -> None:
    pair = (tmp_path / "data", tmp_path / "index")
    facts = answer("new-upper", "--sparse", "--size", "1M", "--parent", UUID, *pair)
    assert (facts["mode"], facts["parent_uuid"]) == ("sparse", UUID)
    info = answer("info", *pair)
    assert info["upper"]["mode"] == "sparse"
    assert info["upper"]["parent_uuid"] == UUID
    assert answer("verify", *pair)["ok"]
    assert answer("repair", *pair)["is_changed"] is False
    disk = random_disk(tmp_path / "disk.raw", MIB, 3)
    layer = tmp_path / "layer.obd"
    answer("import", tmp_path / "disk.raw", "-o", layer)
    assert image("diff", "--raw", layer, tmp_path / "disk.raw").returncode == 0
    (tmp_path / "disk.raw").write_bytes(disk[:-1] + bytes([disk[-1] ^ 1]))
    found = image("diff", "--raw", layer, tmp_path / "disk.raw", "--json")
    assert found.returncode == 1
    assert json.loads(found.stdout)["ranges"] == [[MIB - 512, MIB]]


def test_damaged_pair_is_told_repaired_and_reads_again(tmp_path: Path) -> None:
    pair = (tmp_path / "data", tmp_path / "index")
    answer("new-upper", "--size", "1M", *pair)
    pair[1].write_bytes(bytes(100) + pair[1].read_bytes()[100:])
    broken = image("info", *pair, "--json")
    assert broken.returncode == 11
    assert "index" in json.loads(broken.stdout)["problems"][0]
    done = answer("repair", *pair)
    assert done["headers_made"] == [str(pair[1])]
    assert done["kept"] == [f"{pair[1]}.orig"]
    assert answer("info", *pair)["problems"] == []
