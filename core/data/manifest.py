"""From a manifest of images to pictures with what is known of each: ``records build`` starts here.

A manifest is a CSV with a row for every image or volume; ``COLUMNS`` are read. Volumes are ``.npz`` files of aligned
arrays and are cut into slices; everything else goes through ``core.data.images``. What the labels and masks of a known
source mean is in the tables of ``core.data.templates``. Of any other source nothing is said but its modality and its
labels.
"""

from __future__ import annotations

import csv
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from zipfile import BadZipFile

import numpy as np
from PIL import Image as PILImage

from core.data.images import open_image
from core.data.records import SPLITS, one_of, pseudonym, resolve
from core.data.stains import Section, registered_tiles
from core.data.templates import ASKED, SEQUENCES, STAINS, WINDOWS, Finding, known_of, labelled, structure_of
from core.errors import ImageError, RecordError, UniMedError

COLUMNS = ("path", "modality", "source", "tier", "licence", "split", "patient", "label", "mask", "sex", "view", "extra")
TIERS = ("A", "B", "C")
"""A permissive licence is stated; open as far as known; nothing is stated."""
MRI_NAMES = {"t1": "T1-weighted", "t1c": "contrast-enhanced T1-weighted", "t2": "T2-weighted", "flair": "FLAIR"}
CT_WINDOWS = {"soft tissue": (40, 400), "bone": (400, 1800)}
TOTALSEGMENTATOR = ("ct_totalsegmentator",)
"""Sources whose array ``seg_model_output`` has TotalSegmentator's numbers, from which the region is told."""
PELVIS = (21, 25, 75, 76)
"""TotalSegmentator's numbers of bladder, sacrum and femora: a slice through one of them is called pelvis."""
UNREADABLE = (ImageError, OSError, ValueError, LookupError, TypeError, RuntimeError, EOFError, BadZipFile, zlib.error)
"""What Pillow, NumPy, zipfile and JSON raise over a file that is broken or holds something else."""


@dataclass(frozen=True)
class About:
    """What is known of an image, without its pixels.

    Attributes:
        name: unique within the manifest; for ids and random choices, never written as it is.
        patient: a pseudonym.
        label: a class for classifiers.
        twin: pictures of one dataset and ``twin`` show the same thing in different states; never written.
    """

    name: str
    dataset: str
    split: str
    patient: str
    licence: str
    known: Finding
    label: str = ""
    twin: str = ""


@dataclass
class Picture:
    """One image with what is known about it.

    Attributes:
        mask: white inside, black outside, of the image's size; ``structure`` is its name.
        aligned: images of the same place by what one would ask for ("T2-weighted MRI", "Ki-67"), with their task.
        qa: questions of the source with their answers.
    """

    about: About
    image: PILImage.Image
    structure: str = ""
    mask: PILImage.Image | None = None
    aligned: dict[str, PILImage.Image] = field(default_factory=dict)
    aligned_task: str = "cross_modal"
    qa: list[tuple[str, str]] = field(default_factory=list)


def read_manifest(path: Path, tiers: tuple[str, ...], held_out: tuple[str, ...] = ()) -> list[dict[str, str]]:
    """The rows of some tiers, each with its FILE:LINE as ``place``. Every row is checked, whatever its tier.

    Rows whose path is in ``held_out`` count as test data; of a folder of serial sections one stands for all.

    Raises:
        RecordError: no such file, a missing column, a row that cannot be right, a patient in two splits, or a held-out
            path that no row has.
    """
    rows = _rows(path)
    unknown = set(held_out) - {row["path"] for row in rows}
    if unknown:
        remedy = "Write it as it stands in the column path"
        raise RecordError("No row of the manifest has the held-out path", value=sorted(unknown)[0], remedy=remedy)
    folders = {_folder(row) for row in rows if row["path"] in held_out and is_section(row)}
    moved = [row for row in rows if row["path"] in held_out or (is_section(row) and _folder(row) in folders)]
    for row in moved:
        row["split"] = "test"
    _check_patients(rows, {row["place"] for row in moved})
    found = {row["tier"] for row in rows}
    rows = [row for row in rows if row["tier"] in tiers]
    if not rows:
        remedy = f"Name others with --tiers: the rows have {', '.join(sorted(found)) or 'none'}"
        raise RecordError(f"{path.name} has no row of the tiers", value=" ".join(tiers), remedy=remedy)
    return rows


def _rows(path: Path) -> list[dict[str, str]]:
    rows = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            for column in COLUMNS:
                if column not in (reader.fieldnames or ()):
                    remedy = f"It needs {', '.join(COLUMNS)}"
                    raise RecordError(f"{path.name} lacks a column", value=column, remedy=remedy)
            for row in reader:
                place = f"{path.name}:{reader.line_num}"
                _check_row(row, place)
                rows.append(row | {"place": place})
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        remedy = "Name a CSV file such as manifest.csv"
        reason = error.strerror if isinstance(error, OSError) else error
        raise RecordError(f"The manifest cannot be read ({reason})", value=str(path), remedy=remedy) from error
    return rows


def _check_row(row: dict[str, str], place: str) -> None:
    """
    Raises:
        RecordError: the row cannot be right.
    """
    if None in row or None in row.values():  # what DictReader makes of cells that are too many or too few
        remedy = "Put cells that hold a comma in quotes"
        raise RecordError(f"{place}: the row has more or fewer cells than the header", remedy=remedy)
    for column in ("path", "modality", "source", "patient"):
        if not row[column].strip():
            remedy = "Name the smallest group that must not be split" if column == "patient" else None
            raise RecordError(f"{place}: {column} is empty", remedy=remedy)
    one_of(place, "split", row["split"], SPLITS)
    one_of(place, "tier", row["tier"], TIERS)
    for relative in filter(None, (row["path"], row["source"], row["mask"], _landmarks(row))):
        resolve(Path(), relative, place)


def is_section(row: dict[str, str]) -> bool:
    """Whether the row is one of several serial sections, which lie in one folder."""
    return "landmarks=" in row["extra"]


def _landmarks(row: dict[str, str]) -> str:
    return row["extra"].partition("landmarks=")[2].partition(";")[0].strip()


def _folder(row: dict[str, str]) -> str:
    return str(PurePosixPath(row["path"]).parent)


def _check_patients(rows: list[dict[str, str]], held: set[str]) -> None:
    """A patient has one split, and a folder of serial sections one patient; ``held`` are the held-out rows' places.

    Raises:
        RecordError: with both lines.
    """
    patients: dict[tuple[str, str], dict[str, str]] = {}
    folders: dict[str, dict[str, str]] = {}
    for row in rows:
        first = patients.setdefault((row["source"], row["patient"]), row)
        if row["split"] != first["split"]:
            what = f"{row['place']}: the patient is in {row['split']} here, in {first['split']} in {first['place']}"
            out = {row["place"], first["place"]} & held
            remedy = "Hold out all of the patient's rows" if out else "Give all of the patient's rows one split"
            raise RecordError(what, remedy=remedy)
        first = folders.setdefault(_folder(row), row) if is_section(row) else row
        if (row["source"], row["patient"]) != (first["source"], first["patient"]):
            what = f"{row['place']}: another patient than in {first['place']}, in one folder of serial sections"
            raise RecordError(what, value=_folder(row), remedy="Use a folder for each patient")


def pictures(root: Path, row: dict[str, str], qa: dict[str, list]) -> Iterator[Picture]:
    """The pictures of one row; a volume has many.

    Raises:
        RecordError: the row's file is missing or broken; the message starts with the manifest's FILE:LINE.
    """
    try:
        if not row["path"].endswith(".npz"):
            yield _flat(root, row, qa)
        elif row["modality"] == "ct":
            yield from _ct(root, row)
        else:
            yield from _mri(root, row)
    except UNREADABLE as error:
        reason = error.what if isinstance(error, UniMedError) else str(error) or type(error).__name__
        what = f"{row['place']}: {row['path']} cannot be used ({reason})"
        raise RecordError(what, remedy="Put a whole file there, or remove the row") from error


def questions_of(root: Path, sources: set[str]) -> dict[str, list]:
    """Questions by physicians, by image path: from ``SOURCE/qa.json`` in VQA-RAD's layout.

    Raises:
        RecordError: the file is broken, or a question or answer is neither text nor a number.
    """
    out: dict[str, list] = {}
    for source in sorted(sources):
        path = root / source / "qa.json"
        if not path.is_file():
            continue
        try:
            for item in json.loads(path.read_text(encoding="utf-8")):
                pair = (_text(item["question"]), _text(item["answer"]))
                out.setdefault(f"{source}/images/{item['image_name']}", []).append(pair)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RecordError(f"{source}/qa.json cannot be read ({error})", remedy="Copy the file again") from error
    return out


def _text(value: object) -> str:
    if not isinstance(value, str | int | float):
        raise TypeError(f"a question or answer is {value!r}")
    return str(value).strip()


def _about(row: dict[str, str], name: str, known: Finding, label: str, twin: str = "") -> About:
    patient = pseudonym(row["source"], row["patient"])
    return About(name, row["source"], row["split"], patient, row["licence"], known, label, twin)


def _flat(root: Path, row: dict[str, str], qa: dict[str, list]) -> Picture:
    known = labelled(row)
    label, twin = known.detail, ""
    if known.labelled:
        label = "abnormal" if [f for f in known.findings if f != "no finding"] else "no finding"
        twin = row["patient"] if row["modality"] == "cxr" else ""
    picture = Picture(_about(row, row["path"], known, label, twin), open_image(root / row["path"]).pixels)
    picture.qa = qa.get(row["path"], [])
    if row["mask"]:
        mask = open_image(root / row["mask"]).pixels.convert("L")
        picture.mask = mask.resize(picture.image.size, PILImage.Resampling.NEAREST).point(lambda v: 255 * (v > 127))
        picture.structure = structure_of(row)
    return picture


def _volume(root: Path, row: dict[str, str], names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Those of the named arrays that a volume has, of one shape [., ., .].

    Raises:
        ValueError and others in ``UNREADABLE``: the file is broken, or its arrays are no aligned volumes.
    """
    with (root / row["path"]).open("rb") as file, np.load(file) as volume:
        arrays = {name: volume[name] for name in names if name in volume}
    shapes = {name: np.shape(array) for name, array in arrays.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != 3 for shape in shapes.values()):
        raise ValueError(f"its arrays are not of one shape in three dimensions: {shapes}")
    return arrays


def _mri(root: Path, row: dict[str, str]) -> Iterator[Picture]:
    """Axial slices, every second one that is not empty, each sequence aligned with the others."""
    volume = _volume(root, row, (*MRI_NAMES, "seg"))
    lesions, arrays = volume.pop("seg", None), volume
    if not arrays:
        raise ValueError(f"no array named {', '.join(MRI_NAMES)}")
    first = next(iter(arrays.values()))
    for z in range(int(len(first) * 0.2), int(len(first) * 0.9), 2):
        if (first[z] > 20).mean() < 0.1:
            continue
        slices = {name: PILImage.fromarray(a[z]).convert("RGB") for name, a in arrays.items()}
        for name, image in slices.items():
            known = replace(known_of(row), detail=MRI_NAMES[name], asked=SEQUENCES)
            picture = Picture(_about(row, f"{row['path']}#{name}/{z}", known, known.detail), image)
            picture.aligned = {f"{MRI_NAMES[n]} MRI": other for n, other in slices.items() if n != name}
            if lesions is not None and name == "flair" and lesions[z].sum() > 20:
                picture.mask = PILImage.fromarray(np.uint8(255) * (lesions[z] > 0))
                picture.structure = structure_of(row)
            yield picture


def _ct(root: Path, row: dict[str, str]) -> Iterator[Picture]:
    """Axial slices in two windows; the patient lies with the spine at the bottom. The region is the segmentation's."""
    known_labels = ("seg_model_output",) if row["source"] in TOTALSEGMENTATOR else ()
    volume = _volume(root, row, ("ct", *known_labels))
    hounsfield, labels = volume["ct"].astype(np.float32), volume.get("seg_model_output")
    for z in range(2, hounsfield.shape[2] - 2):
        organ = ""
        if labels is not None:
            organ = "pelvis" if np.isin(labels[:, :, z], PELVIS).sum() > 30 else "abdomen"
        for window, (centre, width) in CT_WINDOWS.items():
            if window == "bone" and z % 2:
                continue
            grey = np.clip((hounsfield[:, :, z] - centre) / width + 0.5, 0, 1)
            image = PILImage.fromarray((255 * np.rot90(grey)).astype(np.uint8)).convert("RGB")
            known = replace(known_of(row), organ=organ, detail=f"{window} window", asked=WINDOWS)
            yield Picture(_about(row, f"{row['path']}#{window}/{z}", known, ""), image)


def stain_pictures(root: Path, rows: list[dict[str, str]]) -> Iterator[Picture]:
    """Tiles of registered serial sections: rows of one folder whose ``extra`` names landmarks belong together.

    Raises:
        RecordError: a section or its landmarks cannot be used; the message starts with the manifest's FILE:LINE.
    """
    groups: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault(_folder(row), []).append(row)
    for group in groups.values():
        row = group[0]
        asked = ASKED.get(row["source"], STAINS)
        sections = [Section(r["path"], _landmarks(r), r["place"]) for r in group]
        for stain, other, name, here, there in registered_tiles(root, row["source"], sections):
            known = replace(known_of(row), detail=f"stained with {stain}", asked=asked)
            about = _about(row, name, known, stain)
            yield Picture(about, here, aligned={other: there}, aligned_task="virtual_staining")
