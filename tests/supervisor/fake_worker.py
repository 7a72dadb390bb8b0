"""A worker process that speaks the protocol and serves nothing: a ring is a lock on the journal.

It keeps the promises the supervisor builds on: one server per journal (flock), generations that
only grow, a journal header that is checked, counters of a take-over. Misbehaviour is planted by
files in the folder of the first lower: ``hang-OP``, ``crash-OP``, ``fail-OP`` (optionally only for
the worker id written in the file), ``journal-bad``; ``idle``: nothing is asked of it.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import socket
import struct
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from obdsup.errors import AlreadyServed, FormatError, NativeError, ObdError, StateError
from obdsup.format import config
from obdsup.state import messages
from obdsup.state.journal import JournalReader, crc32c
from obdsup.state.process import identify

SIZE_BYTES = 64 << 20
GENERATION = 128
COUNTERS = 256


class FakeWorker:
    def __init__(self, worker_id: str) -> None:
        self.id = worker_id
        self.served: dict[str, dict[str, Any]] = {}
        self.folder = Path("/nonexistent")
        self.lock = threading.Lock()
        self.eaten: list[bytes] = []
        self.changing: list[str] = []  # devices with a serve or drain under way

    def planted(self, what: str) -> bool:
        path = self.folder / what
        if not path.exists():
            return False
        return path.read_text().strip() in ("", self.id)

    def misbehave(self, op: str) -> None:
        if self.planted(f"crash-{op}"):
            os.kill(os.getpid(), 9)
        while self.planted(f"hang-{op}"):
            (self.folder / f"hanging-{op}").touch()
            time.sleep(0.01)
        if self.planted(f"fail-{op}"):
            raise FormatError("/fake", 12, "good", "bad", field=f"planted failure of {op}")

    def answer(self, body: dict[str, Any], fds: list[int]) -> tuple[dict[str, Any], list[int]]:
        op = str(body["op"])
        if "config" in body.get("image", {}):
            named = config.load(body["image"]["config"])
            upper = {"data": named.upper[0], "index": named.upper[1]} if named.upper else None
            body["image"] = {"lowers": named.lower_paths(), "upper": upper}
        if "image" in body and body["image"]["lowers"]:
            self.folder = Path(body["image"]["lowers"][0]).parent
        if op not in ("serve", "drain"):
            self.misbehave(op)
            return getattr(self, "op_" + op)(body, fds)  # type: ignore[no-any-return]
        self.changing.append(body["device"])
        try:
            self.misbehave(op)
            return getattr(self, "op_" + op)(body, fds)  # type: ignore[no-any-return]
        finally:
            self.changing.remove(body["device"])

    def op_hello(self, body: dict[str, Any], fds: list[int]) -> tuple[dict[str, Any], list[int]]:
        me = identify(os.getpid())
        assert me is not None
        rows, out = [], []
        for name, one in self.served.items():
            out += one["fds"]
            ring = {**one["ring"], "fd_count": len(one["fds"]) - 1}
            row = {"name": name, "generation": one["generation"], "ring": ring}
            rows.append({**row, **one["told"]} if body.get("device") == name else row)
        return {
            **messages.announcement(), "pid": me.pid, "start_time": me.start_time,
            "release": "fake",
            "devices": rows, "changing": list(self.changing),
        }, out  # fmt: skip

    def op_prewarm(self, body: dict[str, Any], fds: list[int]) -> tuple[dict[str, Any], list[int]]:
        image = body["image"]
        is_writable = image["upper"] is not None
        return {"size_bytes": SIZE_BYTES, "is_writable": is_writable, "files": image}, []

    def op_forget(self, body: dict[str, Any], fds: list[int]) -> tuple[dict[str, Any], list[int]]:
        if body.get("others"):
            with (self.folder / "forgot-others").open("a") as file:
                file.write(f"{self.id}\n")
        return {}, []

    def op_serve(self, body: dict[str, Any], fds: list[int]) -> tuple[dict[str, Any], list[int]]:
        with (self.folder / "serves").open("a") as serves:
            serves.write(f"{body['mode']}:{body['options'].get('blamed')}\n")
        lock_fd = os.open(f"/proc/self/fd/{fds[-1]}", os.O_RDWR)
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock_fd)
            raise AlreadyServed(f"{body['device']} is served by another") from None
        reader = JournalReader(lock_fd)
        try:
            if body["mode"] == "fresh":
                self.make_journal(lock_fd, body)
            elif self.planted("journal-bad"):
                (self.folder / "journal-bad").unlink()
                raise StateError("planted", code="OBD_E_JOURNAL")
            header = self.checked(reader, body)
            assert header
            if body["generation"] <= reader.generation():
                raise StateError("generation is over", code="OBD_E_STALE")
        except ObdError:
            os.close(lock_fd)
            raise
        os.pwrite(lock_fd, struct.pack("<Q", body["generation"]), GENERATION)
        os.pwrite(lock_fd, struct.pack("<QQ", os.getpid(), body["generation"]), COUNTERS + 16)
        with self.lock:
            self.served[body["device"]] = {
                "fds": list(fds), "lock": lock_fd, "ring": body["ring"],
                "generation": body["generation"],
                "told": {"image": body["image"], "spec": body.get("spec")},
            }  # fmt: skip
        fds.clear()
        threading.Thread(target=self.complete_commands, args=(lock_fd,), daemon=True).start()
        answer: dict[str, Any] = {"recovered": 3, "already_done": 1, "dropped": 0}
        if self.planted("poisoned"):
            cdb = "2a000000000800000800"
            answer["poisoned"] = [{"cdb": cdb, "lba": 8, "sectors": 8, "deaths": 3}]
        return {**answer, "attach_ns": 1000}, []

    def complete_commands(self, fd: int) -> None:
        """Progress: the counter the supervisor tells a crash loop by."""
        completed = 0
        while any(one["lock"] == fd for one in list(self.served.values())):
            completed += not self.planted("idle")
            if self.planted("eat-memory"):
                self.eaten.append(os.urandom(4 << 20))
            os.pwrite(fd, struct.pack("<Q", completed), COUNTERS + 7 * 8)
            time.sleep(0.01)

    def checked(self, reader: JournalReader, body: dict[str, Any]) -> bool:
        try:
            header = reader.header()
        except StateError as error:
            raise StateError(str(error), code="OBD_E_JOURNAL") from error
        for what, expected in (("boot_id", body["boot_id"]), ("device_uuid", body["uuid"])):
            if getattr(header, what) != expected:
                raise StateError(f"journal of another {what}", code="OBD_E_JOURNAL")
        return True

    def make_journal(self, fd: int, body: dict[str, Any]) -> None:
        raw = bytearray(8192)
        struct.pack_into(
            "<8sII16s16sIIIIIIQ", raw, 0, b"OBDJRNL\0", 1, 4096, uuid.UUID(body["boot_id"]).bytes,
            uuid.UUID(body["uuid"]).bytes, 1, 2112, 256, 128, 4096, 0, body["ring"]["map_bytes"],
        )  # fmt: skip
        struct.pack_into("<I", raw, 124, crc32c(bytes(raw[:124])))
        os.ftruncate(fd, 0)
        os.pwrite(fd, raw, 0)

    def op_drain(self, body: dict[str, Any], fds: list[int]) -> tuple[dict[str, Any], list[int]]:
        one = self.served.pop(body["device"], None)
        if one is None:
            raise StateError("not served", code="NOT_SERVED")
        for fd in [*one["fds"], one["lock"]]:
            os.close(fd)
        return {}, []

    def op_stats(self, body: dict[str, Any], fds: list[int]) -> tuple[dict[str, Any], list[int]]:
        return {"devices": []}, []

    def op_stop(self, body: dict[str, Any], fds: list[int]) -> tuple[dict[str, Any], list[int]]:
        if self.served:
            raise StateError("serves a device", code="SERVING")
        threading.Timer(0.01, os._exit, (0,)).start()
        return {}, []

    def serve_peer(self, sock: socket.socket) -> None:
        while True:
            packet = messages.receive(sock)
            if packet is None:
                sock.close()
                return
            number, v = packet.body.get("id"), packet.version
            try:
                body, fds = self.answer(packet.body, packet.fds)
                messages.send(sock, {"id": number, "ok": True, **body}, fds, v)
            except ObdError as error:
                messages.send(sock, {"id": number, "ok": False, "error": error.to_json()}, None, v)
            except OSError:
                failure = NativeError("fake", op="fake", code="OBD_E_IO")
                refusal = {"id": number, "ok": False, "error": failure.to_json()}
                messages.send(sock, refusal, None, v)
            packet.close_fds()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--id", required=True)
    parser.add_argument("--socket", required=True)
    options = parser.parse_args()
    worker = FakeWorker(options.id)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(options.socket)
    listener.listen(16)
    print(f"fake worker {options.id} listens", file=sys.stderr, flush=True)
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=worker.serve_peer, args=(sock,), daemon=True).start()


if __name__ == "__main__":
    main()
