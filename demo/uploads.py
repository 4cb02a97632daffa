"""Files that visitors upload: read once, de-identified, and deleted."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Lock, Semaphore
from typing import TypeVar

from core.data.images import open_image
from core.data.stack import Stack, open_stack
from core.errors import ImageError
from core.sequence import Image

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

PREFIX = "unimed-demo-"
MOST_READERS = 2
"""Files that are decoded at the same time: each may need as much memory as a whole volume."""
REMEMBERED_BYTES = 256 << 20
REMEMBERED_SECONDS = 600.0

_SHA256 = re.compile("[0-9a-f]{64}")
Read = TypeVar("Read", Image, Stack)


@contextlib.contextmanager
def own_folder() -> Iterator[Path]:
    """A temporary folder for as long as the block lasts. Those that killed processes have left behind are deleted."""
    with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as name:
        folder, lock = Path(name), _lock(Path(name))
        for other in folder.parent.glob(f"{PREFIX}*"):
            if other != folder and (abandoned := _lock(other)) is not None:
                if any(other.iterdir()):  # an empty one may belong to a process that is about to lock it
                    shutil.rmtree(other, ignore_errors=True)
                os.close(abandoned)
        yield folder
        if lock is not None:
            os.close(lock)


def _lock(folder: Path) -> int | None:
    """Locks a folder of this user until the process ends. None where another process has it, or where nobody can."""
    if fcntl is None:
        return None
    handle = None
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
        if os.fstat(handle).st_uid == os.getuid():
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return handle
    if handle is not None:
        os.close(handle)
    return None


class Uploads:
    """
    Args:
        folder: where uploads arrive. A file from elsewhere is refused, and stays.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._recent: OrderedDict[tuple, tuple[float, int, Image | Stack]] = OrderedDict()
        self._lock, self._reading = Lock(), Semaphore(MOST_READERS)

    def picture(self, path: str) -> Image:
        """
        Raises:
            ImageError: it is not a picture of a supported kind, or did not come through the upload.
        """
        return self._read("picture", [path], lambda files: open_image(files[0]))

    def scan(self, paths: list[str]) -> Stack:
        """A picture, a volume, or a series of DICOM files.

        Raises:
            ImageError: they cannot be read, do not belong together, or did not come through the upload.
        """
        return self._read("scan", paths, open_stack)

    def _read(self, kind: str, paths: list[str], read: Callable[[list[Path]], Read]) -> Read:
        """Reads files and deletes them, because their content and their names may hold patient data.

        Gradio names an upload by its content, so two visitors with the same file share one path. What was read, without
        its header, is therefore remembered for a while: for whoever comes second.
        """
        files = [Path(path).resolve() for path in paths]
        if not files or not all(self._is_upload(file) for file in files):
            raise ImageError("The file did not come through the upload", remedy="Upload it")
        key = (kind, *files)
        try:
            if not all(file.is_file() for file in files):
                raise ImageError("The upload is gone", remedy="Upload the file again")
            with self._reading:
                found = read(files)
            self._remember(key, found)
            return found
        except ImageError:
            if (known := self._known(key)) is not None:
                return known
            raise
        finally:
            for file in files:
                file.unlink(missing_ok=True)

    def _is_upload(self, file: Path) -> bool:
        """Whether a path is one that Gradio gives to uploads: below a folder named by the content's SHA-256."""
        return file.parent.parent == self.folder and _SHA256.fullmatch(file.parent.name) is not None

    def forget(self) -> None:
        """Forgets what was read some time ago, and deletes the folders that it has left behind: not at once, because
        the same file may just be uploaded into one of them again."""
        for folder in self.folder.iterdir():
            with contextlib.suppress(OSError):  # it is not empty
                if _SHA256.fullmatch(folder.name) and time.time() - folder.stat().st_mtime >= REMEMBERED_SECONDS:
                    folder.rmdir()
        with self._lock:
            now = time.monotonic()
            old = [key for key, (since, _, _) in self._recent.items() if now - since >= REMEMBERED_SECONDS]
            for key in old:
                del self._recent[key]

    def _remember(self, key: tuple, found: Image | Stack) -> None:
        size = found.values.nbytes if isinstance(found, Stack) else 3 * found.pixels.width * found.pixels.height
        with self._lock:
            self._recent[key] = (time.monotonic(), size, found)
            self._recent.move_to_end(key)
            total = sum(size for _, size, _ in self._recent.values())
            while total > REMEMBERED_BYTES:
                _, (_, size, _) = self._recent.popitem(last=False)
                total -= size

    def _known(self, key: tuple) -> Image | Stack | None:
        with self._lock:
            since, _, found = self._recent.get(key, (0.0, 0, None))
            return found if time.monotonic() - since < REMEMBERED_SECONDS else None


def delete_old_uploads(paths: set[str], seconds: float) -> None:
    """Deletes uploads that nobody came to read, because a page was closed or a request was taken back in the queue."""
    for path in map(Path, list(paths)):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_ctime >= seconds:
                path.unlink()


def delete_copies(folder: Path, uploads: set[str], seconds: float) -> None:
    """Deletes what Gradio has written of files that came inside of an MCP call: it uploads them to itself at once, and
    forgets these. Several calls may share one, so that it is not deleted with the upload."""
    for path in folder.glob("*/file*"):
        if str(path) not in uploads and _SHA256.fullmatch(path.parent.name):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_ctime >= seconds:
                    path.unlink()
