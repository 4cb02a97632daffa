"""Files that visitors upload: read once, de-identified, and deleted."""

from __future__ import annotations

import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import TypeVar

from core.data.images import open_image
from core.data.stack import Stack, open_stack
from core.errors import ImageError
from core.sequence import Image

REMEMBERED_BYTES = 256 << 20
REMEMBERED_SECONDS = 600.0

Read = TypeVar("Read", Image, Stack)


class Uploads:
    """
    Args:
        folder: where uploads arrive. A file from elsewhere is refused, and stays.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._recent: OrderedDict[tuple, tuple[float, int, Image | Stack]] = OrderedDict()
        self._lock = Lock()

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
        if any(not file.is_relative_to(self.folder) for file in files):
            raise ImageError("The file did not come through the upload", remedy="Upload it")
        key = (kind, *files)
        try:
            if not all(file.is_file() for file in files):
                raise ImageError("The upload is gone", remedy="Upload the file again")
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
                with contextlib.suppress(OSError):  # the upload's folder goes too, unless another file is in it
                    file.parent.rmdir()

    def _remember(self, key: tuple, found: Image | Stack) -> None:
        size = found.values.nbytes if isinstance(found, Stack) else 3 * found.pixels.width * found.pixels.height
        with self._lock:
            self._recent[key] = (time.monotonic(), size, found)
            self._recent.move_to_end(key)
            now, total = time.monotonic(), sum(size for _, size, _ in self._recent.values())
            while self._recent:
                oldest, (since, size, _) = next(iter(self._recent.items()))
                if total <= REMEMBERED_BYTES and now - since < REMEMBERED_SECONDS:
                    return
                del self._recent[oldest]
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
                path.parent.rmdir()
