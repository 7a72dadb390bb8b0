"""supervisorctl plug-in: ``obdsup devices|device|explain|handover|resume|upgrade|events``.

Runs in supervisorctl and speaks XML-RPC to namespace ``obdsup`` of the supervisor. It is named in
packaging/supervisorctl.conf; supervisorctl's own commands work without it.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any
from xmlrpc.client import Fault

from supervisor.supervisorctl import ControllerPluginBase, LSBInitExitStatuses

from obdsup.cli.device import print_devices
from obdsup.cli.events import print_events
from obdsup.cli.explain import print_explanation
from obdsup.cli.output import print_fields

__all__ = ["ObdsupPlugin", "make_plugin"]

USAGE = """obdsup devices             all devices
obdsup device NAME         everything about one
obdsup explain NAME        why it is in its state, what was tried, what to do
obdsup handover NAME       move it to a standby worker
obdsup resume NAME         try a device in quarantine again
obdsup upgrade             where the rollout of a release stands
obdsup events [N]          the last N events (50)"""


class ObdsupPlugin(ControllerPluginBase):  # type: ignore[misc]
    """Adds one command, ``obdsup``, to supervisorctl."""

    def do_obdsup(self, text: str) -> None:
        """Carries out one line; supervisorctl's exit status tells whether it worked."""
        words = text.split()
        action, rest = (words[0], words[1:]) if words else ("", [])
        found = self._ACTIONS.get(action)
        if found is None or len(rest) not in found[0]:
            self._fail(USAGE)
            return
        if not self.ctl.upcheck():
            return
        try:
            printed = io.StringIO()
            with redirect_stdout(printed):
                found[1](self.ctl.get_server_proxy().obdsup, *rest)
        except Fault as fault:
            self._fail(f"obdsup: {fault.faultString}")
        else:
            self.ctl.output(printed.getvalue().rstrip("\n"))

    def help_obdsup(self) -> None:
        """``help obdsup``."""
        self.ctl.output(USAGE)

    def _fail(self, text: str) -> None:
        self.ctl.output(text)
        self.ctl.exitstatus = LSBInitExitStatuses.GENERIC

    _ACTIONS: dict[str, tuple[tuple[int, ...], Callable[..., None]]] = {
        "devices": ((0,), lambda server: print_devices(server.devices())),
        "device": ((1,), lambda server, name: print_fields(server.device(name))),
        "explain": ((1,), lambda server, name: print_explanation(server.explain(name))),
        "handover": ((1,), lambda server, name: print_devices([server.handover(name)])),
        "resume": ((1,), lambda server, name: print_devices([server.resume(name)])),
        "upgrade": ((0,), lambda server: print_fields(server.upgrade_status())),
        "events": ((0, 1), lambda server, n="50": print_events(server.events(_number(n)))),
    }


def _number(text: str) -> int:
    if not text.isdecimal():
        raise Fault(LSBInitExitStatuses.GENERIC, f"{text} is not a number of events")
    return int(text)


def make_plugin(controller: Any) -> ObdsupPlugin:
    """What supervisorctl calls."""
    return ObdsupPlugin(controller)
