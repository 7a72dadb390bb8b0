"""Which packages a Depends field makes the demo download."""

from __future__ import annotations

from chaos.rig.packages import library_dependencies


def test_libraries_and_siblings_are_followed_and_services_are_not() -> None:
    control = (
        "lsb-base (>= 3.2-14), redis-tools (= 5:7.0.15-1), adduser,\n"
        " libc6 (>= 2.34), libssl3 (>= 3.0.0) | libssl1.1, debconf (>= 0.5) | debconf-2.0"
    )
    assert library_dependencies(control) == ["redis-tools", "libc6", "libssl3"]


def test_no_dependencies() -> None:
    assert library_dependencies("") == []
