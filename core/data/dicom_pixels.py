"""The pixels of a checked and de-identified DICOM file: decoding one frame, and colours to 8-bit RGB.

Decoding is pydicom's, with pylibjpeg for compressed transfer syntaxes. No error quotes a text from the file.
"""

from __future__ import annotations

import zlib

import numpy as np
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.errors import InvalidDicomError
from pydicom.pixels import apply_color_lut, get_decoder
from pydicom.uid import JPEG2000TransferSyntaxes

from core.data.codestream import check_codestream
from core.data.deidentify import HEADER_ERRORS
from core.data.dicom_header import numbers
from core.errors import ImageError

GREY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422")
J2K_COLOUR = ("YBR_RCT", "YBR_ICT")
# What pydicom, its decoders and zlib raise on a damaged file.
READ_ERRORS = (*HEADER_ERRORS, InvalidDicomError, RuntimeError, AssertionError, MemoryError, zlib.error)

_REPAIR = "Export the file again from its source"
_PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


def decode(header: Dataset, frame: int, frames: int) -> tuple[np.ndarray, int]:
    """Stored values of one frame, (rows, columns) or (rows, columns, 3 of RGB), and the bits of a sample.

    Args:
        header: clean dataset with its pixel data, checked.
        frame: index of the frame, from 0.
        frames: how many there are.

    Raises:
        ImageError: the pixels are missing, damaged, not supported, or not what the header says.
    """
    present = [keyword for keyword in _PIXEL_KEYWORDS if keyword in header]
    if len(present) != 1:
        raise ImageError("The DICOM file has no pixel data, or ends before them", remedy="Transfer the file again")
    syntax = header.file_meta.TransferSyntaxUID
    photometric = header.PhotometricInterpretation
    if photometric in J2K_COLOUR and syntax not in JPEG2000TransferSyntaxes:
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
    except READ_ERRORS:
        raise ImageError(
            f"The pixel data cannot be decoded ({syntax.name}): damaged, cut short, or not what the header says",
            remedy="Transfer the file again, or export it uncompressed",
        ) from None
    expected = (header.Rows, header.Columns) + ((3,) if header.SamplesPerPixel == 3 else ())
    if stored.shape != expected or properties["photometric_interpretation"] not in (photometric, "RGB"):
        raise ImageError("The decoded picture is not what the header says", value=stored.shape, remedy=_REPAIR)
    return stored, int(properties.get("bits_stored", properties["bits_allocated"]))


def colour(header: Dataset, stored: np.ndarray, bits: int) -> tuple[np.ndarray, list[str]]:
    """Decoded samples of a colour picture to uint8 RGB, (rows, columns, 3), with notes.

    Raises:
        ImageError: the samples are signed or floating-point, or the palette is damaged.
    """
    notes = []
    if stored.dtype.kind != "u":
        raise ImageError("A colour picture cannot have signed or floating-point samples", remedy=_REPAIR)
    if header.PhotometricInterpretation == "PALETTE COLOR":
        stored, bits = _apply_palette(header, stored)
        notes.append("Colour palette of the file applied")
    if bits == 8:
        return stored.astype(np.uint8), notes
    notes.append(f"{bits}-bit colour scaled to 8 bits")
    return np.rint(np.minimum(stored / (2**bits - 1), 1) * 255).astype(np.uint8), notes


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
    except READ_ERRORS:
        raise ImageError("The colour palette is damaged", remedy=_REPAIR) from None
    return rgb_HWC, descriptor[2]
