"""Volumes of brain MRI, a few axial slices of each: BraTS and IXI."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from PIL import Image as PILImage

from core.data.images import frame_count
from core.data.layouts.base import Desk, Layout, Skip, opened
from core.data.records import Record
from core.errors import ImageError

SLICES = 3
"""Slices that are taken of a volume."""
PAIRS_PER_SLICE = 2
"""Ordered pairs of sequences that are taken of a slice, of the twelve."""
_LEVELS = [0.3 + 0.05 * step for step in range(9)]
"""Heights, as fractions from the lowest slice to the highest, among which the slices with most tumour are chosen."""
_IXI_LEVELS = (0.5, 0.6, 0.7)
_MAX_ASPECT = 4
_ANY_LABEL = (0.5, 1.0)
"""Window that draws label 0 black and every other label white."""
_BRATS_NAMES = {
    "t1": "T1-weighted MRI",
    "t1ce": "contrast-enhanced T1-weighted MRI",
    "t2": "T2-weighted MRI",
    "flair": "FLAIR MRI",
    "t1n": "T1-weighted MRI",
    "t1c": "contrast-enhanced T1-weighted MRI",
    "t2w": "T2-weighted MRI",
    "t2f": "FLAIR MRI",
}
"""Suffixes of 2021, then of 2023."""
_IXI_NAMES = {"T1": "T1-weighted", "T2": "T2-weighted", "PD": "proton-density-weighted"}
_IXI_CAPTIONS = (
    "An axial brain MRI, {}.",
    "An axial MRI slice of the brain, {}.",
    "A {} MRI of the head in the axial plane.",
)


def _brats(folder: Path, desk: Desk) -> Iterator[Record]:
    """Pairs of sequences, which are registered, and the whole tumour (every label) in FLAIR.

    The challenge publishes no split of the part with labels, so it is drawn by ``hashed_split`` of the patient: the
    case of 2021, the case without its time point of 2023 (BraTS-GLI-00000-000 is the first scan of BraTS-GLI-00000).
    """
    for case in sorted(path for path in folder.glob("BraTS*") if path.is_dir()):
        old = re.fullmatch(r"BraTS2021_\d+", case.name)
        new = re.fullmatch(r"(BraTS-[A-Za-z]+-\d+)-\d+", case.name)
        if not old and not new:
            desk.skip("folder is named like neither 2021 nor 2023")
            continue
        joint, names = ("_", ("t1", "t1ce", "t2", "flair")) if old else ("-", ("t1n", "t1c", "t2w", "t2f"))
        volumes = {name: _volume(case, f"{case.name}{joint}{name}") for name in (*names, "seg")}
        with desk.item():
            if not all(path.is_file() for path in volumes.values()):
                raise Skip("sequence or segmentation missing")
            for frame in _tumour_frames(volumes["seg"]):
                yield from _brats_slice(desk, case.name, old[0] if old else new[1], volumes, frame)


def _volume(case: Path, stem: str) -> Path:
    """Some mirrors unpack the files."""
    packed = case / f"{stem}.nii.gz"
    return packed if packed.is_file() else case / f"{stem}.nii"


def _frames_at(path: Path, levels: tuple[float, ...] | list[float]) -> list[int]:
    """Distinct indices of the slices at heights of a volume.

    Raises:
        Skip: the volume cannot be read.
    """
    try:
        last = frame_count(path) - 1
    except ImageError as error:
        raise Skip(f"image unreadable ({error.what})") from error
    return list(dict.fromkeys(round(level * last) for level in levels))


def _tumour_frames(seg: Path) -> list[int]:
    """The ``SLICES`` slices with the largest tumour among those at ``_LEVELS``, in their order.

    Raises:
        Skip: none shows any.
    """
    masks = {frame: opened(seg, frame, _ANY_LABEL).pixels for frame in _frames_at(seg, _LEVELS)}
    areas = {frame: mask.convert("L").histogram()[255] for frame, mask in masks.items()}
    largest = sorted((frame for frame in areas if areas[frame]), key=lambda frame: (-areas[frame], frame))[:SLICES]
    if not largest:
        raise Skip("no tumour in the slices that are looked at")
    return sorted(largest)


def _brats_slice(desk: Desk, case: str, patient: str, volumes: dict[str, Path], frame: int) -> Iterator[Record]:
    images = {name: opened(path, frame).pixels for name, path in volumes.items() if name != "seg"}
    mask = opened(volumes["seg"], frame, _ANY_LABEL).pixels
    if len({image.size for image in (*images.values(), mask)}) > 1:
        raise Skip("sequences or segmentation differ in size")
    key = f"{case}/{frame}"
    pairs = desk.rng(key).sample(list(itertools.permutations(images, 2)), PAIRS_PER_SLICE)
    for source, target in pairs:
        both = desk.store.add(images[source]), desk.store.add(images[target])
        yield desk.record(
            f"{key}/{source}/{target}", "cross_modal", patient, inputs=both[:1], outputs=both[1:],
            prompt=_BRATS_NAMES[target], label=_BRATS_NAMES[target],
        )  # fmt: skip
    own = desk.store.add(images["flair" if "flair" in images else "t2f"])
    yield desk.masked(key, patient, "", "whole tumour", own, mask)


def _ixi(folder: Path, desk: Desk) -> Iterator[Record]:
    """Text to image and super-resolution alone: the sequences of a person are not registered with each other.

    No split is published, so it is drawn by ``hashed_split`` of the person (IXI002). Slices are stretched to square
    pixels.
    """
    for sequence, name in _IXI_NAMES.items():
        for path in sorted((folder / f"IXI-{sequence}").glob(f"IXI*-{sequence}.nii*")):
            with desk.item():
                person = path.name.split("-")[0]
                for frame in _frames_at(path, _IXI_LEVELS):
                    key = f"{path.name}/{frame}"
                    image = desk.store.fitted(_square(path, frame))
                    own, text = desk.store.add(image), desk.rng(key).choice(_IXI_CAPTIONS).format(name)
                    yield desk.super_resolution(key, person, "", image, own)
                    yield desk.record(key, "text_to_image", person, outputs=(own,), prompt=text, label=name)


def _square(path: Path, frame: int) -> PILImage.Image:
    """A slice, enlarged along one side where its pixels are not square.

    Raises:
        Skip: it cannot be read, or one side of a pixel is more than ``_MAX_ASPECT`` times the other.
    """
    image = opened(path, frame)
    row, column = image.spacing_mm or (1.0, 1.0)
    unit = min(row, column)
    if max(row, column) > _MAX_ASPECT * unit:
        raise Skip("pixels are implausibly far from square")
    size = round(image.pixels.width * column / unit), round(image.pixels.height * row / unit)
    return image.pixels.resize(size, PILImage.Resampling.BICUBIC)


VOLUMES = {
    "brats": Layout(
        _brats, "MRI", "BraTS data terms, CC BY 4.0 for 2021 (check upstream)",
        "BraTS2021_00000/BraTS2021_00000_{t1,t1ce,t2,flair,seg}.nii.gz (2021) or "
        "BraTS-GLI-00000-000/BraTS-GLI-00000-000-{t1n,t1c,t2w,t2f,seg}.nii.gz (2023)",
        ("BraTS*/BraTS*seg.nii*",),
    ),
    "ixi": Layout(
        _ixi, "MRI", "CC BY-SA 3.0 (check upstream)",
        "IXI-T1/IXI002-Guys-0828-T1.nii.gz and so on; IXI-T2 and IXI-PD if you have them",
        ("IXI-*/IXI*.nii*",),
    ),
}  # fmt: skip
