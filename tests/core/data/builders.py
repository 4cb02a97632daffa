"""Small files made in memory."""

import io

import numpy as np
from PIL import Image as PILImage
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid


def dataset(stored: np.ndarray, **attributes) -> Dataset:
    """CT dataset around stored values: (rows, columns), (rows, columns, 3), or (frames, rows, columns)."""
    colour = stored.shape[-1] == 3
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = CTImageStorage, generate_uid(), "CT"
    if stored.ndim == 3 and not colour:
        ds.NumberOfFrames = len(stored)
    ds.Rows, ds.Columns = stored.shape[-3:-1] if colour else stored.shape[-2:]
    ds.SamplesPerPixel = 3 if colour else 1
    ds.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 8 * stored.dtype.itemsize
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = 1 if stored.dtype.kind == "i" else 0
    if colour:
        ds.PlanarConfiguration = 0
    ds.add_new("PixelData", "OW" if stored.dtype.itemsize > 1 else "OB", stored.tobytes())
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def to_bytes(ds: Dataset) -> bytes:
    stream = io.BytesIO()
    ds.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def dicom_bytes(stored: np.ndarray, **attributes) -> bytes:
    return to_bytes(dataset(stored, **attributes))


def encode(picture: PILImage.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def grey(image) -> np.ndarray:
    """One channel of an image whose three channels must agree."""
    rgb = np.asarray(image.pixels)
    assert (rgb == rgb[..., :1]).all()
    return rgb[..., 0]
