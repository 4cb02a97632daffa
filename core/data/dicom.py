"""DICOM in: one frame as an 8-bit RGB picture, without anything that says who the patient is.

The order is that of PS3.4 N.2: stored values, modality transformation, window or VOI LUT, MONOCHROME1 inversion.
Decoding is pydicom's, with pylibjpeg for compressed transfer syntaxes. The header is reduced by
``core.data.deidentify`` before anything else looks at it, and no error quotes a text from the file.
"""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO

import numpy as np
from PIL import Image as PILImage
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.errors import InvalidDicomError
from pydicom.filereader import _read_file_meta_info, read_preamble
from pydicom.pixels import apply_color_lut, get_decoder
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
)

from core.data import deidentify
from core.data.codestream import check_codestream
from core.data.dicom_header import modality_transform, numbers, orientation_note, padding_range, spacing, voi_transform
from core.data.greyscale import render
from core.data.quiet import quiet_libraries
from core.errors import ImageError
from core.sequence import Image

# The largest pictures of medicine in one frame (digitised film, mammography at 50 micrometres) have about 30
# megapixels; 100 leave room, and keep one decoded RGB frame at 300 MB.
MAX_PIXELS = 100_000_000
# A deflated file unpacks in memory as a whole, up to a thousandfold.
MAX_INFLATED_BYTES = 1 << 30

_REPAIR = "Export the file again from its source"
_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422")
_J2K_COLOUR = ("YBR_RCT", "YBR_ICT")
_PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_REQUIRED = ("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated")
# What pydicom, its decoders and zlib raise on a damaged file.
_READ_ERRORS = (*deidentify.HEADER_ERRORS, InvalidDicomError, RuntimeError, AssertionError, MemoryError, zlib.error)
_FIRST_GROUPS = (0x0002, 0x0004, 0x0008)
_VALUE_REPRESENTATIONS = frozenset(
    b"AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR US UT UV".split()
)


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
        header, _ = deidentify.strip(_read_dataset(file, header_only=True))
        return _check_header(header)


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
        header, _ = deidentify.strip(_read_dataset(file, header_only=True))
        frames = _check_header(header)
        if not 0 <= frame < frames:
            raise ImageError(
                "The frame does not exist", value=frame, remedy=f"Choose 0 to {frames - 1}; the file has {frames}"
            )
        clean, removed = deidentify.strip(_read_dataset(file, header_only=False))
        frames = _check_header(clean)  # again: an element behind the pixels may replace one before them
        notes = [f"Frame {frame + 1} of {frames}"] if frames > 1 else []
        notes += _complete_transfer_syntax(clean)
        stored, bits = _decode(clean, frame, frames)
        rgb_HWC, drawing = _draw(clean, frame, stored, bits, window)
        spacing_mm, measured = spacing(clean, frame)
        notes += drawing + measured
        notes += filter(None, (orientation_note(clean, frame), deidentify.burned_in_note(clean)))
        notes.append(f"Transfer syntax: {clean.file_meta.TransferSyntaxUID.name}")
    return Image(
        pixels=PILImage.fromarray(rgb_HWC),
        spacing_mm=spacing_mm,
        modality=deidentify.modality(clean),
        notes=tuple(notes),
        removed=removed,
    )


def _read_dataset(file: BinaryIO, *, header_only: bool) -> Dataset:
    file.seek(0)
    _check_deflated(file)
    file.seek(0)
    try:
        return dcmread(file, stop_before_pixels=header_only, force=True)
    except _READ_ERRORS:
        raise ImageError("The DICOM file is damaged and cannot be read", remedy=_REPAIR) from None


def _check_deflated(file: BinaryIO) -> None:
    """Refuse a deflated dataset that would unpack beyond ``MAX_INFLATED_BYTES``."""
    try:
        read_preamble(file, force=True)
        syntax = _read_file_meta_info(file).get("TransferSyntaxUID")  # the data start where this has stopped
    except _READ_ERRORS:
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


def _check_header(header: Dataset) -> int:
    """Check what decoding relies on, and return the number of frames."""
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
    known = (*_GREY, "PALETTE COLOR", *_COLOUR, *_J2K_COLOUR)
    if photometric not in known:
        raise ImageError("The photometric interpretation is not supported", remedy=f"Supported are {', '.join(known)}")
    if samples != (3 if photometric in _COLOUR + _J2K_COLOUR else 1):
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


def _decode(header: Dataset, frame: int, frames: int) -> tuple[np.ndarray, int]:
    """Stored values of one frame, (rows, columns) or (rows, columns, 3 of RGB), and the bits of a sample."""
    present = [keyword for keyword in _PIXEL_KEYWORDS if keyword in header]
    if len(present) != 1:
        raise ImageError("The DICOM file has no pixel data, or ends before them", remedy="Transfer the file again")
    syntax = header.file_meta.TransferSyntaxUID
    photometric = header.PhotometricInterpretation
    if photometric in _J2K_COLOUR and syntax not in JPEG2000TransferSyntaxes:
        raise ImageError(f"{photometric} needs a JPEG 2000 transfer syntax", remedy=_REPAIR)
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise ImageError(
            "The transfer syntax is not supported (video, for example)", remedy="Export the picture uncompressed"
        ) from None
    try:
        if syntax.is_encapsulated:
            offsets = (
                (header.ExtendedOffsetTable, header.ExtendedOffsetTableLengths)
                if ("ExtendedOffsetTable" in header and "ExtendedOffsetTableLengths" in header)
                else None
            )
            encoded = get_frame(header.PixelData, frame, number_of_frames=frames, extended_offsets=offsets)
            check_codestream(encoded, syntax, (header.Rows, header.Columns, header.SamplesPerPixel))
        stored, properties = decoder.as_array(header, index=frame)
    except _READ_ERRORS:
        raise ImageError(
            f"The pixel data cannot be decoded ({syntax.name}): damaged, cut short, or not what the header says",
            remedy="Transfer the file again, or export it uncompressed",
        ) from None
    expected = (header.Rows, header.Columns) + ((3,) if header.SamplesPerPixel == 3 else ())
    if stored.shape != expected or properties["photometric_interpretation"] not in (photometric, "RGB"):
        raise ImageError("The decoded picture is not what the header says", value=stored.shape, remedy=_REPAIR)
    return stored, int(properties.get("bits_stored", properties["bits_allocated"]))


def _draw(
    header: Dataset, frame: int, stored: np.ndarray, bits: int, window: tuple[float, float] | None
) -> tuple[np.ndarray, list[str]]:
    """Stored values to uint8 RGB, (rows, columns, 3), with notes."""
    if header.PhotometricInterpretation in _GREY:
        grey_HW, notes = _draw_grey(header, frame, stored, window)
        return np.repeat(grey_HW[..., None], 3, axis=2), notes
    notes = ["The window does not apply to a colour picture and was not used"] if window is not None else []
    if stored.dtype.kind != "u":
        raise ImageError("A colour picture cannot have signed or floating-point samples", remedy=_REPAIR)
    if header.PhotometricInterpretation == "PALETTE COLOR":
        stored, bits = _apply_palette(header, stored)
        notes.append("Colour palette of the file applied")
    if bits == 8:
        return stored.astype(np.uint8), notes
    notes.append(f"{bits}-bit colour scaled to 8 bits")
    return np.rint(np.minimum(stored / (2**bits - 1), 1) * 255).astype(np.uint8), notes


def _draw_grey(
    header: Dataset, frame: int, stored_HW: np.ndarray, window: tuple[float, float] | None
) -> tuple[np.ndarray, list[str]]:
    modality, notes = modality_transform(header, frame)
    voi, voi_notes = voi_transform(header, frame, window, stored_HW, modality)
    notes += voi_notes
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
    return render(stored_HW, modality, voi, padding=padding, invert=invert), notes


def _apply_palette(header: Dataset, stored_HW: np.ndarray) -> tuple[np.ndarray, int]:
    """RGB of a palette picture, (rows, columns, 3), and the bits of an entry (PS3.3 C.7.6.3.1.5)."""
    descriptor = [int(value) for value in numbers(header, "RedPaletteColorLookupTableDescriptor")]
    if len(descriptor) != 3:
        raise ImageError("The colour palette is missing", remedy=_REPAIR)
    length = (descriptor[0] & 0xFFFF) or 2**16
    # For both of these pydicom gives wrong colours without a word.
    if (descriptor[2] == 8 and length > 256) or not header.original_encoding[1]:
        raise ImageError("This kind of colour palette is not supported", remedy="Export the picture as RGB")
    # pydicom indexes with the entries' own type, which wraps around for values beyond the palette.
    index = np.clip(stored_HW.astype(np.int64), descriptor[1], descriptor[1] + length - 1)
    try:
        rgb_HWC = apply_color_lut(index, header)[..., :3]
    except _READ_ERRORS:
        raise ImageError("The colour palette is damaged", remedy=_REPAIR) from None
    return rgb_HWC, descriptor[2]
