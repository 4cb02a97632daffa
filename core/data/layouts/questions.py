"""Questions about pictures: VQA-RAD, SLAKE, PathVQA and OmniMedVQA."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from core.data.layouts.base import Desk, Layout, Skip, Stored, inside, opened, rows_of, text_of
from core.data.records import Record

_RAD_FILE, _RAD_IMAGES = "VQA_RAD Dataset Public.json", "VQA_RAD Image Folder"
_RAD_MODALITY = {"CHEST": "chest X-ray", "ABD": "CT", "HEAD": "CT or MRI"}
_OMNI_MODALITY = (
    ("ct", "CT"),
    ("mr", "MRI"),
    ("ultrasound", "ultrasound"),
    ("fundus", "fundus photograph"),
    ("oct", "OCT"),
    ("endoscopy", "endoscopy"),
    ("histopathology", "histopathology"),
)
"""How OmniMedVQA's names start, in lower case, and ours; others are kept ("Dermoscopy", "X-Ray")."""


def _vqa_rad(folder: Path, desk: Desk) -> Iterator[Record]:
    """The OSF layout. The patient is the MedPix case where an entry of the picture names it, else the picture.

    The published split (``phrase_type`` starts with "test") divides questions, not patients: the same pictures are
    asked about in both parts. The modality follows from the organ (Lau et al. 2018: head CT or MRI, chest X-rays,
    abdominal CT).
    """
    rows = rows_of(folder / _RAD_FILE, desk)
    cases: dict[str, str] = {}
    for row in rows:
        if "://" in str(row.get("image_case_url")):
            cases.setdefault(str(row.get("image_name")), str(row["image_case_url"]))
    for row in rows:
        with desk.item():
            name, organ = text_of(row, "image_name"), text_of(row, "image_organ").upper()
            split = "test" if text_of(row, "phrase_type").startswith("test") else "train"
            question, answer = text_of(row, "question"), text_of(row, "answer")
            image = desk.stored_file(inside(folder / _RAD_IMAGES, name))
            modality = _RAD_MODALITY.get(organ, organ)
            key = f"{split}/{name}/{question}/{answer}"
            yield _asked(desk, key, cases.get(name, name), split, image, question, answer, modality)


def _slake(folder: Path, desk: Desk) -> Iterator[Record]:
    """English questions. The splits are published and divide pictures; the patient is the picture.

    Hugging Face calls ``validate.json`` ``validation.json``. The masks are left out: their colours have no legend.
    """
    names = {"train": ("train.json",), "val": ("validate.json", "validation.json"), "test": ("test.json",)}
    for split, files in names.items():
        path = next((folder / file for file in files if (folder / file).is_file()), None)
        for row in rows_of(path, desk) if path else ():
            if row.get("q_lang") != "en":
                continue
            with desk.item():
                name, question, answer = (text_of(row, field) for field in ("img_name", "question", "answer"))
                modality = text_of(row, "modality")
                if modality.lower() == "x-ray" and row.get("location") in ("Lung", "Chest"):
                    modality = "chest X-ray"
                image = desk.stored_file(inside(folder / "imgs", name))
                yield _asked(desk, f"{name}/{question}/{answer}", name, split, image, question, answer, modality)


def _pathvqa(folder: Path, desk: Desk) -> Iterator[Record]:
    """The Parquet files of Hugging Face. The splits are published; the patient is the picture.

    The authors' own archive keeps the questions in pickles, which run code when they are opened: it is not read.
    """
    seen: dict[str, Stored] = {}
    for source, split in (("train", "train"), ("validation", "val"), ("test", "test")):
        for path in sorted((folder / "data").glob(f"{source}-*.parquet")):
            for row in _parquet_rows(path, desk):
                with desk.item():
                    picture = row.get("image")
                    content = picture.get("bytes") if isinstance(picture, dict) else None
                    if not isinstance(content, bytes):
                        raise Skip("image missing")
                    question, answer = text_of(row, "question"), text_of(row, "answer")
                    name = hashlib.sha256(content).hexdigest()
                    if name not in seen:
                        seen[name] = desk.store.add(opened(content))
                    yield _asked(desk, f"{split}/{name}/{question}/{answer}", name, split, seen[name], question, answer)


def _parquet_rows(path: Path, desk: Desk) -> Iterator[dict]:
    import pyarrow  # takes a while to import, and one set needs it
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=32, columns=["image", "question", "answer"]):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError):
        desk.skip("Parquet file unreadable")


def _omnimedvqa(folder: Path, desk: Desk) -> Iterator[Record]:
    """Multiple choice, asked with its options; the answer is the text of the right one.

    The set is published as a benchmark: everything is test. The patient is the picture.
    """
    for path in sorted((folder / "QA_information" / "Open-access").glob("*.json")):
        for row in rows_of(path, desk):
            with desk.item():
                name, question, answer = (text_of(row, field) for field in ("image_path", "question", "gt_answer"))
                options = [f"{x}: {text_of(row, f'option_{x}')}" for x in "ABCD" if row.get(f"option_{x}")]
                called = text_of(row, "modality_type", "modality")  # one entry of "Chest CT Scan" says "modality"
                modality = next((ours for start, ours in _OMNI_MODALITY if called.lower().startswith(start)), called)
                image = desk.stored_file(inside(folder, name))
                asked = f"{question} Options: {', '.join(options)}." if options else question
                yield _asked(desk, f"{name}/{asked}/{answer}", name, "test", image, asked, answer, modality)


def _asked(
    desk: Desk, key: str, patient: str, split: str, image: Stored, question: str, answer: str, modality: str = ""
) -> Record:
    return desk.record(
        key, "vqa", patient, split, inputs=(image,), prompt=question, answer=answer, modality=modality
    )


QUESTIONS = {
    "vqa_rad": Layout(
        _vqa_rad, "chest X-ray, CT or MRI", "CC0 1.0 (check upstream)",
        f"the OSF download: '{_RAD_FILE}' beside '{_RAD_IMAGES}/'; its train and test parts share pictures",
        (_RAD_FILE, _RAD_IMAGES),
    ),
    "slake": Layout(
        _slake, "CT, MRI or chest X-ray", "CC BY 4.0 (check upstream)",
        "train.json, validate.json and test.json beside imgs/xmlab0/source.jpg and so on",
        ("train.json", "valid*.json", "test.json", "imgs"),
    ),
    "pathvqa": Layout(
        _pathvqa, "pathology", "MIT for the questions; the pictures belong to publishers (check upstream)",
        "the Hugging Face download: data/train-*.parquet, data/validation-*.parquet and data/test-*.parquet",
        ("data/train-*.parquet", "data/validation-*.parquet", "data/test-*.parquet"),
    ),
    "omnimedvqa": Layout(
        _omnimedvqa, "12 modalities", "that of each of its sources (check upstream)",
        "QA_information/Open-access/*.json beside Images/",
        ("QA_information/Open-access/*.json", "Images"),
    ),
}  # fmt: skip
