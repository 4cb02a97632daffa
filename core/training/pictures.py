"""The labelled pictures that the nano checkpoint learns from, read from a manifest of public data.

Only tiers A and B train (openly licensed, see the model card). Volumes are cut into slices here. One MRI
subject is held out whole, because the manifest marks no volume as test data.
"""

from __future__ import annotations

import csv
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image as PILImage

from core.errors import ImageError
from core.training.oct_phantom import b_scan

TRAINING_TIERS = ("A", "B")
HELD_OUT_VOLUMES = ("mri_ms_patient07", "ms_patient07")
PELVIS = (21, 25, 75, 76)
"""TotalSegmentator's numbers of bladder, sacrum and femora: a slice through one of them is called pelvis."""
CT_WINDOWS = {"soft tissue": (40, 400), "bone": (400, 1800)}
MRI_NAMES = {"t1": "T1-weighted", "t1c": "contrast-enhanced T1-weighted", "t2": "T2-weighted", "flair": "FLAIR"}
LONGEST_SIDE = 192

MODALITY_OF_SOURCE = {
    "cxr_nih": ("chest X-ray", "chest"),
    "busi": ("ultrasound", "breast"),
    "us_hc18": ("ultrasound", "fetal head"),
    "endoscopy": ("endoscopy", "colon"),
    "fundus_idrid": ("fundus photograph", "eye"),
    "fundus_chase": ("fundus photograph", "eye"),
    "fundus_drive": ("fundus photograph", "eye"),
    "histology_lc25000": ("histopathology", "lung"),
    "histology_dsb2018": ("histopathology", None),
    "stain_cima": ("histopathology", "lung"),
    "oct_kermany": ("OCT", "eye"),
    "oct_srf": ("OCT", "eye"),
    "oct_sbsdi": ("OCT", "eye"),
    "mri_ms": ("MRI", "brain"),
    "mri_tcga": ("MRI", "brain"),
    "ct_totalsegmentator": ("CT", None),
}
ORGAN_OF_VQA_RAD = {"HEAD": "brain", "CHEST": "chest", "ABD": "abdomen"}


@dataclass
class Picture:
    """One image with what is known about it.

    ``modality`` and ``organ`` are None where the source does not say. ``aligned`` holds images of the same
    slice in another sequence; ``mask`` is an 8-bit image of the same size; ``qa`` are questions with answers.
    """

    name: str
    source: str
    split: str
    patient: str
    image: PILImage.Image
    modality: str | None
    organ: str | None
    detail: str = ""
    findings: tuple[str, ...] = ()
    view: str = ""
    mask: PILImage.Image | None = None
    mask_of: str = ""
    aligned: dict[str, PILImage.Image] = field(default_factory=dict)
    qa: list[tuple[str, str]] = field(default_factory=list)


def load_pictures(root: Path, splits: tuple[str, ...], tiers: tuple[str, ...] = TRAINING_TIERS) -> list[Picture]:
    """All pictures of the manifest in these splits and tiers, longest side at most ``LONGEST_SIDE`` pixels.

    Raises:
        ImageError: the manifest is missing or has a source that this module does not know.
    """
    manifest = root / "manifest.csv"
    if not manifest.is_file():
        raise ImageError("No manifest.csv in the data folder", value=str(root), remedy="Name the folder that holds it")
    with manifest.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["tier"] in tiers]
    qa_file = root / "vqa_rad" / "qa.json"
    qa = _questions(qa_file) if qa_file.is_file() else {}
    volumes = [r for r in rows if r["path"].endswith(".npz") and _split(r) in splits]
    flat = [r for r in rows if not r["path"].endswith(".npz") and r["split"] in splits]
    with ThreadPoolExecutor(2) as pool:
        pictures = list(pool.map(lambda r: _picture(root, r, qa), flat))
    for row in volumes:
        pictures.extend(_mri(root, row) if row["modality"] == "mri" else _ct(root, row))
    return pictures


def simulated_oct(count: int, seed: int, split: str = "train") -> list[Picture]:
    """``count`` phantom B-scans (see ``oct_phantom``)."""
    rng = np.random.default_rng(seed)
    out = []
    for index in range(count):
        image, finding = b_scan(rng)
        out.append(
            Picture(f"oct_phantom/{index}", "oct_phantom", split, f"phantom-{index}", image, "OCT", "eye", finding)
        )
    return out


def _split(row: dict) -> str:
    return "test" if Path(row["path"]).stem in HELD_OUT_VOLUMES else row["split"]


def _small(image: PILImage.Image, resample: int = PILImage.Resampling.LANCZOS) -> PILImage.Image:
    k = LONGEST_SIDE / max(image.size)
    return image if k >= 1 else image.resize((round(image.width * k), round(image.height * k)), resample)


def _picture(root: Path, row: dict, qa: dict) -> Picture:
    with PILImage.open(root / row["path"]) as file:
        file.draft("RGB", (2 * LONGEST_SIDE, 2 * LONGEST_SIDE))
        image = _small(file.convert("RGB"))
    common = dict(name=row["path"], source=row["source"], split=row["split"], patient=row["patient"], image=image)
    if row["source"] == "vqa_rad":
        organ, questions = qa.get(Path(row["path"]).name, (None, []))
        return Picture(**common, modality=None, organ=organ, qa=questions)
    if row["source"] not in MODALITY_OF_SOURCE:
        raise ImageError("Unknown source in the manifest", value=row["source"], remedy="Add it to MODALITY_OF_SOURCE")
    modality, organ = MODALITY_OF_SOURCE[row["source"]]
    picture = Picture(**common, modality=modality, organ=organ)
    if row["source"] == "cxr_nih":
        picture.findings = tuple(f.replace("_", " ").lower() for f in row["label"].split("|"))
        picture.view = row["view"]
    elif row["source"] == "fundus_idrid":
        picture.findings = tuple(f.replace("_", " ") for f in row["label"].split(";") if f not in ("", "optic_disc"))
    elif row["source"] in ("busi", "endoscopy", "histology_lc25000"):
        picture.detail = row["label"]
    if row["mask"]:
        with PILImage.open(root / row["mask"]) as file:
            picture.mask = file.convert("L").resize(image.size, PILImage.Resampling.BOX)
        picture.mask_of = {"us_hc18": "fetal head", "endoscopy": "polyp", "histology_dsb2018": "nuclei"}.get(
            row["source"], "vessels"
        )
    return picture


def _questions(path: Path) -> dict[str, tuple[str | None, list[tuple[str, str]]]]:
    out: dict[str, tuple[str | None, list[tuple[str, str]]]] = {}
    for item in json.loads(path.read_text(encoding="utf-8")):
        _, pairs = out.setdefault(item["image_name"], (ORGAN_OF_VQA_RAD.get(item["image_organ"]), []))
        pairs.append((str(item["question"]).strip(), str(item["answer"]).strip()))
    return out


def _mri(root: Path, row: dict) -> list[Picture]:
    """Axial slices through the brain, every second one, each sequence aligned with the others."""
    out = []
    with np.load(root / row["path"]) as volume:
        arrays = {name: volume[name] for name in MRI_NAMES}
        lesions = volume.get("seg")
    modality, organ = MODALITY_OF_SOURCE[row["source"]]
    depth = arrays["t1"].shape[0]
    for z in range(int(depth * 0.2), int(depth * 0.9), 2):
        if (arrays["t1"][z] > 20).mean() < 0.1:
            continue
        slices = {name: PILImage.fromarray(a[z]).convert("RGB") for name, a in arrays.items()}
        for name, image in slices.items():
            picture = Picture(
                f"{row['path']}#{name}/{z}", row["source"], _split(row), row["patient"], image, modality, organ,
                MRI_NAMES[name],
            )  # fmt: skip
            picture.aligned = {MRI_NAMES[other]: slices[other] for other in slices if other != name}
            if lesions is not None and name == "flair" and lesions[z].sum() > 20:
                picture.mask, picture.mask_of = PILImage.fromarray(255 * lesions[z]), "lesions"
            out.append(picture)
    return out


def _ct(root: Path, row: dict) -> list[Picture]:
    """Axial slices in two windows; the patient lies with the spine at the bottom. The region is the segmentation's."""
    with np.load(root / row["path"]) as volume:
        hounsfield, labels = volume["ct"].astype(np.float32), volume["seg_model_output"]
    modality, _ = MODALITY_OF_SOURCE[row["source"]]
    out = []
    for z in range(2, hounsfield.shape[2] - 2):
        organ = "pelvis" if np.isin(labels[:, :, z], PELVIS).sum() > 30 else "abdomen"
        for window, (centre, width) in CT_WINDOWS.items():
            if window == "bone" and z % 2:
                continue
            grey = np.clip((hounsfield[:, :, z] - centre) / width + 0.5, 0, 1)
            image = PILImage.fromarray((255 * np.rot90(grey)).astype(np.uint8)).convert("RGB")
            name = f"{row['path']}#{window}/{z}"
            out.append(Picture(name, row["source"], _split(row), row["patient"], image, modality, organ, window))
    return out
