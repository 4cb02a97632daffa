"""Where the slices of DICOM files lie: read apart, compared, and forgotten once the files are in order.

Position, instance number and series are not in ``core.data.deidentify.KEPT``, and nothing of them reaches a ``Scan``
but distances in millimetres and letters of directions. Source: DICOM PS3.3 C.7.6.2 (image plane).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from pydicom.dataset import Dataset

from core.data import deidentify, dicom
from core.data.dicom_header import display, group, numbers, side
from core.data.quiet import quiet_libraries
from core.errors import ImageError

REMEDY = "Give the files of one series"
_PARALLEL = 0.999  # cosine between the normals of slices that lie in one direction
_SAME_PLACE_MM = 1e-3
_UNEVEN = 1.25  # positions are often rounded to a tenth of a millimetre; a missing slice doubles its gap


@dataclass(frozen=True)
class Place:
    """Where a slice lies: position and normal in mm and patient coordinates, (3,) each, or None, and its number."""

    position: np.ndarray | None
    normal: np.ndarray | None
    number: float | None


@dataclass(frozen=True)
class Header:
    """What is known of a file before its pixels are read. ``series`` is only compared with that of other files."""

    series: str
    size: tuple[int, int]
    kind: str
    frames: int
    hounsfield: bool
    places: list[Place]
    apart_mm: float | None


# Headers -------------------------------------------------------------------------------------------------------------


def read_header(file: BinaryIO) -> Header:
    """What stands before the pixels of a file.

    Raises:
        ImageError: the file is damaged, inconsistent or too large, or holds no picture.
    """
    with quiet_libraries():
        raw = dicom.read_dataset(file, header_only=True)
        clean, _ = deidentify.strip(raw)
        frames = dicom.check_header(clean)
        grey = clean.PhotometricInterpretation.startswith("MONOCHROME")
        kind = "colour" if not grey else "inverted grey" if display(clean)[0] else "grey"
        rescale_type = _text(_group(raw, 0, "PixelValueTransformationSequence", "RescaleType"), "RescaleType")
        return Header(
            series=_text(raw, "SeriesInstanceUID"),
            size=(int(clean.Rows), int(clean.Columns)),
            kind=kind,
            frames=frames,
            hounsfield=rescale_type in ("", "HU"),
            places=[_place(raw, clean, frame) for frame in range(frames)],
            apart_mm=_stated_distance(raw),
        )


def _group(raw: Dataset, frame: int, sequence: str, keyword: str) -> Dataset:
    try:
        return group(raw, frame, sequence, keyword)
    except deidentify.HEADER_ERRORS:
        return Dataset()


def _text(raw: Dataset, keyword: str) -> str:
    """Text of an attribute that is only compared; empty where it is absent or damaged."""
    try:
        return str(raw.get(keyword) or "").strip()
    except deidentify.HEADER_ERRORS:
        return ""


def _numbers(raw: Dataset, keyword: str) -> list[float]:
    try:
        return numbers(raw, keyword)
    except (*deidentify.HEADER_ERRORS, ImageError):
        return []


def _place(raw: Dataset, clean: Dataset, frame: int) -> Place:
    position = _numbers(_group(raw, frame, "PlanePositionSequence", "ImagePositionPatient"), "ImagePositionPatient")
    plane = group(clean, frame, "PlaneOrientationSequence", "ImageOrientationPatient")
    cosines = _numbers(plane, "ImageOrientationPatient")
    normal = np.cross(cosines[:3], cosines[3:]) if len(cosines) == 6 else np.zeros(3)
    length = float(np.linalg.norm(normal))
    number = _numbers(raw, "InstanceNumber")
    known = len(position) == 3 and length > 0
    return Place(
        position=np.array(position) if known else None,
        normal=normal / length if known else None,
        number=number[0] if number else None,
    )


def _stated_distance(raw: Dataset) -> float | None:
    """Distance between slices in mm as the header states it (PS3.3 C.8.6.2, C.7.6.16.2.1), or None."""
    keyword = "SpacingBetweenSlices"
    stated = _numbers(_group(raw, 0, "PixelMeasuresSequence", keyword), keyword)
    return abs(stated[0]) or None if stated else None


def check_alike(headers: list[Header]) -> None:
    """Refuse files that are not slices of one scan, with counts in place of names.

    Raises:
        ImageError: they differ in series, size or kind, or hold several frames.
    """
    several = sum(header.frames > 1 for header in headers)
    if several:
        what = f"{several} of {len(headers)} files hold several frames"
        raise ImageError(what, remedy="Give such a file alone")
    series = Counter(header.series for header in headers)
    if len(series) > 1:
        counts = ", ".join(str(count) for _, count in series.most_common(5))
        raise ImageError(f"The files belong to {len(series)} series: {counts} files", remedy=REMEDY)
    sizes = Counter(header.size for header in headers)
    if len(sizes) > 1:
        counts = ", ".join(f"{count} of {rows} x {columns}" for (rows, columns), count in sizes.most_common(5))
        raise ImageError(f"The files are of {len(sizes)} sizes: {counts} pixels", remedy=REMEDY)
    kinds = Counter(header.kind for header in headers)
    if len(kinds) > 1:
        counts = ", ".join(f"{count} of {kind}" for kind, count in kinds.most_common())
        raise ImageError(f"The files are of {len(kinds)} kinds: {counts}", remedy=REMEDY)


# Order ---------------------------------------------------------------------------------------------------------------


def _along(places: list[Place]) -> np.ndarray | None:
    """Positions along the common normal in mm, (slices,): growing to the left, back or head. None if there is none."""
    if not places or any(place.position is None for place in places):
        return None
    normal = places[0].normal
    if any(abs(float(place.normal @ normal)) < _PARALLEL for place in places):
        return None
    normal = _forward(normal)
    return np.array([float(place.position @ normal) for place in places])


def _forward(normal: np.ndarray) -> np.ndarray:
    return normal * np.sign(normal[np.argmax(np.abs(normal))])


def slice_order(places: list[Place]) -> tuple[list[int], list[str]]:
    """Indices of the files in the order of the slices, and a note that says what it goes by."""
    indices = range(len(places))
    along = _along(places)
    if along is not None:
        # the grid makes slices at one place equal whatever the rounding of their positions, and then the number counts
        cells = np.rint(along / _SAME_PLACE_MM)
        order = sorted(indices, key=lambda i: (cells[i], _number(places[i])))
        notes = [f"Slices sorted by their position, from {side(list(_forward(places[0].normal)))} on"]
        shared = len(places) - len(np.unique(cells))
        return order, notes + ([f"{shared} slices lie where another one lies"] if shared else [])
    why = "the files do not state comparable positions"
    if all(place.number is not None for place in places):
        return sorted(indices, key=lambda i: _number(places[i])), [f"Slices sorted by instance number: {why}"]
    return list(indices), [f"Slices in the order in which the files were given: {why} or numbers"]


def _number(place: Place) -> float:
    return np.inf if place.number is None else place.number


def slice_distance(places: list[Place]) -> tuple[float | None, list[str]]:
    """Distance between neighbouring slices in mm or None, and a warning where it is not the same everywhere."""
    along = _along(places)
    gaps = np.diff(np.sort(along)) if along is not None else np.empty(0)
    gaps = gaps[gaps > _SAME_PLACE_MM]
    if not gaps.size:
        return None, []
    notes = []
    if gaps.max() > _UNEVEN * gaps.min():
        ends = f"{gaps.min():.3g} to {gaps.max():.3g} mm"
        notes.append(f"The distance between slices varies from {ends}: one may be missing")
    if np.diff(along).max() > _SAME_PLACE_MM and np.diff(along).min() < -_SAME_PLACE_MM:
        notes.append("The slices do not follow one another in space")
    return round(float(np.median(gaps)), 4), notes
