"""Dependencies between the packages point one way: a walk over the syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPO

# Package -> what of ours it may import, besides itself and obdsup.errors.
ALLOWED = {
    "obdsup.format": set(),
    "obdsup.state": set(),
    "obdsup.worker": {"obdsup.format", "obdsup.state", "obdsup._native"},
    "obdsup.image": {"obdsup.format", "obdsup._tools"},
    "obdsup.supervisor": {"obdsup.state"},
    "obdsup.cli": {"obdsup.format", "obdsup.image", "obdsup.state"},
    # the judge of the guest's kernel log, and the stand-ins for containerd and overlaybd-tcmu
    "chaos": {"obdsup.state", "guest.dmesg", "guest.foreign"},
    "guest.foreign": set(),
}
EVERYBODY = {"obdsup", "obdsup.errors"}  # the version and the errors


def modules(package: str) -> list[Path]:
    return sorted((REPO / package.replace(".", "/")).rglob("*.py"))


def imports(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """(line, absolute module name) of every import, also those inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base]).rstrip(".")
            if base == "obdsup":
                yield from ((node.lineno, f"obdsup.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, base
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module":
            argument = node.args[0]
            if isinstance(argument, ast.Constant):
                yield node.lineno, str(argument.value)


def is_allowed(package: str, name: str) -> bool:
    if name.split(".")[0] not in ("obdsup", "chaos", "guest", "tests"):
        return True
    if name in EVERYBODY or name == "obdsup.__version__":
        return True
    own = {package, *ALLOWED[package]}
    return any(name == one or name.startswith(one + ".") for one in own)


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_imports_point_one_way(package: str) -> None:
    paths = modules(package)
    assert paths, f"{package} has no modules"
    wrong = []
    for path in paths:
        inside = ".".join(path.relative_to(REPO).with_suffix("").parts[:-1])
        for line, name in imports(ast.parse(path.read_text(), str(path)), inside):
            if not is_allowed(package, name):
                wrong.append(f"{path.relative_to(REPO)}:{line} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_the_walk_finds_a_wrong_edge() -> None:
    source = "def f():\n    from obdsup.worker import loop\n    from ..format import zfile\n"
    found = [name for _, name in imports(ast.parse(source), "obdsup.supervisor")]
    assert found == ["obdsup.worker", "obdsup.format"]
    assert not any(is_allowed("obdsup.supervisor", name) for name in found)
    assert is_allowed("obdsup.supervisor", "obdsup.state.database")


def test_state_and_format_are_leaves() -> None:
    assert ALLOWED["obdsup.format"] == set()
    assert ALLOWED["obdsup.state"] == set()
