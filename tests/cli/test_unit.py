"""The systemd unit, as systemd itself reads it, and that its directives are what the code needs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import obdsup
from obdsup.cli.__main__ import build_parser
from obdsup.supervisor.__main__ import parse_arguments
from tests.conftest import REPO

UNIT = REPO / "packaging" / "systemd" / "obdsup.service"
INSTALLED = "/opt/obdsup/current"
MOST_EXPOSED = 6.0  # what systemd calls "medium"

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


def directives() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        name, separator, value = line.partition("=")
        if separator and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


@needs_systemd
def test_systemd_finds_nothing_wrong_with_it(tmp_path: Path) -> None:
    unit = tmp_path / "obdsup.service"
    unit.write_text(UNIT.read_text().replace(INSTALLED, str(Path(sys.executable).parent.parent)))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True
    )
    said = [line for line in (done.stdout + done.stderr).splitlines() if "obdsup" in line]
    assert (done.returncode, said) == (0, [])


@needs_systemd
def test_systemd_calls_it_no_more_exposed_than_medium() -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(UNIT)],
        capture_output=True, text=True,
    )  # fmt: skip
    found = re.search(r"Overall exposure level for obdsup.service: ([0-9.]+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert float(found[1]) <= MOST_EXPOSED


def test_its_commands_exist() -> None:
    (start,), (reload,) = directives()["ExecStart"], directives()["ExecReload"]
    assert start.split()[1] == "supervisor"
    assert parse_arguments(start.split()[2:]).provider == "auto"
    arguments = reload.split()[1:]
    assert build_parser(arguments[0]).parse_args(arguments).command == "reload"


def test_the_supervisor_says_what_it_is_also_into_a_pipe(tmp_path: Path) -> None:
    directories = ["--run-dir", str(tmp_path / "run"), "--state-dir", str(tmp_path / "state")]
    environment = {name: value for name, value in os.environ.items() if name[:6] != "PYTHON"}
    done = subprocess.run(
        [sys.executable, "-m", "obdsup.supervisor", *directories, "--provider", "load", "--check"],
        cwd=REPO, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["version"] == obdsup.__version__
    assert list(tmp_path.iterdir()) == [], "a check makes nothing"


def test_workers_outlive_it_and_no_directive_gives_it_mounts_of_its_own() -> None:
    found = directives()
    assert found["KillMode"] == ["process"]
    assert found["RuntimeDirectoryPreserve"] == ["yes"]
    assert found["OOMPolicy"] == ["continue"]
    of_mounts = re.compile(
        r"(Private(Tmp|Devices|Mounts|IPC)|Protect(System|Home|Kernel\w+|ControlGroups|Proc|Clock)"
        r"|(ReadOnly|ReadWrite|Inaccessible|Exec|NoExec|Bind|BindReadOnly)Paths|TemporaryFileSystem"
        r"|Root\w+|MountFlags|ProcSubset|DynamicUser)$"
    )
    assert [name for name in found if of_mounts.match(name)] == []


def test_modules_are_loaded_for_it_that_it_may_not_load_itself() -> None:
    listed = UNIT.with_name("modules-load.conf").read_text().split("\n")
    source = (REPO / "obdsup" / "supervisor" / "provider" / "tcmu.py").read_text()
    needed = re.search(r"^_MODULES = \((.*)\)$", source, re.MULTILINE)
    assert needed is not None
    assert set(re.findall(r'"(\w+)"', needed[1])) <= set(listed)
