"""DICOM in: all frames of one file, or the files of one series in the order of their place in the patient.

Sources: DICOM PS3.3 C.11.1 (modality transformation), C.8.2.1 (the values of CT are Hounsfield units).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image as PILImage
from pydicom.dataset import Dataset

from core.data import deidentify, dicom
from core.data.dicom_header import (
    display,
    file_window,
    group,
    modality_transform,
    numbers,
    plain_bytes,
    window_function,
)
from core.data.dicom_pixels import colour, decode
from core.data.greyscale import Window
from core.data.images import kind_of, opened, reduction
from core.data.placement import REMEDY, Header, Place, check_alike, read_header, slice_distance, slice_order
from core.data.planes import Plane, Scan, check_bytes
from core.data.quiet import quiet_libraries
from core.errors import ImageError


def read_file(file: BinaryIO) -> Scan:
    """Read all frames of one file, in the order of the file.

    Raises:
        ImageError: the file is damaged, inconsistent, too large or not supported.
    """
    header = read_header(file)
    check_bytes(header.frames, *header.size, colour=header.kind == "colour")
    whole = dicom.load(file)
    rows, columns = int(whole.header.Rows), int(whole.header.Columns)
    check_bytes(whole.frames, rows, columns, colour=not whole.grey)
    kept = _kept(whole)
    scan = _join(_slice(whole, frame, kept) for frame in range(whole.frames))
    return _placed(scan, [header], header.places, ["Slices in the order of the file"] if whole.frames > 1 else [])


def read_series(paths: list[Path]) -> Scan:
    """Read several files of one series as one scan, sorted by position, else by instance number, else as given.

    Raises:
        ImageError: a file is not a DICOM file with one frame, or cannot be read, or the files differ in series, size
            or kind. Files are counted in the order given; neither their names nor their identifiers are quoted.
    """
    headers = []
    for index in range(len(paths)):
        with numbered(paths, index) as (file, kind):
            headers += [read_header(file)] if kind == "DICOM" else []
    others = len(paths) - len(headers)
    if others:
        what = f"Several files make one stack only if all are DICOM: {others} of {len(paths)} are not"
        raise ImageError(what, remedy=f"{REMEDY}, or one other file")
    check_alike(headers)
    check_bytes(len(headers), *headers[0].size, colour=headers[0].kind == "colour")
    order, notes = slice_order([header.places[0] for header in headers])
    scan = _join(_load(paths, order))
    return _placed(scan, headers, [headers[index].places[0] for index in order], notes)


@contextmanager
def numbered(paths: list[Path], index: int) -> Iterator[tuple[BinaryIO, str]]:
    """One of the files and its kind; an error within says which of them it is by its number and never by its name."""
    try:
        with opened(paths[index]) as file:
            yield file, kind_of(file)
    except ImageError as error:
        what = error.what if len(paths) == 1 else f"File {index + 1} of {len(paths)}: {error.what}"
        value = None if error.value == str(paths[index]) else error.value
        raise ImageError(what, value=value, remedy=error.remedy) from None


def _load(paths: list[Path], order: list[int]) -> Iterator[Scan]:
    for index in order:
        with numbered(paths, index) as (file, _):
            whole = dicom.load(file)
            scan = _slice(whole, 0, _kept(whole))
        yield scan


def _placed(scan: Scan, headers: list[Header], places: list[Place], notes: list[str]) -> Scan:
    """The scan with what was read apart: distance between slices, units, and notes on the order."""
    if len(places) > 1:
        distance, uneven = slice_distance(places)
        scan.thickness_mm = distance or headers[0].apart_mm
        notes = [*notes, *uneven]
    if scan.units == "HU" and not all(header.hounsfield for header in headers):
        scan.units = ""
        notes = [*notes, "The file says that its values are not Hounsfield units"]
    scan.notes = (*notes, *scan.notes)
    return scan


# Pixels --------------------------------------------------------------------------------------------------------------


def _slice(whole: dicom.Opened, frame: int, kept: tuple[str, ...]) -> Scan:
    """One decoded frame as a scan of its own."""
    header = whole.header
    with quiet_libraries():
        stored, bits = decode(header, frame, whole.frames)
        scan = _grey(header, frame, stored) if whole.grey else _coloured(header, stored, bits)
        scan.spacing_mm, facts = dicom.geometry(whole, frame)
        scan.modality = deidentify.modality(header)
    scan.notes = (*whole.notes, *scan.notes, *facts)
    scan.removed, scan.kept = whole.removed, kept
    return scan


def _grey(header: Dataset, frame: int, stored_HW: np.ndarray) -> Scan:
    modality, notes = modality_transform(header, frame)
    inverted, padding, displayed = display(header)
    window, window_notes = file_window(header, frame)
    function = window_function(header, frame)
    scan = Scan([Plane(stored_HW, modality, padding)], window, function=function, inverted=inverted)
    if window is not None:
        scan.window_note = window_notes.pop()
    elif function == "LINEAR" and plain_bytes(header, stored_HW, modality):
        scan.window, scan.window_note = Window(128, 256), "No window in the file: 8-bit values shown as they are"
    if "VOILUTSequence" in header:
        window_notes.append("The file's VOI LUT is not used here: a stack is shown through a window")
    if deidentify.modality(header) == "CT":
        scan.units = "HU" if _is_rescaled(header, frame) else ""
    scan.notes = (*notes, *window_notes, *displayed)
    return scan


def _is_rescaled(header: Dataset, frame: int) -> bool:
    holder = group(header, frame, "PixelValueTransformationSequence", "RescaleSlope")
    stated = numbers(holder, "RescaleSlope") and numbers(holder, "RescaleIntercept")
    return bool(stated) and "ModalityLUTSequence" not in header


def _coloured(header: Dataset, stored: np.ndarray, bits: int) -> Scan:
    rgb_HWC, notes = colour(header, stored, bits)
    factor = reduction(*rgb_HWC.shape[:2])
    return Scan([Plane(np.asarray(PILImage.fromarray(rgb_HWC).reduce(factor)))], factor=factor, notes=tuple(notes))


def _kept(whole: dicom.Opened) -> tuple[str, ...]:
    return tuple(sorted({element.keyword for element in whole.header.iterall()}))


def _join(slices: Iterable[Scan]) -> Scan:
    """Slices as one scan: what is not the same in all of them is not known of the scan."""
    scans = list(slices)
    first, middle = scans[0], scans[len(scans) // 2]
    notes = [note for scan in scans for note in scan.notes]
    if len({scan.planes[0].stored.shape for scan in scans}) > 1:
        raise ImageError("The slices are not of the sizes that their headers say", remedy=REMEDY)
    same = all(_same_spacing(scan.spacing_mm, first.spacing_mm) for scan in scans)
    if not same:
        notes.append("Spacing differs between the slices: lengths are not known")
    if len({scan.window for scan in scans}) > 1:
        notes.append("The slices' windows differ in the file: that of the middle slice is used")
    hounsfield = all(scan.units == "HU" for scan in scans)
    if first.modality == "CT" and first.planes[0].stored.ndim == 2 and not hounsfield:
        notes.append("The file does not say how its values become Hounsfield units")
    return Scan(
        planes=[scan.planes[0] for scan in scans],
        window=middle.window,
        window_note=middle.window_note,
        function=middle.function,
        units="HU" if hounsfield else "",
        inverted=first.inverted,
        factor=first.factor,
        spacing_mm=first.spacing_mm if same else None,
        modality=first.modality,
        notes=tuple(dict.fromkeys(notes)),
        removed=tuple(sorted({name for scan in scans for name in scan.removed})),
        kept=tuple(sorted({name for scan in scans for name in scan.kept})),
    )


def _same_spacing(a: tuple[float, float] | None, b: tuple[float, float] | None) -> bool:
    return a == b or (a is not None and b is not None and bool(np.allclose(a, b, rtol=1e-3, atol=0)))
