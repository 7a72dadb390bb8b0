"""Makes the seeds of the fuzz targets from tests/golden/mini: make_seeds.py OUT_DIRECTORY."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden" / "mini"


def main() -> None:
    """Writes OUT/{zfile,lsmt,upper}/<name>; the form of an upper's input is in fuzz_upper.c."""
    out = Path(sys.argv[1])
    for target in ("zfile", "lsmt", "upper"):
        (out / target).mkdir(parents=True, exist_ok=True)
    for layer in sorted(GOLDEN.glob("*.obd")):
        for target in ("zfile", "lsmt"):
            (out / target / layer.name).write_bytes(layer.read_bytes())
    for index in sorted(GOLDEN.glob("*.idx")):
        records = index.read_bytes()
        data = index.with_suffix(".data").read_bytes()
        for kept in (len(records), 4096 + 5 * 16 + 7):
            seed = struct.pack("<H", kept) + records[:kept] + data[: 64 * kept]
            (out / "upper" / f"{index.stem}-{kept}").write_bytes(seed)


if __name__ == "__main__":
    main()
