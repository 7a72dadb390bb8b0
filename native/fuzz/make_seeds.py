"""Makes the seeds of the fuzz targets from tests/golden/mini: make_seeds.py OUT_DIRECTORY."""

from __future__ import annotations

import gzip
import io
import struct
import sys
import tarfile
import zlib
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


def gzip_indexes() -> Iterator[tuple[str, bytes]]:
    """An index of one point and its gzip file, in the form of fuzz_gzindex.c."""
    window = zlib.compress(bytes(32768))
    table = zlib.compress(struct.pack("<qqqBI", 0, 10, 333, 0, len(window)))
    for length in (0, 10, 5000, 200_000):
        packed = gzip.compress(bytes(i * i >> 3 & 255 for i in range(length)), 1, mtime=0)
        header = b"ddgzidx\0" + bytes((1, 0, 1, 6, 0)) + struct.pack("<III", 1 << 20, 32768, 29)
        header += struct.pack("<QQQQ", 1, 0, 0, length) + bytes(256)
        header += struct.pack("<QQI", 333 + len(window), len(table), 0)
        index = header + window + table
        yield str(length), struct.pack("<H", len(index)) + index + packed


def sidecars() -> Iterator[tuple[str, bytes]]:
    """Kept indexes; hash and checksum are set by fuzz_sidecar.c."""
    for count in (0, 1, 5, 300):
        header = b"OBDSIDE\0" + struct.pack("<IIQQ", 1, 3, 0, count) + bytes(32)
        entries = ((i * 4 | 2 << 50, 8 + i | (i % 2) << 56) for i in range(count))
        yield str(count), header + b"".join(struct.pack("<QQ", *entry) for entry in entries)


def tars() -> Iterator[tuple[str, bytes]]:
    """Every kind of entry, in the forms that a tar has for it."""
    kinds = {
        "file": (tarfile.REGTYPE, {}),
        "dir/": (tarfile.DIRTYPE, {}),
        "dir/link": (tarfile.SYMTYPE, {"linkname": "../file"}),
        "dir/long": (tarfile.SYMTYPE, {"linkname": "t" * 200}),
        "hard": (tarfile.LNKTYPE, {"linkname": "dir/link"}),
        "null": (tarfile.CHRTYPE, {"devmajor": 1, "devminor": 3}),
        "fifo": (tarfile.FIFOTYPE, {}),
        "dir/.wh..wh..opq": (tarfile.REGTYPE, {}),
        ".wh.file": (tarfile.REGTYPE, {}),
        "n" * 120: (tarfile.REGTYPE, {"pax_headers": {"SCHILY.xattr.user.a": "1"}}),
    }
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=form) as tar:
            for name, (kind, fields) in kinds.items():
                info = tarfile.TarInfo(name)
                info.type, info.size = kind, 700 if name == "file" else 0
                for field, value in fields.items():
                    setattr(info, field, value)
                if form != tarfile.USTAR_FORMAT or len(name + info.linkname) < 100:
                    tar.addfile(info, io.BytesIO(bytes(700)) if info.isreg() else None)
        yield f"tar-{form}", out.getvalue()


def main() -> None:
    """Writes OUT/<target>/<name>."""
    seeds = dict.fromkeys(LAYER_TARGETS, layers)
    seeds |= {"upper": pairs, "zeroes": zeroes_records, "tools_tar": tars}
    seeds |= {"gzindex": gzip_indexes, "sidecar": sidecars}
    for target, make in seeds.items():
        folder = Path(sys.argv[1]) / target
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in make():
            (folder / name).write_bytes(content)


if __name__ == "__main__":
    main()
