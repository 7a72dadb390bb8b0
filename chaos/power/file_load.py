"""The load of a recording on an ext4 of its own: files replaced whole, fsynced, then marked."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from pathlib import Path

from chaos.power.stamps import stamped

__all__ = ["FILE_CNT", "FileLoad", "file_content"]

FILE_CNT = 12
PAUSE_S = 0.02  # an fsync is a flush of everything below: not all the time
_MAX_SECTORS = 48


def file_content(number: int, generation: int, sector_cnt: int) -> bytes:
    """What file ``number`` holds in a generation."""
    return stamped(number << 20, sector_cnt, generation)


class FileLoad:
    """Replaces files until stopped: write, fsync, rename, fsync of the folder, mark."""

    def __init__(self, folder: Path, seed: int, mark: Callable[[str], None]) -> None:
        self.errors: list[str] = []
        self._folder = folder
        self._chance = random.Random(f"{seed}/files")
        self._mark = mark
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="files")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._is_stopping.set()
        self._thread.join()

    def _run(self) -> None:
        generation = 0
        folder_fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            while not self._is_stopping.wait(PAUSE_S):
                generation += 1
                number = self._chance.randrange(FILE_CNT)
                content = file_content(number, generation, self._chance.randint(1, _MAX_SECTORS))
                self._replace(folder_fd, f"f{number}", content)
                self._mark(f"file f{number} {generation}")
        except OSError as error:
            self.errors.append(f"files: {error}")
        finally:
            os.close(folder_fd)

    def _replace(self, folder_fd: int, name: str, content: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        fd = os.open(f"{name}.new", flags, 0o600, dir_fd=folder_fd)
        try:
            os.write(fd, content)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(f"{name}.new", name, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
        os.fsync(folder_fd)
