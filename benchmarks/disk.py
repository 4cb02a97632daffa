"""A small file system of its own, which can be filled to the last byte."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SIZE = 2 << 30
BLOCK = 4096


class NoDisk(Exception):
    """No file system can be made here; the message says why."""


class Disk:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self) -> None:
        """Leaves no room at all."""
        with self._filler.open("wb") as file:
            size, step = 0, SIZE
            while step >= BLOCK:
                try:
                    os.posix_fallocate(file.fileno(), size, step)
                    size += step
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    step //= 2

    def free(self) -> None:
        self._filler.unlink()


@contextmanager
def small_disk(folder: Path) -> Iterator[Disk]:
    """One that is mounted in a folder, which must be empty. Only root may.

    Raises:
        NoDisk: it cannot be mounted here.
    """
    image, mounted = folder / "image", folder / "mounted"
    if os.getuid() != 0 or not shutil.which("mkfs.ext4"):
        raise NoDisk("Only root can mount a file system, with mkfs.ext4 and mount")
    with image.open("wb") as file:
        file.truncate(SIZE)
    mounted.mkdir()
    for command in (["mkfs.ext4", "-q", "-m", "0", str(image)], ["mount", "-o", "loop", str(image), str(mounted)]):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise NoDisk(f"{command[0]}: {done.stderr.strip()}")
    try:
        yield Disk(mounted)
    finally:
        subprocess.run(["umount", "--lazy", str(mounted)], check=True)
