"""DICOM in: one frame as an 8-bit RGB picture, without anything that says who the patient is.

The order is that of PS3.4 N.2: stored values, modality transformation, window or VOI LUT, MONOCHROME1 inversion.
The header is reduced by ``core.data.deidentify`` before anything else looks at it, and no error quotes a text from
the file.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from PIL import Image as PILImage
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filereader import _read_file_meta_info, read_preamble
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from core.data import deidentify
from core.data.dicom_header import display, modality_transform, numbers, orientation_note, spacing, voi_transform
from core.data.dicom_pixels import COLOUR, GREY, J2K_COLOUR, READ_ERRORS, colour, decode
from core.data.greyscale import render
from core.data.quiet import quiet_libraries
from core.errors import ImageError
from core.sequence import Image

# The largest pictures of medicine in one frame (digitised film, mammography at 50 micrometres) have about 30
# megapixels; 100 leave room, and keep one decoded RGB frame at 300 MB.
MAX_PIXELS = 100_000_000
# A deflated file unpacks in memory as a whole, up to a thousandfold.
MAX_INFLATED_BYTES = 1 << 30

COLOUR_HAS_NO_WINDOW = "The window does not apply to a colour picture and was not used"
_REPAIR = "Export the file again from its source"
_REQUIRED = ("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated")
_FIRST_GROUPS = (0x0002, 0x0004, 0x0008)
_VALUE_REPRESENTATIONS = frozenset(
    b"AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR US UT UV".split()
)


@dataclass(frozen=True)
class Opened:
    """A checked DICOM file without anything that identifies the patient; its frames are not decoded yet.

    Attributes:
        header: what ``deidentify.strip`` let pass, pixel data included.
        frames: how many there are.
        removed: names of the identifying attributes left behind.
        notes: what had to be assumed.
    """

    header: Dataset
    frames: int
    removed: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def grey(self) -> bool:
        return self.header.PhotometricInterpretation in GREY


def looks_like_dicom(head: bytes) -> bool:
    """True for the DICM prefix at byte 128, and for a dataset without it that starts with a low group.

    Args:
        head: the first bytes of the file; 132 are enough.
    """
    if head[128:132] == b"DICM":
        return True
    if len(head) < 8:
        return False
    for order in "<>":
        first_group, _, representation = struct.unpack_from(f"{order}HH2s", head)
        implicit_length = struct.unpack_from("<L", head, 4)[0]
        if first_group in _FIRST_GROUPS and (
            representation in _VALUE_REPRESENTATIONS or (order == "<" and implicit_length <= 0xFFFF)
        ):
            return True
    return False


def frame_count(file: BinaryIO) -> int:
    """Number of frames in a DICOM file, without decoding any.

    Args:
        file: seekable binary file.

    Raises:
        ImageError: the file is damaged or holds no picture.
    """
    with quiet_libraries():
        header, _ = deidentify.strip(read_dataset(file, header_only=True))
        return check_header(header)


def read(file: BinaryIO, *, frame: int = 0, window: tuple[float, float] | None = None) -> Image:
    """Read one frame of a DICOM file as a picture for a person and the model.

    Args:
        file: seekable binary file.
        frame: index of the frame, from 0.
        window: (center, width) to use in place of the file's own, in units after the modality transformation.

    Returns:
        8-bit RGB picture with spacing, modality, notes, and the names of the identifying attributes left behind.

    Raises:
        ImageError: the file is damaged, inconsistent, too large, not supported, or has no such frame.
    """
    with quiet_libraries():
        frames = frame_count(file)
        if not 0 <= frame < frames:
            raise ImageError(
                "The frame does not exist", value=frame, remedy=f"Choose 0 to {frames - 1}; the file has {frames}"
            )
        opened = load(file)
        notes = [f"Frame {frame + 1} of {opened.frames}"] if opened.frames > 1 else []
        stored, bits = decode(opened.header, frame, opened.frames)
        rgb_HWC, drawing = _draw(opened, frame, stored, bits, window)
        spacing_mm, facts = geometry(opened, frame)
    return Image(
        pixels=PILImage.fromarray(rgb_HWC),
        spacing_mm=spacing_mm,
        modality=deidentify.modality(opened.header),
        notes=(*notes, *opened.notes, *drawing, *facts),
        removed=opened.removed,
    )


def patient(file: BinaryIO) -> str | None:
    """The patient's number, or else the name, as the header has it; None where it has neither. It is for a digest that
    tells patients apart, and must not be stored or shown.

    Raises:
        ImageError: the file is damaged.
    """
    with quiet_libraries():
        header = read_dataset(file, header_only=True)
        try:
            found = [str(header.get(keyword) or "").strip() for keyword in ("PatientID", "PatientName")]
        except READ_ERRORS:
            raise ImageError("The header does not say whose it is", remedy=_REPAIR) from None
    return next(filter(None, found), None)


def load(file: BinaryIO) -> Opened:
    """Read a whole file, leave behind what identifies the patient, and check the rest. Nothing is decoded.

    Raises:
        ImageError: the file is damaged, inconsistent or too large, or holds no picture.
    """
    with quiet_libraries():
        clean, removed = deidentify.strip(read_dataset(file, header_only=False))
        frames = check_header(clean)  # again: an element behind the pixels may replace one before them
        return Opened(clean, frames, removed, tuple(_complete_transfer_syntax(clean)))


def geometry(opened: Opened, frame: int) -> tuple[tuple[float, float] | None, list[str]]:
    """Distance between pixel centres as (row, column) in mm or None, and notes on it, the edges and the file."""
    spacing_mm, notes = spacing(opened.header, frame)
    notes += filter(None, (orientation_note(opened.header, frame), deidentify.burned_in_note(opened.header)))
    return spacing_mm, [*notes, f"Transfer syntax: {opened.header.file_meta.TransferSyntaxUID.name}"]


def read_dataset(file: BinaryIO, *, header_only: bool) -> Dataset:
    """The dataset as it is in the file, identifiers included: nothing of it may leave without ``deidentify.strip``.

    Raises:
        ImageError: the file is damaged, or would unpack to too much.
    """
    file.seek(0)
    _check_deflated(file)
    file.seek(0)
    try:
        return dcmread(file, stop_before_pixels=header_only, force=True)
    except READ_ERRORS:
        raise ImageError("The DICOM file is damaged and cannot be read", remedy=_REPAIR) from None


def _check_deflated(file: BinaryIO) -> None:
    """Refuse a deflated dataset that would unpack beyond ``MAX_INFLATED_BYTES``."""
    try:
        read_preamble(file, force=True)
        syntax = _read_file_meta_info(file).get("TransferSyntaxUID")  # the data start where this has stopped
    except READ_ERRORS:
        raise ImageError("The DICOM file is damaged and cannot be read", remedy=_REPAIR) from None
    if syntax != DeflatedExplicitVRLittleEndian:
        return
    unpacker, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
    try:
        while not unpacker.eof and (chunk := unpacker.unconsumed_tail or file.read(1 << 16)):
            size += len(unpacker.decompress(chunk, 1 << 20))
            if size > MAX_INFLATED_BYTES:
                raise ImageError(
                    "The deflated DICOM file is too large when unpacked",
                    value=f"above {MAX_INFLATED_BYTES >> 20} MiB",
                    remedy="Export a single frame or an uncompressed file",
                )
    except zlib.error:
        raise ImageError("The deflated DICOM file is damaged", remedy=_REPAIR) from None
    if not unpacker.eof:
        raise ImageError("The deflated DICOM file ends early", remedy="Transfer the file again")


def check_header(header: Dataset) -> int:
    """Check what decoding relies on, and return the number of frames.

    Raises:
        ImageError: an attribute is missing or impossible, or the picture is too large.
    """
    missing = [keyword for keyword in _REQUIRED if header.get(keyword) in (None, "")]
    if "Rows" in missing and "Columns" in missing:
        raise ImageError(
            "The DICOM file holds no picture",
            remedy="Choose an image (reports and plans have no pixels), or transfer the file again if it was cut short",
        )
    if missing:
        raise ImageError(f"The DICOM header lacks {', '.join(missing)}", remedy=_REPAIR)
    rows, columns, samples, allocated = (
        _whole(header, keyword) for keyword in ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated")
    )
    frames = _whole(header, "NumberOfFrames") if header.get("NumberOfFrames") not in (None, "") else 1
    if rows * columns > MAX_PIXELS:
        raise ImageError(
            "The picture is too large",
            value=f"{rows} x {columns} pixels",
            remedy=f"Give at most {MAX_PIXELS // 10**6} megapixels a frame; export a smaller one",
        )
    stored = _whole(header, "BitsStored") if "BitsStored" in header else allocated
    high_bit = numbers(header, "HighBit")[:1] or [stored - 1]
    if stored > allocated or high_bit[0] != stored - 1:
        raise ImageError(
            "The header's bits stored, bits allocated and high bit contradict each other",
            value=(stored, allocated, int(high_bit[0])),
            remedy=_REPAIR,
        )
    photometric = header.PhotometricInterpretation
    known = (*GREY, "PALETTE COLOR", *COLOUR, *J2K_COLOUR)
    if photometric not in known:
        raise ImageError("The photometric interpretation is not supported", remedy=f"Supported are {', '.join(known)}")
    if samples != (3 if photometric in COLOUR + J2K_COLOUR else 1):
        raise ImageError(f"{photometric} cannot have this many samples a pixel", value=samples, remedy=_REPAIR)
    return frames


def _whole(header: Dataset, keyword: str) -> int:
    """A positive whole number of the header."""
    found = numbers(header, keyword)
    if len(found) != 1 or found[0] < 1 or found[0] != int(found[0]):
        raise ImageError(f"The header attribute {keyword} is not a positive whole number", remedy=_REPAIR)
    return int(found[0])


def _complete_transfer_syntax(header: Dataset) -> list[str]:
    """Fill in the transfer syntax of a dataset without file meta information from how it was encoded."""
    if "TransferSyntaxUID" in header.file_meta:
        return []
    implicit, little = header.original_encoding[:2]
    explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    header.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return ["The file does not state its transfer syntax; it was inferred"]


def _draw(
    opened: Opened, frame: int, stored: np.ndarray, bits: int, window: tuple[float, float] | None
) -> tuple[np.ndarray, list[str]]:
    """Stored values to uint8 RGB, (rows, columns, 3), with notes."""
    if opened.grey:
        grey_HW, notes = _draw_grey(opened.header, frame, stored, window)
        return np.repeat(grey_HW[..., None], 3, axis=2), notes
    rgb_HWC, notes = colour(opened.header, stored, bits)
    return rgb_HWC, [COLOUR_HAS_NO_WINDOW, *notes] if window is not None else notes


def _draw_grey(
    header: Dataset, frame: int, stored_HW: np.ndarray, window: tuple[float, float] | None
) -> tuple[np.ndarray, list[str]]:
    modality, notes = modality_transform(header, frame)
    voi, voi_notes = voi_transform(header, frame, window, stored_HW, modality)
    invert, padding, display_notes = display(header)
    pixels = render(stored_HW, modality, voi, padding=padding, invert=invert)
    return pixels, [*notes, *voi_notes, *display_notes]
