"""Pictures with an aligned second one, a mask or a stain: Kvasir-SEG, ISIC 2018 task 1 and BCI."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from PIL import Image as PILImage

from core.data.layouts.base import Desk, Layout, Skip, Stored, json_of, opened
from core.data.records import Record

_ISIC_INPUT, _ISIC_TRUTH = "ISIC2018_Task1-2_{}_Input", "ISIC2018_Task1_{}_GroundTruth"
_SIDES = ("left", "right")


def _kvasir_seg(folder: Path, desk: Desk) -> Iterator[Record]:
    """Segmentation, super-resolution, and from the boxes how many polyps there are and on which side.

    No split is published with the archive, so it is drawn by ``hashed_split``; the patient is the picture.
    """
    boxes = {}
    with desk.item():
        boxes = json_of(folder / "kavsir_bboxes.json")
    for path in sorted((folder / "images").glob("*.jpg")):
        with desk.item():
            image, mask = _sized(desk, path, folder / "masks" / path.name)
            own = desk.store.add(image)
            yield desk.super_resolution(path.stem, path.stem, "", image, own)
            yield from _polyp_questions(desk, path.stem, own, boxes)
            yield desk.masked(path.stem, path.stem, "", "polyp", own, mask)


def _polyp_questions(desk: Desk, name: str, own: Stored, boxes: object) -> Iterator[Record]:
    """The side is asked for where there is one polyp and its centre is not near the middle of the image."""
    try:
        found, width = boxes[name]["bbox"], boxes[name]["width"]
        centres = [(box["xmin"] + box["xmax"]) / 2 / width for box in found]
    except (KeyError, TypeError, ZeroDivisionError):
        desk.skip("boxes missing or malformed")
        return
    asked = [("How many polyps are there?", str(len(centres)))] if centres else []
    if len(centres) == 1 and abs(centres[0] - 0.5) > 0.1:
        asked.append(("On which side of the image is the polyp?", _SIDES[centres[0] > 0.5]))
    for question, answer in asked:
        yield desk.record(f"{name}/{question}", "vqa", name, inputs=(own,), prompt=question, answer=answer)


def _isic(folder: Path, desk: Desk) -> Iterator[Record]:
    """Segmentation and super-resolution. The splits are published; Validation and Test are read where they are there.

    The layout does not tell whose lesion it is, so the patient is the picture.
    """
    for part, split in (("Training", "train"), ("Validation", "val"), ("Test", "test")):
        for path in sorted((folder / _ISIC_INPUT.format(part)).glob("ISIC_*.jpg")):
            with desk.item():
                truth = folder / _ISIC_TRUTH.format(part) / f"{path.stem}_segmentation.png"
                image, mask = _sized(desk, path, truth)
                own = desk.store.add(image)
                yield desk.super_resolution(path.stem, path.stem, split, image, own)
                yield desk.masked(path.stem, path.stem, split, "skin lesion", own, mask)


def _sized(desk: Desk, path: Path, truth: Path) -> tuple[PILImage.Image, PILImage.Image]:
    """A picture and its mask, both reduced to the size in which they are stored.

    Raises:
        Skip: one of them is missing or unreadable, or their sizes differ.
    """
    if not truth.is_file():
        raise Skip("mask missing")
    image, mask = opened(path).pixels, opened(truth).pixels
    if image.size != mask.size:
        raise Skip("mask and image differ in size")
    return desk.store.fitted(image), desk.store.fitted(mask, PILImage.Resampling.NEAREST)


def _bci(folder: Path, desk: Desk) -> Iterator[Record]:
    """Virtual staining from H&E to HER2; the label is the HER2 level of the slide, as the file name tells it.

    Train and test are published, a validation part is not. Patches of one patient are not marked as such, so the
    patient is the patch, and nobody can tell whether a patient is in both parts.
    """
    for split in ("train", "test"):
        for path in sorted((folder / "HE" / split).glob("*.png")):
            with desk.item():
                level = re.search(r"_(0|[123]\+)$", path.stem)
                if not level:
                    raise Skip("file name tells no HER2 level")
                source, target = opened(path), opened(folder / "IHC" / split / path.name)
                if source.pixels.size != target.pixels.size:
                    raise Skip("the two stains differ in size")
                pair = desk.store.add(source), desk.store.add(target)
                yield desk.record(
                    path.stem, "virtual_staining", path.stem, split, inputs=pair[:1], outputs=pair[1:],
                    prompt="HER2 immunohistochemistry", label=f"HER2 {level[1]}",
                )  # fmt: skip


PAIRS = {
    "kvasir_seg": Layout(
        _kvasir_seg, "endoscopy", "research and education only (check upstream)",
        "images/*.jpg and masks/*.jpg of the same names, and kavsir_bboxes.json",
        ("images/*.jpg", "masks/*.jpg", "kavsir_bboxes.json"),
    ),
    "isic2018": Layout(
        _isic, "dermoscopy", "CC BY-NC 4.0 (check upstream)",
        "ISIC2018_Task1-2_Training_Input/ISIC_*.jpg and ISIC2018_Task1_Training_GroundTruth/ISIC_*_segmentation.png, "
        "with Validation and Test beside them if you have them",
        ("ISIC2018_Task1-2_Training_Input/ISIC_*.jpg", "ISIC2018_Task1_Training_GroundTruth/ISIC_*.png"),
    ),
    "bci": Layout(
        _bci, "histopathology", "non-commercial research (check upstream)",
        "HE/train, HE/test, IHC/train and IHC/test with pairs of one name, such as 00000_train_1+.png",
        ("HE/train", "HE/test", "IHC/train", "IHC/test"),
    ),
}  # fmt: skip
