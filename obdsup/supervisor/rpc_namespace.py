"""XML-RPC namespace ``obdsup`` on RUN/supervisor.sock, beside supervisord's own.

Each method is an operation of the control socket, carried out in a thread: the loop, in which
XML-RPC is answered, goes on (supervisord's deferred answers). XML-RPC knows no null and no number
beyond 32 bits: they become "" and a double, which is exact up to 2^53.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from supervisor.http import NOT_DONE_YET
from supervisor.xmlrpc import Faults, RPCError

from obdsup.errors import ObdError

if TYPE_CHECKING:
    from obdsup.supervisor.embedding import EmbeddedSupervisor

__all__ = ["Operations", "make_namespace", "plain"]

Operations = dict[str, Callable[[dict[str, Any], Callable[[str], None]], object]]
POLL_S = 0.005
FIRST_FAULT = 1000  # faults are this plus the exit code of the error's class
INT_MAX = 2**31 - 1
log = logging.getLogger(__name__)


def make_namespace(supervisord: EmbeddedSupervisor) -> ObdsupNamespace:
    """What supervisord calls to make the namespace."""
    return ObdsupNamespace(supervisord)


class ObdsupNamespace:
    """Public methods are what a client sees; their docstrings have supervisord's form."""

    def __init__(self, supervisord: EmbeddedSupervisor) -> None:
        self._loop = supervisord

    def status(self) -> object:
        """Return what `obdsup status --json` says

        @return struct result  Supervisor, workers, devices by phase, what is wrong
        """
        return self._defer("status")

    def devices(self) -> object:
        """Return all devices

        @return array result  One struct per device
        """
        return self._defer("device.list")

    def device(self, name: str) -> object:
        """Return one device

        @param string name    Of the device
        @return struct result  The device
        """
        return self._defer("device.show", name=name)

    def explain(self, name: str) -> object:
        """Return why a device is in its state, what was tried, what to do

        @param string name    Of the device
        @return struct result  The explanation
        """
        return self._defer("device.explain", name=name)

    def handover(self, name: str) -> object:
        """Move a device to a standby worker, without a kill

        @param string name    Of the device
        @return struct result  The device afterwards
        """
        return self._defer("device.handover", name=name)

    def resume(self, name: str) -> object:
        """Try a device in quarantine again

        @param string name    Of the device
        @return struct result  The device afterwards
        """
        return self._defer("device.resume", name=name)

    def upgrade_status(self) -> object:
        """Return where the last or present rollout of a release stands

        @return struct result  The rollout
        """
        return self._defer("upgrade.status")

    def events(self, newest: int = 50) -> object:
        """Return the last events, oldest first

        @param int newest     How many
        @return array result  One struct per event
        """
        return self._defer("events", newest=newest)

    def _defer(self, name: str, /, **fields: object) -> Callable[[], object]:
        operation = self._loop.operations.get(name)
        if operation is None:
            raise RPCError(Faults.UNKNOWN_METHOD, f"this supervisor has no operation {name}")
        deferred = _Deferred(self._loop, operation, fields)

        def answer() -> object:  # supervisord wants a plain function, with two attributes
            return deferred.result()

        vars(answer).update(delay=POLL_S, rpcinterface=self)
        return answer


class _Deferred:
    """One operation in its thread; supervisord asks for its result until it is there."""

    def __init__(
        self,
        loop: EmbeddedSupervisor,
        operation: Callable[[dict[str, Any], Callable[[str], None]], object],
        fields: dict[str, object],
    ) -> None:
        self._result: object = NOT_DONE_YET
        self._loop = loop
        threading.Thread(
            target=self._run, args=(operation, fields), name="rpc-operation", daemon=True
        ).start()

    def result(self) -> object:
        """The result, or NOT_DONE_YET.

        Raises:
            RPCError: what the operation failed with.
        """
        if isinstance(self._result, RPCError):
            raise self._result
        return self._result

    def _run(
        self,
        operation: Callable[[dict[str, Any], Callable[[str], None]], object],
        fields: dict[str, object],
    ) -> None:
        try:
            self._result = plain(operation(fields, lambda text: None))
        except ObdError as error:
            self._result = _fault(FIRST_FAULT + error.exit_code, str(error))
        except Exception as error:
            log.exception("operation by XML-RPC failed")
            self._result = _fault(Faults.FAILED, f"bug in the supervisor: {error!r}")
        time.sleep(2 * POLL_S)  # the loop asks no sooner than POLL_S after it asked last
        self._loop.call_soon(lambda: None)


def _fault(code: int, text: str) -> RPCError:
    made = RPCError(code)
    made.text = text
    return made


def plain(value: object) -> object:
    """The value in the types that XML-RPC has."""
    if value is None:
        return ""
    if isinstance(value, bool | float | str):
        return value
    if isinstance(value, int):
        return value if -INT_MAX <= value <= INT_MAX else float(value)
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value)
