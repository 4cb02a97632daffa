"""What comes into the store from files of others: nothing twice, nothing in silence, nothing half, and out again as it
came."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from PIL import Image as PILImage

from core.data.records import Message, PictureStore, Record, write_records
from core.errors import AccessError, FeedbackError, UniMedError
from core.feedback.columns import columns
from core.feedback.export import LAYOUTS
from core.feedback.files import opened
from core.feedback.imports import IMPORTS
from core.feedback.masks import brush, from_brush, from_run_lengths, polygon, run_lengths, unpacked
from core.feedback.models import Base
from core.feedback.projects import NewItem
from core.feedback.readers import READERS
from core.feedback.standing import standings
from core.sequence import NOTICE, Image
from tests.core.data.builders import dicom_bytes
from tests.core.feedback.builders import picture
from tests.core.feedback.team import RUBRIC, Team

NAME = "Doe^Jane"
CUT = "The pixel data cannot be decoded (Explicit VR Little Endian): damaged, cut short, or not what the header says"


def count(engine: sa.Engine, table: str) -> int:
    with engine.connect() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(Base.metadata.tables[table]))


def scan(seed: int, patient: str) -> bytes:
    stored = np.random.default_rng(seed).integers(0, 2000, (16, 12), dtype=np.uint16)
    return dicom_bytes(stored, PatientID=patient, PatientName=NAME)


def folder_of(root: Path) -> Path:
    root.mkdir()
    (root / "sub").mkdir()
    picture(1).pixels.save(root / "sub" / f"{NAME}.png")
    picture(1).pixels.save(root / "copy.png")
    (root / "one.dcm").write_bytes(scan(1, "P-1"))
    (root / "two").write_bytes(scan(2, "P-1"))
    (root / "cut.dcm").write_bytes(scan(3, "P-2")[:600])
    (root / "notes.txt").write_text(f"About {NAME}.")
    (root / ".DS_Store").write_bytes(b"x")
    pages = [picture(n).pixels for n in (7, 8, 9)]
    pages[0].save(root / "pages.tiff", save_all=True, append_images=pages[1:])
    return root


def zipped(root: Path) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(root.rglob("*")):
            file.write(path, path.relative_to(root))
    return buffer.getvalue()


def exported(team: Team, project: str, layout: str, folder: Path) -> list[dict] | dict:
    team.store.exports.write(team.maintainer, project, layout, folder)
    if layout == "coco":
        return json.loads((folder / "data.json").read_text())
    return [json.loads(line) for line in (folder / "data.jsonl").read_text().splitlines()]


def test_every_kind_has_its_reader() -> None:
    assert tuple(READERS) == IMPORTS


def test_a_folder_comes_in_once_and_says_what_it_left(
    team: Team, tmp_path: Path, engine: sa.Engine, pictures: Path
) -> None:
    by, root = team.maintainer, folder_of(tmp_path / "in")
    found = team.store.imports.read(by, "folder", root)
    assert len(found.items) == 4 and all(item.gold is None for item in found.items)
    assert found.losses == {
        "a hidden file": 1, "a copy of another file": 1, "a further frame or slice of a file": 2,
        "The file is not a picture of a supported kind": 1, CUT: 1,
    }  # fmt: skip
    assert NAME not in "".join(found.lines()) and "notes" not in "".join(found.lines())
    rows = count(engine, "generations"), count(engine, "responses"), count(engine, "model_versions")
    assert rows == (4, 4, 1) and count(engine, "cases") == 3, "two scans of one patient"
    for again in (root, {"scans.zip": zipped(root)}, {p.name: p.read_bytes() for p in root.rglob("*") if p.is_file()}):
        once_more = team.store.imports.read(by, "folder", again)
        assert {item.response_ids for item in once_more.items} == {item.response_ids for item in found.items}
    assert rows == (count(engine, "generations"), count(engine, "responses"), count(engine, "model_versions"))
    assert set(team.store.projects.responses(by, "image", source="imports")) == {i.response_ids[0] for i in found.items}
    assert team.store.projects.responses(by, "image", source="runs") == []
    assert team.store.projects.groups(by, "image") == []
    with engine.connect() as connection:
        (prompt, model) = connection.execute(sa.text(
            "SELECT prompt, name FROM generations JOIN model_versions m ON m.id = model_version_id LIMIT 1"
        )).one()  # fmt: skip
    assert (prompt, model) == ("", "import")
    gone = team.store.withdraw_patient(by, "DICOM", "P-1")
    assert gone.generations == 2 and len(list(pictures.rglob("*.png"))) == 2
    with pytest.raises(AccessError):
        team.store.imports.read(team.raters[0], "folder", root)


def test_records_bring_their_targets_as_outputs(team: Team, tmp_path: Path, engine: sa.Engine) -> None:
    file = tmp_path / "set.jsonl"
    store = PictureStore(file, 64)
    (scan_path, scan_digest), (drawn_path, drawn_digest) = store.add(picture(1)), store.add(picture(2))

    def record(name: str, **values: object) -> Record:
        blank = {"main_task_type": "understanding", "sub_task_type": "vqa", "modality": "CT", "dataset": "set",
                 "input_img": (scan_path,), "output_img": (), "sha256": (scan_digest,), "licence": "CC0"}  # fmt: skip
        return Record(id=name, patient="set-1", split="train", **(blank | values))

    talk = tuple(Message(*one) for one in [("human", "Which organ?"), ("gpt", "The liver."), ("human", "A lesion?"),
                                           ("gpt", "None is seen.")])  # fmt: skip
    write_records(file, [
        record("a", message=talk),
        record("b", main_task_type="generation", sub_task_type="super_resolution", output_img=(drawn_path,),
               sha256=(scan_digest, drawn_digest), message=(Message("human", "Sharper."),)),
        record("c", message=(Message("human", "Born when?"), Message("gpt", "Date of birth 3.4.1951."))),
    ])  # fmt: skip
    found = team.store.imports.read(team.maintainer, "records", file)
    assert len(found.items) == 2
    assert found.losses == {
        "an earlier answer of a conversation, which is shown with the request": 1,
        "The text seems to hold a date and a date of birth, which may identify a patient": 1,
    }
    assert (
        found.first["The text seems to hold a date and a date of birth, which may identify a patient"] == "set.jsonl:3"
    )
    project = team.project(items=found.items)
    shown = {task.shown.task: task.shown for task in team.judge_all(team.raters[0], project)}
    assert [s.get("text", s["type"]) for s in shown["vqa"].inputs] == [
        "image",
        "Which organ?",
        "The liver.",
        "A lesion?",
    ]
    assert shown["vqa"].outputs[0]["text"] == "None is seen."
    assert [s.get("generated", False) for s in shown["vqa"].inputs] == [False, False, True, False]
    assert shown["super_resolution"].outputs[0]["sha256"] == picture(2).sha256
    (tmp_path / scan_path).write_bytes((tmp_path / drawn_path).read_bytes())
    with pytest.raises(FeedbackError, match=r"set\.jsonl:1: A picture is another one"):
        team.store.imports.read(team.maintainer, "records", file)
    assert count(engine, "generations") == 2


REGIONS = [
    {"label": "blur", "kind": "box", "x0": 1.3, "y0": 4, "x1": 10.1, "y1": 9.7},
    {"label": "artefact", "kind": "point", "x": 23.9, "y": 0},
    {"label": "blur", "kind": "brush", "width": 4, "points": [[5, 20], [20.3, 20]]},
]


def known(tasks: list[dict]) -> list[tuple]:
    """All of tasks that an import brings back."""
    gold = [[one["result"] for one in task["annotations"] if one["ground_truth"]] for task in tasks]
    return sorted((json.dumps([task["data"], task["meta"], of]) for task, of in zip(tasks, gold, strict=True)))


@pytest.mark.parametrize("kind", ["rate", "compare", "correct"])
def test_label_studio_comes_back_as_it_went(team: Team, tmp_path: Path, kind: str, engine: sa.Engine) -> None:
    spans = [
        {"start": 0, "end": 7, "error": "severity", "significant": True},
        {"start": 8, "end": 9, "error": "omission"},
    ]
    gold = {
        "rate": {"scores": {"anatomy": 2}, "regions": REGIONS, "comment": "Known.", "confidence": 3},
        "compare": {"choices": {"anatomy": 1, "overall": "both_bad"}, "ranking": [[2], [0, 1]]},
        "correct": {"text": "Pleural effusion.\nNo more.", "spans": spans},
    }[kind]
    outputs = team.outputs("text" if kind == "correct" else "image", 3, patient="P-7")
    ids = zip(outputs, team.outputs(count=3, model="b"), team.outputs(count=3, model="c"), strict=True)
    items = [NewItem(of if kind == "compare" else of[:1], gold=gold if i else None) for i, of in enumerate(ids)]
    first = team.project(kind, items=items, name="first")
    more = {"ranking": [[0, 1], [2]]} if kind == "compare" else {}
    for project in (first,):
        while (task := team.next(team.raters[0], project)) is not None:
            team.submit(team.raters[0], task, **more)
    out = exported(team, first, "label_studio", tmp_path / "out")
    found = team.store.imports.read(team.maintainer, "label_studio", tmp_path / "out", asks=kind, rubric=RUBRIC)
    assert found.losses == {"what a person has annotated, who has no account here": 3}
    assert sum(item.gold is not None for item in found.items) == 2
    stored = count(engine, "generations")
    second = team.project(kind, items=found.items, name="second")
    while (task := team.next(team.raters[1], second)) is not None:
        team.submit(team.raters[1], task, **more)
    again = exported(team, second, "label_studio", tmp_path / "again")
    assert known(again) == known(out) and len(known(out)) == 3
    for folder in (tmp_path / "out", tmp_path / "again"):
        marked = [NOTICE.encode() in path.read_bytes() for path in (folder / "images").glob("*.png")]
        assert sum(marked) == (0 if kind == "correct" else 3), "what was drawn says so still"
    again = {"a.zip": zipped(tmp_path / "again")}
    losses = team.store.imports.read(team.maintainer, "label_studio", again, asks="rate", rubric=RUBRIC).losses
    assert losses.get("a gold answer about several outputs, which are judged alone", 0) == (2 * (kind == "compare"))
    assert losses.get("a corrected text of a gold answer, for which nobody asks", 0) == (2 * (kind == "correct"))
    team.store.imports.read(team.maintainer, "label_studio", again, asks=kind)
    assert count(engine, "generations") == stored, "the same content, whatever the file"
    if kind != "compare":
        assert team.store.withdraw_patient(team.maintainer, "archive", "P-7").generations == 6, "with what came back"


def test_a_patients_name_in_an_export_cannot_be_turned_back(team: Team, tmp_path: Path, engine: sa.Engine) -> None:
    """Who knows the source and tries all numbers finds nobody, and other stores give other names; what comes back, from
    this export or one of before, is the same patient's."""
    stranger, number = "P-" + "0" * 62, "123456"
    project = team.project(items=[NewItem((one,)) for one in team.outputs(count=2, patient=number)])
    team.judge_all(team.raters[0], project)
    (first, second) = exported(team, project, "label_studio", tmp_path / "out")
    name, plain = first["meta"]["patient"], hashlib.sha256(f"archive\0{number}".encode()).hexdigest()
    with engine.connect() as connection:
        secret = connection.scalar(sa.text("SELECT value FROM secrets"))
    for layout in LAYOUTS:
        exported(team, project, layout, tmp_path / layout)
        written = "".join(path.read_text() for path in (tmp_path / layout).glob("data.*"))
        assert plain not in written and secret not in written
    again = []
    for patient in (name, plain, stranger):
        tasks = [task | {"meta": task["meta"] | {"patient": patient}} for task in (first, second)]
        (tmp_path / "out" / "data.jsonl").write_text("\n".join(map(json.dumps, tasks)))
        again += team.store.imports.read(team.maintainer, "label_studio", tmp_path / "out").items
    back = team.project(items=again, name="back")
    team.judge_all(team.raters[0], back)
    found = [task["meta"]["patient"] for task in exported(team, back, "label_studio", tmp_path / "again")]
    assert sorted(found) == sorted([name] * 4 + [stranger] * 2)
    assert team.store.withdraw_patient(team.maintainer, "archive", number).generations == 6
    assert count(engine, "cases") == 1, "the stranger stays"


PACKED = "61X13mN000`0"
"""pycocotools' own example of packed run lengths, of 9 x 10 pixels."""


def coco_of(root: Path) -> Path:
    root.mkdir()
    Image(PILImage.new("RGB", (10, 9))).pixels.save(root / "small.png")
    (root / "images").mkdir()
    picture(5).pixels.save(root / "images" / "noise.png")
    mask = np.random.default_rng(3).random((24, 24)) < 0.3
    annotations = [
        {"image_id": "n", "category_id": 4, "segmentation": run_lengths(mask), "iscrowd": 1},
        {"image_id": "n", "category_id": 9, "segmentation": [[3, 4, 10, 4, 10, 9, 3, 9], [20, 20, 23, 20, 20, 23]]},
        {"image_id": "n", "category_id": 9, "segmentation": [], "bbox": [2, 3, 5.5, 6]},
        {"image_id": 1, "category_id": 4, "segmentation": {"size": [9, 10], "counts": PACKED}, "keypoints": [1, 2, 2]},
    ]
    document = {
        "images": [{"id": "n", "file_name": "noise.png", "width": 24, "height": 24},
                   {"id": 1, "file_name": "small.png", "width": 10, "height": 9}],
        "categories": [{"id": 4, "name": "blur"}, {"id": 9, "name": "artefact"}],
        "annotations": [{"id": n, **one} for n, one in enumerate(annotations)],
    }  # fmt: skip
    (root / "instances.json").write_text(json.dumps(document))
    return root


def masks_of(document: dict) -> dict[tuple[str, str, int], list]:
    """Masks by picture and label, of gold answers alone."""
    names = {image["id"]: image["file_name"] for image in document["images"]}
    labels = {category["id"]: category["name"] for category in document["categories"]}
    found: dict[tuple[str, str], list] = {}
    for one in document["annotations"]:
        if one["rater"] == "gold":
            found.setdefault((names[one["image_id"]], labels[one["category_id"]]), []).append(one["segmentation"])
    return found


def test_coco_masks_come_back_bit_for_bit(team: Team, tmp_path: Path) -> None:
    root, read = coco_of(tmp_path / "coco"), team.store.imports.read
    found = read(team.maintainer, "coco", root / "instances.json", rubric=RUBRIC)
    assert found.losses == {"keypoints": 1} and [len(item.gold["regions"]) for item in found.items] == [3, 1]
    first = team.project(items=found.items, name="first")
    region = {"label": "blur", "kind": "box", "x0": 0, "y0": 0, "x1": 3, "y1": 3}
    while (task := team.next(team.raters[0], first)) is not None:
        team.submit(team.raters[0], task, regions=[region])
    out = masks_of(exported(team, first, "coco", tmp_path / "out"))
    noise, small = (f"{Image(PILImage.open(p).convert('RGB')).sha256}.png" for p in
                    (root / "images" / "noise.png", root / "small.png"))  # fmt: skip
    mask = np.random.default_rng(3).random((24, 24)) < 0.3
    assert out[noise, "blur"] == [run_lengths(mask)]
    assert out[small, "blur"] == [{"size": [9, 10], "counts": [6, 1, 40, 4, 5, 4, 5, 4, 21]}]
    drawn, box = map(from_run_lengths, out[noise, "artefact"])
    assert drawn[4:9, 3:10].all() and drawn.sum() == 35 + polygon([20, 20, 23, 20, 20, 23], 24, 24).sum()
    assert box[3:9, 2:7].all()
    found = read(team.maintainer, "coco", tmp_path / "out", rubric=RUBRIC)
    assert found.losses == {"what a person has marked, who has no account here": 2}
    second = team.project(items=found.items, name="second")
    team.judge_all(team.raters[0], second)
    assert masks_of(exported(team, second, "coco", tmp_path / "again")) == out
    (rater,) = standings(columns(team.store.database, first, None))
    assert rater.gold == 0.0, "a corner is not what was to be marked"


def test_ways_to_write_pixels() -> None:
    assert unpacked(PACKED) == [6, 1, 40, 4, 5, 4, 5, 4, 21]
    for wrong in ("6`", "6\x7f", "`"):
        with pytest.raises(FeedbackError):
            unpacked(wrong)
    triangle = polygon([1, 1, 8, 1, 1, 8], 10, 10)
    assert triangle.sum(axis=1).tolist() == [0, 6, 5, 4, 3, 2, 1, 0, 0, 0]
    # Label Studio's stream, bit by bit: 8 values, 8 bits each, four lengths; a run of 4 zeros, a run of 4 of 255.
    bits = f"{8:032b}0011100100011011111111000110000000010001111111111"
    bits += "0" * (-len(bits) % 8)
    assert brush(np.array([[0, 1]], bool)) == [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]
    singles = f"{4:032b}00111001000110111111100001100000001000000100000001111111110"
    singles += "0" * (-len(singles) % 8)
    assert from_brush([int(singles[i : i + 8], 2) for i in range(0, len(singles), 8)], 1, 1).all()
    random = np.random.default_rng(0)
    for share in (0.0, 0.02, 0.5, 1.0):
        mask = random.random((37, 300)) < share
        assert (from_brush(brush(mask), 300, 37) == mask).all()
        assert (from_run_lengths(run_lengths(mask)) == mask).all()
    with pytest.raises(FeedbackError, match="another size"):
        from_brush(brush(mask), 37, 37)
    with pytest.raises(FeedbackError, match="cut short"):
        from_brush(brush(mask)[:9], 300, 37)


def test_what_is_not_as_it_should_be_is_refused_whole(team: Team, tmp_path: Path, engine: sa.Engine) -> None:
    root = coco_of(tmp_path / "coco")
    good = json.loads((root / "instances.json").read_text())
    file = root / "instances.json"

    def coco(change: object) -> None:
        document = json.loads(json.dumps(good))
        change(document)
        file.write_text(json.dumps(document))

    def first(document: dict, **values: object) -> None:
        document["annotations"][0].update(values)

    wrong = [
        (lambda d: first(d, segmentation=[[3, 4, 10, 4, 99, 9]]), r"annotation 1: A region lies outside"),
        (lambda d: first(d, segmentation=[], bbox=[20, 20, 9, 9]), r"annotation 1: A region lies outside"),
        (lambda d: first(d, segmentation={"size": [9, 10], "counts": [90]}), r"annotation 1: .*another size"),
        (lambda d: first(d, segmentation={"size": [24, 24], "counts": [-576, 1152]}), r"annotation 1: .*another size"),
        (lambda d: first(d, segmentation={"size": [24, 24], "counts": ["a"]}), r"annotation 1: this is not"),
        (lambda d: first(d, category_id=77), r"annotation 1: There is no such image or category"),
        (lambda d: d["categories"][0].update(name="nodule"), r"annotation 1: Unknown label: 'nodule'"),
        (lambda d: d["images"][1].update(file_name="other.png"), r"image 2: A picture is missing: 'other.png'"),
        (lambda d: d["images"][1].update(file_name="../x.png"), r"image 2: A name leads out"),
        (lambda d: d["images"][1].update(width=11), r"image 2: The picture has another size"),
        (lambda d: d["images"][1].update(id="n"), r"instances.json: Two images have the same id"),
        (lambda d: d.pop("annotations"), r"instances.json: this is not a COCO document"),
    ]
    for change, why in wrong:
        coco(change)
        with pytest.raises(FeedbackError, match=why):
            team.store.imports.read(team.maintainer, "coco", file, rubric=RUBRIC)
    task = {"data": {"task": "vqa", "prompt": "", "inputs": [], "output_0": "Fine."}, "annotations": []}
    rating = {"from_name": "overall", "to_name": "output_0", "type": "rating", "value": {"rating": 9}}
    gold = {"result": [rating], "ground_truth": True}
    texts = [
        ("{\n]", r"x.json:2: not valid JSON"), ("[" * 100_000, r"x.json: not valid JSON"),
        ("{}", r"x.json: a list of tasks"), ("[[]]", r"x.json: entry 1: this is not a task"),
        ('[{"data": {"image": "a.png"}}]', r"entry 1: There is no output_0"),
        ('[{"data": {"output_0": "", "task": "vqa"}}]', r"entry 1: this is not a task .*it has no 'inputs'"),
        (json.dumps([task, task | {"annotations": [gold]}]), r"entry 2: Unknown score: 9"),
        (json.dumps([task | {"annotations": [{"result": [rating | {"type": "video"}], "ground_truth": True}]}]),
         r"entry 1: There is no place for such a result"),
    ]  # fmt: skip
    for text, why in texts:
        with pytest.raises(FeedbackError, match=why):
            team.store.imports.read(team.maintainer, "label_studio", {"x.json": text.encode()}, rubric=RUBRIC)
    with pytest.raises(UniMedError, match=r"x.jsonl:2: main_task_type must be a string"):
        team.store.imports.read(team.maintainer, "records", {"x.jsonl": b'\n{"id": "1"}'})
    with pytest.raises(FeedbackError, match=r"x.jsonl:2: not valid JSON"):
        team.store.imports.read(team.maintainer, "label_studio", {"x.jsonl": json.dumps(task).encode() + b"\n{"})
    for source, why in [
        (tmp_path / "nowhere", "no such file"), ({}, "nothing that can be imported"),
        ({"a.txt": b"text"}, "nothing that can be imported.*not a picture"),
    ]:  # fmt: skip
        with pytest.raises(FeedbackError, match=why):
            team.store.imports.read(team.maintainer, "folder", source)
    with pytest.raises(FeedbackError, match="There must be one"):
        team.store.imports.read(team.maintainer, "coco", {"a.json": b"{}", "b.json": b"{}"})
    for kind, asks in [("excel", "rate"), ("folder", "paint")]:
        with pytest.raises(FeedbackError, match="Unknown kind of"):
            team.store.imports.read(team.maintainer, kind, root, asks=asks)
    assert count(engine, "generations") == count(engine, "model_versions") == 0


def test_zips_that_mean_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.feedback.files.MOST_BYTES", 1000)

    def made(name: str, data: bytes = b"x") -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr(name, data)
        return buffer.getvalue()

    small = made("a.png")
    encrypted = bytearray(small)
    encrypted[small.index(b"PK\x01\x02") + 8] |= 1
    for data, why in [
        (made("../../etc/evil.png"), "leads out of it"), (made("/etc/evil.png"), "leads out of it"),
        (made("a\\..\\b.png"), "leads out of it"), (made("a.png", bytes(1001)), "unpack to too much"),
        (small[:-30], "damaged or cut short"), (bytes(encrypted), "encrypted"),
    ]:  # fmt: skip
        with pytest.raises(FeedbackError, match=why), opened({"a.zip": data}):
            pass
    damaged = bytearray(made("a.png", bytes(range(100))))
    damaged[50] ^= 255
    with opened({"a.zip": bytes(damaged)}) as files, pytest.raises(FeedbackError, match="damaged"):
        files.read("a.png")


def test_an_import_that_was_cut_off_goes_on(
    team: Team, tmp_path: Path, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, blobs = folder_of(tmp_path / "in"), team.store.blobs
    put, done = type(blobs).put, []

    def full(self: object, image: Image) -> str:
        done.append(image.sha256)
        if len(done) == 3:
            raise FeedbackError("A picture cannot be stored (No space left on device)")
        return put(self, image)

    monkeypatch.setattr(type(blobs), "put", full)
    with pytest.raises(FeedbackError, match=r"No space left on device\)\. 1 of 4 are stored"):
        team.store.imports.read(team.maintainer, "folder", root)
    assert count(engine, "generations") == 1
    assert len(team.store.imports.read(team.maintainer, "folder", root).items) == 4
    assert count(engine, "generations") == 4
