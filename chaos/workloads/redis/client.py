"""The checking clients: real redis clients that remember what was acknowledged and read it back."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from chaos.rig.latency import Operation
from chaos.workloads.redis.checker import ERRORS_UNTIL_GIVING_UP, Checker
from chaos.workloads.redis.ledger import Ledger, Verdict

__all__ = ["FAILURES", "Client", "connect", "read_back", "wait_answering"]

KEYS_PER_CLIENT = 2000
SET_SHARE = 0.7
FAILURES = (redis.RedisError, OSError)


def connect(socket: Path, timeout_s: float) -> redis.Redis:
    """A client with one connection that reports every failure instead of trying again."""
    return redis.Redis(
        unix_socket_path=str(socket),
        socket_timeout=timeout_s,
        protocol=2,
        retry=Retry(NoBackoff(), 0),
        single_connection_client=True,
    )


def wait_answering(socket: Path, is_running: Callable[[], bool], timeout_s: float) -> None:
    """Waits until redis has loaded its data and answers.

    Raises:
        TimeoutError: it did not within the time, or its container ended.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            with connect(socket, timeout_s) as client:
                client.ping()
                return
        except FAILURES as error:
            if time.monotonic() > deadline or not is_running():
                raise TimeoutError(f"redis does not answer at {socket}: {error}") from error
            time.sleep(0.02)


class Client(Checker):
    """One client: SETs keys of its own, new ones and old ones again, and GETs them."""

    def __init__(
        self,
        number: int,
        seed: int,
        ledger: Ledger,
        socket: Path,
        timeout_s: float,
        pause_s: float = 0.0,
    ) -> None:
        super().__init__(f"client-{number}")
        self.set_cnt = 0
        self._number = number
        self._random = random.Random(f"{seed}/{number}")
        self._ledger = ledger
        self._socket = socket
        self._timeout_s = timeout_s
        self._pause_s = pause_s
        self._own: list[str] = []

    def run(self) -> None:
        while not self._stopping.is_set() and len(self.errors) < ERRORS_UNTIL_GIVING_UP:
            try:
                with connect(self._socket, self._timeout_s) as client:
                    while not self._stopping.wait(self._pause_s):
                        self._operate(client)
            except FAILURES as error:
                self.errors.append(f"{self.name}: {type(error).__name__}: {error}")
                self._stopping.wait(0.1)

    def _operate(self, client: redis.Redis) -> None:
        begun_ns = time.monotonic_ns()
        if not self._own or self._random.random() < SET_SHARE:
            self._set(client)
        else:
            self._get(client)
        self.operations.append(Operation(begun_ns, time.monotonic_ns()))

    def _set(self, client: redis.Redis) -> None:
        is_new = len(self._own) < KEYS_PER_CLIENT and self._random.random() < 0.5
        if is_new or not self._own:
            self._own.append(f"c{self._number}-{len(self._own)}")
            key = self._own[-1]
        else:
            key = self._random.choice(self._own)
        number, value = self._ledger.issue(key)
        if client.set(key, value) is not True:
            raise redis.ResponseError(f"SET {key} was not acknowledged")
        self._ledger.acknowledge(key, number)
        self.set_cnt += 1

    def _get(self, client: redis.Redis) -> None:
        key = self._random.choice(self._own)
        floor = self._ledger.floor(key)
        verdict = self._ledger.judge(key, _bytes(client.get(key)), floor)
        if verdict is not Verdict.GOOD:
            self.wrong.append(f"{self.name}: GET {key}: {verdict.value} (expected >= {floor})")


def read_back(socket: Path, ledger: Ledger, timeout_s: float) -> list[str]:
    """Reads every key ever written and returns what is wrong, one line per key.

    Raises:
        redis.RedisError, OSError: redis could not be asked.
    """
    wrong = []
    with connect(socket, timeout_s) as client:
        for key in ledger.written():
            floor = ledger.floor(key)
            verdict = ledger.judge(key, _bytes(client.get(key)), floor)
            if verdict is not Verdict.GOOD:
                wrong.append(f"read back {key}: {verdict.value} (expected >= {floor})")
    return wrong


def _bytes(value: Any) -> bytes | None:
    return value if value is None or isinstance(value, bytes) else str(value).encode()
