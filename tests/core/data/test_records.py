"""A records file comes back as it was written, says where it is wrong; its pictures carry pixels and nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage
from PIL.PngImagePlugin import PngInfo

from core.data.records import (
    Message,
    PictureStore,
    Record,
    iterate,
    open_picture,
    parse,
    pseudonym,
    read_records,
    resolve,
    write_records,
)
from core.errors import ImageError, RecordError


def drawing(seed: int, size: tuple[int, int] = (160, 144)) -> PILImage.Image:
    """A grey picture of blurred random shapes, in mode RGB; another seed shows something else."""
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 12), np.uint8)
    return PILImage.fromarray(coarse).resize(size, PILImage.Resampling.BICUBIC).convert("RGB")


def vqa(store: PictureStore, number: int) -> Record:
    """A question about ``drawing(number)``, of a patient of its own."""
    path, digest = store.add(drawing(number))
    return Record(
        id=f"r{number}", main_task_type="understanding", sub_task_type="vqa", modality="CT", dataset="drawn",
        input_img=(path,), output_img=(), message=(Message("human", "What is shown?"), Message("gpt", "Nothing.")),
        patient=f"p{number}", split="train", licence="CC0", sha256=(digest,),
    )  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> PictureStore:
    return PictureStore(tmp_path / "r.jsonl", max_side=256)


def test_what_is_written_is_read_again(store: PictureStore, tmp_path: Path) -> None:
    written = [
        replace(vqa(store, 0), label="Müller cells"),
        replace(vqa(store, 1), split="val", message=(Message("human", "Wo?\n„Hier“"), Message("gpt", "左"))),
        replace(vqa(store, 2), split="test", output_img=("a.png",), sha256=("0" * 64, "1" * 64)),
    ]
    path = tmp_path / "new" / "r.jsonl"
    assert write_records(path, iter(written)) == 3
    assert read_records(path) == written
    assert read_records(path, ("val", "test")) == written[1:]
    assert [record.place for record in read_records(path)] == ["r.jsonl:1", "r.jsonl:2", "r.jsonl:3"]
    assert [file.name for file in path.parent.iterdir()] == ["r.jsonl"]


def test_a_failed_write_leaves_the_old_file(store: PictureStore, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    write_records(path, [vqa(store, 0)])

    def failing():
        yield vqa(store, 1)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_records(path, failing())
    assert [record.id for record in read_records(path)] == ["r0"]
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full disk at hand")
def test_a_full_disk_is_named_and_leaves_no_part(store: PictureStore, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    write_records(path, [vqa(store, 0)])
    (tmp_path / "r.jsonl.part").symlink_to("/dev/full")
    with pytest.raises(RecordError, match=r"cannot be written \(\[Errno 28\] No space left .*r\.jsonl"):
        write_records(path, [vqa(store, 1)])
    assert [record.id for record in read_records(path)] == ["r0"]
    assert not list(tmp_path.glob("*.part"))


def test_records_below_a_file_cannot_be_written(store: PictureStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    for path in (tmp_path / "file" / "r.jsonl", tmp_path / "file" / "deeper" / "r.jsonl"):
        with pytest.raises(RecordError, match=r"cannot be written .*r\.jsonl"):
            write_records(path, [vqa(store, 0)])


def test_instruction_and_answer(store: PictureStore) -> None:
    said = [("human", "First?"), ("gpt", "One."), ("human", "Second?"), ("gpt", "Two.")]
    record = replace(vqa(store, 0), message=tuple(Message(*m) for m in said))
    assert (record.instruction, record.answer) == ("First?", "Two.")
    assert replace(vqa(store, 0), message=(Message("human", "Draw."),)).answer == ""


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"split": "dev"}, "unknown split: 'dev'"),
        ({"sub_task_type": "poetry"}, "unknown sub_task_type: 'poetry'"),
        ({"main_task_type": "vqa"}, "unknown main_task_type: 'vqa'"),
        ({"patient": 7}, "patient must be a string: 7"),
        ({"licence": None}, "licence must be a string"),
        ({"message": []}, "message is empty"),
        ({"message": [{"from": "doctor", "value": "Hm."}]}, "unknown from: 'doctor'"),
        ({"message": [{"value": "Hm."}]}, "malformed ('from')"),
        ({"input_img": None}, "malformed"),
        ({"input_img": ["a.png"]}, "malformed"),
        ({"input_img": [{"path": None}]}, "malformed (None is no text)"),
        ({"sha256": []}, "a digest for every image: 0"),
        ({"sha256": ["abc"]}, "64 hexadecimal digits: 'abc'"),
        ({"sha256": ["g" * 64]}, "64 hexadecimal digits"),
        ({"sha256": [None]}, "malformed (None is no text)"),
        ({"id": ""}, "id is empty"),
        ({"patient": " "}, "patient is empty"),
        ({"message": [{"from": "gpt", "value": None}]}, "malformed (None is no text)"),
        ({"message": [{"from": "human", "value": 3}]}, "malformed (3 is no text)"),
        ({"label": None}, "malformed (None is no text)"),
    ],
)
def test_a_malformed_record_is_refused_with_its_line(store: PictureStore, changes: dict, what: str) -> None:
    with pytest.raises(RecordError) as error:
        parse(json.dumps(vqa(store, 0).to_json() | changes), "r.jsonl:7")
    assert str(error.value).startswith("r.jsonl:7: ")
    assert what in str(error.value)


@pytest.mark.parametrize("line", ["{", "[]", "null", '"text"', ""])
def test_what_is_no_object_is_refused(line: str) -> None:
    with pytest.raises(RecordError, match=r"^r\.jsonl:1: "):
        parse(line, "r.jsonl:1")


def test_empty_lines_are_skipped_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text("\n{}\n  \n[]\n", encoding="utf-8")
    assert [(place, line.strip()) for place, line in iterate(path)] == [("r.jsonl:2", b"{}"), ("r.jsonl:4", b"[]")]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"absent\.jsonl"):
        list(iterate(tmp_path / "absent.jsonl"))
    path = tmp_path / "latin.jsonl"
    path.write_bytes('{"id": "Müller"}'.encode("latin-1"))
    with pytest.raises(RecordError, match=r"^latin\.jsonl"):
        read_records(path)


@pytest.mark.parametrize("relative", ["/etc/hosts", "../x.png", "a/../../x.png", "a\\x.png", "C:/x.png"])
def test_a_path_out_of_the_folder_is_refused(tmp_path: Path, relative: str) -> None:
    with pytest.raises(RecordError, match=r"^r\.jsonl:1: the path names no file below"):
        resolve(tmp_path, relative, "r.jsonl:1")


def test_an_image_that_cannot_be_opened_is_named_with_the_record(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    with pytest.raises(RecordError, match=r"^r\.jsonl:1: the image cannot be read .*broken\.png"):
        open_picture(tmp_path, "broken.png", "r.jsonl:1")
    with pytest.raises(RecordError, match=r"^r\.jsonl:1: the image is missing: 'absent\.png'"):
        open_picture(tmp_path, "absent.png", "r.jsonl:1")


def test_a_stored_picture_is_named_by_its_content_and_stored_once(store: PictureStore, tmp_path: Path) -> None:
    path, digest = store.add(drawing(0))
    assert (path, digest) == store.add(drawing(0).copy())
    assert path == f"r_images/{digest[:2]}/{digest[:32]}.png"
    assert hashlib.sha256((tmp_path / path).read_bytes()).hexdigest() == digest
    assert open_picture(tmp_path, path, "").tobytes() == drawing(0).tobytes()
    assert [file.name for file in (tmp_path / path).parent.iterdir()] == [f"{digest[:32]}.png"]
    assert store.add(drawing(1))[0] != path


def test_many_threads_may_store_one_picture(tmp_path: Path) -> None:
    """All meet at the barrier, so that they find no file and write one at once."""
    workers, rounds = 8, 12
    store, barrier, image = PictureStore(tmp_path / "r.jsonl", max_side=512), threading.Barrier(workers), drawing(0)

    def stored(number: int) -> str:
        barrier.wait()
        return store.add(image.rotate(number))[0]

    with ThreadPoolExecutor(workers) as pool:
        for number in range(rounds):
            assert len(set(pool.map(stored, [number] * workers))) == 1
    assert {file.suffix for file in tmp_path.rglob("*.*") if file.is_file()} == {".png"}


def test_threads_write_to_different_parts(store: PictureStore, tmp_path: Path) -> None:
    """Another thread's half-written file stands where one part a process would stand."""
    digest = store.add(drawing(0))[1]
    whole = tmp_path / f"r_images/{digest[:2]}/{digest[:32]}.png"
    whole.unlink()
    whole.with_suffix(f".{os.getpid()}.part").mkdir()
    assert store.add(drawing(0))[1] == digest
    assert whole.is_file()


def test_a_stored_picture_carries_no_text_of_its_source(store: PictureStore, tmp_path: Path) -> None:
    note = PngInfo()
    note.add_text("PatientName", "Doe^Jane")
    source = tmp_path / "source.png"
    drawing(0).save(source, pnginfo=note, dpi=(72, 72))
    with PILImage.open(source) as picture:
        assert picture.text == {"PatientName": "Doe^Jane"}
        path, _ = store.add(picture)
    assert b"Doe" not in (tmp_path / path).read_bytes()
    with PILImage.open(tmp_path / path) as stored:
        assert stored.info == {}


def test_a_large_picture_is_reduced_and_a_small_one_is_not(store: PictureStore, tmp_path: Path) -> None:
    large, _ = store.add(drawing(0, (512, 100)))
    small, _ = store.add(drawing(0, (20, 30)))
    assert open_picture(tmp_path, large, "").size == (256, 50)
    assert open_picture(tmp_path, small, "").size == (20, 30)


def test_colour_stays_and_grey_takes_one_channel(store: PictureStore, tmp_path: Path) -> None:
    colour = PILImage.merge("RGB", [drawing(seed).getchannel(0) for seed in range(3)])
    modes = []
    for image in (colour, drawing(0)):
        path, _ = store.add(image)
        with PILImage.open(tmp_path / path) as stored:
            modes.append(stored.mode)
        assert open_picture(tmp_path, path, "").tobytes() == image.tobytes()
    assert modes == ["RGB", "L"]


def test_a_folder_that_cannot_be_written_is_an_error_for_a_person(store: PictureStore, tmp_path: Path) -> None:
    (tmp_path / "r_images").write_text("in the way", encoding="utf-8")
    with pytest.raises(ImageError, match="An image cannot be written"):
        store.add(drawing(0))


def test_a_pseudonym_is_stable_and_tells_datasets_apart() -> None:
    assert pseudonym("a", "Doe") == pseudonym("a", "Doe")
    assert len({pseudonym("a", "Doe"), pseudonym("b", "Doe"), pseudonym("a", "Roe")}) == 3
    assert "Doe" not in pseudonym("a", "Doe")
