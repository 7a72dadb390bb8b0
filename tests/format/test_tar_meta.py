"""Tar meta: all headers, and where the contents are."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obdsup.errors import FormatError
from obdsup.format import tar_meta
from obdsup.format.blob import BytesBlob, FileBlob


def made_tar(kind: int = tarfile.PAX_FORMAT) -> tuple[bytes, dict[str, bytes]]:
    raw, files = io.BytesIO(), {}
    with tarfile.open(fileobj=raw, mode="w", format=kind) as tar:
        for name, content in (
            ("a", b"x" * 5),
            ("empty", b""),
            ("long/" * 60 + "n", b"y" * 1300),
            ("ü", bytes(512)),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.pax_headers = {"SCHILY.xattr.user.k": "v"} if kind == tarfile.PAX_FORMAT else {}
            tar.addfile(info, io.BytesIO(content))
            files[name] = content
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "t" * 200
        tar.addfile(link)
        device = tarfile.TarInfo("dev")
        device.type, device.devmajor, device.devminor = tarfile.CHRTYPE, 1, 3
        tar.addfile(device)
    return raw.getvalue(), files


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_offsets_lead_to_the_contents(kind: int) -> None:
    raw, files = made_tar(kind)
    made = list(tar_meta.entries(BytesBlob(raw)))
    meta = b"".join(map(tar_meta.encode, made))
    back = list(tar_meta.read(BytesBlob(meta)))
    assert len(made) == len(back) == 6
    regular = [entry for entry in back if entry.is_regular]
    contents = [raw[e.data_offset : e.data_offset + e.data_bytes] for e in regular]
    assert contents == list(files.values())
    # all but the field of the offset, and nothing but headers
    for entry, again in zip(made, back, strict=True):
        assert again.extensions == entry.extensions
        assert again.header[:329] + again.header[337:] == entry.header[:329] + entry.header[337:]
        if not entry.is_regular:
            assert again.header == entry.header
    assert len(meta) < len(raw) - sum(map(len, files.values()))


def test_vectors_are_walked_to_their_end(vectors: Path) -> None:
    blob = FileBlob(str(vectors / "layer0.tar"))
    with tarfile.open(vectors / "layer0.tar") as tar:
        members = tar.getmembers()
    made = list(tar_meta.entries(blob))
    assert [(e.data_offset, e.data_bytes) for e in made if e.is_regular] == [
        (m.offset_data, m.size) for m in members if m.isreg()
    ]
    assert len(made) == len(members)
    blob.close()


def test_cut_and_damaged_tars_are_named() -> None:
    raw, _ = made_tar()
    with pytest.raises(FormatError, match="tar header checksum"):
        list(tar_meta.entries(BytesBlob(b"\1" + raw[1:])))
    with pytest.raises(FormatError):
        list(tar_meta.entries(BytesBlob(raw[:1000])))


@given(st.integers(0, 7000), st.integers(1, 255), st.booleans())
def test_hostile_bytes_give_named_errors(at: int, flip: int, is_meta: bool) -> None:
    raw, _ = made_tar()
    changed = bytearray(raw)
    changed[at % len(raw)] ^= flip
    walk = tar_meta.read if is_meta else tar_meta.entries
    try:
        for entry in walk(BytesBlob(bytes(changed))):
            assert entry.data_bytes >= 0
    except FormatError:
        pass
