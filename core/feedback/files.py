"""The files of an import: a folder, a zip, or what a browser has sent. Nothing of a zip is unpacked to the disk: its
files may hold names of patients."""

from __future__ import annotations

import io
import os
import posixpath
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from core.errors import FeedbackError

MOST_FILES = 20_000
MOST_BYTES = 1 << 30
"""Of one file, read as a whole."""
DOCUMENTS = (".json", ".jsonl")
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError)
"""What comes of zips that are damaged, encrypted or packed in an unknown way."""


@dataclass(frozen=True)
class Files:
    """
    Attributes:
        names: of all files, sorted, with forward slashes.
        main: the one that was named, where one was.
    """

    names: tuple[str, ...]
    main: str | None
    _read: Callable[[str], bytes]

    @cached_property
    def _there(self) -> frozenset[str]:
        return frozenset(self.names)

    def read(self, name: str) -> bytes:
        """
        Raises:
            FeedbackError: the file cannot be read.
        """
        try:
            return self._read(name)
        except OSError as error:
            raise FeedbackError(f"A file cannot be read ({error.strerror or type(error).__name__})") from error

    def document(self) -> str:
        """The name of the one file that says what the others are.

        Raises:
            FeedbackError: there is none, or more than one.
        """
        if self.main is not None and self.main.endswith(DOCUMENTS):
            return self.main
        found = [name for name in self.names if name.endswith(DOCUMENTS) and not hidden(name)]
        if len(found) != 1:
            what = "There must be one .json or .jsonl file that says what the pictures are"
            raise FeedbackError(what, value=f"{len(found)} files", remedy="Name that file itself, or leave one")
        return found[0]

    def beside(self, document: str, name: str) -> str | None:
        """The file that a document means: beside it, or in its folder ``images``; None where there is none.

        Raises:
            FeedbackError: the name leads out of the folder.
        """
        path = PurePosixPath(name)
        if not path.parts or path.is_absolute() or ".." in path.parts or "\\" in name or ":" in path.parts[0]:
            raise FeedbackError("A name leads out of the folder", value=name, remedy="Use relative names without ..")
        folder = posixpath.dirname(document)
        for place in (folder, posixpath.join(folder, "images")):
            if (found := posixpath.normpath(posixpath.join(place, name))) in self._there:
                return found
        return None


def hidden(name: str) -> bool:
    """Whether a system has put it there, and no person."""
    parts = PurePosixPath(name).parts
    return parts[0] == "__MACOSX" or any(part.startswith(".") for part in parts) or parts[-1] == "Thumbs.db"


@contextmanager
def opened(source: Path | Mapping[str, bytes]) -> Iterator[Files]:
    """
    Args:
        source: a folder, a zip, or a file with others beside it; or contents by their names, of which one alone may be
            a zip.

    Raises:
        FeedbackError: it is none of these, or a zip that is damaged, encrypted, too large, or leads out of itself.
    """
    if isinstance(source, Mapping):
        contents = list(source.values())
        if len(contents) == 1 and contents[0].startswith(_ZIP):
            with _zip(io.BytesIO(contents[0])) as files:
                yield files
            return
        yield Files(tuple(sorted(source)), next(iter(source)) if len(source) == 1 else None, source.__getitem__)
    elif source.is_dir():
        yield _folder(source, None)
    elif source.is_file():
        with source.open("rb") as file:
            is_zip = file.read(4) in _ZIP
        if is_zip:
            with _zip(source) as files:
                yield files
        else:
            yield _folder(source.parent, source.name)
    else:
        raise FeedbackError("There is no such file or folder", value=str(source))


def _folder(root: Path, main: str | None) -> Files:
    if main is not None and not main.endswith(DOCUMENTS):
        return Files((main,), main, lambda name: _limited(root / name))
    found = [Path(folder, name) for folder, _, names in os.walk(root) for name in names]
    names = sorted(path.relative_to(root).as_posix() for path in found)
    return Files(tuple(names), main, lambda name: _limited(root / name))


def _limited(path: Path) -> bytes:
    if path.stat().st_size > MOST_BYTES:
        raise FeedbackError("A file is too large", value=f"{path.stat().st_size >> 20} MiB", remedy="Leave it out")
    return path.read_bytes()


@contextmanager
def _zip(source: Path | io.BytesIO) -> Iterator[Files]:
    try:
        archive = zipfile.ZipFile(source)
    except _ZIP_ERRORS as error:
        raise FeedbackError("The zip is damaged or cut short", remedy="Make or send it again") from error
    with archive:
        infos = [info for info in archive.infolist() if not info.is_dir()]
        if len(infos) > MOST_FILES:
            raise FeedbackError("The zip has too many files", value=len(infos), remedy=f"Use at most {MOST_FILES}")
        for number, info in enumerate(infos, 1):
            path = PurePosixPath(info.filename)
            if path.is_absolute() or ".." in path.parts or "\\" in info.filename or ":" in path.parts[0]:
                raise FeedbackError(f"File {number} of the zip leads out of it", remedy="Make it again from one folder")
            if info.flag_bits & 1:
                raise FeedbackError("The zip is encrypted", remedy="Make it again without a password")
            if info.file_size > MOST_BYTES:
                size = f"{info.file_size >> 20} MiB"
                raise FeedbackError(f"File {number} of the zip would unpack to too much", value=size)

        def read(name: str) -> bytes:
            try:
                return archive.read(name)
            except _ZIP_ERRORS as error:
                raise FeedbackError("A file of the zip is damaged", remedy="Make or send it again") from error

        yield Files(tuple(sorted({info.filename for info in infos})), None, read)
