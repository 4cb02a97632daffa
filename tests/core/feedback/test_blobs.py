"""Pictures: by content, whole, and without anything but pixels."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from PIL import Image as PILImage
from PIL.PngImagePlugin import PngInfo

from core.errors import FeedbackError
from core.feedback.blobs import Blobs
from core.sequence import NOTICE, Image
from tests.core.feedback.builders import picture


def test_a_picture_is_stored_once_and_comes_back(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "pictures")
    image = picture(1)
    assert not blobs.has(image.sha256)
    assert blobs.put(image) == blobs.put(picture(1)) == image.sha256
    assert blobs.has(image.sha256)
    assert blobs.read(image.sha256).tobytes() == image.pixels.tobytes()
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [f"{image.sha256}.png"]
    blobs.delete(image.sha256)
    blobs.delete(image.sha256)
    with pytest.raises(FeedbackError, match="not stored"):
        blobs.read(image.sha256)


def test_only_pixels_are_written(tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text("Description", "Jane Doe")
    picture(1).pixels.save(tmp_path / "with.png", pnginfo=info)
    with PILImage.open(tmp_path / "with.png") as file:
        pixels = file.convert("RGB")
    pixels.info["comment"] = "Jane Doe"
    blobs = Blobs(tmp_path)
    sha256 = blobs.put(Image(pixels, notes=("Jane Doe",)))
    assert b"Jane" not in blobs.path(sha256).read_bytes()
    with PILImage.open(blobs.path(sha256)) as file:
        assert file.info == {}


def test_a_drawn_picture_says_so_even_where_it_was_stored_as_a_plain_one(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    for image in (picture(1), picture(1, generated=True), picture(1)):
        sha256 = blobs.put(image)
    with PILImage.open(blobs.path(sha256)) as file:
        assert file.info == {"Comment": NOTICE}
    assert blobs.read(sha256).tobytes() == picture(1).pixels.tobytes()


def test_a_bare_picture_does_not_say_that_it_was_drawn(tmp_path: Path) -> None:
    plain, drawn = Blobs(tmp_path / "plain"), Blobs(tmp_path / "drawn")
    sha256 = plain.put(picture(1))
    drawn.put(picture(1, generated=True))
    assert drawn.bare(sha256) == plain.bare(sha256)
    with PILImage.open(io.BytesIO(drawn.bare(sha256))) as file:
        assert file.info == {} and file.tobytes() == picture(1).pixels.tobytes()


def test_a_file_that_changed_is_not_taken_for_the_picture(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    sha256 = blobs.put(picture(1))
    blobs.path(sha256).write_bytes(blobs.path(blobs.put(picture(2))).read_bytes())
    with pytest.raises(FeedbackError, match="not the one"):
        blobs.read(sha256)
    blobs.path(sha256).write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    with pytest.raises(FeedbackError, match="damaged"):
        blobs.read(sha256)


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "a" * 63, "G" * 64])
def test_only_digests_name_a_picture(tmp_path: Path, name: str) -> None:
    with pytest.raises(FeedbackError, match="hexadecimal"):
        Blobs(tmp_path).read(name)


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FeedbackError, match="cannot be stored"):
        Blobs(tmp_path / "file" / "pictures").put(picture(1))


@pytest.mark.skipif(os.name != "posix", reason="needs a limit on the size of files")
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    import resource

    blobs = Blobs(tmp_path)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, old[1]))
    try:
        with pytest.raises(FeedbackError, match="cannot be stored"):
            blobs.put(picture(1, side=200))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    blobs.put(picture(1, side=200))
