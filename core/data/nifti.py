"""NIfTI in: one axial slice as an 8-bit RGB picture.

The header is parsed and checked before any voxel is read, and only the slice asked for is read. A slice is drawn as
radiologists look at it: the patient's right is on the left, the front is at the top. Source: NIfTI-1 and NIfTI-2
headers (nifti.nimh.nih.gov); parsing and slicing are nibabel's.
"""

from __future__ import annotations

import gzip
import io
import math
import zlib
from dataclasses import dataclass
from typing import BinaryIO

import nibabel
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.orientations import io_orientation
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from PIL import Image as PILImage

from core.data.greyscale import Rescale, draw_plain
from core.data.planes import Plane, Scan, check_bytes
from core.data.quiet import quiet_libraries
from core.errors import ImageError
from core.sequence import Image

# A whole-body CT of 512 x 512 x 2000 voxels in 16 bits just fits. A compressed file must be unpacked up to the slice,
# so this also bounds the work that a small file can cause.
MAX_VOLUME_BYTES = 1 << 30
MAX_SLICE_PIXELS = 100_000_000
_MAX_HEADER_BYTES = 1 << 24

_REPAIR = "Export the volume again from its source"
_UNITS_OF_LENGTH = 7  # bits of xyzt_units
_MILLIMETRES = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # codes of xyzt_units; 0 is unknown, 3 micrometres
# Free texts of the header that may name a person; extensions may hold a whole DICOM header.
_TEXTS = ("descrip", "aux_file", "intent_name", "db_name")
_USED = ("datatype", "dim", "pixdim", "qform_code", "scl_inter", "scl_slope", "sform_code", "voxels", "xyzt_units")
_READ_ERRORS = (OSError, EOFError, ValueError, TypeError, LookupError, ArithmeticError, MemoryError, zlib.error)
_READ_ERRORS += (HeaderDataError, WrapStructError, np.linalg.LinAlgError)


@dataclass(frozen=True)
class _Volume:
    """A checked header and how its axes lie in the patient.

    Attributes:
        stream: the unpacked bytes.
        header: nibabel header.
        axes: stored axis that runs along the patient's right, front and head (the axes of RAS+).
        signs: 1 where the stored axis runs that way, -1 where it runs the other way.
        notes: what a person should know about the orientation.
    """

    stream: BinaryIO
    header: nibabel.Nifti1Header
    axes: tuple[int, int, int]
    signs: tuple[int, int, int]
    notes: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        shape = tuple(int(size) for size in self.header.get_data_shape())
        return shape + (1,) * (3 - len(shape))

    @property
    def oriented(self) -> bool:
        """Whether the header says how the axes lie in the patient."""
        return self.header["sform_code"] != 0 or self.header["qform_code"] != 0

    @property
    def slices(self) -> int:
        return self.shape[self.axes[2]]


def frame_count(file: BinaryIO) -> int:
    """Number of axial slices of a volume, without reading any voxel.

    Raises:
        ImageError: the header is damaged, or the volume is too large.
    """
    with quiet_libraries():
        return _open(file).slices


def read(file: BinaryIO, *, frame: int | None = None, window: tuple[float, float] | None = None) -> Image:
    """Read one axial slice of the first volume.

    Args:
        file: seekable binary file, gzip-compressed or not.
        frame: index of the slice, from 0 at the feet; None is the middle one.
        window: (center, width) in the units of the volume; None shows the full range of the slice.

    Returns:
        8-bit RGB picture with its spacing and notes.

    Raises:
        ImageError: the file is damaged, too large, not supported, or has no such slice.
    """
    with quiet_libraries():
        volume = _open(file)
        index = volume.slices // 2 if frame is None else frame
        if not 0 <= index < volume.slices:
            raise ImageError(
                "The slice does not exist",
                value=frame,
                remedy=f"Choose 0 to {volume.slices - 1}; the volume has {volume.slices} axial slices",
            )
        plane_HW = _read_slice(volume, index)
        spacing_mm, notes = _spacing(volume)
        place = f"Axial slice {index + 1} of {volume.slices}, counted from the feet"
        notes = [place if volume.oriented else f"Slice {index + 1} of {volume.slices}", *volume.notes, *notes]
        if len(volume.shape) > 3 and volume.shape[3] > 1:
            notes.append(f"Volume 1 of {volume.shape[3]}")
        grey_HW, drawn = draw_plain(plane_HW, window)
    pixels = PILImage.fromarray(grey_HW).convert("RGB")
    return Image(pixels=pixels, spacing_mm=spacing_mm, notes=(*notes, drawn), removed=_removed(volume.header))


def read_volume(file: BinaryIO) -> Scan:
    """Read all axial slices of the first volume, from the feet on, with the values that ``read`` draws.

    Args:
        file: seekable binary file, gzip-compressed or not.

    Raises:
        ImageError: the file is damaged, too large or not supported.
    """
    with quiet_libraries():
        volume = _open(file)
        check_bytes(volume.slices, volume.shape[volume.axes[1]], volume.shape[volume.axes[0]], colour=False)
        plain = volume.header.copy()
        plain.set_slope_inter(1, 0)
        planes_NHW = _read_planes(volume, plain, slice(None))
        try:
            slope, intercept = volume.header.get_slope_inter()
        except _READ_ERRORS:
            raise ImageError("The scaling in the NIfTI header is not possible", remedy=_REPAIR) from None
        rescale = Rescale(1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept))
        spacing_mm, notes = _spacing(volume)
    if len(volume.shape) > 3 and volume.shape[3] > 1:
        notes.append(f"Volume 1 of {volume.shape[3]}")
    if volume.oriented and volume.slices > 1:
        notes.insert(0, "Axial slices, counted from the feet")
    return Scan(
        planes=[Plane(plane_HW, rescale) for plane_HW in planes_NHW],
        function="LINEAR_EXACT",
        spacing_mm=spacing_mm,
        thickness_mm=_millimetres(volume, volume.axes[2]) if volume.slices > 1 else None,
        notes=(*volume.notes, *notes),
        removed=_removed(volume.header),
        kept=_USED,
    )


def _removed(header: nibabel.Nifti1Header) -> tuple[str, ...]:
    """Names of the texts in the header that may say who the patient is."""
    texts = tuple(name for name in _TEXTS if name in header and bytes(header[name]).strip(b"\0 "))
    extended = int(header["vox_offset"]) > int(header["sizeof_hdr"]) + 4
    return (*texts, "header extensions") if extended else texts


def _open(file: BinaryIO) -> _Volume:
    file.seek(0)
    packed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    stream = gzip.GzipFile(fileobj=file) if packed else file
    try:
        head = stream.read(540)
        stream.seek(0)
        kind = nibabel.Nifti2Header if head[4:7] in (b"n+2", b"ni2") else nibabel.Nifti1Header
        header = kind(head[: kind.template_dtype.itemsize], check=True)
        _check(header)
        axes, signs, notes = _orientation(header)
        volume = _Volume(stream, header, axes, signs, notes)
    except _READ_ERRORS:
        raise ImageError("The NIfTI header is damaged", remedy=_REPAIR) from None
    if not packed and file.seek(0, io.SEEK_END) < int(header["vox_offset"]) + _data_bytes(header):
        raise ImageError("The volume ends early", remedy="Transfer the file again")
    shape = volume.shape
    if shape[axes[0]] * shape[axes[1]] > MAX_SLICE_PIXELS:
        raise ImageError(
            "The slice is too large",
            value=f"{shape[axes[0]]} x {shape[axes[1]]} voxels",
            remedy=f"Give at most {MAX_SLICE_PIXELS // 10**6} megapixels a slice",
        )
    return volume


def _check(header: nibabel.Nifti1Header) -> None:
    """Refuse what cannot be drawn, and what is too large to unpack."""
    if bytes(header["magic"])[:2] == b"ni":
        raise ImageError("The NIfTI header's voxels are in a second file", remedy="Save it as one .nii or .nii.gz file")
    shape, dtype = header.get_data_shape(), header.get_data_dtype()
    if not 2 <= len(shape) <= 7 or min(shape) < 1 or any(size > 1 for size in shape[4:]):
        raise ImageError("The volume's dimensions are not supported", value=shape, remedy="Give a 3-D or 4-D volume")
    if dtype.kind not in "iuf":
        raise ImageError(
            "The voxel type is not supported", value=str(dtype), remedy="Save it as integers or floating-point numbers"
        )
    size = _data_bytes(header)
    if size > MAX_VOLUME_BYTES:
        raise ImageError(
            "The volume is too large",
            value=f"{shape}, {size / 2**20:.0f} MiB",
            remedy=f"Crop or resample it to at most {MAX_VOLUME_BYTES >> 20} MiB",
        )
    if not 0 <= float(header["vox_offset"]) <= _MAX_HEADER_BYTES:
        raise ImageError("The NIfTI header says that its voxels start too far away", remedy=_REPAIR)


def _data_bytes(header: nibabel.Nifti1Header) -> int:
    return math.prod(header.get_data_shape()) * header.get_data_dtype().itemsize


def _orientation(
    header: nibabel.Nifti1Header,
) -> tuple[tuple[int, int, int], tuple[int, int, int], tuple[str, ...]]:
    """Stored axes and signs along right, front and head, with notes."""
    if header["sform_code"] == 0 and header["qform_code"] == 0:
        return (0, 1, 2), (1, 1, 1), ("The file does not state its orientation: left and right are not known",)
    affine = header.get_best_affine()
    placed = io_orientation(affine)  # (3, 2): RAS+ axis and sign of every stored axis
    if not np.isfinite(placed).all() or not np.isfinite(affine).all():
        raise ImageError("The orientation in the NIfTI header is not possible", remedy=_REPAIR)
    axes = [int(np.flatnonzero(placed[:, 0] == ras)[0]) for ras in range(3)]
    signs = [int(placed[axis, 1]) for axis in axes]
    notes = ["Orientation: left edge R, top edge A"]
    cosines = np.abs(affine[:3, :3]) / np.linalg.norm(affine[:3, :3], axis=0)
    if cosines.max(axis=0).min() < 0.99:
        notes.append("The volume is oblique: the slice is only roughly axial")
    return (axes[0], axes[1], axes[2]), (signs[0], signs[1], signs[2]), tuple(notes)


def _read_slice(volume: _Volume, index: int) -> np.ndarray:
    """Scaled voxels of an axial slice, (rows, columns): front at the top, the patient's right on the left."""
    stored = index if volume.signs[2] == 1 else volume.slices - 1 - index
    return _read_planes(volume, volume.header, slice(stored, stored + 1))[0]


def _read_planes(volume: _Volume, header: nibabel.Nifti1Header, stored: slice) -> np.ndarray:
    """Voxels of axial slices, (slices, rows, columns): from the feet, front at the top, right at the left.

    Args:
        volume: where they are.
        header: says how the voxels are scaled.
        stored: which of the slices, in the order of the file.
    """
    right, front, head = volume.axes
    shape = volume.header.get_data_shape()
    where: list[int | slice] = [slice(None)] * min(3, len(shape)) + [0] * (len(shape) - 3)
    if head < len(shape):
        where[head] = stored
    try:
        block = np.asarray(ArrayProxy(volume.stream, header, mmap=False)[tuple(where)])
    except _READ_ERRORS:
        raise ImageError("The volume is damaged or ends early", remedy="Transfer the file again") from None
    block = np.reshape(block, [-1 if axis == head else volume.shape[axis] for axis in range(3)])
    planes_NHW = block.transpose(head, front, right)
    if not volume.oriented:
        return planes_NHW
    return planes_NHW[:: volume.signs[2], :: -volume.signs[1], :: -volume.signs[0]]


def _spacing(volume: _Volume) -> tuple[tuple[float, float] | None, list[str]]:
    """Distance between voxel centres as (row, column) in mm, or None; with notes."""
    row, column = _millimetres(volume, volume.axes[1]), _millimetres(volume, volume.axes[0])
    if row is None or column is None:
        return None, ["The file states no valid voxel size"]
    stated = int(volume.header["xyzt_units"]) & _UNITS_OF_LENGTH
    notes = [] if stated else ["The file does not state its unit of length: millimetres assumed"]
    if not math.isclose(row, column, rel_tol=1e-3):
        notes.append("Pixels are not square; they are drawn as if they were")
    return (row, column), notes


def _millimetres(volume: _Volume, axis: int) -> float | None:
    """Distance between voxel centres along a stored axis, or None where the header states no valid one."""
    zooms = (*(float(zoom) for zoom in volume.header.get_zooms()), 1.0)
    code = int(volume.header["xyzt_units"]) & _UNITS_OF_LENGTH
    length = zooms[axis] * _MILLIMETRES.get(code, math.nan)
    return length if 0 < length < math.inf else None
