"""What the kernel said: the log since a marker, judged for one block device."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterable

__all__ = ["KernelLog", "is_refutable", "offending"]

# What no kernel says about a device that is well.
TROUBLE = re.compile(
    r"I/O error|Buffer I/O|EXT4-fs (error|warning)|JBD2: .*(error|abort)|Aborting journal"
    r"|[Rr]emounting filesystem read-only|critical \w+ error|lost (async|sync) page write",
)
# What a kernel of our own may not say at all while the device is mounted and its workers die.
ANY_MENTION = re.compile(
    r"target|tcmu|tcm_loop|\bsd [0-9]|\[sd[a-z]+\]|\bsd[a-z]+\b|ext4|jbd2|broken|Logical unit"
    r"|I/O error|Aborting journal|\bBUG\b|WARNING:|Oops|Call Trace|blocked for more than",
    re.IGNORECASE,
)

# Some kernels (6.18 among them) say it of data that is on disk: what is left of a large folio whose
# dirty part was truncated away stays tagged dirty in the page cache. DESIGN.md, "a false alarm".
FALSE_ALARM = re.compile(
    r"EXT4-fs warning \(device [\w-]+\): ext4_evict_inode:\d+: inode #\d+: comm umount:"
    r" data will be lost"
)


def is_refutable(line: str) -> bool:
    """Whether ext4 announces a loss at an unmount: true or not, the data read back shows it."""
    return FALSE_ALARM.fullmatch(line) is not None


def offending(lines: Iterable[str], device: str, *, is_strict: bool) -> list[str]:
    """The lines that count as errors.

    Args:
        device: kernel name, such as ``loop3``. Other devices of the host are not ours to judge.
        is_strict: the machine is there for this run alone: any mention of the storage stack counts.
    """
    named = re.compile(rf"\b{re.escape(device)}\b")
    if is_strict:
        return [line for line in lines if ANY_MENTION.search(line)]
    return [line for line in lines if TROUBLE.search(line) and named.search(line)]


class KernelLog:
    """The kernel log from the construction of this object on (or from ``mark``)."""

    def __init__(self) -> None:
        self._marker = ""
        self.mark()

    def mark(self) -> None:
        """Forgets what was said until now."""
        self._marker = f"obdsup-demo: marker {uuid.uuid4()}"
        try:
            with open("/dev/kmsg", "wb", buffering=0) as log:
                log.write(f"<6>{self._marker}\n".encode())
        except OSError:
            self._marker = ""

    def lines(self) -> list[str] | None:
        """The messages since the marker; None where the log can not be read or was overwritten."""
        if not self._marker:
            return None
        try:
            fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            messages = list(_messages(fd))
        finally:
            os.close(fd)
        for index, message in enumerate(messages):
            if self._marker in message:
                return messages[index + 1 :]
        return None


def _messages(fd: int) -> Iterable[str]:
    while True:
        try:
            record = os.read(fd, 8192)
        except BlockingIOError:
            return
        except BrokenPipeError:
            continue  # records were overwritten while we read: the next read goes on
        text = record.decode(errors="replace").split("\n", 1)[0]
        yield text.partition(";")[2]
