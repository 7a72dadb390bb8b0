"""Random damage to every kind of file, with fixed seeds: only ``ObdError`` comes out."""

from __future__ import annotations

import io
import json
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from obdsup.errors import ObdError
from obdsup.format import config
from obdsup.format.blob import BytesBlob
from obdsup.format.layer import wrap_layer
from obdsup.format.upper import Upper
from obdsup.format.zfile_header import Algorithm
from tests.format.disk_model import layer_bytes, sector

ROUNDS = 1500
CONTENT: dict[int, bytes | int] = {1: sector(9) * 20, 30: 4, 50: sector(77) * 3}
EDGES = (b"\x00" * 8, b"\xff" * 8, b"\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x01\x00\x00\x00")


def mutated(raw: bytes, source: random.Random) -> bytes:
    """A few changes: bits, bytes, edge values, a cut, a repeated or missing piece."""
    data = bytearray(raw)
    for _ in range(source.randint(1, 4)):
        at = source.randrange(len(data) + 1)
        if source.random() < 0.6:  # the places that are parsed
            at = source.choice((0, max(0, len(data) - 4096), max(0, len(data) - 512)))
            at = min(len(data), at + source.randrange(160))
        kind = source.randrange(5)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << source.randrange(8)
        elif kind == 1:
            edge = source.choice(EDGES)
            data[at : at + len(edge)] = edge
        elif kind == 2:
            data[at : at + 16] = source.randbytes(16)
        elif kind == 3 and source.random() < 0.3:
            del data[at : at + source.randrange(1, 5000)]
        elif kind == 4 and source.random() < 0.3:
            data[at:at] = data[at : at + 512]
    return bytes(data)


def in_tar(raw: bytes, kind: int) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=kind) as archive:
        member = tarfile.TarInfo("overlaybd.commit")
        member.size = len(raw)
        member.pax_headers = {"comment": "x" * 20, "size": str(len(raw))}
        archive.addfile(member, io.BytesIO(raw))
    return file.getvalue()


def read_layer(raw: bytes) -> None:
    opened = wrap_layer(BytesBlob(raw))
    for segment in opened.layer.segments:
        if not segment.is_zeroed:
            opened.layer.read_payload(segment.moffset, segment.length)


LZ4 = layer_bytes(CONTENT, 64, Algorithm.LZ4)
ZSTD = layer_bytes(CONTENT, 64, Algorithm.ZSTD)
SEEDS = {
    "raw": layer_bytes(CONTENT, 64),
    "lz4": LZ4,
    "zstd": ZSTD,
    "lz4 without digest": LZ4[:32] + bytes([LZ4[32] & 0b01111]) + LZ4[33:],
    "zstd without digest": ZSTD[:32] + bytes([ZSTD[32] & 0b01111]) + ZSTD[33:],
    "pax tar": in_tar(LZ4, tarfile.PAX_FORMAT),
    "ustar": in_tar(LZ4, tarfile.USTAR_FORMAT),
}


@pytest.mark.parametrize("name", SEEDS)
def test_layers(name: str) -> None:
    read_layer(SEEDS[name])
    assert refused(name, lambda source: read_layer(mutated(SEEDS[name], source))) > ROUNDS // 20


def refused(seed: str, attempt: Callable[[random.Random], None]) -> int:
    """How many of ``ROUNDS`` attempts ended in an ObdError; any other exception goes through."""
    source = random.Random(seed)
    count = 0
    for _ in range(ROUNDS):
        try:
            attempt(source)
        except ObdError:
            count += 1
    return count


def test_writable_layers() -> None:
    golden = Path(__file__).resolve().parent.parent / "golden" / "mini"
    data, index = (golden / "m2.data").read_bytes(), (golden / "m2.idx").read_bytes()

    def attempt(source: random.Random) -> None:
        changed = mutated(index, source)
        upper = Upper(BytesBlob(data), BytesBlob(changed))
        for segment in upper.map:
            if not segment.is_zeroed:
                upper.read_payload(segment.moffset, segment.length)

    assert refused("upper", attempt) > ROUNDS // 20


def test_configs(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    (tmp_path / "layer").write_bytes(SEEDS["raw"])
    good = {"lowers": [{"file": str(tmp_path / "layer"), "size": 3}], "upper": {}, "resultFile": ""}
    values = (None, 5, -1, 1e300, "", "x", "/", "../x", "\0", [], [[]], {}, True, {"file": 5}, "é")

    def attempt(source: random.Random) -> None:
        value = json.loads(json.dumps(good))
        place = source.choice((value, value["lowers"][0], value["upper"]))
        keys = (*place, "dir", "digest", "data", "index", "targetFile", "accelerationLayer")
        place[source.choice(keys)] = source.choice(values)
        raw = json.dumps(value).encode()
        path.write_bytes(mutated(raw, source) if source.random() < 0.3 else raw)
        config.load(str(path))

    assert refused("config", attempt) > ROUNDS // 4


@pytest.mark.parametrize(
    "raw", [b"", b"[" * 100_000, b"\xff\xfe", b"nul", b"1", b'"x"', b"{" + b" " * 5_000_000]
)
def test_config_that_is_no_object(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_bytes(raw)
    assert refused_once(str(path))


def refused_once(path: str) -> bool:
    try:
        config.load(path)
    except ObdError:
        return True
    return False
