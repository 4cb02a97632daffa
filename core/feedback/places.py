"""Where pictures lie: a folder on this machine, or whatever fsspec reaches by a URL. Both keep small whole files."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC
from pathlib import Path
from typing import Protocol

import fsspec

from core.errors import FeedbackError

PART = ".part"
"""The ending of a file that is not whole yet."""


class Place(Protocol):
    """Files by names of the form ``FOLDER/NAME``. What goes wrong is an ``OSError``, of which only the kind and the
    system's words for it are meant for people."""

    def has(self, name: str) -> bool: ...

    def read(self, name: str) -> bytes:
        """
        Raises:
            FileNotFoundError: there is none.
        """
        ...

    def write(self, name: str, content: bytes) -> None:
        """The file is whole or not there, for all readers and after a crash."""
        ...

    def delete(self, name: str) -> None:
        """Does nothing where there is none."""
        ...

    def copy(self, name: str, target: Path) -> None:
        """
        Raises:
            FileNotFoundError: there is none.
        """
        ...

    def names(self) -> Iterator[tuple[str, float]]:
        """The files, in order, and when they were written, in seconds since 1970."""
        ...


def place(where: str | Path) -> Place:
    """
    Args:
        where: a folder, or a URL.

    Raises:
        FeedbackError: fsspec does not know the URL, or lacks a package for it.
    """
    scheme, separator, rest = str(where).partition("://")
    if not separator:
        return Folder(Path(where))
    return Folder(Path(rest)) if scheme in ("file", "local") else Remote(str(where))


class Folder:
    """A folder on this machine. What was written survives a power cut."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def has(self, name: str) -> bool:
        return (self._folder / name).is_file()

    def read(self, name: str) -> bytes:
        return (self._folder / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        path = self._folder / name
        part = path.with_name(f"{path.name}.{secrets.token_hex(8)}{PART}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
            _sync_folder(path.parent)
        except OSError:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise

    def delete(self, name: str) -> None:
        (self._folder / name).unlink(missing_ok=True)

    def copy(self, name: str, target: Path) -> None:
        source = self._folder / name
        try:
            os.link(source, target)
        except FileNotFoundError:
            raise
        except OSError:  # another disk, or one without links
            shutil.copyfile(source, target)

    def names(self) -> Iterator[tuple[str, float]]:
        for path in sorted(self._folder.glob("??/*")):
            with suppress(FileNotFoundError):
                yield f"{path.parent.name}/{path.name}", path.stat().st_mtime


class Remote:
    """What fsspec reaches. A file is written beside its place and moved there: where that is a copy, as in stores of
    objects, the copy is whole, too."""

    def __init__(self, url: str) -> None:
        try:
            # Other programs write there as well: no list of files is remembered.
            self._files, self._root = fsspec.url_to_fs(url, use_listings_cache=False)
        except Exception as error:
            # Its own words could repeat a password; only those on a missing package or a protocol cannot.
            known = isinstance(error, ImportError) or str(error).startswith("Protocol not known")
            problem = str(error) if known else type(error).__name__
        else:
            return
        remedy = "Name a folder, or a URL such as s3://BUCKET/FOLDER whose fsspec package is installed"
        raise FeedbackError(f"The place of the pictures cannot be used ({problem})", remedy=remedy)

    def has(self, name: str) -> bool:
        with _translated():
            return self._files.isfile(self._path(name))

    def read(self, name: str) -> bytes:
        with _translated():
            return self._files.cat_file(self._path(name))

    def write(self, name: str, content: bytes) -> None:
        path = self._path(name)
        part = f"{path}.{secrets.token_hex(8)}{PART}"
        with _translated():
            try:
                self._pipe(part, content)
                self._files.mv(part, path)
            except Exception:
                with suppress(Exception):
                    self._files.rm_file(part)
                raise

    def _pipe(self, path: str, content: bytes) -> None:
        try:
            self._files.pipe_file(path, content)
        except FileNotFoundError:  # stores of objects have no folders that would have to be made
            self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._files.pipe_file(path, content)

    def delete(self, name: str) -> None:
        with suppress(FileNotFoundError), _translated():
            self._files.rm_file(self._path(name))

    def copy(self, name: str, target: Path) -> None:
        target.write_bytes(self.read(name))

    def names(self) -> Iterator[tuple[str, float]]:
        with _translated():
            found = sorted(self._files.find(self._root))
        for path in found:
            with suppress(FileNotFoundError):
                with _translated():
                    written = self._files.modified(path)
                written = written if written.tzinfo else written.replace(tzinfo=UTC)
                yield "/".join(path.split("/")[-2:]), written.timestamp()

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"


@contextmanager
def _translated() -> Iterator[None]:
    """Every backend has exceptions of its own, whose words may hold addresses and keys."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        problem = OSError(error.errno, os.strerror(error.errno) if error.errno else type(error).__name__)
    except Exception as error:
        problem = OSError(None, type(error).__name__)
    else:
        return
    raise problem from None


def _sync_folder(folder: Path) -> None:
    """Makes a new name in a folder survive a power cut, where the system can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
