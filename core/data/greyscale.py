"""From stored grey values to 8 bits: modality transformation, then a window or table, then 0 to 255.

The order and the formulas are those of DICOM PS3.3 C.11.1 (modality) and C.11.2 (values of interest, VOI). Other
16-bit pictures and volumes take the same way with an identity modality. numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from core.errors import ImageError

# Rows are worked on in strips of about this many pixels: 64-bit intermediates then need tens of megabytes at most.
_STRIP_PIXELS = 1_000_000
FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")


@dataclass(frozen=True)
class Rescale:
    """Linear modality transformation: value = stored * slope + intercept (PS3.3 C.11.1.1)."""

    slope: float = 1.0
    intercept: float = 0.0

    def __call__(self, values: np.ndarray) -> np.ndarray:
        return values.astype(np.float64) * self.slope + self.intercept


@dataclass(frozen=True)
class Table:
    """Lookup table (PS3.3 C.11.1.1 and C.11.2.1.1); values outside of it take its first or last entry.

    Attributes:
        first: the value that the first entry belongs to.
        entries: one-dimensional array of outputs.
        bits: bits of an entry, so that 2**bits - 1 is white when the table is a VOI LUT.
    """

    first: int
    entries: np.ndarray
    bits: int

    def __call__(self, values: np.ndarray) -> np.ndarray:
        index = np.clip(np.rint(values.astype(np.float64)) - self.first, 0, len(self.entries) - 1)
        return self.entries[index.astype(np.int64)].astype(np.float64)


@dataclass(frozen=True)
class Window:
    """Window of PS3.3 C.11.2.1.2 and C.11.2.1.3: the values shown between black and white.

    Attributes:
        center, width: in the units after the modality transformation (Hounsfield units for CT).
        function: LINEAR, LINEAR_EXACT or SIGMOID.

    Raises:
        ImageError: a value is not finite or the width is too small for the function.
    """

    center: float
    width: float
    function: str = "LINEAR"

    def __post_init__(self) -> None:
        if self.function not in FUNCTIONS:
            raise ImageError("The window function is not one of the standard", remedy=f"Use one of {FUNCTIONS}")
        smallest = "at least 1" if self.function == "LINEAR" else "above 0"
        valid = self.width >= 1 if self.function == "LINEAR" else self.width > 0
        if not (math.isfinite(self.center) and math.isfinite(self.width) and valid):
            raise ImageError(
                "The window is not possible",
                value=(self.center, self.width),
                remedy=f"Give a finite center and a width {smallest} ({self.function})",
            )

    def scale(self, values: np.ndarray) -> np.ndarray:
        """Map values of any shape to 0 (black) .. 1 (white)."""
        if self.function == "SIGMOID":
            exponent = np.clip(-4 * (values - self.center) / self.width, -700, 700)
            return 1 / (1 + np.exp(exponent))
        center, width = self.center, self.width
        if self.function == "LINEAR":
            center, width = center - 0.5, width - 1
        if width == 0:
            return (values > center).astype(np.float64)
        return np.clip((values - center) / width + 0.5, 0, 1)


@dataclass(frozen=True)
class Range:
    """Plain linear range: ``low`` is black, ``high`` is white. Equal ends give black."""

    low: float
    high: float

    def scale(self, values: np.ndarray) -> np.ndarray:
        if self.high == self.low:
            return np.zeros(values.shape)
        return np.clip((values - self.low) / (self.high - self.low), 0, 1)


@dataclass(frozen=True)
class VoiTable:
    """VOI LUT: the output of the table, divided by its largest possible output."""

    table: Table

    def scale(self, values: np.ndarray) -> np.ndarray:
        return np.clip(self.table(values) / (2**self.table.bits - 1), 0, 1)


Modality = Rescale | Table
Voi = Window | Range | VoiTable
Padding = tuple[float, float]


def chosen_window(window: tuple[float, float], function: str = "LINEAR") -> Window:
    """Window that a person asked for. LINEAR needs a width of 1; a narrower one is read as LINEAR_EXACT.

    Raises:
        ImageError: ``window`` is not two finite numbers with a positive width.
    """
    try:
        center, width = (float(number) for number in window)
    except (TypeError, ValueError):
        raise ImageError("The window is not two numbers", value=window, remedy="Give (center, width)") from None
    return Window(center, width, "LINEAR_EXACT" if function == "LINEAR" and width < 1 else function)


def value_range(stored_HW: np.ndarray, modality: Modality, padding: Padding | None) -> Range | None:
    """Smallest and largest value after the modality transformation, padding and non-finite values left out.

    Args:
        stored_HW: stored values, (rows, columns), any real dtype.
        modality: transformation to apply first.
        padding: inclusive stored range that is padding, or None.

    Returns:
        The range, or None when there is nothing but padding.
    """
    ends = []
    for strip in strips(stored_HW):
        values = modality(strip)[shown_mask(strip, padding)]
        if values.size:
            ends += [values.min(), values.max()]
    return Range(float(min(ends)), float(max(ends))) if ends else None


def render(
    stored_HW: np.ndarray, modality: Modality, voi: Voi, *, padding: Padding | None = None, invert: bool = False
) -> np.ndarray:
    """Draw stored values as 8-bit grey: rint(255 * voi(modality(stored))), inverted if asked, padding black.

    Args:
        stored_HW: stored values, (rows, columns), any real dtype.
        modality, voi: the two transformations.
        padding: inclusive stored range that is padding, or None. Non-finite values are padding too.
        invert: True when the smallest value is white (MONOCHROME1).

    Returns:
        uint8 array, (rows, columns).
    """
    grey_HW = np.empty(stored_HW.shape, np.uint8)
    start = 0
    for strip in strips(stored_HW):
        shown = shown_mask(strip, padding)
        scaled = voi.scale(np.where(shown, modality(strip), 0.0))
        grey = np.rint(255 * (1 - scaled if invert else scaled))
        grey_HW[start : start + len(strip)] = np.where(shown, grey, 0)
        start += len(strip)
    return grey_HW


def draw_plain(
    values_HW: np.ndarray, window: tuple[float, float] | None, *, invert: bool = False
) -> tuple[np.ndarray, str]:
    """Draw grey values that come without a DICOM header.

    Args:
        values_HW: values, (rows, columns); those that are not finite are drawn black.
        window: (center, width), applied as LINEAR_EXACT; None shows the full range.
        invert: True when the smallest value is white.

    Returns:
        uint8 array, (rows, columns), and a note that says what is black and white.

    Raises:
        ImageError: the window is impossible.
    """
    if window is not None:
        voi = chosen_window(window, "LINEAR_EXACT")
        note = window_note(voi, "chosen by a person")
    elif voi := value_range(values_HW, Rescale(), None):
        note = f"Full range {voi.low:.10g} to {voi.high:.10g} shown"
    else:
        voi, note = Range(0, 0), "No pixel has a finite value: the picture is black"
    return render(values_HW, Rescale(), voi, invert=invert), note


def window_note(window: Window, origin: str) -> str:
    """Sentence for a person about the window in use."""
    function = "" if window.function == "LINEAR" else f", {window.function}"
    return f"Window center {window.center:.10g}, width {window.width:.10g}{function} ({origin})"


def strips(array_HW: np.ndarray) -> Iterator[np.ndarray]:
    """Views of whole rows, from the top, each of about a million pixels."""
    step = max(1, _STRIP_PIXELS // array_HW.shape[1])
    for start in range(0, len(array_HW), step):
        yield array_HW[start : start + step]


def shown_mask(strip: np.ndarray, padding: Padding | None) -> np.ndarray:
    """Where stored values of any shape are finite and not padding, as bool."""
    shown = np.isfinite(strip)
    if padding is not None:
        shown &= (strip < padding[0]) | (strip > padding[1])
    return shown
