"""overlaybd-create, -apply, -resize: the reference's options, and what is refused by name."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from obdsup.cli.reference.apply import apply
from obdsup.cli.reference.create import create
from obdsup.cli.reference.resize import resize
from obdsup.errors import ConfigError, FormatError
from obdsup.format import config
from obdsup.format.lsmt_header import NULL_UUID
from obdsup.format.upper import open_upper
from tests.image.layer_tar import check_clean, content, member, new_image, tree_of, write_tar

PARENT = "000000AA-1111-4111-8111-111111111111"


def config_of(folder: Path, data: Path, index: Path) -> str:
    path = folder / "config.v1.json"
    path.write_text(json.dumps({"lowers": [], "upper": {"data": str(data), "index": str(index)}}))
    return str(path)


@pytest.mark.parametrize("options", [[], ["-s"], ["-u", PARENT]])
def test_a_created_layer_takes_a_tar_and_another_size(options: list[str], tmp_path: Path) -> None:
    data, index = tmp_path / "data", tmp_path / "index"
    create([*options, "--mkfs", str(data), str(index), "1"])
    upper = open_upper(str(data), str(index))
    assert upper.header.virtual_size_bytes == 1 << 30
    assert upper.header.parent_uuid == (PARENT if "-u" in options else NULL_UUID)
    upper.close()
    named = config_of(tmp_path, data, index)
    tar = write_tar(tmp_path / "1.tar", member("f", b"content"))
    apply(["--verbose", "--service_config_path", "/nowhere", "--extract-rootfs", tar, named])
    resize(["--config", named, "--size", "2"])
    image = config.load(named)
    assert content(image, "f") == b"content"
    check_clean(image, tmp_path)


def test_apply_checks_the_digest_and_makes_the_file_system(tmp_path: Path) -> None:
    image = new_image(tmp_path)
    tar = write_tar(tmp_path / "1.tar", member("f", b"content"))
    with pytest.raises(FormatError, match="sha256"):
        apply(["--mkfs", "--checksum", "0" * 64, tar, image.path])
    apply(["--mkfs", tar, image.path])
    assert sorted(tree_of(image)) == ["f"]


def test_a_raw_disk_is_a_file_of_that_size(tmp_path: Path) -> None:
    create(["--raw", str(tmp_path / "disk"), "unused", "3"])
    assert os.path.getsize(tmp_path / "disk") == 3 << 30
    with pytest.raises(ConfigError, match="disk: can not be made"):
        create(["--raw", str(tmp_path / "disk"), "unused", "3"])


@pytest.mark.parametrize(
    ("program", "arguments", "option"),
    [
        (create, ["--turboOCI", "a", "b", "1"], "--turboOCI"),
        (create, ["--hybrid", "a", "b", "1"], "--hybrid"),
        (apply, ["--raw", "a", "b"], "--raw"),
        (apply, ["--from_qcow2", "a", "b"], "--from_qcow2"),
        (apply, ["--gz_index_path", "x", "a", "b"], "--gz_index_path"),
        (apply, ["--no-extract-rootfs", "a", "b"], "--no-extract-rootfs"),
    ],
)
def test_what_is_not_offered_is_refused_by_name(
    program: object, arguments: list[str], option: str
) -> None:
    assert callable(program)
    with pytest.raises(ConfigError, match=f"{option} is not offered"):
        program(arguments)
