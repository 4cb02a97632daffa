"""The kinds of imports: pictures of a folder, records, Label Studio's tasks, COCO's pictures, as runs to be stored.

A document that is not as it should be is refused as a whole, with the file and the line or entry. What is well-formed
and cannot be taken is left out and counted. Names of a folder's files are never told: they often hold names of people.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import count, takewhile

import numpy as np

from core.data.images import frame_count, patient_of
from core.data.records import parse
from core.errors import FeedbackError, ImageError
from core.feedback import masks
from core.feedback.answers import Output, checked
from core.feedback.files import hidden
from core.feedback.label_studio import TEXTS, answer_of
from core.feedback.layouts import GOLD
from core.feedback.reading import NotTaken, Picture, Reading, Run, as_json, at, entries, harmless
from core.feedback.runs import PSEUDONYM, patient_hash, whose_picture
from core.sequence import Text

FOLDER_TASK = "import"
MOST_NAME = 32
"""Characters of a task's name."""
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PATIENT = re.compile(rf"{PSEUDONYM}[0-9a-f]{{{64 - len(PSEUDONYM)}}}|{_DIGEST.pattern}")
"""A patient as our exports name them, or as earlier ones did: by the digest."""


# A folder ------------------------------------------------------------------------------------------------------------


def folder(reading: Reading) -> Iterator[Run]:
    """Every picture is an output. Of a file with several frames the first is taken, of a volume the middle slice."""
    names, seen = reading.files.names, set()
    for number, name in enumerate(names, 1):
        place = f"file {number} of {len(names)}, in the order of their names"
        if hidden(name):
            reading.left("a hidden file", place)
            continue
        try:
            data = reading.files.read(name)
            picture, patient, frames = reading.look(name), patient_of(data), frame_count(data)
        except (ImageError, FeedbackError) as error:
            reading.left(error.what, place)
            continue
        case = _case_of(patient, picture)
        if (picture.sha256, case) in seen:
            reading.left("a copy of another file", place)
            continue
        seen.add((picture.sha256, case))
        if frames > 1:
            reading.left("a further frame or slice of a file", place, frames - 1)
        try:
            yield reading.run(place, FOLDER_TASK, [], [picture], {}, case)
        except NotTaken as reason:
            reading.left(str(reason), place)


def _case_of(patient: str | None, picture: Picture) -> tuple[str, str]:
    """Source and digest of the patient of a picture."""
    source, whose = whose_picture(patient, picture.sha256)
    return source, patient_hash(source, whose)


# Documents -----------------------------------------------------------------------------------------------------------


def _each(
    reading: Reading, what: str, read: Callable[[Reading, str, str, dict], Run]
) -> Iterator[Run]:  # fmt: skip
    yield from _once(reading, f"a {what}", entries(reading, f"{what}s"), partial(read, reading))


def _once(
    reading: Reading, what: str, found: Iterable[tuple[str, str, dict]], read: Callable[[str, str, dict], Run]
) -> Iterator[Run]:  # fmt: skip
    """The runs of entries, each with its document and place, without those that cannot be taken and without copies."""
    seen: set[str] = set()
    for document, place, entry in found:
        try:
            with at(place, what):
                run = read(document, place, entry)
        except NotTaken as reason:
            reading.left(str(reason), place)
            continue
        if run.key in seen:
            reading.left("a copy of another one", place)
            continue
        seen.add(run.key)
        yield run


def records(reading: Reading) -> Iterator[Run]:
    """Records (``core.data.records``): what a model is to learn becomes outputs, what it is given the request."""
    return _each(reading, "record", _record)


def _record(reading: Reading, document: str, place: str, entry: dict) -> Run:
    record = parse(json.dumps(entry), place)
    pictures = [reading.beside(document, path) for path in record.images]
    for picture, digest in zip(pictures, record.sha256, strict=True):
        if hashlib.sha256(reading.files.read(picture.name)).hexdigest() != digest.lower():
            raise FeedbackError("A picture is another one than the record's", value=record.id)
    said = list(record.message)
    last = [Text(said.pop().value)] if said[-1].speaker == "gpt" else []
    earlier = frozenset(message.value for message in said if message.speaker == "gpt")
    if earlier:
        reading.left("an earlier answer of a conversation, which is shown with the request", place, len(earlier))
    given = len(record.input_img)
    names = ("id", "main_task_type", "modality", "dataset", "split", "licence")
    return reading.run(
        place, record.sub_task_type, [*pictures[:given], *(Text(message.value) for message in said)],
        [*pictures[given:], *last],
        {name: getattr(record, name) for name in names} | {"label": harmless(record.label)},
        (record.dataset, patient_hash(record.dataset, record.patient)), generated=earlier,
    )  # fmt: skip


def label_studio(reading: Reading) -> Iterator[Run]:
    """Tasks as our export writes them. A ``ground_truth`` is the gold answer. What people have annotated is not taken:
    a judgement is what somebody with an account here has said of what was shown here, and the log vouches for it."""
    return _each(reading, "task", _task)


def _task(reading: Reading, document: str, place: str, entry: dict) -> Run:
    data, meta = entry["data"], entry.get("meta") or {}
    if "output_0" not in data:
        raise FeedbackError("There is no output_0", value=sorted(data), remedy="Use tasks as the studio exports them")
    if len(data["task"]) > MOST_NAME:
        raise FeedbackError("The name of the task is too long", value=data["task"])
    written = [data[name] for name in takewhile(data.__contains__, (f"output_{i}" for i in count()))]
    kinds = meta.get("outputs") or ["text"] * len(written)
    outputs: list[Text | Picture] = [
        Text(one) if kind == "text" else _named(reading, document, one)
        for one, kind in zip(written, kinds, strict=True)
    ]
    inputs = [_segment(reading, document, segment) for segment in data["inputs"]]
    earlier = frozenset(segment["text"] for segment in data["inputs"] if segment.get("generated") and "text" in segment)
    annotations = entry.get("annotations") or []
    known = [annotation for annotation in annotations if annotation.get("ground_truth")]
    if others := len(annotations) - len(known):
        reading.left("what a person has annotated, who has no account here", place, others)
    if len(known) > 1:
        reading.left("a ground truth before the last one", place, len(known) - 1)
    gold = None
    if known:
        first = outputs[0]
        size = (first.width, first.height) if isinstance(first, Picture) else None
        gold = answer_of(known[-1], size) or None
        for name in TEXTS:
            harmless((gold or {}).get(name, ""))
    pictures = [part for part in (*inputs, *outputs) if isinstance(part, Picture)]
    case = _case(meta, pictures[0] if pictures else None)
    return reading.run(place, data["task"], inputs, outputs, {}, case, gold, earlier)


def _case(about: dict, picture: Picture | None) -> tuple[str, str] | None:
    """Of an export of ours the patient's name there, so that a withdrawal finds what has come back, too."""
    patient = about.get("patient")
    if isinstance(patient, str) and _PATIENT.fullmatch(patient):
        return "import", patient
    return None if "patient" in about or picture is None else _case_of(None, picture)


def _named(reading: Reading, document: str, name: str) -> Picture:
    """A picture whose name is the digest of its pixels."""
    picture = reading.beside(document, name)
    if f"{picture.sha256}.png" != name.rpartition("/")[2] and _DIGEST.match(name.rpartition("/")[2]):
        raise FeedbackError("A picture is another one than its name says", value=name)
    return picture


def _segment(reading: Reading, document: str, segment: dict) -> Text | Picture:
    if segment["type"] == "text":
        return Text(segment["text"])
    found = _named(reading, document, f"{segment['sha256']}.png")
    spacing = segment.get("spacing_mm")
    return Picture(
        found.name, found.sha256, found.width, found.height, spacing and (float(spacing[0]), float(spacing[1])),
        segment.get("modality"), bool(segment.get("generated")),
    )  # fmt: skip


# COCO ----------------------------------------------------------------------------------------------------------------


def coco(reading: Reading) -> Iterator[Run]:
    """Every picture is an output, and its regions are the gold answer. Of our own exports the gold ones alone are: see
    ``label_studio``."""
    name = reading.files.document()
    document = as_json(reading.files.read(name), name)
    with at(name, "a COCO document"):
        labels = {category["id"]: str(category["name"]) for category in document["categories"]}
        regions: dict[object, list[tuple[str, dict]]] = {image["id"]: [] for image in document["images"]}
        if len(regions) < len(document["images"]):
            raise FeedbackError("Two images have the same id")
        annotations = list(document["annotations"])
    for number, annotation in enumerate(annotations, 1):
        place = f"{name}: annotation {number}"
        with at(place, "an annotation"):
            if annotation.get("rater", GOLD) != GOLD:
                reading.left("what a person has marked, who has no account here", place)
            elif annotation["image_id"] not in regions or annotation["category_id"] not in labels:
                raise FeedbackError("There is no such image or category", value=annotation.get("id", number))
            else:
                regions[annotation["image_id"]].append((place, annotation))
    images = ((name, f"{name}: image {number}", image) for number, image in enumerate(document["images"], 1))
    yield from _once(reading, "an image", images, partial(_image, reading, labels, regions))


def _image(
    reading: Reading, labels: dict, marked: dict[object, list[tuple[str, dict]]], document: str, place: str, image: dict
) -> Run:  # fmt: skip
    picture = reading.beside(document, image["file_name"])
    size = picture.width, picture.height
    if (image["width"], image["height"]) != size:
        sizes = f"{image['width']} x {image['height']} for {size[0]} x {size[1]}"
        raise FeedbackError("The picture has another size than the document says", value=sizes)
    regions = []
    for where, annotation in marked[image["id"]]:
        if annotation.get("keypoints"):
            reading.left("keypoints", where)
        with at(where, "an annotation"):
            regions.append({"label": labels[annotation["category_id"]], **_region(annotation, *size)})
            if reading.rubric is not None:
                shown = [Output(None, *size)]
                checked("rate", reading.rubric, shown, {"regions": regions[-1:]}, complete=False)
    gold = {"regions": regions} if regions else None
    return reading.run(place, FOLDER_TASK, [], [picture], {}, _case(image, picture), gold)


def _region(annotation: dict, width: int, height: int) -> dict:
    found = annotation.get("segmentation")
    if not found:
        x, y, columns, rows = annotation["bbox"]
        return {"kind": "box", "x0": x, "y0": y, "x1": x + columns, "y1": y + rows}
    if isinstance(found, dict):
        counts = masks.unpacked(found["counts"]) if isinstance(found["counts"], str) else found["counts"]
        if list(found["size"]) != [height, width] or min(counts) < 0 or sum(counts) != width * height:
            raise FeedbackError("The mask is of a picture of another size", value=found["size"])
        return {"kind": "mask", "counts": counts}
    mask = np.zeros((height, width), bool)
    for points in found:
        x, y = points[0::2], points[1::2]
        if len(points) < 6 or len(points) % 2:
            raise FeedbackError("A polygon needs the x and y of three points", value=len(points))
        if not all(0 <= a <= width for a in x) or not all(0 <= b <= height for b in y):
            raise FeedbackError("A region lies outside of its picture", value=f"{width} x {height}")
        mask |= masks.polygon(points, width, height)
    if not mask.any():
        raise FeedbackError("A region covers no pixel")
    return {"kind": "mask", "counts": masks.run_lengths(mask)["counts"]}


READERS: dict[str, Callable[[Reading], Iterator[Run]]] = {
    "folder": folder,
    "records": records,
    "label_studio": label_studio,
    "coco": coco,
}
