"""Pictures of the feedback: one PNG file for each content, named by the SHA-256 of its pixels."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from PIL import Image as PILImage
from PIL import UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from core.errors import FeedbackError
from core.feedback.places import PART, place
from core.sequence import NOTICE, Image

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Blobs:
    """
    Files hold pixels and nothing else; drawn ones also say that they are.

    Args:
        where: a folder, or a URL that fsspec knows; of this store alone.

    Raises:
        FeedbackError: fsspec does not know the URL, or lacks a package for it.
    """

    def __init__(self, where: str | Path) -> None:
        self._place = place(where)

    def has(self, sha256: str) -> bool:
        with _said("looked for"):
            return self._place.has(_name(sha256))

    def put(self, image: Image) -> str:
        """Stores a picture, unless it is there, and returns its SHA-256. The file is whole or not there.

        Raises:
            FeedbackError: it cannot be written.
        """
        name = _name(image.sha256)
        with _said("stored"):
            if not self._place.has(name) or (image.generated and not self._is_marked(name)):
                self._place.write(name, _png(image))
        return image.sha256

    def _is_marked(self, name: str) -> bool:
        try:
            with PILImage.open(io.BytesIO(self._place.read(name))) as file:
                return file.info.get("Comment") == NOTICE
        except (FileNotFoundError, UnidentifiedImageError, SyntaxError):
            return False

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
        with _said("read"):
            try:
                content = self._place.read(_name(sha256))
            except FileNotFoundError as error:
                raise FeedbackError("The picture is not stored", value=sha256, remedy="It may be withdrawn") from error
        try:
            with PILImage.open(io.BytesIO(content)) as file:
                pixels = file.convert("RGB")
        except (OSError, SyntaxError, ValueError) as error:
            raise FeedbackError("The picture is damaged", value=sha256, remedy="Restore it from a copy") from error
        if Image(pixels).sha256 != sha256:
            raise FeedbackError("The picture is not the one it was", value=sha256, remedy="Restore it from a copy")
        return content, pixels

    def copy(self, sha256: str, target: Path) -> bool:
        """Puts the file at a path beside; whether it was there.

        Raises:
            FeedbackError: it cannot be read, or written there.
        """
        with _said("copied"), suppress(FileNotFoundError):
            self._place.copy(_name(sha256), target)
            return True
        return False

    def delete(self, sha256: str) -> None:
        """
        Raises:
            FeedbackError: it is there and cannot be deleted.
        """
        with _said("deleted"):
            self._place.delete(_name(sha256))

    def older_than(self, moment: float) -> Iterator[str]:
        """SHA-256 of the pictures that were written before a moment (seconds since 1970). Deletes, on the way, parts
        of files that were cut off before it.

        Raises:
            FeedbackError: it cannot be told.
        """
        with _said("looked for"):
            for name, written in self._place.names():
                sha256 = name.rpartition("/")[2].removesuffix(".png")
                if written >= moment:
                    continue
                if name.endswith(PART):
                    self._place.delete(name)
                elif name.endswith(".png") and _SHA256.fullmatch(sha256):
                    yield sha256


def _name(sha256: str) -> str:
    """
    Raises:
        FeedbackError: that is no SHA-256.
    """
    if not _SHA256.fullmatch(sha256):
        raise FeedbackError("A picture is named by 64 hexadecimal digits", value=sha256)
    return f"{sha256[:2]}/{sha256}.png"


@contextmanager
def _said(what: str) -> Iterator[None]:
    """Says which of our doings failed."""
    try:
        yield
    except OSError as error:
        remedy = "Make room, or see to it that the place of the pictures can be reached and written"
        problem = f"A picture cannot be {what} ({error.strerror or type(error).__name__})"
        raise FeedbackError(problem, remedy=remedy) from error


def _png(image: Image) -> bytes:
    clean = PILImage.frombytes("RGB", image.pixels.size, image.pixels.tobytes())  # no comment, no EXIF
    info = PngInfo()
    if image.generated:
        info.add_text("Comment", NOTICE)
    buffer = io.BytesIO()
    clean.save(buffer, "PNG", compress_level=3, pnginfo=info)
    return buffer.getvalue()
