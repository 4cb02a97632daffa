"""What a viewer needs of a scan: all slices as 16-bit values, de-identified on arrival, and a picture of any of them.

A grey value in the file's units is ``stored * slope + intercept``. It is shown through a window of the file's function
(DICOM PS3.3 C.11.2.1.2, C.11.2.1.3), with grey = 255 * clip((value - low) / (high - low), 0, 1):

    LINEAR, width >= 1:            low = center - width / 2,        high = center + width / 2 - 1
    LINEAR_EXACT, or width < 1:    low = center - width / 2,        high = center + width / 2
    SIGMOID:                       grey = 255 / (1 + exp(-4 * (value - center) / width))

An ``inverted`` stack then shows 255 - grey, and pixels of the code ``padding`` are black in any case.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image as PILImage

from core.data import dicom, images, series
from core.data.greyscale import Rescale, Window, chosen_window, render, strips, window_note
from core.data.planes import Packed, Plane, Scan, check_bytes, pack
from core.data.quiet import quiet_libraries
from core.errors import ImageError
from core.sequence import Image

_CODES = 2**16
_LOW, _HIGH = 0.01, 0.99  # shares of the pixels below a default window and below its end
# Common radiological values in Hounsfield units, as textbooks and workstations give them (center, width).
_CT_WINDOWS = (
    ("Lung", -600.0, 1500.0),
    ("Mediastinum", 40.0, 400.0),
    ("Bone", 400.0, 1800.0),
    ("Brain", 40.0, 80.0),
    ("Liver", 60.0, 150.0),
)


@dataclass(frozen=True)
class Preset:
    """A window worth trying: its name for a person, and center and width in the units of the stack."""

    name: str
    center: float
    width: float


@dataclass(frozen=True, eq=False)
class Stack:
    """The slices of one scan without anything that says who the patient is.

    Attributes:
        values: int16 [N, H, W] of grey slices, or uint8 [N, H, W, 3] of colour ones; read-only.
        slope, intercept: value = stored * slope + intercept, exact or within half a slope. 1 and 0 for colour.
        units: of the values: "HU", or "" where they are not known.
        window: default (center, width): the file's first one, of the middle slice; None for colour.
        function: how a window is applied: LINEAR, LINEAR_EXACT or SIGMOID.
        inverted: the lowest value is white.
        padding: stored value of pixels that hold no measurement, which are black; None where there are none.
        presets: windows worth trying; none for colour.
        spacing_mm: distance between pixel centres as (row, column), or None.
        thickness_mm: distance between the centres of neighbouring slices, or None.
        modality: DICOM code such as "CT", or None.
        notes: what was done on the way in; the last one of grey slices says where the default window comes from.
        removed: names of the header attributes left behind because they may identify a person.
        kept: names of the header attributes that passed.
    """

    values: np.ndarray = field(repr=False)
    slope: float
    intercept: float
    units: str
    window: tuple[float, float] | None
    function: str
    inverted: bool
    padding: int | None
    presets: tuple[Preset, ...]
    spacing_mm: tuple[float, float] | None
    thickness_mm: float | None
    modality: str | None
    notes: tuple[str, ...]
    removed: tuple[str, ...]
    kept: tuple[str, ...]

    @property
    def slices(self) -> int:
        return len(self.values)

    @property
    def colour(self) -> bool:
        return self.values.ndim == 4

    def picture(self, index: int, center: float | None = None, width: float | None = None) -> Image:
        """A slice as the model is shown it: what ``open_image`` gives for the same window, within one grey level.

        Args:
            index: of the slice, from 0.
            center, width: window in the units of the stack; one that is left out is that of the default window.

        Raises:
            ImageError: there is no such slice, or the window is impossible.
        """
        pixels = self._slice(index)
        notes = [f"Slice {index + 1} of {self.slices}"] if self.slices > 1 else []
        if self.window is None:
            given = center is not None or width is not None
            notes += [*self.notes, dicom.COLOUR_HAS_NO_WINDOW] if given else self.notes
        else:
            chosen = (self.window[0] if center is None else center, self.window[1] if width is None else width)
            voi = chosen_window(chosen, self.function)
            default = chosen == self.window
            notes += [*self.notes[:-1], self.notes[-1] if default else window_note(voi, "chosen by a person")]
            padding = None if self.padding is None else (self.padding, self.padding)
            rescale = Rescale(self.slope, self.intercept)
            grey_HW = render(pixels, rescale, voi, padding=padding, invert=self.inverted)
            pixels = np.repeat(grey_HW[..., None], 3, axis=2)
        image = Image(
            pixels=PILImage.fromarray(pixels),
            spacing_mm=self.spacing_mm,
            modality=self.modality,
            notes=tuple(notes),
            removed=self.removed,
        )
        return images.fit(image)

    def raw(self, index: int) -> bytes:
        """A slice for a browser: int16 in little-endian order, row after row; of a colour stack the RGB bytes.

        Raises:
            ImageError: there is no such slice.
        """
        pixels = self._slice(index)
        return (pixels if self.colour else pixels.astype("<i2")).tobytes()

    def _slice(self, index: int) -> np.ndarray:
        if not 0 <= index < self.slices:
            remedy = f"Choose 0 to {self.slices - 1}; the stack has {self.slices}"
            raise ImageError("The slice does not exist", value=index, remedy=remedy)
        return self.values[index]


def open_stack(paths: list[Path]) -> Stack:
    """Read a scan: one file of any supported kind, or several DICOM files of one series in any order.

    Frames of one file keep their order, so that index i is ``frame=i`` of ``open_image``. Besides the file's content
    and the result, at most the values as stored are held: 64-bit ones need four times ``MAX_STACK_BYTES``.

    Args:
        paths: of the files. Errors count them in this order and never quote their names.

    Raises:
        ImageError: a file is missing, damaged, too large or not supported, or the files are not one series.
    """
    paths = list(paths)
    if not paths:
        raise ImageError("No file was given", remedy="Give one file, or the DICOM files of one series")
    if len(paths) > 1:
        return _stack(series.read_series(paths))
    with series.numbered(paths, 0) as (file, kind):
        if kind == "DICOM":
            scan = series.read_file(file)
        elif kind == "NIfTI":
            from core.data import nifti  # nibabel takes half a second to import, and few files need it

            scan = nifti.read_volume(file)
        else:
            scan = _read_pages(file, kind)
    return _stack(scan)


def stack_of(image: Image) -> Stack:
    """A picture as a stack of one coloured slice."""
    return Stack(
        values=np.asarray(image.pixels)[None], slope=1.0, intercept=0.0, units="", window=None, function="LINEAR",
        inverted=False, padding=None, presets=(), spacing_mm=image.spacing_mm, thickness_mm=None,
        modality=image.modality, notes=image.notes, removed=image.removed, kept=(),
    )  # fmt: skip


def _read_pages(file: BinaryIO, kind: str) -> Scan:
    """All pages of a picture that are of the first one's size and kind; previews and the like are left out."""
    planes, notes, removed, inverted = [], [], set(), False
    with quiet_libraries(), images.readable(kind):
        image = images.open_raster(file, kind)
        pages, first = images.page_count(image), (image.size, image.mode)
        factor = images.reduction(image.height, image.width)
        for index in range(pages):
            if index:
                image.seek(index)
                if (image.size, image.mode) != first:
                    continue
            page = images.load_page(image, index)
            pixels = _page_values(page, factor)
            if not planes:
                inverted = page.inverted and page.image.mode in images.WIDE_GREY
            elif pixels.shape != planes[0].stored.shape:
                continue  # turned upright
            check_bytes(len(planes) + 1, *pixels.shape[:2], colour=pixels.ndim == 3)
            planes.append(Plane(pixels))
            notes += page.notes
            removed.update(page.removed)
    if len(planes) < pages:
        notes.append(f"{pages - len(planes)} of {pages} pages are of another size or kind and left out")
    scan = Scan(planes, function="LINEAR_EXACT", inverted=inverted, kept=("pixels",))
    if planes[0].stored.ndim == 3:
        scan.factor = factor
    elif planes[0].stored.dtype == np.uint8:
        scan.window, scan.window_note = Window(127.5, 255, "LINEAR_EXACT"), "8-bit values shown as they are"
    scan.notes, scan.removed = tuple(dict.fromkeys(notes)), tuple(sorted(removed))
    return scan


def _page_values(page: images.Page, factor: int) -> np.ndarray:
    """Greys [H, W] as stored, or RGB [H, W, 3] averaged down by the factor."""
    plain_grey = page.image.mode == "L" and not page.image.has_transparency_data
    if page.image.mode in images.WIDE_GREY or plain_grey:
        return np.array(page.image)
    return np.array(images.to_rgb(page.image).reduce(factor))


def _stack(scan: Scan) -> Stack:
    """A scan with its values packed and its windows found."""
    notes, spacing_mm, window = list(scan.notes), scan.spacing_mm, None
    presets: tuple[Preset, ...] = ()
    if scan.planes[0].stored.ndim == 3:
        packed = Packed(np.stack([plane.stored for plane in scan.planes]), 1.0, 0.0, None, exact=True)
        if scan.factor > 1:
            notes.append(f"Averaged down {scan.factor} times in each direction")
            spacing_mm = spacing_mm and (spacing_mm[0] * scan.factor, spacing_mm[1] * scan.factor)
    else:
        packed = pack(scan.planes)
        if not packed.exact:
            notes.append(f"Values rounded to steps of {packed.slope:.3g} to fit into 16 bits")
        window, presets, note = _windows(scan, packed)
        notes.append(note)
    packed.codes.setflags(write=False)
    return Stack(
        values=packed.codes,
        slope=packed.slope,
        intercept=packed.intercept,
        units=scan.units,
        window=window,
        function=scan.function,
        inverted=scan.inverted,
        padding=packed.padding,
        presets=presets,
        spacing_mm=spacing_mm,
        thickness_mm=scan.thickness_mm,
        modality=scan.modality,
        notes=tuple(notes),
        removed=scan.removed,
        kept=scan.kept,
    )


def _windows(scan: Scan, packed: Packed) -> tuple[tuple[float, float], tuple[Preset, ...], str]:
    """Default window, presets, and a note on the default: the file's, else the middle 98 % of all values, else all."""
    counts = _histogram(packed)
    used = np.flatnonzero(counts)
    share = np.cumsum(counts) / max(1, counts.sum())
    codes = (int(used[0]), int(used[-1])) if used.size else (_CODES // 2, _CODES // 2)
    middle = int(np.searchsorted(share, _LOW)), int(np.searchsorted(share, _HIGH))
    full = _window_of(codes, packed, scan.function)
    if scan.window is not None:
        name, default, note = "As in the file", (scan.window.center, scan.window.width), scan.window_note
    elif middle[0] < middle[1]:
        name, default = "1st to 99th percentile", _window_of(middle, packed, scan.function)
        origin = "1st to 99th percentile of the scan, whose file states none"
        note = window_note(chosen_window(default, scan.function), origin)
    else:
        name, default = "Full range", full
        note = window_note(chosen_window(default, scan.function), "full range of the scan, whose file states none")
    presets = [Preset(name, *default)]
    presets += [Preset(*window) for window in _CT_WINDOWS if scan.units == "HU"]
    presets += [Preset("Full range", *full)] if name != "Full range" else []
    return default, tuple(presets), note


def _histogram(packed: Packed) -> np.ndarray:
    """How many pixels have each code, from the lowest on; padding is left out."""
    counts = np.zeros(_CODES, np.int64)
    for plane_HW in packed.codes:
        for strip in strips(plane_HW):
            counts += np.bincount(strip.ravel().astype(np.int64) + _CODES // 2, minlength=_CODES)
    if packed.padding is not None:
        counts[packed.padding + _CODES // 2] = 0
    return counts


def _window_of(codes: tuple[int, int], packed: Packed, function: str) -> tuple[float, float]:
    """(center, width) that shows the first of two codes, counted from the lowest on, black and the second white."""
    low, high = sorted((code - _CODES // 2) * packed.slope + packed.intercept for code in codes)
    if high == low:
        return low + 0.5, 1.0  # black
    if function == "LINEAR" and high - low >= 1:
        return (low + high) / 2 + 0.5, high - low + 1
    return (low + high) / 2, high - low
