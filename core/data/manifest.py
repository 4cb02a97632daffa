"""From a manifest of public images to pictures with what is known of each: ``records build`` starts here.

A manifest is a CSV with a row for every image or volume: path, modality, source, tier, licence, split, patient, label,
text, mask, sex, view, extra. Volumes are ``.npz`` files of aligned arrays and are cut into slices; everything else goes
through ``core.data.images``. What a source's labels mean is in ``SOURCES``; a source that is not there is read by its
modality and label alone.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image as PILImage

from core.data.images import open_image
from core.data.oct_phantom import FINDINGS, b_scan
from core.data.stains import registered_tiles
from core.data.templates import Finding
from core.errors import ImageError, RecordError

COLUMNS = ("path", "modality", "source", "tier", "licence", "split", "patient", "label", "mask", "sex", "view", "extra")
MODALITY = {
    "cxr": Finding("chest X-ray", "chest"),
    "ct": Finding("CT"),
    "mri": Finding("MRI", "brain"),
    "ultrasound": Finding("ultrasound"),
    "fundus": Finding("fundus photograph", "eye"),
    "oct": Finding("OCT", "eye"),
    "endoscopy": Finding("endoscopy", "colon"),
    "histopathology": Finding("histopathology"),
}
"""What the manifest's column ``modality`` says."""
ORGAN = {"busi": "breast", "us_hc18": "fetal head", "histology_lc25000": "lung", "stain_cima": "lung"}
STRUCTURE = {"us_hc18": "fetal head", "endoscopy": "polyp", "histology_dsb2018": "nuclei"}
"""What a mask of a source shows; elsewhere the label says it, and in a fundus it is the vessels."""
ONE_LABEL = ("busi", "endoscopy", "histology_lc25000", "oct_kermany")
"""Sources whose label is one word for the whole picture."""
LABELS = {"DME": "fluid", "DRUSEN": "drusen", "NORMAL": "normal", "CNV": "neovascularisation"}
MRI_NAMES = {"t1": "T1-weighted", "t1c": "contrast-enhanced T1-weighted", "t2": "T2-weighted", "flair": "FLAIR"}
CT_WINDOWS = {"soft tissue": (40, 400), "bone": (400, 1800)}
PELVIS = (21, 25, 75, 76)
"""TotalSegmentator's numbers of bladder, sacrum and femora: a slice through one of them is called pelvis."""


@dataclass
class Picture:
    """One image with what is known about it.

    Attributes:
        name: unique within the manifest; for ids and random choices, never written as it is.
        aligned: images of the same place by what one would ask for ("T2-weighted MRI", "Ki-67"), with their task.
        mask: white inside, black outside, of the image's size; ``structure`` is its name.
        label: a class for classifiers; pictures of one ``twin`` show the same thing in different states.
    """

    name: str
    dataset: str
    split: str
    patient: str
    licence: str
    image: PILImage.Image
    known: Finding
    structure: str = ""
    mask: PILImage.Image | None = None
    aligned: dict[str, PILImage.Image] = field(default_factory=dict)
    aligned_task: str = "cross_modal"
    qa: list[tuple[str, str]] = field(default_factory=list)
    label: str = ""
    twin: str = ""


def read_manifest(path: Path, tiers: tuple[str, ...], held_out: tuple[str, ...] = ()) -> list[dict[str, str]]:
    """The rows of some tiers. Rows whose path is in ``held_out`` count as test data.

    Raises:
        RecordError: no such file, a missing column, or a held-out path that no row has.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        remedy = "Name a CSV file such as manifest.csv"
        raise RecordError(f"The manifest cannot be read ({error})", value=str(path), remedy=remedy) from error
    for column in COLUMNS:
        if rows and rows[0].get(column) is None:
            raise RecordError(f"{path.name} lacks a column", value=column, remedy=f"It needs {', '.join(COLUMNS)}")
    unknown = set(held_out) - {row["path"] for row in rows}
    if unknown:
        raise RecordError("No row of the manifest has the held-out path", value=sorted(unknown)[0])
    rows = [row for row in rows if row["tier"] in tiers]
    if not rows:
        raise RecordError(f"{path.name} has no row of the tiers", value=tiers, remedy="Name others with --tiers")
    for number, row in enumerate(rows, 2):
        row["place"] = f"{path.name}:{number}"
        row["split"] = "test" if row["path"] in held_out else row["split"]
    return rows


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
    except (ImageError, OSError, ValueError, KeyError) as error:
        raise RecordError(f"{row['place']}: {row['path']} cannot be used ({error})") from error


def questions_of(root: Path, sources: set[str]) -> dict[str, list]:
    """Questions by physicians, by image path: from ``SOURCE/qa.json`` in VQA-RAD's layout."""
    out: dict[str, list] = {}
    for source in sorted(sources):
        path = root / source / "qa.json"
        if not path.is_file():
            continue
        try:
            for item in json.loads(path.read_text(encoding="utf-8")):
                pair = (str(item["question"]).strip(), str(item["answer"]).strip())
                out.setdefault(f"{source}/images/{item['image_name']}", []).append(pair)
        except (ValueError, KeyError, TypeError) as error:
            raise RecordError(f"{source}/qa.json cannot be read ({error})", remedy="Copy the file again") from error
    return out


def _picture(row: dict[str, str], name: str, image: PILImage.Image, known: Finding) -> Picture:
    return Picture(name, row["source"], row["split"], row["patient"], row["licence"], image, known)


def _known(row: dict[str, str]) -> Finding:
    known = MODALITY.get(row["modality"], Finding(row["modality"].replace("_", " ")))
    return replace(known, organ=ORGAN.get(row["source"], known.organ), view=row["view"], sex=row["sex"])


def _flat(root: Path, row: dict[str, str], qa: dict[str, list]) -> Picture:
    known, source = _known(row), row["source"]
    label = row["label"].replace("_", " ")
    if row["modality"] == "cxr":
        known = replace(known, findings=tuple(label.lower().split("|")), labelled=True)
    elif ";" in label or label == "optic disc":  # boxes: an optic disc is no finding
        boxes = json.loads(row["extra"].partition("boxes=")[2] or "[]")
        disc = tuple((name.replace("_", " "), x, y) for name, x, y, *_ in boxes if name == "optic_disc")
        findings = tuple(f for f in label.split(";") if f != "optic disc")
        known = replace(known, findings=findings, labelled=True, boxes=disc[:1])
    elif source in ONE_LABEL or (source not in STRUCTURE and not row["mask"]):
        known = replace(known, detail=LABELS.get(label, label))
    picture = _picture(row, row["path"], open_image(root / row["path"]).pixels, known)
    picture.qa = qa.get(row["path"], [])
    if known.labelled:
        picture.label = "abnormal" if [f for f in known.findings if f != "no finding"] else "no finding"
        picture.twin = row["patient"] if row["modality"] == "cxr" else ""
    else:
        picture.label = known.detail
    if row["mask"]:
        mask = open_image(root / row["mask"]).pixels.convert("L")
        picture.mask = mask.resize(picture.image.size, PILImage.Resampling.NEAREST).point(lambda v: 255 * (v > 127))
        fallback = "vessels" if row["modality"] == "fundus" else label or "structure"
        picture.structure = STRUCTURE.get(source, fallback)
    return picture


def _mri(root: Path, row: dict[str, str]) -> Iterator[Picture]:
    """Axial slices through the brain, every second one, each sequence aligned with the others."""
    with np.load(root / row["path"]) as volume:
        arrays = {name: volume[name] for name in MRI_NAMES if name in volume}
        lesions = volume.get("seg")
    if not arrays:
        raise ValueError(f"no array named {', '.join(MRI_NAMES)}")
    first = next(iter(arrays.values()))
    for z in range(int(len(first) * 0.2), int(len(first) * 0.9), 2):
        if (first[z] > 20).mean() < 0.1:
            continue
        slices = {name: PILImage.fromarray(a[z]).convert("RGB") for name, a in arrays.items()}
        for name, image in slices.items():
            known = replace(_known(row), detail=MRI_NAMES[name])
            picture = _picture(row, f"{row['path']}#{name}/{z}", image, known)
            picture.label = known.detail
            picture.aligned = {f"{MRI_NAMES[n]} MRI": other for n, other in slices.items() if n != name}
            if lesions is not None and name == "flair" and lesions[z].sum() > 20:
                picture.mask = PILImage.fromarray(np.uint8(255) * (lesions[z] > 0))
                picture.structure = "lesions"
            yield picture


def _ct(root: Path, row: dict[str, str]) -> Iterator[Picture]:
    """Axial slices in two windows; the patient lies with the spine at the bottom. The region is the segmentation's."""
    with np.load(root / row["path"]) as volume:
        hounsfield, labels = volume["ct"].astype(np.float32), volume["seg_model_output"]
    for z in range(2, hounsfield.shape[2] - 2):
        organ = "pelvis" if np.isin(labels[:, :, z], PELVIS).sum() > 30 else "abdomen"
        for window, (centre, width) in CT_WINDOWS.items():
            if window == "bone" and z % 2:
                continue
            grey = np.clip((hounsfield[:, :, z] - centre) / width + 0.5, 0, 1)
            image = PILImage.fromarray((255 * np.rot90(grey)).astype(np.uint8)).convert("RGB")
            picture = _picture(row, f"{row['path']}#{window}/{z}", image, replace(_known(row), organ=organ))
            picture.known = replace(picture.known, detail=f"{window} window")
            yield picture


def stain_pictures(root: Path, rows: list[dict[str, str]]) -> Iterator[Picture]:
    """Tiles of registered serial sections: rows of one folder whose ``extra`` names landmarks belong together."""
    groups: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault(str(Path(row["path"]).parent), []).append(row)
    for group in groups.values():
        split = "test" if any(row["split"] == "test" for row in group) else group[0]["split"]
        files = [(row["path"], row["extra"].partition("landmarks=")[2].partition(";")[0]) for row in group]
        for stain, other, name, here, there in registered_tiles(root, group[0]["source"], files):
            row = group[0] | {"split": split}
            picture = _picture(row, name, here, replace(_known(row), detail=f"stained with {stain}"))
            picture.aligned, picture.aligned_task, picture.label = {other: there}, "virtual_staining", stain
            yield picture


def phantoms(counts: dict[str, int], seed: int = 0) -> Iterator[Picture]:
    """Simulated OCT (see ``oct_phantom``): ``counts`` eyes for each split, every eye in each of its states."""
    offset = 0
    for split, count in counts.items():
        for eye in range(offset, offset + count):
            for finding in FINDINGS:
                picture = Picture(
                    f"oct_phantom/{seed}/{eye}/{finding}", "oct_phantom", split, f"oct_phantom-{seed}-{eye}",
                    "Apache-2.0 (made by this project)", b_scan(seed * 1_000_000 + eye, finding),
                    replace(MODALITY["oct"], detail=finding),
                )  # fmt: skip
                picture.label, picture.twin = finding, picture.patient
                yield picture
        offset += count
