"""Configs: what is resolved, and how each mistake is named."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from obdsup.errors import ConfigError
from obdsup.format import config


def written(folder: Path, value: Any) -> str:
    path = folder / "config.v1.json"
    path.write_text(json.dumps(value))
    return str(path)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    names = [str(tmp_path / name) for name in "abc"]
    for name in names:
        Path(name).write_bytes(b"")
    return names


def test_lowers_and_upper_are_resolved(files: list[str], tmp_path: Path) -> None:
    value = {
        "lowers": [{"file": files[0], "digest": "sha256:x", "size": 5}],
        "upper": {"data": files[1], "index": files[2], "vsize": 64},
        "resultFile": "/tmp/result",
        "hasRecordTrace": True,
    }
    loaded = config.load(written(tmp_path, value))
    assert loaded.lower_paths() == [files[0]]
    assert loaded.upper == (files[1], files[2])
    assert loaded.result_file == "/tmp/result"
    with pytest.raises(AttributeError):
        loaded.upper = None  # type: ignore[misc]


def test_resolution_order_of_a_lower(tmp_path: Path) -> None:
    folder = tmp_path / "layer"
    folder.mkdir()
    order = [tmp_path / "file", *(folder / n for n in ("overlaybd.commit", ".commit"))]
    order.append(folder / "overlaybd.sealed")
    path = written(tmp_path, {"lowers": [{"file": str(order[0]), "dir": str(folder)}]})
    with pytest.raises(ConfigError, match=r"lowers\[0\]: no layer file found"):
        config.load(path)
    for candidate in reversed(order):
        candidate.write_bytes(b"")
        assert config.load(path).lower_paths() == [str(candidate)]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"lowers": 5}, r"lowers: expected an array, found a number: 5"),
        ({"lowers": None}, r"lowers: expected an array, found null"),
        ({"lowers": [5]}, r"lowers\[0\]: expected an object, found a number: 5"),
        ({"lowers": [{"file": 5}]}, r"lowers\[0\]\.file: expected a string, found a number: 5"),
        ({"lowers": [{"size": "5"}]}, r"lowers\[0\]\.size: expected a number, found a string"),
        ({"upper": []}, r"upper: expected an object, found an array"),
        ({"upper": {"data": True}}, r"upper\.data: expected a string, found true or false: true"),
        ({"upper": {"data": "/x"}}, r"expected data and index, found no index"),
        ({"lowers": [{"file": "x/y"}]}, r"expected an absolute path without \"\.\.\", found 'x/y'"),
        ({"lowers": [{"file": "/x/../y"}]}, r"absolute path without"),
        ({"lowers": [{"dir": "x"}]}, r"lowers\[0\]\.dir: expected an absolute path"),
        ({"lowers": [{"file": "/dev/null"}]}, r"expected a regular file, found something else"),
        ({"lowers": [{"file": "/tmp"}]}, r"expected a regular file, found a directory"),
        ({"lowers": [{"digest": "sha256:9"}]}, r"sha256:9 is not on this host; remote layers are"),
        ({"lowers": [{}]}, r"no layer file found: no file, dir or digest"),
        ({"lowers": [{"targetFile": "/t"}]}, r"lowers\[0\]: no layer file found"),
        ({"lowers": [{"targetFile": "t"}]}, r"lowers\[0\]\.targetFile: expected an absolute path"),
        (
            {"lowers": [{"targetFile": "/t", "gzipIndex": "x"}]},
            r"gzipIndex: expected an absolute path",
        ),
        ({"lowers": [{"targetDigest": "s"}]}, r"targetDigest: a remote turboOCI layer is not"),
        ({"lowers": [{"gzipIndex": "/i"}]}, r"gzipIndex: an index without targetFile is not"),
        ({"upper": {"target": "/t"}}, r"upper\.target: turboOCI is not supported"),
        ({"accelerationLayer": True}, r"an acceleration layer is not supported"),
        ({"accelerationLayer": 1}, r"accelerationLayer: expected true or false, found a number"),
        ({"resultFile": 1, "lowers": []}, r"found neither"),
        ({}, r"expected lowers or an upper, found neither"),
        ([], r"the config: expected an object, found an array"),
    ],
)
def test_mistake_is_named(value: Any, message: str, tmp_path: Path) -> None:
    path = written(tmp_path, value)
    with pytest.raises(ConfigError, match=message) as caught:
        config.load(path)
    assert path in str(caught.value)


def test_one_file_has_one_place(files: list[str], tmp_path: Path) -> None:
    link, hard = tmp_path / "link", tmp_path / "hard"
    link.symlink_to(files[0])
    os.link(files[0], hard)
    for twin in (files[0], str(link), str(hard)):
        path = written(tmp_path, {"lowers": [{"file": files[0]}, {"file": twin}]})
        with pytest.raises(ConfigError, match=r"lowers\[1\]: .* is lowers\[0\] already"):
            config.load(path)
    upper = {"data": files[1], "index": files[0]}
    with pytest.raises(ConfigError, match=r"upper\.index: .* is lowers\[0\] already"):
        config.load(written(tmp_path, {"lowers": [{"file": files[0]}], "upper": upper}))


def test_at_most_255_lowers(tmp_path: Path) -> None:
    names = [tmp_path / f"l{i}" for i in range(256)]
    for name in names:
        name.write_bytes(b"")
    lowers = [{"file": str(name)} for name in names]
    assert len(config.load(written(tmp_path, {"lowers": lowers[:255]})).lower_paths()) == 255
    with pytest.raises(ConfigError, match="at most 255, found 256"):
        config.load(written(tmp_path, {"lowers": lowers}))


def test_missing_unreadable_and_special_configs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        config.load(str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="Is a directory"):
        config.load(str(tmp_path))
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ConfigError):
        config.load(str(tmp_path / "fifo"))
    (tmp_path / "cut").write_text('{"lowers": [')
    with pytest.raises(ConfigError, match="not JSON"):
        config.load(str(tmp_path / "cut"))


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ({"lowers": 5, "resultFile": "/run/r"}, "/run/r"),
        ({"resultFile": "/run/r"}, "/run/r"),
        ({"resultFile": "r"}, ""),
        ({"resultFile": "/run/../r"}, ""),
        ({"resultFile": 5}, ""),
        ({}, ""),
        ([], ""),
    ],
)
def test_result_file_is_found_in_a_wrong_config(value: Any, found: str, tmp_path: Path) -> None:
    assert config.result_file(written(tmp_path, value)) == found


def test_no_config_has_no_result_file(tmp_path: Path) -> None:
    assert config.result_file(str(tmp_path / "none")) == ""


@pytest.mark.parametrize("value", [None, {"lowers": [{"file": "/none"}]}])
def test_what_is_missing_says_so_by_number(value: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "none") if value is None else written(tmp_path, value)
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    assert caught.value.fields["errno"] == errno.ENOENT


def test_import_is_light() -> None:
    heavy = "{'lz4', 'zstandard', 'google_crc32c', 'dataclasses', 'typing', 'numpy'}"
    code = f"import sys, obdsup.format.config; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-S", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(config.__file__).parents[2],
    )
    assert result.stdout.strip() == "[]"
