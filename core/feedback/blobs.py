"""Pictures of the feedback: one PNG file for each content, named by the SHA-256 of its pixels."""

from __future__ import annotations

import io
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from PIL import Image as PILImage
from PIL.PngImagePlugin import PngInfo

from core.errors import FeedbackError
from core.sequence import NOTICE, Image

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Blobs:
    """A folder of pictures. Files hold pixels and nothing else; drawn ones also say that they are."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, sha256: str) -> Path:
        """
        Raises:
            FeedbackError: that is no SHA-256.
        """
        if not _SHA256.fullmatch(sha256):
            raise FeedbackError("A picture is named by 64 hexadecimal digits", value=sha256)
        return self.folder / sha256[:2] / f"{sha256}.png"

    def has(self, sha256: str) -> bool:
        return self.path(sha256).is_file()

    def put(self, image: Image) -> str:
        """Stores a picture, unless it is there, and returns its SHA-256. The file is whole or not there.

        Raises:
            FeedbackError: it cannot be written.
        """
        path = self.path(image.sha256)
        if path.is_file() and (not image.generated or _is_marked(path)):
            return image.sha256
        part = path.with_name(f"{path.stem}.{secrets.token_hex(8)}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("xb") as file:
                file.write(_png(image))
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
            _sync_folder(path.parent)
        except OSError as error:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            what = f"A picture cannot be stored ({error.strerror or type(error).__name__})"
            remedy = "Make room, or allow writing to the folder of the pictures"
            raise FeedbackError(what, remedy=remedy) from error
        return image.sha256

    def read(self, sha256: str) -> PILImage.Image:
        """The picture in mode RGB.

        Raises:
            FeedbackError: missing, unreadable, or not the one that its name says.
        """
        return self._load(sha256)[1]

    def bare(self, sha256: str) -> bytes:
        """The picture as a PNG file with nothing but its pixels: what else is written into it could tell who drew it.

        Raises:
            FeedbackError: see ``read``.
        """
        content, _ = self._load(sha256)
        kept, at = [content[: len(_SIGNATURE)]], len(_SIGNATURE)
        while at < len(content):
            name = content[at + 4 : at + 8]
            end = at + 12 + int.from_bytes(content[at : at + 4])  # length, name, data, checksum
            if name[:1].isupper():  # no pixels without it
                kept.append(content[at:end])
            at = len(content) if name == b"IEND" else end
        return b"".join(kept)

    def _load(self, sha256: str) -> tuple[bytes, PILImage.Image]:
        """What is in the file, and its pixels."""
        try:
            content = self.path(sha256).read_bytes()
            with PILImage.open(io.BytesIO(content)) as file:
                pixels = file.convert("RGB")
        except FileNotFoundError as error:
            raise FeedbackError("The picture is not stored", value=sha256, remedy="It may be withdrawn") from error
        except (OSError, SyntaxError, ValueError) as error:
            raise FeedbackError("The picture is damaged", value=sha256, remedy="Restore it from a copy") from error
        if Image(pixels).sha256 != sha256:
            raise FeedbackError("The picture is not the one it was", value=sha256, remedy="Restore it from a copy")
        return content, pixels

    def delete(self, sha256: str) -> None:
        """
        Raises:
            FeedbackError: it is there and cannot be deleted.
        """
        self._unlink(self.path(sha256))

    def older_than(self, moment: float) -> Iterator[str]:
        """SHA-256 of the pictures that were written before a moment (seconds since 1970). Deletes, on the way, parts
        of files that were cut off before it."""
        for path in sorted(self.folder.glob("??/*")):
            with suppress(FileNotFoundError):
                if path.stat().st_mtime >= moment:
                    continue
                if path.suffix == ".part":
                    self._unlink(path)
                elif path.suffix == ".png" and _SHA256.fullmatch(path.stem):
                    yield path.stem

    def _unlink(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            what = f"A picture cannot be deleted ({error.strerror or type(error).__name__})"
            remedy = "Allow writing to the folder of the pictures"
            raise FeedbackError(what, remedy=remedy) from error


def _png(image: Image) -> bytes:
    clean = PILImage.frombytes("RGB", image.pixels.size, image.pixels.tobytes())  # no comment, no EXIF
    info = PngInfo()
    if image.generated:
        info.add_text("Comment", NOTICE)
    buffer = io.BytesIO()
    clean.save(buffer, "PNG", compress_level=3, pnginfo=info)
    return buffer.getvalue()


def _is_marked(path: Path) -> bool:
    try:
        with PILImage.open(path) as file:
            return file.info.get("Comment") == NOTICE
    except (OSError, SyntaxError):
        return False


def _sync_folder(folder: Path) -> None:
    """Makes a new name in a folder survive a power cut, where the system can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
