"""The one door for pictures: a file of any supported kind in, an 8-bit RGB ``Image`` without patient data out.

The kind is read from the content, never from the name. Content errors do not quote the file name, because names of
files often hold names of people; a path is quoted only when it cannot be opened.
"""

from __future__ import annotations

import dataclasses
import io
import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, ImageOps, PngImagePlugin, TiffImagePlugin
from PIL import Image as PILImage

from core.data import dicom
from core.data.greyscale import draw_plain
from core.data.quiet import quiet_libraries
from core.errors import ImageError
from core.sequence import Image

MAX_FILE_BYTES = 2 << 30
MAX_PIXELS = dicom.MAX_PIXELS
# The reference implementation refuses pictures above 20 megapixels. The model looks at about one, so a larger picture
# is averaged down by a whole factor until it is below this limit.
KEPT_PIXELS = 20_000_000

_FORMATS = "DICOM, NIfTI (.nii, .nii.gz), PNG, JPEG, TIFF, WebP or BMP"
_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"BM", "BMP"),
)
WIDE_GREY = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
_MIN_IS_WHITE = 0  # TIFF tag PhotometricInterpretation
_HEAD_BYTES = 4096

# EXIF and TIFF tags that may say who, where or when (CIPA DC-008, TIFF 6.0): names as in Pillow's ExifTags.
_IDENTIFYING_LIST = """
    ImageDescription Make Model Software DateTime Artist HostComputer Copyright DateTimeOriginal DateTimeDigitized
    MakerNote UserComment ImageUniqueID CameraOwnerName BodySerialNumber LensSerialNumber GPSInfo XMLPacket IPTCNAA
    ImageResources XPTitle XPComment XPAuthor XPKeywords XPSubject DocumentName PageName
"""
_IDENTIFYING_TAGS = frozenset(_IDENTIFYING_LIST.split())
# What Pillow's readers raise on damaged files.
_READ_ERRORS = (OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError)
_READ_ERRORS += (RuntimeError, MemoryError, struct.error, zlib.error)


@dataclass(frozen=True)
class Page:
    """One decoded page or frame of a picture without a medical header, upright.

    Attributes:
        image: Pillow picture of the file's mode.
        inverted: True when the lowest value of more than 8 bits is white.
        notes: what was done to it.
        removed: names of the tags and texts that may say who, where or when.
    """

    image: PILImage.Image
    inverted: bool
    notes: tuple[str, ...]
    removed: tuple[str, ...]


def open_image(
    source: str | Path | bytes, *, frame: int | None = None, window: tuple[float, float] | None = None
) -> Image:
    """Read a picture of any supported kind.

    Args:
        source: path of a file, or the file's content.
        frame: index from 0 of the frame, page or axial slice; None is the first frame or the middle slice of a volume.
        window: (center, width) for grey values of more than 8 bits, in the file's units (Hounsfield for CT).

    Returns:
        8-bit RGB picture of at most ``KEPT_PIXELS`` pixels, with notes on what was done and the names of what was
        dropped because it may identify a person.

    Raises:
        ImageError: the file is missing, empty, damaged, too large, not supported, or has no such frame.
    """
    with opened(source) as file:
        kind = kind_of(file)
        if kind == "DICOM":
            image = dicom.read(file, frame=frame or 0, window=window)
        elif kind == "NIfTI":
            from core.data import nifti  # nibabel takes half a second to import, and few files need it

            image = nifti.read(file, frame=frame, window=window)
        else:
            image = _read_raster(file, kind, frame or 0, window)
    return fit(image)


def frame_count(source: str | Path | bytes) -> int:
    """Number of frames, pages or axial slices that ``open_image`` can choose from, without decoding any.

    Raises:
        ImageError: the file is missing, empty, damaged or not supported.
    """
    with opened(source) as file:
        kind = kind_of(file)
        if kind == "DICOM":
            return dicom.frame_count(file)
        if kind == "NIfTI":
            from core.data import nifti

            return nifti.frame_count(file)
        with quiet_libraries(), readable(kind):
            return page_count(open_raster(file, kind))


def patient_of(source: str | Path | bytes) -> str | None:
    """Whose picture it is, by its header; None where it has none. See ``core.data.dicom.patient``: it is for a digest.

    Raises:
        ImageError: the file is missing, empty, damaged or not supported.
    """
    with opened(source) as file:
        return dicom.patient(file) if kind_of(file) == "DICOM" else None


def to_rgb(image: PILImage.Image, *, reference: bool = False) -> PILImage.Image:
    """Convert a Pillow picture of any mode to RGB.

    Args:
        image: picture of any mode.
        reference: True does exactly what the reference implementation does: transparency of RGBA and palettes is
            composited on white, alpha of LA is dropped, and 16-bit grey saturates at 255. False composites every
            kind of transparency and scales 16-bit grey from its full range.

    Returns:
        RGB picture of the same size.
    """
    if reference:
        transparent = image.mode == "RGBA" or "transparency" in image.info
        return _on_white(image) if transparent else image.convert("RGB")
    if image.mode in WIDE_GREY:
        grey_HW, _ = draw_plain(np.asarray(image), None)
        return PILImage.fromarray(grey_HW).convert("RGB")
    return _on_white(image) if image.has_transparency_data else image.convert("RGB")


def _on_white(image: PILImage.Image) -> PILImage.Image:
    image = image.convert("RGBA")
    white = PILImage.new("RGB", image.size, (255, 255, 255))
    white.paste(image, mask=image.getchannel("A"))
    return white


@contextmanager
def opened(source: str | Path | bytes) -> Iterator[BinaryIO]:
    """A seekable file that is neither empty nor too large.

    Raises:
        ImageError: it is not; only the path of a file that cannot be opened is quoted.
    """
    if isinstance(source, bytes):
        size, file = len(source), io.BytesIO(source)
    else:
        try:
            path = Path(source)
            if not path.is_file():
                what = "The path is not a file" if path.exists() else "The file does not exist"
                raise ImageError(what, value=str(source), remedy="Check the path; give one file")
            size, file = path.stat().st_size, path.open("rb")
        except (OSError, ValueError):
            raise ImageError("The file cannot be opened", value=str(source), remedy="Check path and rights") from None
    with file:
        if size == 0:
            raise ImageError("The file is empty", value="0 bytes", remedy="Transfer the file again")
        if size > MAX_FILE_BYTES:
            raise ImageError(
                "The file is too large",
                value=f"{size >> 20} MiB",
                remedy=f"Give at most {MAX_FILE_BYTES >> 20} MiB; export fewer frames",
            )
        try:
            yield file
        except OSError:
            raise ImageError("The file cannot be read to its end", remedy="Transfer the file again") from None


def kind_of(file: BinaryIO) -> str:
    """Format by content: "DICOM", "NIfTI" or a format name of Pillow.

    Raises:
        ImageError: it is none that is supported.
    """
    head = file.read(_HEAD_BYTES)
    file.seek(0)
    if head[128:132] == b"DICM":
        return "DICOM"
    for signature, kind in _SIGNATURES:
        if head.startswith(signature):
            return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:2] == b"\x1f\x8b":
        if _is_nifti(_unpacked_start(head)):
            return "NIfTI"
        raise ImageError("The compressed file holds no NIfTI volume", remedy="Unpack it and give one picture")
    if _is_nifti(head):
        return "NIfTI"
    if dicom.looks_like_dicom(head):
        return "DICOM"
    raise ImageError("The file is not a picture of a supported kind", remedy=f"Give {_FORMATS}")


def _unpacked_start(head: bytes) -> bytes:
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(head, 540)
    except zlib.error:
        return b""


def _is_nifti(head: bytes) -> bool:
    """NIfTI-1 has its magic at byte 344, NIfTI-2 at byte 4."""
    return head[344:348] in (b"n+1\0", b"ni1\0") or head[4:8] in (b"n+2\0", b"ni2\0")


@contextmanager
def readable(kind: str) -> Iterator[None]:
    """Turn what Pillow raises on a damaged file into an ``ImageError``."""
    try:
        yield
    except PILImage.DecompressionBombError:
        raise _too_large("far above the limit") from None
    except _READ_ERRORS:
        raise ImageError(
            f"The {kind} file is damaged, cut short or not supported", remedy="Transfer or save the file again"
        ) from None


def _too_large(value: str) -> ImageError:
    return ImageError("The picture is too large", value=value, remedy=f"Give at most {MAX_PIXELS // 10**6} megapixels")


def open_raster(file: BinaryIO, kind: str) -> PILImage.Image:
    """Pillow's picture of a file of this format, checked for its size and not decoded; use within ``readable``."""
    image = PILImage.open(file, formats=[kind, "MPO"] if kind == "JPEG" else [kind])
    _check_size(image)
    return image


def _check_size(image: PILImage.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(f"{image.width} x {image.height} pixels")


def page_count(image: PILImage.Image) -> int:
    """Pages of a TIFF, or frames of another picture."""
    return getattr(image, "n_frames", 1)  # Pillow sets it on formats with several frames only


def _read_raster(file: BinaryIO, kind: str, frame: int, window: tuple[float, float] | None) -> Image:
    with quiet_libraries(), readable(kind):
        image = open_raster(file, kind)
        frames = page_count(image)
        if not 0 <= frame < frames:
            raise ImageError(
                "The frame does not exist", value=frame, remedy=f"Choose 0 to {frames - 1}; the file has {frames}"
            )
        page = load_page(image, frame)
        notes = [f"Frame {frame + 1} of {frames}"] if frames > 1 else []
        notes += page.notes
        if page.image.mode in WIDE_GREY:
            grey_HW, note = draw_plain(np.asarray(page.image), window, invert=page.inverted)
            notes.append(note)
            rgb_HWC = np.repeat(grey_HW[..., None], 3, axis=2)
        else:
            if window is not None:
                notes.append("The window does not apply to an 8-bit picture and was not used")
            rgb_HWC = np.asarray(to_rgb(page.image))
        # A picture built from the array alone carries no text, profile or EXIF data along.
        return Image(pixels=PILImage.fromarray(rgb_HWC), notes=tuple(notes), removed=page.removed)


def load_page(image: PILImage.Image, index: int) -> Page:
    """Decode one page, turned upright; use within ``readable``.

    Raises:
        ImageError: the page is too large.
    """
    if page_count(image) > 1:
        image.seek(index)
        _check_size(image)
    image.load()
    removed = _identifying(image)
    inverted = isinstance(image, TiffImagePlugin.TiffImageFile) and (
        image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == _MIN_IS_WHITE
    )
    notes = []
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        notes.append("Turned upright as the file's EXIF orientation says")
        image = ImageOps.exif_transpose(image)
    if image.mode not in WIDE_GREY and image.has_transparency_data:
        notes.append("Transparent parts drawn on white")
    return Page(image, inverted, tuple(notes), removed)


def _identifying(image: PILImage.Image) -> tuple[str, ...]:
    """Names of the tags and texts in a loaded picture that may say who, where or when."""
    exif = image.getexif()
    tags = {*exif, *exif.get_ifd(ExifTags.IFD.Exif)}
    names = {ExifTags.TAGS.get(tag, "private tags") for tag in tags}
    found = {name for name in names if name in _IDENTIFYING_TAGS or name == "private tags"}
    if isinstance(image, PngImagePlugin.PngImageFile) and image.text:
        found.add("PNG text")
    found.update(name for key, name in (("comment", "comment"), ("xmp", "XMP")) if image.info.get(key))
    return tuple(sorted(found))


def reduction(rows: int, columns: int) -> int:
    """The whole factor by which ``fit`` makes a picture of this size smaller in each direction."""
    return math.ceil(math.sqrt(rows * columns / KEPT_PIXELS))


def fit(image: Image) -> Image:
    """Average a picture of more than ``KEPT_PIXELS`` down by a whole factor, and its spacing with it."""
    pixels = image.pixels
    factor = reduction(pixels.height, pixels.width)
    if factor == 1:
        return image
    spacing_mm = image.spacing_mm and (image.spacing_mm[0] * factor, image.spacing_mm[1] * factor)
    note = f"Averaged down {factor} times in each direction from {pixels.width} x {pixels.height} pixels"
    return dataclasses.replace(image, pixels=pixels.reduce(factor), spacing_mm=spacing_mm, notes=(*image.notes, note))
