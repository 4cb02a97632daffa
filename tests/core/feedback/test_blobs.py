"""Pictures: by content, whole, and without anything but pixels; in a folder, and where fsspec brings them."""

from __future__ import annotations

import io
import os
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
import pytest
from PIL import Image as PILImage
from PIL.PngImagePlugin import PngInfo

from core.errors import FeedbackError
from core.feedback.blobs import Blobs
from core.feedback.models import utc_now
from core.feedback.places import Remote
from core.feedback.store import FeedbackStore
from core.sequence import NOTICE, Image
from tests.core.feedback.builders import add, picture

SECRET = "hunter2"


@pytest.fixture(params=["folder", "file", "memory"])
def where(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A place for pictures that does not exist yet."""
    if request.param == "file":
        by_fsspec(monkeypatch)
    return f"{'' if request.param == 'folder' else request.param + '://'}{tmp_path}/pictures"


def by_fsspec(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a folder of this machine is reached as fsspec does it."""
    monkeypatch.setattr("core.feedback.blobs.place", Remote)


class Behind:
    """The files of a place behind its back."""

    def __init__(self, where: str) -> None:
        self._files, self._root = fsspec.url_to_fs(where)

    def names(self) -> list[str]:
        return [path.rpartition("/")[2] for path in self._files.find(self._root)]

    def path(self, sha256: str) -> str:
        return f"{self._root}/{sha256[:2]}/{sha256}.png"

    def read(self, sha256: str) -> bytes:
        return self._files.cat_file(self.path(sha256))

    def write(self, path: str, content: bytes) -> None:
        self._files.pipe_file(path, content)

    @contextmanager
    def opened(self, sha256: str) -> Iterator[PILImage.Image]:
        with self._files.open(self.path(sha256), "rb") as file, PILImage.open(file) as image:
            yield image


@pytest.fixture
def behind(where: str) -> Behind:
    return Behind(where)


def test_a_picture_is_stored_once_and_comes_back(where: str, behind: Behind, tmp_path: Path) -> None:
    blobs = Blobs(where)
    image = picture(1)
    assert not blobs.has(image.sha256) and not blobs.copy(image.sha256, tmp_path / "copy.png")
    assert blobs.put(image) == blobs.put(picture(1)) == image.sha256
    assert blobs.has(image.sha256)
    assert blobs.read(image.sha256).tobytes() == image.pixels.tobytes()
    assert behind.names() == [f"{image.sha256}.png"]
    assert blobs.copy(image.sha256, tmp_path / "copy.png")
    assert (tmp_path / "copy.png").read_bytes() == behind.read(image.sha256)
    blobs.delete(image.sha256)
    blobs.delete(image.sha256)
    with pytest.raises(FeedbackError, match="not stored"):
        blobs.read(image.sha256)
    assert behind.names() == []


def test_two_programs_see_what_the_other_does(where: str) -> None:
    one, other = Blobs(where), Blobs(where)
    sha256 = one.put(picture(1))
    assert other.has(sha256) and list(other.older_than(time.time() + 60)) == [sha256]
    other.delete(sha256)
    assert not one.has(sha256) and list(one.older_than(time.time() + 60)) == []
    assert one.put(picture(1)) == sha256 and other.has(sha256)


def test_only_pixels_are_written(where: str, behind: Behind, tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text("Description", "Jane Doe")
    picture(1).pixels.save(tmp_path / "with.png", pnginfo=info)
    with PILImage.open(tmp_path / "with.png") as file:
        pixels = file.convert("RGB")
    pixels.info["comment"] = "Jane Doe"
    sha256 = Blobs(where).put(Image(pixels, notes=("Jane Doe",)))
    assert b"Jane" not in behind.read(sha256)
    with behind.opened(sha256) as file:
        assert file.info == {}


def test_a_drawn_picture_says_so_even_where_it_was_stored_as_a_plain_one(where: str, behind: Behind) -> None:
    blobs = Blobs(where)
    for image in (picture(1), picture(1, generated=True), picture(1)):
        sha256 = blobs.put(image)
    with behind.opened(sha256) as file:
        assert file.info == {"Comment": NOTICE}
    assert blobs.read(sha256).tobytes() == picture(1).pixels.tobytes()
    assert behind.names() == [f"{sha256}.png"]


def test_a_bare_picture_does_not_say_that_it_was_drawn(where: str, tmp_path: Path) -> None:
    plain, drawn = Blobs(where), Blobs(tmp_path / "drawn")
    sha256 = plain.put(picture(1))
    drawn.put(picture(1, generated=True))
    assert drawn.bare(sha256) == plain.bare(sha256)
    with PILImage.open(io.BytesIO(drawn.bare(sha256))) as file:
        assert file.info == {} and file.tobytes() == picture(1).pixels.tobytes()


def test_a_file_that_changed_is_not_taken_for_the_picture(where: str, behind: Behind) -> None:
    blobs = Blobs(where)
    sha256, other = blobs.put(picture(1)), blobs.put(picture(2))
    behind.write(behind.path(sha256), behind.read(other))
    with pytest.raises(FeedbackError, match="not the one"):
        blobs.read(sha256)
    behind.write(behind.path(sha256), b"\x89PNG\r\n\x1a\nnothing")
    with pytest.raises(FeedbackError, match="damaged"):
        blobs.read(sha256)
    blobs.put(picture(1, generated=True))
    assert blobs.read(sha256)


def test_old_pictures_are_found_and_parts_of_files_are_cleared_away(where: str, behind: Behind) -> None:
    blobs = Blobs(where)
    names = sorted(blobs.put(picture(seed)) for seed in (1, 2))
    other = behind.path(names[0]).removesuffix(f"{names[0]}.png") + "readme.png"
    for path in (f"{behind.path(names[0])}.0123.part", other):
        behind.write(path, b"half")
    assert list(blobs.older_than(time.time() - 60)) == [] and len(behind.names()) == 4
    assert list(blobs.older_than(time.time() + 60)) == names
    assert sorted(behind.names()) == sorted([*(f"{name}.png" for name in names), "readme.png"])


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "a" * 63, "G" * 64])
def test_only_digests_name_a_picture(where: str, name: str, tmp_path: Path) -> None:
    blobs = Blobs(where)
    for call in (blobs.read, blobs.has, blobs.delete, lambda name: blobs.copy(name, tmp_path / "copy.png")):
        with pytest.raises(FeedbackError, match="hexadecimal"):
            call(name)


def test_a_store_forgets_the_pictures_wherever_they_are(where: str, behind: Behind, tmp_path: Path) -> None:
    with FeedbackStore(f"sqlite:///{tmp_path}/feedback.db", where) as store:
        code, other = store.give_consent(), store.give_consent()
        add(store, code, inputs=[picture(1)], outputs=[picture(2)])
        add(store, other, inputs=[picture(1)], outputs=[picture(3)])
        orphan = store.blobs.put(picture(4))
        store.withdraw(code)
        assert sorted(behind.names()) == sorted(f"{one}.png" for one in (picture(1).sha256, picture(3).sha256, orphan))
        assert store.sweep(utc_now().replace(year=utc_now().year + 1)) == 1
        store.withdraw(other)
        assert behind.names() == []


@pytest.mark.parametrize("remote", [False, True])
def test_a_folder_that_cannot_be_written_is_a_sentence(
    tmp_path: Path, remote: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if remote:
        by_fsspec(monkeypatch)
    (tmp_path / "file").touch()
    with pytest.raises(FeedbackError, match="cannot be stored"):
        Blobs(f"file://{tmp_path}/file/pictures").put(picture(1))


@pytest.mark.skipif(os.name != "posix", reason="needs a limit on the size of files")
@pytest.mark.parametrize("remote", [False, True])
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, remote: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    if remote:
        by_fsspec(monkeypatch)
    blobs = Blobs(f"file://{tmp_path}")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, old[1]))
    try:
        with pytest.raises(FeedbackError, match="cannot be stored"):
            blobs.put(picture(1, side=200))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    blobs.put(picture(1, side=200))


class Broken(fsspec.AbstractFileSystem):
    """A store of objects that cannot be reached, and says so with its keys."""

    protocol = "broken"

    def _refuse(self, *_: object, **__: object) -> None:
        raise RuntimeError(f"No answer from https://key:{SECRET}@objects.example/bucket?token={SECRET}")

    isfile = cat_file = pipe_file = rm_file = find = _refuse


@pytest.mark.parametrize("scheme", ["nothing", "s3", "ftp"])
def test_a_place_that_cannot_be_opened_is_told_without_its_password(scheme: str) -> None:
    with pytest.raises(FeedbackError, match="cannot be used") as caught:
        Blobs(f"{scheme}://key:{SECRET}@127.0.0.1:1/x")
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_what_a_backend_complains_of_is_told_without_its_password(tmp_path: Path) -> None:
    fsspec.register_implementation("broken", Broken, clobber=True)
    blobs = Blobs(f"broken://key:{SECRET}@objects.example/x")
    for call in (
        lambda: blobs.put(picture(1)),
        lambda: blobs.read("a" * 64),
        lambda: blobs.delete("a" * 64),
        lambda: blobs.copy("a" * 64, tmp_path / "copy.png"),
        lambda: list(blobs.older_than(0)),
    ):
        with pytest.raises(FeedbackError, match="RuntimeError") as caught:
            call()
        assert SECRET not in "".join(traceback.format_exception(caught.value))
