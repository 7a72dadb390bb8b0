"""Images that grow and shrink with the ext4 in them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from obdsup.errors import ConfigError, FormatError
from obdsup.format.upper import open_upper
from obdsup.image.apply import apply_tar
from obdsup.image.resize import resize
from tests.image.layer_tar import check_clean, lines_of, member, new_image, write_tar

MIB = 1 << 20


@pytest.mark.parametrize("sparse", [False, True])
def test_grown_and_shrunk_images_hold_what_they_held(sparse: bool, tmp_path: Path) -> None:
    image = new_image(tmp_path, 64 * MIB, sparse=sparse)
    assert image.upper is not None
    members = (member(f"d/{i}", os.urandom(5000)) for i in range(100))
    apply_tar(image, write_tar(tmp_path / "1.tar", *members), mkfs=True)
    before = lines_of(image)
    for size in (200 * MIB, 40 * MIB):
        done = resize(image, size)
        assert done.changed_bytes > 0
        upper = open_upper(*image.upper)
        assert upper.header.virtual_size_bytes == size
        upper.close()
        assert lines_of(image) == before
        check_clean(image, tmp_path)
    apply_tar(image, write_tar(tmp_path / "2.tar", member("new", bytes(20 * MIB))))
    check_clean(image, tmp_path)
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".resize")]


def test_a_layer_of_the_reference_is_resized_through_an_upper(
    vectors: Path, tmp_path: Path
) -> None:
    base = tmp_path / "L0.obd"
    shutil.copy(vectors / "stack" / "L0.zstd.obd", base)
    image = new_image(tmp_path, 1 << 30, lowers=(str(base),))
    resize(image, 2 << 30)
    expected = (vectors / "trees" / "stack-raw.1.txt").read_text().splitlines()
    assert lines_of(image) == sorted(expected)
    check_clean(image, tmp_path)


def test_what_does_not_fit_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    image = new_image(tmp_path, 32 * MIB)
    assert image.upper is not None
    tar = write_tar(tmp_path / "1.tar", member("f", os.urandom(16 * MIB)))
    apply_tar(image, tar, mkfs=True)
    files = [Path(name).read_bytes() for name in image.upper]
    with pytest.raises(FormatError, match="resize2fs"):
        resize(image, 12 * MIB)
    with pytest.raises(ConfigError, match="multiple of 4096"):
        resize(image, 12 * MIB + 1)
    assert [Path(name).read_bytes() for name in image.upper] == files


def test_an_image_without_a_file_system_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="e2fsck"):
        resize(new_image(tmp_path, 64 * MIB), 128 * MIB)
