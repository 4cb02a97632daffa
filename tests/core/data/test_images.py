"""The one door: every kind of file by its content, transparency, 16 bits, orientation, and what must be refused."""

import gzip
import struct
import subprocess
import sys
import time
import zlib

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage
from PIL import PngImagePlugin

from core.data import images, nifti
from core.data.images import KEPT_PIXELS, frame_count, open_image, to_rgb
from core.errors import ImageError
from tests.core.data.builders import dicom_bytes, encode, grey

RGB = PILImage.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))
WIDE = np.random.default_rng(1).integers(500, 60_000, (40, 50)).astype(np.uint16)


def stretched(values: np.ndarray) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    return np.rint(255 * ((values - low) / (high - low)))


# Pictures ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("TIFF", {}), ("BMP", {}), ("WEBP", {"lossless": True})])
def test_lossless_pictures_come_back(kind, options, tmp_path):
    path = tmp_path / "picture.wrong"
    path.write_bytes(encode(RGB, kind, **options))
    for source in (path, str(path), path.read_bytes()):
        image = open_image(source)
        assert np.array_equal(np.asarray(image.pixels), np.asarray(RGB))
        assert (image.notes, image.removed, image.spacing_mm) == ((), (), None)
    assert frame_count(path) == 1


def test_jpeg_and_cmyk():
    smooth = PILImage.fromarray(np.full((16, 16, 3), (200, 100, 50), np.uint8))
    for data in (encode(smooth, "JPEG", quality=95), encode(smooth.convert("CMYK"), "TIFF")):
        assert np.abs(np.asarray(open_image(data).pixels).astype(int) - np.asarray(smooth)).max() <= 3


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_show_their_full_range(kind):
    image = open_image(encode(PILImage.fromarray(WIDE), kind))
    assert np.array_equal(grey(image), stretched(WIDE))
    assert image.notes == (f"Full range {WIDE.min()} to {WIDE.max()} shown",)


def test_sixteen_bits_with_a_window():
    image = open_image(encode(PILImage.fromarray(WIDE), "PNG"), window=(30_000, 20_000))
    assert np.array_equal(grey(image), np.rint(255 * np.clip((WIDE - 30_000.0) / 20_000 + 0.5, 0, 1)))
    assert "chosen by a person" in image.notes[0]
    assert "not used" in open_image(encode(RGB, "PNG"), window=(1, 2)).notes[0]


def tiff16(values: np.ndarray, order: str, photometric: int) -> bytes:
    """Uncompressed 16-bit greyscale TIFF of either byte order."""
    rows, columns = values.shape
    tags = {256: columns, 257: rows, 258: 16, 259: 1, 262: photometric, 277: 1, 278: rows, 279: values.nbytes}
    tags[273] = 8 + 2 + 12 * (len(tags) + 1) + 4
    entries = b"".join(struct.pack(f"{order}HHLL", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}L", 8)
    return head + struct.pack(f"{order}H", len(tags)) + entries + b"\0" * 4 + values.astype(f"{order}u2").tobytes()


def test_tiff_byte_order_and_white_is_zero():
    for order in "<>":
        assert np.array_equal(grey(open_image(tiff16(WIDE, order, 1))), stretched(WIDE))
    inverted = grey(open_image(tiff16(WIDE, "<", 0))).astype(int)
    assert np.abs(inverted - (255 - stretched(WIDE))).max() <= 1


def test_float_tiff_with_holes():
    values = np.linspace(-1, 1, 100, dtype=np.float32).reshape(10, 10)
    values[0, 5] = np.nan
    result = grey(open_image(encode(PILImage.fromarray(values), "TIFF")))
    assert result[0, 5] == 0 and result[-1, -1] == 255


def test_transparency_is_drawn_on_white():
    la = PILImage.merge("LA", (PILImage.new("L", (4, 4), 100), PILImage.new("L", (4, 4), 0)))
    rgba = PILImage.new("RGBA", (4, 4), (10, 20, 30, 0))
    palette = PILImage.new("P", (4, 4), 3)
    palette.putpalette([0, 0, 0] * 8)
    for data in (encode(la, "PNG"), encode(rgba, "PNG"), encode(palette, "PNG", transparency=3)):
        image = open_image(data)
        assert np.asarray(image.pixels).min() == 255
        assert image.notes == ("Transparent parts drawn on white",)


def test_to_rgb_as_the_reference_does():
    la = PILImage.merge("LA", (PILImage.new("L", (4, 4), 100), PILImage.new("L", (4, 4), 0)))
    assert np.asarray(to_rgb(la, reference=True)).max() == 100  # alpha dropped
    assert np.asarray(to_rgb(la)).min() == 255
    wide = PILImage.fromarray(np.array([[0, 200], [300, 65_535]], np.uint16))
    assert np.asarray(to_rgb(wide, reference=True))[..., 0].tolist() == [[0, 200], [255, 255]]  # saturated
    assert np.asarray(to_rgb(wide))[..., 0].tolist() == [[0, 1], [1, 255]]
    rgba = PILImage.new("RGBA", (2, 2), (0, 0, 0, 128))
    for reference in (True, False):
        assert np.asarray(to_rgb(rgba, reference=reference)).tolist() == [[[127] * 3] * 2] * 2
        assert np.array_equal(np.asarray(to_rgb(RGB, reference=reference)), np.asarray(RGB))
        assert np.asarray(to_rgb(RGB.convert("L"), reference=reference)).shape == (40, 50, 3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied_and_texts_are_dropped(kind):
    exif = PILImage.Exif()
    exif[0x0112], exif[0x010E], exif[0x013B] = 6, "Jane Doe, MRN 4711", "Dr Doe"
    exif.get_ifd(0x8825)[1] = "N"
    picture = PILImage.new("RGB", (32, 16), (255, 255, 255))
    picture.paste((0, 0, 0), (0, 0, 16, 16))  # dark on the left: upright it is at the top
    image = open_image(encode(picture, kind, exif=exif))
    assert image.pixels.size == (16, 32)
    assert np.asarray(image.pixels)[:14].max() < 40
    assert {"Artist", "ImageDescription"} <= set(image.removed)
    assert image.pixels.info == {} and not image.pixels.getexif()
    assert b"Doe" not in encode(image.pixels, "PNG")


def test_png_text_is_dropped():
    info = PngImagePlugin.PngInfo()
    info.add_text("Patient", "Jane Doe")
    image = open_image(encode(RGB, "PNG", pnginfo=info))
    assert image.removed == ("PNG text",)
    assert "Doe" not in repr(image) and b"Doe" not in encode(image.pixels, "PNG")


def test_pages_of_a_tiff():
    pages = [PILImage.new("L", (8, 8), value) for value in (10, 20, 30)]
    data = encode(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    assert frame_count(data) == 3
    image = open_image(data, frame=2)
    assert grey(image)[0, 0] == 30 and image.notes == ("Frame 3 of 3",)
    for frame in (3, -1):
        with pytest.raises(ImageError, match="Choose 0 to 2; the file has 3"):
            open_image(data, frame=frame)


def test_large_pictures_are_averaged_down():
    side = int(KEPT_PIXELS**0.5) + 10
    image = open_image(dicom_bytes(np.zeros((side, side), np.uint8), PixelSpacing=[0.1, 0.1]))
    assert image.pixels.size == ((side + 1) // 2,) * 2
    assert image.spacing_mm == (0.2, 0.2)
    assert image.notes[-1] == f"Averaged down 2 times in each direction from {side} x {side} pixels"


# Volumes -------------------------------------------------------------------------------------------------------------


def volume(values: np.ndarray, affine: np.ndarray, kind=nibabel.Nifti1Image, unit: str = "mm") -> bytes:
    made = kind(values, affine)
    made.header.set_xyzt_units(unit)
    return made.to_bytes()


# Values say where a voxel is: 100 for the patient's right, 10 for the front, 1 for the head.
PLACED = np.add.outer(np.add.outer([0, 100], [0, 10]), [0, 1, 2]).astype(np.int16)
AFFINE = np.diag([1.0, 2.0, 3.0, 1.0])


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_axial_slices_are_drawn_as_radiologists_look_at_them(pack, kind):
    data = pack(volume(PLACED, AFFINE, kind))
    assert frame_count(data) == 3
    expected = stretched(np.array([[111, 11], [101, 1]]))  # front above, the patient's right on the left
    image = open_image(data)
    assert np.array_equal(grey(image), expected)
    assert image.spacing_mm == (2.0, 1.0)
    assert "Axial slice 2 of 3, counted from the feet" in image.notes
    assert "Full range 1 to 111 shown" in image.notes


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, 1), (1, -1, -1), (-1, -1, -1)])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0), (1, 0, 2)])
def test_any_storage_order_gives_the_same_picture(order, flips):
    stored = PLACED[:: flips[0], :: flips[1], :: flips[2]].transpose(order)
    affine = np.eye(4)
    affine[:3, :3] = (AFFINE[:3, :3] * flips)[:, order]
    image = open_image(volume(stored, affine), frame=2)
    assert np.array_equal(grey(image), stretched(np.array([[112, 12], [102, 2]])))
    assert image.spacing_mm == (2.0, 1.0)


def test_volume_details():
    plain = nibabel.Nifti1Image(PLACED, None)
    assert "left and right are not known" in " ".join(open_image(plain.to_bytes()).notes)
    assert grey(open_image(volume(PLACED, AFFINE), window=(50, 100))).tolist() == [[255, 28], [255, 3]]
    series = open_image(volume(np.stack([PLACED, PLACED], axis=-1), AFFINE))
    assert "Volume 1 of 2" in series.notes
    assert open_image(volume(PLACED, AFFINE, unit="meter")).spacing_mm == (2000.0, 1000.0)
    assert "millimetres assumed" in " ".join(open_image(volume(PLACED, AFFINE, unit="unknown")).notes)
    scaled = nibabel.Nifti1Image(PLACED, AFFINE)
    scaled.header.set_slope_inter(2, -1000)
    scaled.header["descrip"] = b"Jane Doe"
    image = open_image(scaled.to_bytes())
    assert "Full range -998 to -778 shown" in image.notes
    assert image.removed == ("descrip",) and "Doe" not in repr(image)


@pytest.mark.parametrize("frame", [3, -1])
def test_slice_that_does_not_exist(frame):
    with pytest.raises(ImageError, match="Choose 0 to 2; the volume has 3 axial slices"):
        open_image(volume(PLACED, AFFINE), frame=frame)


# Refusals ------------------------------------------------------------------------------------------------------------


def test_paths_that_cannot_be_opened(tmp_path):
    for source, message in (
        (tmp_path / "none.png", "does not exist"),
        (tmp_path, "not a file"),
        ("a\0b", "does not exist"),
        ("a" * 5000, "opened|exist"),
    ):
        for call in (open_image, frame_count):
            with pytest.raises(ImageError, match=message):
                call(source)


@pytest.mark.parametrize("name", ["note.dcm", "note.png", "note.nii.gz", "SMITH_JOHN.txt"])
@pytest.mark.parametrize(
    "content", [b"", b"Dear colleague,\nthe patient was well.\n" * 40, b"BM is not a picture", b"{}", b"\x1f\x8b\x08"]
)
def test_what_is_no_picture_is_refused_without_its_name(name, content, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ImageError) as caught:
        open_image(path)
    assert caught.value.remedy and "SMITH" not in str(caught.value)


def png_header(width: int, height: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">L", len(body)) + name + body + struct.pack(">L", zlib.crc32(name + body))

    head = chunk(b"IHDR", struct.pack(">LLBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def nifti_header(shape: tuple[int, int, int]) -> bytes:
    header = nibabel.Nifti1Header()
    header.set_data_shape(shape)
    header["magic"], header["vox_offset"] = b"n+1", 352
    return header.binaryblock + bytes(4)


HUGE = {
    "PNG 400 megapixels": png_header(20_000, 20_000),
    "PNG 121 megapixels": png_header(11_000, 11_000),
    "TIFF": tiff16(WIDE, "<", 1).replace(struct.pack("<HHLL", 256, 4, 1, 50), struct.pack("<HHLL", 256, 4, 1, 10**7)),
    "BMP": b"BM" + struct.pack("<LLLLllHHLLllLL", 100, 0, 54, 40, 20_000, 20_000, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(46),
    "NIfTI slice": nifti_header((20_000, 20_000, 1)),
    "NIfTI volume": nifti_header((1000, 1000, 1000)),
    "NIfTI gzip": gzip.compress(nifti_header((1000, 1000, 1000))),
    "DICOM": dicom_bytes(np.zeros((2, 2), np.uint8), Rows=20_000, Columns=20_000),
}


@pytest.mark.parametrize("name", HUGE)
def test_huge_headers_are_refused_at_once(name, recwarn):
    start = time.perf_counter()
    for call in (open_image, frame_count):
        with pytest.raises(ImageError, match="too large"):
            call(HUGE[name])
    assert time.perf_counter() - start < 2
    assert not recwarn.list


def test_gzip_bomb_is_not_unpacked():
    small = nifti_header((100, 100, 3)) + np.zeros(100 * 100 * 3, np.float32).tobytes()
    bomb = gzip.compress(small + bytes(300 << 20), compresslevel=1)
    start = time.perf_counter()
    assert open_image(bomb).pixels.size == (100, 100)  # what stands behind the volume is never unpacked
    assert time.perf_counter() - start < 2
    with pytest.raises(ImageError, match="holds no NIfTI"):
        open_image(gzip.compress(bytes(1 << 20)))


def test_files_beyond_the_limit_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 100)
    with pytest.raises(ImageError, match="too large"):
        open_image(encode(RGB, "PNG"))


def test_unsupported_volumes():
    pair = bytearray(volume(PLACED, AFFINE))
    pair[344:348] = b"ni1\0"
    for data, message in (
        (bytes(pair), "second file"),
        (volume(PLACED.astype(np.complex64), AFFINE), "voxel type"),
        (volume(np.zeros((2, 2, 2, 1, 3), np.int16), AFFINE), "dimensions"),
        (volume(PLACED, AFFINE)[:-4], "ends early"),
        (gzip.compress(volume(PLACED, AFFINE))[:-20], "ends early|damaged|no NIfTI"),
    ):
        with pytest.raises(ImageError, match=message):
            open_image(data)


FILES = {
    "PNG": encode(RGB, "PNG"),
    "PNG 16": encode(PILImage.fromarray(WIDE), "PNG"),
    "JPEG": encode(RGB, "JPEG"),
    "TIFF": encode(RGB, "TIFF"),
    "BMP": encode(RGB, "BMP"),
    "WEBP": encode(RGB, "WEBP"),
    "NIfTI": volume(PLACED, AFFINE),
    "NIfTI gzip": gzip.compress(volume(PLACED, AFFINE)),
}


@pytest.mark.parametrize("name", FILES)
def test_truncated_anywhere_is_refused(name):
    data = FILES[name]
    whole = np.asarray(open_image(data).pixels)
    for length in range(1, len(data), max(1, len(data) // 40)):
        try:
            cut = np.asarray(open_image(data[:length]).pixels)
        except ImageError:
            continue
        assert np.array_equal(cut, whole)  # only a trailing chunk may be missing


@settings(max_examples=120, deadline=None, derandomize=True, database=None)
@given(st.sampled_from(sorted(FILES)), st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=12))
def test_damaged_bytes_give_an_image_or_an_error(name, changes):
    data = bytearray(FILES[name])
    for place, value in changes:
        data[int(place * place * len(data))] = value  # more often near the start, where headers are
    try:
        assert open_image(bytes(data)).pixels.mode == "RGB"
        assert frame_count(bytes(data)) >= 1
    except ImageError as error:
        assert error.remedy


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.binary(max_size=600))
def test_noise_is_refused(data):
    with pytest.raises(ImageError):
        open_image(data)


def test_reading_loads_neither_torch_nor_nibabel_at_import():
    code = "import core.data.images, sys; assert not {'torch', 'nibabel'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_limits_are_those_of_dicom():
    assert nifti.MAX_SLICE_PIXELS == images.MAX_PIXELS
