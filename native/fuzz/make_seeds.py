"""Makes the seeds of the fuzz targets from tests/golden/mini: make_seeds.py OUT_DIRECTORY."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from pathlib import Path

from obdsup.format import zeroes

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden" / "mini"
# Targets whose input is a layer file as it is.
LAYER_TARGETS = ("zfile", "lsmt", "tools_zfile", "tools_layer")
SPARSE_FLAG = 0b10000


def layers() -> Iterator[tuple[str, bytes]]:
    """(name, content)."""
    for layer in sorted(GOLDEN.glob("*.obd")):
        yield layer.name, layer.read_bytes()


def pairs() -> Iterator[tuple[str, bytes]]:
    """The form is in fuzz_upper.c: whole, torn, and as a sparse layer with its empty index."""
    for index in sorted(GOLDEN.glob("*.idx")):
        records = index.read_bytes()
        data = index.with_suffix(".data").read_bytes()
        for kept in (len(records), 4096 + 5 * 16 + 7):
            yield (
                f"{index.stem}-{kept}",
                struct.pack("<H", kept) + records[:kept] + data[: 64 * kept],
            )
        sparse = data[:28] + bytes([data[28] | SPARSE_FLAG]) + data[29 : 4096 + 64 * 1024]
        yield f"{index.stem}-sparse", struct.pack("<H", 0) + sparse


def zeroes_records() -> Iterator[tuple[str, bytes]]:
    """Records as fuzz_zeroes.c puts them behind a header."""
    uuid = b"fuzz".ljust(37, b"\0")
    ranges = b"".join(zeroes.encode_range(at, at + 40 * at + 8, uuid) for at in range(0, 4000, 500))
    yield "ranges", ranges
    yield "torn", ranges[:-5]
    yield "damaged", bytes([ranges[0] ^ 1]) + ranges[1:]


def main() -> None:
    """Writes OUT/<target>/<name>."""
    seeds = dict.fromkeys(LAYER_TARGETS, layers)
    for target, make in {**seeds, "upper": pairs, "zeroes": zeroes_records}.items():
        folder = Path(sys.argv[1]) / target
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in make():
            (folder / name).write_bytes(content)


if __name__ == "__main__":
    main()
