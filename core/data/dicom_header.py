"""What a de-identified DICOM header says about grey values, geometry and orientation.

Every function takes the clean dataset of ``deidentify.strip``. Multi-frame objects keep some attributes in functional
groups (PS3.3 C.7.6.16): the frame's own group wins over the shared one, which wins over the top level.
"""

from __future__ import annotations

import math

import numpy as np
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from core.data.greyscale import (
    FUNCTIONS,
    Modality,
    Padding,
    Range,
    Rescale,
    Table,
    Voi,
    VoiTable,
    Window,
    chosen_window,
    value_range,
    window_note,
)
from core.errors import ImageError

_REPAIR = "Export the file again from its source"
_CENTIMETRES = 3  # PhysicalUnitsXDirection and Y, PS3.3 C.8.5.5.1.15
_TISSUE_2D = 1  # RegionSpatialFormat, PS3.3 C.8.5.5.1.1
_EDGES = (("L", "R"), ("P", "A"), ("H", "F"))  # towards +x, -x and so on in patient coordinates, PS3.3 C.7.6.2.1.1


def numbers(header: Dataset, keyword: str) -> list[float]:
    """Values of a numeric attribute as finite floats; empty when it is absent or empty.

    Raises:
        ImageError: a value is not a finite number.
    """
    value = header.get(keyword)
    if value is None or value == "":
        return []
    try:
        floats = [float(item) for item in (value if isinstance(value, MultiValue | list) else [value])]
    except (TypeError, ValueError):
        floats = [math.nan]
    if not all(math.isfinite(item) for item in floats):
        raise ImageError(f"The header attribute {keyword} is not a number", remedy=_REPAIR)
    return floats


def group(header: Dataset, frame: int, sequence: str, keyword: str) -> Dataset:
    """The dataset that holds ``keyword`` for a frame: a functional group's item, or the header itself."""
    per_frame = header.get("PerFrameFunctionalGroupsSequence") or []
    shared = header.get("SharedFunctionalGroupsSequence") or []
    for groups in (*per_frame[frame : frame + 1], *shared[:1]):
        items = groups.get(sequence)
        if items and keyword in items[0]:
            return items[0]
    return header


def modality_transform(header: Dataset, frame: int) -> tuple[Modality, list[str]]:
    """Modality LUT, or rescale slope and intercept, or identity; with notes.

    Raises:
        ImageError: the table is inconsistent or the slope is 0.
    """
    tables = header.get("ModalityLUTSequence")
    if tables:
        signed = header.get("PixelRepresentation") == 1
        return lookup_table(tables[0], header, "Modality LUT", signed=signed), ["Modality LUT of the file applied"]
    holder = group(header, frame, "PixelValueTransformationSequence", "RescaleSlope")
    slope, intercept = numbers(holder, "RescaleSlope"), numbers(holder, "RescaleIntercept")
    if slope[:1] == [0]:
        raise ImageError("The header attribute RescaleSlope is 0", remedy=_REPAIR)
    notes = []
    if len(slope) != len(intercept):
        notes.append(
            "Only one of rescale slope and intercept is in the file; slope 1, intercept 0 assumed for the other"
        )
    return Rescale(*(slope[:1] or [1.0]), *(intercept[:1] or [0.0])), notes


def lookup_table(item: Dataset, header: Dataset, name: str, *, signed: bool) -> Table:
    """Table of a Modality or VOI LUT sequence item (PS3.3 C.11.1.1.1 and C.11.2.1.1).

    Args:
        item, header: the sequence's item and the dataset around it.
        name: of the table, for errors.
        signed: whether the values that go into the table can be negative. The descriptor's second number is then a
            signed one, which files in implicit VR do not tell by themselves.

    Raises:
        ImageError: the descriptor is impossible or the data are shorter than it says.
    """
    descriptor = [int(value) for value in numbers(item, "LUTDescriptor")]
    data = item.get("LUTData")
    if len(descriptor) != 3 or not data or not 8 <= descriptor[2] <= 16:
        raise ImageError(f"The {name} has no valid descriptor and data", remedy=_REPAIR)
    length, first, bits = (descriptor[0] & 0xFFFF) or 2**16, descriptor[1], descriptor[2]
    if signed and first >= 2**15:
        first -= 2**16
    if not signed and first < 0:
        first += 2**16
    if isinstance(data, bytes):
        little = header.original_encoding[1]
        data = (
            np.frombuffer(data[: len(data) // 2 * 2], "<u2" if little else ">u2")
            if len(data) >= 2 * length
            else (np.frombuffer(data, np.uint8))
        )
    entries = np.atleast_1d(np.asarray(data))[:length]
    if len(entries) < length:
        raise ImageError(f"The {name} has {len(entries)} entries and announces {length}", remedy=_REPAIR)
    return Table(first, entries, bits)


def padding_range(header: Dataset) -> Padding | None:
    """Inclusive stored range that is padding (PS3.3 C.7.5.1.1.2), or None."""
    for prefix in ("", "Float", "DoubleFloat"):
        value = numbers(header, f"{prefix}PixelPaddingValue")
        if not value:
            continue
        ends = value[:1] + (numbers(header, f"{prefix}PixelPaddingRangeLimit")[:1] or value[:1])
        if not prefix and "PixelRepresentation" not in header:
            continue  # floating-point pixels have none, and an integer padding value says nothing about them
        if not prefix:
            ends = [_as_stored(end, header) for end in ends]
        return min(ends), max(ends)
    return None


def _as_stored(value: float, header: Dataset) -> float:
    """Read a padding value that was written with the wrong sign as the same bits of the pixels' own type."""
    size = 2**header.BitsAllocated
    if header.PixelRepresentation == 1:
        return value - size if value >= size // 2 else value
    return value + size if value < 0 else value


def voi_transform(
    header: Dataset, frame: int, window: tuple[float, float] | None, stored_HW: np.ndarray, modality: Modality
) -> tuple[Voi, list[str]]:
    """What is shown between black and white, in this order: the caller's window, VOI LUT, the file's window, range.

    Args:
        header: clean dataset.
        frame: index of the frame, from 0.
        window: (center, width) that a person chose, or None.
        stored_HW: stored values, (rows, columns).
        modality: transformation of the stored values.

    Returns:
        The transformation, and notes that say which it is.

    Raises:
        ImageError: the window or table is impossible.
    """
    function = window_function(header, frame)
    if window is not None:
        chosen = chosen_window(window, function)
        return chosen, [window_note(chosen, "chosen by a person")]
    tables = header.get("VOILUTSequence")
    if tables:
        note = "VOI LUT of the file applied" + (f" (1 of {len(tables)})" if len(tables) > 1 else "")
        signed = isinstance(modality, Rescale) and (
            header.get("PixelRepresentation") == 1 or modality.intercept < 0 or modality.slope < 0
        )
        return VoiTable(lookup_table(tables[0], header, "VOI LUT", signed=signed)), [note]
    found, notes = file_window(header, frame)
    return (found, notes) if found else _full_range(header, stored_HW, modality, notes)


def window_function(header: Dataset, frame: int) -> str:
    """VOI LUT function of a frame: LINEAR where the file states none.

    Raises:
        ImageError: it is none of ``FUNCTIONS``.
    """
    holder = group(header, frame, "FrameVOILUTSequence", "WindowCenter")
    function = str(holder.get("VOILUTFunction") or "LINEAR").strip().upper()
    if function not in FUNCTIONS:
        raise ImageError("The VOI LUT function in the file is not supported", remedy=f"Supported are {FUNCTIONS}")
    return function


def file_window(header: Dataset, frame: int) -> tuple[Window | None, list[str]]:
    """The file's first window of a frame, or None where there is none or an impossible one; with notes.

    Raises:
        ImageError: the VOI LUT function is not supported, or a value is not a number.
    """
    holder = group(header, frame, "FrameVOILUTSequence", "WindowCenter")
    centers, widths = numbers(holder, "WindowCenter"), numbers(holder, "WindowWidth")
    function = window_function(header, frame)
    if not (centers and widths):
        return None, []
    try:
        found = Window(centers[0], widths[0], function)
    except ImageError:
        text = f"center {centers[0]:.10g}, width {widths[0]:.10g}"
        return None, [f"The file's window ({text}) is not possible and not used"]
    which = f"from the file, 1 of {len(centers)}" if len(centers) > 1 else "from the file"
    return found, [window_note(found, which)]


def plain_bytes(header: Dataset, stored_HW: np.ndarray, modality: Modality) -> bool:
    """Whether the values are 8-bit greys that need no window: they are shown as they are."""
    return modality == Rescale() and header.get("BitsStored") == 8 and stored_HW.dtype == np.uint8


def _full_range(header: Dataset, stored_HW: np.ndarray, modality: Modality, notes: list[str]) -> tuple[Voi, list[str]]:
    if plain_bytes(header, stored_HW, modality):
        return Range(0, 255), [*notes, "No window in the file: 8-bit values shown as they are"]
    found = value_range(stored_HW, modality, padding_range(header))
    if found is None:
        return Range(0, 0), [*notes, "Every pixel is padding: the picture is black"]
    return found, [*notes, f"No window in the file: full range {found.low:.10g} to {found.high:.10g} shown"]


def display(header: Dataset) -> tuple[bool, Padding | None, list[str]]:
    """Whether the lowest grey value is white, the inclusive stored range that is padding or None, and notes.

    Raises:
        ImageError: the presentation LUT shape is not supported.
    """
    notes = []
    photometric, shape = header.PhotometricInterpretation, str(header.get("PresentationLUTShape") or "").strip()
    if shape not in ("", "IDENTITY", "INVERSE"):
        raise ImageError("The presentation LUT shape is not supported", remedy="Supported are IDENTITY and INVERSE")
    if (photometric, shape) in (("MONOCHROME1", "IDENTITY"), ("MONOCHROME2", "INVERSE")):
        notes.append(f"{photometric} and presentation LUT shape {shape} contradict each other; drawn inverted")
    invert = photometric == "MONOCHROME1" or shape == "INVERSE"
    if invert:
        notes.append("Drawn inverted: the lowest value is white")
    padding = padding_range(header)
    if padding is not None:
        values = " to ".join(f"{value:.10g}" for value in dict.fromkeys(padding))
        notes.append(f"Padding of {values} drawn black")
    return invert, padding, notes


def spacing(header: Dataset, frame: int) -> tuple[tuple[float, float] | None, list[str]]:
    """Distance between pixel centres as (row, column) in mm, or None; with notes on what it is measured on."""
    holder = group(header, frame, "PixelMeasuresSequence", "PixelSpacing")
    found, notes = _pair(holder, "PixelSpacing"), []
    if found is None and (found := _pair(header, "ImagerPixelSpacing")):
        notes.append("Spacing is measured at the detector; sizes in the patient are smaller")
    if found is None and (found := _pair(header, "NominalScannedPixelSpacing")):
        notes.append("Spacing is that of the film scanner; sizes in the patient may differ")
    if found is None and (found := _ultrasound_spacing(header)):
        notes.append("Spacing comes from the ultrasound region calibration")
    aspect = numbers(header, "PixelAspectRatio")
    if (found and not math.isclose(*found, rel_tol=1e-3)) or (not found and len(set(aspect)) > 1):
        notes.append("Pixels are not square; they are drawn as if they were")
    return found, notes


def _pair(header: Dataset, keyword: str) -> tuple[float, float] | None:
    found = numbers(header, keyword)
    return (found[0], found[1]) if len(found) == 2 and min(found) > 0 else None


def _ultrasound_spacing(header: Dataset) -> tuple[float, float] | None:
    """Spacing when every calibrated 2-D region has the same one in centimetres (PS3.3 C.8.5.5), else None."""
    found = set()
    for region in header.get("SequenceOfUltrasoundRegions") or []:
        units = (region.get("PhysicalUnitsXDirection"), region.get("PhysicalUnitsYDirection"))
        if region.get("RegionSpatialFormat") != _TISSUE_2D or units != (_CENTIMETRES, _CENTIMETRES):
            continue
        y, x = numbers(region, "PhysicalDeltaY")[:1], numbers(region, "PhysicalDeltaX")[:1]
        found.update([(10 * abs(y[0]), 10 * abs(x[0]))] if y and x else [])
    only = found.pop() if len(found) == 1 else (0.0, 0.0)
    return only if min(only) > 0 else None


def orientation_note(header: Dataset, frame: int) -> str | None:
    """Which side of the patient lies at the left and top edge, or None when the file does not say."""
    holder = group(header, frame, "PlaneOrientationSequence", "ImageOrientationPatient")
    cosines = numbers(holder, "ImageOrientationPatient")
    if len(cosines) != 6 or not any(cosines[:3]) or not any(cosines[3:]):
        return None
    return f"Orientation: left edge {side(cosines[:3])}, top edge {side(cosines[3:])}"


def side(direction: list[float]) -> str:
    """Letter of the patient side that a direction in patient coordinates comes from: "F" for the feet, and so on."""
    axis = int(np.argmax(np.abs(direction)))
    return _EDGES[axis][1 if direction[axis] > 0 else 0]
