"""``records check`` finds what would spoil a training or an evaluation, and goes on after each find."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image as PILImage

from core.data.check import Report, check
from core.data.records import Message, PictureStore, Record, write_records
from core.errors import RecordError, SettingsError
from tests.core.data.test_records import drawing, vqa

ASKS = (Message("human", "Segment the vessels."),)


@pytest.fixture
def store(tmp_path: Path) -> PictureStore:
    return PictureStore(tmp_path / "r.jsonl", max_side=512)


@pytest.fixture
def checked(tmp_path: Path) -> Callable[[list[Record]], Report]:
    """Writes the records to r.jsonl and checks them."""

    def run(records: list[Record]) -> Report:
        write_records(tmp_path / "r.jsonl", records)
        return check(tmp_path / "r.jsonl")

    return run


def put(root: Path, name: str, image: PILImage.Image, quality: int = 90) -> dict:
    """Saves a picture under a name of its own; what a record must say to name it."""
    image.save(root / name, quality=quality)
    return {"input_img": (name,), "sha256": (hashlib.sha256((root / name).read_bytes()).hexdigest(),)}


def segmentation(store: PictureStore, number: int, mask: PILImage.Image) -> Record:
    (seen, first), (drawn, second) = store.add(drawing(number)), store.add(mask)
    return replace(
        vqa(store, number), id=f"s{number}", main_task_type="interleaved", sub_task_type="segmentation",
        input_img=(seen,), output_img=(drawn,), sha256=(first, second), message=ASKS,
    )  # fmt: skip


def test_sound_records_pass_and_are_counted(store, checked) -> None:
    mask = drawing(9).convert("L").point(lambda v: 255 * (v > 128))
    report = checked(
        [
            vqa(store, 0),
            replace(vqa(store, 0), id="another question"),
            replace(vqa(store, 1), split="test", dataset="other"),
            segmentation(store, 2, mask),
            replace(vqa(store, 3), main_task_type="text", sub_task_type="text", input_img=(), sha256=()),
        ]
    )
    assert (report.problems, report.warnings, report.ok) == ([], [], True)
    assert report.counts == {
        "train vqa": 2, "test vqa": 1, "train segmentation": 1, "train text": 1,
        "images": 4, "patients": 4, "datasets": 2,
    }  # fmt: skip
    assert report.lines()[-1] == "no problems"


def test_every_line_is_checked_after_a_bad_one(store, tmp_path: Path) -> None:
    good = json.dumps(vqa(store, 0).to_json())
    wrong = json.dumps(vqa(store, 1).to_json() | {"split": "dev"})
    lost = json.dumps(vqa(store, 2).to_json() | {"input_img": [{"path": "r_images/lost.png"}]})
    (tmp_path / "r.jsonl").write_text("\n".join([good, "{not json", wrong, "", lost]), encoding="utf-8")
    report = check(tmp_path / "r.jsonl")
    assert [problem.split(": ")[0] for problem in report.problems] == ["r.jsonl:2", "r.jsonl:3", "r.jsonl:5"]
    assert "r_images/lost.png" in report.problems[2]
    assert not report.ok
    assert report.counts["train vqa"] == 2


def test_a_second_record_of_one_id_is_a_problem(store, checked) -> None:
    report = checked([vqa(store, 0), vqa(store, 1), vqa(store, 0)])
    assert report.problems == ["r.jsonl:3: the id 'r0' stands in r.jsonl:1 already"]


def test_a_patient_in_two_splits_is_a_problem(store, checked) -> None:
    report = checked([vqa(store, 0), replace(vqa(store, 1), patient="p0", split="val")])
    assert report.problems == [
        "r.jsonl:2: patient 'p0' is in val here, in train in r.jsonl:1; `records import --resplit` draws a split by "
        "patient"
    ]


@pytest.mark.parametrize("relative", ["/etc/hosts", "../outside.png", "", "link.png", "linked/outside.png"])
def test_a_path_out_of_the_folder_is_a_problem_also_through_a_link(store, tmp_path: Path, relative: str) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    drawing(0).save(tmp_path / "outside.png")
    (inside / "link.png").symlink_to(tmp_path / "outside.png")
    (inside / "linked").symlink_to(tmp_path)
    write_records(inside / "r.jsonl", [replace(vqa(store, 0), input_img=(relative,))])
    (problem,) = check(inside / "r.jsonl").problems
    assert problem.startswith("r.jsonl:1: the path ")


def test_a_folder_behind_a_link_may_be_checked(store, tmp_path: Path) -> None:
    write_records(tmp_path / "r.jsonl", [vqa(store, 0)])
    (tmp_path / "door").symlink_to(tmp_path)
    assert check(tmp_path / "door" / "r.jsonl").ok


def test_a_link_within_the_folder_is_no_escape(store, checked, tmp_path: Path) -> None:
    record = vqa(store, 0)
    (tmp_path / "link.png").symlink_to(tmp_path / record.input_img[0])
    assert checked([replace(record, input_img=("link.png",))]).ok


def test_a_broken_image_is_told_once_and_a_changed_one_for_each_record(store, checked, tmp_path: Path) -> None:
    cut, changed = vqa(store, 0), vqa(store, 1)
    path = tmp_path / cut.input_img[0]
    path.write_bytes(path.read_bytes()[:-200])  # the header is whole, so only decoding finds out
    drawing(5).save(tmp_path / changed.input_img[0])
    report = checked([cut, replace(cut, id="again"), changed, replace(changed, id="again too")])
    assert len(report.problems) == 3
    assert report.problems[0].startswith("r.jsonl:1: the image cannot be read (OSError)")
    assert [problem.split(": ")[0] for problem in report.problems[1:]] == ["r.jsonl:3", "r.jsonl:4"]
    assert all("SHA-256 differs" in problem for problem in report.problems[1:])


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"input_img": (), "sha256": ()}, "vqa has 1 input images, not 0"),
        ({"message": (Message("human", "What?"),)}, "vqa needs an answer"),
        ({"message": (Message("human", "What?"), Message("gpt", "  "))}, "vqa needs an answer"),
        ({"message": (Message("gpt", "A scan."),)}, "nobody asks"),
        ({"main_task_type": "generation"}, "vqa belongs to understanding, not to generation"),
        ({"sub_task_type": "segmentation", "main_task_type": "interleaved"}, "segmentation has 1 output images, not 0"),
        ({"sub_task_type": "text", "main_task_type": "text"}, "text has 0 input images, not 1"),
    ],
)
def test_a_record_must_be_what_its_task_takes_and_gives(store, checked, changes: dict, what: str) -> None:
    (problem,) = checked([replace(vqa(store, 0), **changes)]).problems
    assert problem.startswith(f"r.jsonl:1: {what}")


def test_a_task_that_only_reads_has_no_output_image(store, checked) -> None:
    record = vqa(store, 0)
    report = checked([replace(record, output_img=record.input_img, sha256=record.sha256 * 2)])
    assert report.problems == ["r.jsonl:1: vqa has 0 output images, not 1"]


def test_one_picture_of_two_patients_is_a_problem_between_splits_and_else_a_warning(store, checked) -> None:
    within = checked([vqa(store, 0), replace(vqa(store, 0), id="b", patient="q")])
    assert within.ok
    assert within.warnings[0].startswith("r.jsonl:2: patient q has the same picture as patient p0")
    across = checked([vqa(store, 0), replace(vqa(store, 0), id="b", patient="q", split="test")])
    assert (len(across.problems), across.warnings) == (1, [])
    assert across.problems[0].startswith("r.jsonl:2: ")
    assert "train, test" in across.problems[0]


@pytest.mark.parametrize("seed", range(5))
def test_a_copy_is_found_whether_recompressed_or_resized(store, checked, tmp_path: Path, seed: int) -> None:
    image = drawing(seed, (400, 320))
    half, wide = image.resize((200, 160)), image.resize((600, 600))
    copies = [("q.jpg", image, 40), ("half.png", half, 0), ("wide.png", wide, 0)]
    original = replace(vqa(store, 10), **put(tmp_path, "original.png", image))
    for name, copy, quality in copies:
        other = replace(vqa(store, 11), **put(tmp_path, name, copy, quality))
        within = checked([original, other])
        assert (within.problems, len(within.warnings)) == ([], 1)
        across = checked([original, replace(other, split="val")])
        assert (len(across.problems), across.warnings) == (1, [])
        assert across.problems[0].startswith("r.jsonl:2: near duplicate of another patient's picture")
        assert "original.png" in across.problems[0]


def test_a_copy_of_the_same_patient_is_no_duplicate(store, checked, tmp_path: Path) -> None:
    slices = [put(tmp_path, f"{quality}.jpg", drawing(0), quality) for quality in (50, 70, 90)]
    records = [replace(vqa(store, n), patient="one", **named) for n, named in enumerate(slices)]
    assert checked(records).warnings == []


def test_a_copy_of_a_picture_that_two_patients_share_is_found(store, checked, tmp_path: Path) -> None:
    """Patient one has a picture, patient two a copy of it; the copy's first user is patient one all the same."""
    original, copy = (put(tmp_path, f"{quality}.jpg", drawing(0), quality) for quality in (90, 50))
    records = [
        replace(vqa(store, 0), patient="one", **copy),
        replace(vqa(store, 1), patient="two", split="test", **copy),
        replace(vqa(store, 2), patient="one", **original),
    ]
    problems = checked(records).problems
    assert [problem.split(": ")[:2] for problem in problems] == [
        ["r.jsonl:2", "patient two has the same picture as patient one"],
        ["r.jsonl:3", "near duplicate of another patient's picture (4 of 256 bits)"],
    ]


def test_the_threshold_can_be_set(store, checked, tmp_path: Path) -> None:
    image = drawing(0, (400, 320))
    cut = put(tmp_path, "cut.png", image.crop((12, 12, 388, 308)))
    records = [replace(vqa(store, 1), **put(tmp_path, "whole.png", image)), replace(vqa(store, 2), **cut)]
    assert checked(records).warnings == []
    assert len(check(tmp_path / "r.jsonl", near=80).warnings) == 1
    with pytest.raises(SettingsError, match="near must be"):
        check(tmp_path / "r.jsonl", near=128)


def test_many_different_pictures_give_no_false_alarm(store, checked) -> None:
    records = [replace(vqa(store, n), split=("train", "val", "test")[n % 3]) for n in range(300)]
    report = checked(records)
    assert (report.problems, report.warnings) == ([], [])


def test_of_many_copies_each_is_told_once(store, checked, tmp_path: Path) -> None:
    image = drawing(0)
    named = [put(tmp_path, f"{quality}.jpg", image, quality) for quality in range(40, 70)]
    report = checked([replace(vqa(store, n), **one) for n, one in enumerate(named)])
    assert [warning.split(": ")[0] for warning in report.warnings] == [f"r.jsonl:{n}" for n in range(2, 31)]


def test_similar_masks_and_flat_pictures_are_no_duplicates(store, checked, tmp_path: Path) -> None:
    mask = drawing(9).convert("L").point(lambda v: 255 * (v > 128))
    similar, empty = mask.copy(), PILImage.new("L", mask.size)
    similar.putpixel((80, 70), 255 - mask.getpixel((80, 70)))
    faint = drawing(8).convert("L").point(lambda v: 10 + v // 64)
    fainter = faint.resize((80, 72))
    records = [
        segmentation(store, 0, mask),
        replace(segmentation(store, 1, similar), split="test"),
        segmentation(store, 2, empty),
        replace(segmentation(store, 3, empty), split="test"),
        replace(vqa(store, 4), **put(tmp_path, "faint.png", faint)),
        replace(vqa(store, 5), split="test", **put(tmp_path, "fainter.png", fainter)),
    ]
    report = checked(records)
    assert (report.problems, report.warnings) == ([], [])


def test_the_same_mask_of_two_patients_is_found(store, checked) -> None:
    mask = drawing(9).convert("L").point(lambda v: 255 * (v > 128))
    report = checked([segmentation(store, 0, mask), replace(segmentation(store, 1, mask), split="test")])
    assert len(report.problems) == 1


def test_a_long_list_is_cut_for_printing(store, checked) -> None:
    report = checked([replace(vqa(store, 0), id=f"r{n}", message=(Message("human", "?"),)) for n in range(60)])
    assert len(report.problems) == 60
    assert "60 problems" in report.lines()
    assert report.lines()[-1] == "... and 10 more"


def test_a_missing_file_is_an_error_and_not_a_report(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"absent\.jsonl"):
        check(tmp_path / "absent.jsonl")
