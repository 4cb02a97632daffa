"""The slices of a scan between a file and a ``Stack``: as they were read, and packed into 16-bit integers.

The readers of DICOM, NIfTI and pictures each give a ``Scan``. numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from core.data.greyscale import Modality, Padding, Rescale, Window, shown_mask, strips
from core.errors import ImageError

MAX_STACK_BYTES = 256 << 20
"""What the slices of a stack may hold: 512 of 512 x 512 grey pixels just fit."""

PADDING_CODE = -(2**15)
"""Packed value of a pixel that holds no measurement."""

IDENTITY = Rescale()
_LAST_CODE = 2**15 - 1


@dataclass(frozen=True)
class Plane:
    """One slice.

    Attributes:
        stored: greys [H, W] of any real dtype, or RGB uint8 [H, W, 3].
        modality: transformation from stored greys to values.
        padding: inclusive stored range that is padding, or None.
    """

    stored: np.ndarray
    modality: Modality = IDENTITY
    padding: Padding | None = None


@dataclass
class Scan:
    """What a reader found: slices of one size and kind, in their order, and what is known of all of them.

    Attributes:
        planes: the slices.
        window: to begin with, or None where the file states none.
        window_note: where it comes from, for a person.
        function: the window function that goes with the file.
        units: of the values: "HU", or "" where they are not known.
        inverted: the lowest value is white.
        factor: by how much colour pictures were averaged down on arrival; spacing is that of the file.
        spacing_mm, thickness_mm, modality, notes, removed, kept: as in ``Stack``.
    """

    planes: list[Plane]
    window: Window | None = None
    window_note: str = ""
    function: str = "LINEAR"
    units: str = ""
    inverted: bool = False
    factor: int = 1
    spacing_mm: tuple[float, float] | None = None
    thickness_mm: float | None = None
    modality: str | None = None
    notes: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()


@dataclass(frozen=True)
class Packed:
    """Greys of a scan as 16-bit integers.

    Attributes:
        codes: int16 [N, H, W]; value = code * slope + intercept, exact or within half a slope.
        slope, intercept: see ``codes``.
        padding: the code of pixels without a measurement, or None where there are none.
        exact: no value was rounded.
    """

    codes: np.ndarray
    slope: float
    intercept: float
    padding: int | None
    exact: bool


def check_bytes(slices: int, rows: int, columns: int, *, colour: bool) -> None:
    """Refuse a scan beyond ``MAX_STACK_BYTES`` before its slices are decoded.

    Raises:
        ImageError: it is beyond.
    """
    size = slices * rows * columns * (3 if colour else 2)
    if size > MAX_STACK_BYTES:
        raise ImageError(
            "The scan is too large to be shown as a stack",
            value=f"{slices} x {rows} x {columns} pixels, {size / 2**20:.0f} MiB",
            remedy=f"Give fewer slices, or smaller ones: at most {MAX_STACK_BYTES >> 20} MiB",
        )


def pack(planes: list[Plane]) -> Packed:
    """Greys as int16: integers keep their steps where their range allows it, all else is spread over the 16 bits.

    Besides the result, memory goes to strips of about a million pixels only.

    Raises:
        ImageError: the values are too large for a number of 64 bits.
    """
    rescale = _common_rescale(planes)
    low, high, whole, holes = _survey(planes, rescale)
    first = PADDING_CODE + 1 if holes else PADDING_CODE
    exact = whole and high - low <= _LAST_CODE - first
    if exact:
        step = 1.0
        zero = 0.0 if first <= low and high <= _LAST_CODE else low - first
    else:
        step = (high - low) / (_LAST_CODE - first) or 1.0
        zero = low - first * step
    outer = rescale or IDENTITY
    slope, intercept = step * outer.slope, zero * outer.slope + outer.intercept
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        raise ImageError("The scan's values are too large", remedy="Export it again from its source")
    codes_NHW = np.empty((len(planes), *planes[0].stored.shape), np.int16)
    for plane, codes_HW in zip(planes, codes_NHW, strict=True):
        for rows, values, shown in _parts(plane, rescale):
            codes = np.clip(np.rint((values - zero) / step), first, _LAST_CODE)
            codes_HW[rows] = np.where(shown, codes, PADDING_CODE)
    return Packed(codes_NHW, slope, intercept, PADDING_CODE if holes else None, exact)


def _common_rescale(planes: list[Plane]) -> Rescale | None:
    """The linear transformation of all slices: they are then packed as stored. None where they do not share one."""
    first = planes[0].modality
    return first if isinstance(first, Rescale) and all(plane.modality == first for plane in planes) else None


def _parts(plane: Plane, rescale: Rescale | None) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Strips of a slice as (rows, values, shown): stored values where ``rescale`` is applied later, 0 if not shown."""
    start = 0
    for strip in strips(plane.stored):
        shown = shown_mask(strip, plane.padding)
        values = strip.astype(np.float64) if rescale else plane.modality(strip)
        yield slice(start, start + len(strip)), np.where(shown, values, 0.0), shown
        start += len(strip)


def _survey(planes: list[Plane], rescale: Rescale | None) -> tuple[float, float, bool, bool]:
    """Smallest and largest value, whether all are whole numbers, and whether some pixels are not to be shown."""
    low, high, whole, holes = math.inf, -math.inf, True, False
    for plane in planes:
        for _, values, shown in _parts(plane, rescale):
            holes = holes or not shown.all()
            whole = whole and bool((values == np.rint(values)).all())
            if shown.any():
                low = min(low, float(values.min(where=shown, initial=math.inf)))
                high = max(high, float(values.max(where=shown, initial=-math.inf)))
    return (low, high, whole, holes) if low <= high else (0.0, 0.0, True, holes)
