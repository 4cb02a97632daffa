"""Scans as stacks: the right order, the right values, the pictures of the one door, and nothing of the patient."""

import gzip
import io
import pickle
import random

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import generate_uid

from core.data import planes
from core.data.deidentify import KEPT
from core.data.greyscale import Rescale
from core.data.images import frame_count, open_image
from core.data.planes import Plane, pack
from core.data.stack import Stack, open_stack
from core.errors import ImageError
from tests.core.data.builders import dataset, dicom_bytes, encode, grey, to_bytes
from tests.core.data.test_dicom import DATA, SHIPPED

RAMP = np.arange(-1024, 1024, dtype=np.int16).reshape(32, 64)
AXIAL, CORONAL = [1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, -1]
HU = {"RescaleSlope": 1, "RescaleIntercept": -1024, "WindowCenter": 40, "WindowWidth": 400}
SECRETS = ("DOE^JANE", "MRN-4711", "19330101", "GENERAL HOSPITAL", "1.2.3.777", "-77.125", "SMITH_JOHN")
SERIES = "1.2.3.777.5"


@pytest.fixture
def save(tmp_path):
    """Saves contents as files whose names hold a name, and returns their paths."""

    def save(*contents: bytes):
        paths = [tmp_path / f"SMITH_JOHN_{random.Random(i).random()}.dcm" for i in range(len(contents))]
        for path, content in zip(paths, contents, strict=True):
            path.write_bytes(content)
        return paths

    return save


def slice_of(value: int, place: float | None = None, number: int | None = None, plane=AXIAL, **attributes) -> bytes:
    """An identified CT slice filled with a stored value."""
    ds = dataset(np.full((4, 6), value, np.uint16), **{**HU, "SeriesInstanceUID": SERIES, **attributes})
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.InstitutionName = SECRETS[:4]
    ds.StudyInstanceUID, ds.SOPInstanceUID = "1.2.3.777.4", f"1.2.3.777.6.{value}"
    ds.private_block(0x0011, "ACME", create=True).add_new(1, "LO", SECRETS[1])
    ds.PixelSpacing = [0.5, 0.7]
    if place is not None:
        ds.ImageOrientationPatient = plane
        normal = np.cross(plane[:3], plane[3:])
        ds.ImagePositionPatient = [str(number) for number in (-77.125, -77.125, 0) + place * normal]
    if number is not None:
        ds.InstanceNumber = number
    return to_bytes(ds)


def first_values(stack: Stack) -> list[float]:
    return (stack.values[:, 0, 0] * stack.slope + stack.intercept).tolist()


def assert_no_secret(*things: object):
    for thing in things:
        text = thing.decode("latin-1") if isinstance(thing, bytes) else str(thing)
        assert not [secret for secret in SECRETS if secret in text]


# Equal to the one door -----------------------------------------------------------------------------------------------


def assert_same_picture(stack: Stack, source, index: int, window: tuple[float, float] | None):
    there = np.asarray(open_image(source, frame=index, window=window).pixels).astype(int)
    here = np.asarray(stack.picture(index, *(window or ())).pixels)
    assert here.shape == there.shape and np.abs(here - there).max() <= 1


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(DATA)))
def test_shipped_file_is_drawn_as_by_open_image(path):
    try:
        image = open_image(path)
    except ImageError as refused:
        with pytest.raises(ImageError) as caught:
            open_stack([path])
        assert str(caught.value) == str(refused)
        return
    stack = open_stack([path])
    assert (stack.slices, stack.modality, stack.removed) == (frame_count(path), image.modality, image.removed)
    assert stack.picture(0).spacing_mm == image.spacing_mm
    for index in {0, stack.slices - 1}:
        if stack.window is None or "from the file" in stack.notes[-1] or "8-bit" in stack.notes[-1]:
            assert_same_picture(stack, path, index, None)
        if stack.window is not None:
            center, width = stack.window
            for window in (stack.window, (center + width / 8, width / 2)):
                assert_same_picture(stack, path, index, window)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_every_window_function_and_padding(function, photometric, save):
    stored = RAMP.copy()
    stored[0, :10] = -2000
    attributes = {"VOILUTFunction": function, "PhotometricInterpretation": photometric, "PixelPaddingValue": -2000}
    data = dicom_bytes(np.stack([stored, stored[::-1]]), **HU | attributes | {"RescaleSlope": -2})
    stack = open_stack(save(data))
    assert (stack.function, stack.inverted, stack.padding) == (function, photometric == "MONOCHROME1", -(2**15))
    for window in (None, (0.0, 300.0), (-900.5, 1.0), (100.0, 0.5)):
        for index in (0, 1):
            assert_same_picture(stack, data, index, window)
    assert not grey(stack.picture(0))[0, :10].any()
    assert np.array_equal(stack.values[1], np.where(stored == -2000, -(2**15), stored)[::-1])


def test_a_viewer_draws_the_same_with_the_documented_formula(save):
    stored = np.stack([RAMP, RAMP[::-1]])
    for attributes in ({}, {"PhotometricInterpretation": "MONOCHROME1"}, {"VOILUTFunction": "LINEAR_EXACT"}):
        stack = open_stack(save(dicom_bytes(stored, **HU, **attributes)))
        for center, width in (stack.window, (-1000.0, 255.0), (0.0, 0.5)):
            raw = np.frombuffer(stack.raw(1), "<i2").reshape(stack.values.shape[1:])
            low, high = center - width / 2, center + width / 2
            high -= 1 if stack.function == "LINEAR" and width >= 1 else 0
            shown = np.rint(255 * np.clip((raw * stack.slope + stack.intercept - low) / (high - low), 0, 1))
            shown = 255 - shown if stack.inverted else shown
            assert np.abs(shown - grey(stack.picture(1, center, width))).max() <= 1


# Order of a series ---------------------------------------------------------------------------------------------------


def shuffled_series(count: int = 12, plane=AXIAL) -> list[bytes]:
    """Files in an order that is neither that of positions nor of instance numbers, which are opposed."""
    files = [slice_of(1000 + i, place=-100 + 2.5 * i, number=count - i, plane=plane) for i in range(count)]
    random.Random(3).shuffle(files)
    return files


def test_a_shuffled_series_is_sorted_from_the_feet(save):
    stack = open_stack(save(*shuffled_series()))
    assert first_values(stack) == [float(-24 + i) for i in range(12)]
    assert (stack.units, stack.slope, stack.intercept, stack.window) == ("HU", 1, -1024, (40, 400))
    assert (stack.spacing_mm, stack.thickness_mm, stack.slices) == ((0.5, 0.7), 2.5, 12)
    assert "Slices sorted by their position, from F on" in stack.notes
    assert stack.picture(11).notes[0] == "Slice 12 of 12"
    assert stack.picture(11, 0, 100).notes[-1] == "Window center 0, width 100 (chosen by a person)"
    names = [preset.name for preset in stack.presets]
    assert names == ["As in the file", "Lung", "Mediastinum", "Bone", "Brain", "Liver", "Full range"]
    assert (stack.presets[1].center, stack.presets[1].width) == (-600, 1500)


@pytest.mark.parametrize(
    ("plane", "note", "rising"),
    [
        (CORONAL, "from A on", True),
        ([-1, 0, 0, 0, 0, -1], "from A on", False),
        ([0, 1, 0, 0, 0, -1], "from R on", False),
        ([-1, 0, 0, 0, 1, 0], "from F on", False),
    ],
)
def test_any_plane_is_sorted_towards_left_back_or_head(plane, note, rising, save):
    stack = open_stack(save(*shuffled_series(plane=plane)))
    assert any(note in text for text in stack.notes)
    assert (np.diff(first_values(stack)) == (1 if rising else -1)).all()


def test_without_positions_the_instance_number_counts_and_then_the_given_order(save):
    stack = open_stack(save(*(slice_of(n, number=n) for n in (10, 9, 2, 1))))
    assert first_values(stack) == [-1023, -1022, -1015, -1014]  # as numbers, not as texts
    assert "Slices sorted by instance number: the files do not state comparable positions" in stack.notes
    assert stack.thickness_mm is None
    stack = open_stack(save(slice_of(5), slice_of(7, number=1), slice_of(3)))
    assert first_values(stack) == [-1019, -1017, -1021]
    assert any("in which the files were given" in note for note in stack.notes)


def test_slices_in_several_directions_are_not_sorted_by_position(save):
    files = [slice_of(1, 0, 3), slice_of(2, 5, 1), slice_of(3, 0, 2, plane=CORONAL)]
    assert first_values(open_stack(save(*files))) == [-1022, -1021, -1023]


def test_a_missing_slice_and_time_points_are_noted(save):
    stack = open_stack(save(*(slice_of(i, place=i * 3.0) for i in (0, 1, 2, 4))))
    assert stack.thickness_mm == 3
    assert "The distance between slices varies from 3 to 6 mm: one may be missing" in stack.notes
    stack = open_stack(save(*(slice_of(i, place=i // 2 * 3.0, number=9 - i) for i in range(4))))
    assert first_values(stack) == [-1023, -1024, -1021, -1022]
    assert "2 slices lie where another one lies" in stack.notes


def test_frames_of_a_file_keep_their_order(save):
    ds = dataset(np.stack([RAMP, RAMP + 1, RAMP + 2]), **HU)
    groups = []
    for place, slope in ((0, 1), (4, 2), (2, 3)):
        item, position, plane, values = Dataset(), Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient, plane.ImageOrientationPatient = [0, 0, place], AXIAL
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = slope, 0, "HU"
        item.PlanePositionSequence, item.PlaneOrientationSequence = Sequence([position]), Sequence([plane])
        item.PixelValueTransformationSequence = Sequence([values])
        groups.append(item)
    ds.PerFrameFunctionalGroupsSequence = Sequence(groups)
    stack = open_stack(save(to_bytes(ds)))
    expected = np.stack([RAMP, (RAMP + 1) * 2, (RAMP + 2) * 3])
    assert np.array_equal(stack.values * stack.slope + stack.intercept, expected)
    assert (stack.units, stack.thickness_mm) == ("HU", 2)
    assert "The slices do not follow one another in space" in stack.notes


# Values --------------------------------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None, derandomize=True, database=None)
@given(
    st.sampled_from(["u1", "i2", "u2", "<i4", ">u2", "f4", "f8", "u8"]),
    st.floats(-1e6, 1e6),
    st.floats(1e-3, 1e6),
    st.floats(-5, 5).filter(lambda slope: abs(slope) > 1e-3),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_every_value_comes_back_within_half_a_slope(dtype, offset, span, slope, several, seed):
    """Whatever the type, the range and the rescaling, with one rescaling for all slices or another one for each."""
    values = offset + span * np.random.default_rng(seed).random((2, 5, 7))
    dtype = np.dtype(dtype)
    if dtype.kind in "iu":
        values = np.clip(np.rint(values), max(np.iinfo(dtype).min, -(2**40)), min(np.iinfo(dtype).max, 2**40))
    stored = values.astype(dtype)
    if dtype.kind == "f":
        stored[0, 0, 0], stored[1, 0, 0] = np.nan, np.inf
    rescales = [Rescale(slope, 3), Rescale(slope * 1.7 if several else slope, 3)]
    packed = pack([Plane(plane, rescale) for plane, rescale in zip(stored, rescales, strict=True)])
    wanted = np.stack([rescale(plane) for plane, rescale in zip(stored, rescales, strict=True)])
    shown = np.isfinite(wanted)
    error = np.abs(packed.codes * packed.slope + packed.intercept - wanted)[shown]
    scale = np.abs(wanted[shown]).max()
    assert error.max() <= abs(packed.slope) * 0.5 + 1e-9 * scale
    assert (packed.codes == packed.padding)[~shown].all() and (packed.padding is None) == shown.all()
    assert (packed.codes != packed.padding)[shown].all()
    if packed.exact:
        assert error.max() <= 1e-9 * scale


def test_values_beyond_a_number_of_64_bits_are_refused():
    for slope in (1, 1e10):
        with pytest.raises(ImageError, match="too large"):
            pack([Plane(np.array([[-1.7e308, 1.7e308]]), Rescale(slope))])


def test_sixteen_unsigned_bits_are_exact(save):
    stored = np.array([[0, 1, 40_000, 65_535]], np.uint16)
    stack = open_stack(save(dicom_bytes(stored, Modality="MR")))
    assert stack.slope == 1 and (stack.values * stack.slope + stack.intercept).tolist() == [stored.tolist()]
    assert stack.units == "" and np.frombuffer(stack.raw(0), "<i2").tolist() == [-32768, -32767, 7232, 32767]


def test_slices_with_their_own_rescaling_keep_their_values(save):
    """As PET scanners write them."""
    slopes = (0.37, 2.91, 11.3)
    files = [slice_of(1000 + i, place=i, Modality="PT", RescaleSlope=slopes[i], RescaleIntercept=0) for i in range(3)]
    stack = open_stack(save(*files))
    wanted = [(1000 + i) * slopes[i] for i in range(3)]
    assert np.abs(np.subtract(first_values(stack), wanted)).max() <= stack.slope / 2
    assert any("rounded to steps of" in note for note in stack.notes)
    assert [preset.name for preset in stack.presets] == ["As in the file", "Full range"]


@pytest.mark.parametrize(
    ("attributes", "units"),
    [
        ({}, "HU"),
        ({"RescaleType": "HU"}, "HU"),
        ({"RescaleType": "Z_EFF"}, ""),
        ({"RescaleSlope": None, "RescaleIntercept": None}, ""),
        ({"Modality": "MR"}, ""),
    ],
)
def test_hounsfield_units_are_only_claimed_where_the_file_states_them(attributes, units, save):
    stack = open_stack(save(dicom_bytes(RAMP, **HU | attributes)))
    assert stack.units == units and ("Lung" in [preset.name for preset in stack.presets]) == bool(units)


def test_default_windows(save):
    several = open_stack(save(dicom_bytes(RAMP, **HU | {"WindowCenter": [40, -600], "WindowWidth": [400, 1500]})))
    assert several.window == (40, 400) and several.notes[-1].endswith("(from the file, 1 of 2)")
    stored = np.tile(RAMP, (10, 1)).copy()
    stored[:2, :20], stored[-1, :5] = -30_000, 32_000  # 40 and 5 of 20480 pixels
    none = open_stack(save(dicom_bytes(stored)))
    center, width = none.window
    assert -1024 <= center - width / 2 < -990 and 990 < center + width / 2 - 1 <= 1023
    assert "1st to 99th percentile" in none.notes[-1]
    full = none.presets[-1]
    low, high = full.center - full.width / 2, full.center + full.width / 2 - 1
    assert (full.name, low, high) == ("Full range", -30_000, 32_000)
    mask = np.zeros((20, 20), np.int16)
    mask[3, 3] = 1  # too little for a percentile
    stack = open_stack(save(dicom_bytes(mask)))
    assert grey(stack.picture(0))[3, 3] == 255 and "full range" in stack.notes[-1]
    padded = RAMP.copy()
    padded[:, 16:] = -2000  # three quarters, as around a round CT
    center, width = open_stack(save(dicom_bytes(padded, PixelPaddingValue=-2000))).window
    assert -1024 <= center - width / 2 < -990
    for constant in (np.full((4, 4), 7, np.int16), np.full((4, 4), 0, np.int16)):
        assert not grey(open_stack(save(dicom_bytes(constant, PixelPaddingValue=0))).picture(0)).any()


def test_differing_windows_and_spacings_are_noted(save):
    files = [slice_of(i, place=i, WindowCenter=10 * i, WindowWidth=100) for i in range(3)]
    stack = open_stack(save(*files))
    assert stack.window == (10, 100) and any("that of the middle slice" in note for note in stack.notes)
    odd = dataset(np.full((4, 6), 9, np.uint16), SeriesInstanceUID=SERIES, PixelSpacing=[0.6, 0.6], **HU)
    stack = open_stack(save(slice_of(1), to_bytes(odd)))
    assert stack.spacing_mm is None and any("Spacing differs" in note for note in stack.notes)


def test_a_voi_table_gives_way_to_a_window_and_is_noted(save):
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [2, 0, 16])
    item.add_new("LUTData", "OW", np.array([0, 65535], "<u2").tobytes())
    stack = open_stack(save(dicom_bytes(RAMP, VOILUTSequence=Sequence([item]))))
    assert any("VOI LUT is not used here" in note for note in stack.notes)


# Nothing of the patient ----------------------------------------------------------------------------------------------


def test_nothing_of_the_patient_is_in_the_stack(save, caplog, capfd, recwarn):
    stack = open_stack(save(*shuffled_series()))
    picture = stack.picture(3)
    stream = io.BytesIO()
    picture.pixels.save(stream, "PNG")
    assert_no_secret(stack, vars(stack), pickle.dumps(stack), picture, picture.notes, stream.getvalue(), stack.raw(3))
    assert {"PatientName", "PatientID", "SeriesInstanceUID", "StudyInstanceUID", "private attributes"} <= set(
        stack.removed
    )
    assert list(stack.removed) == sorted(stack.removed) and picture.removed == stack.removed
    assert "PixelData" in stack.kept and set(stack.kept) <= KEPT and list(stack.kept) == sorted(stack.kept)
    assert not {"ImagePositionPatient", "InstanceNumber", "SeriesInstanceUID"} & set(stack.kept)
    assert_no_secret(caplog.text, *capfd.readouterr())
    assert not recwarn.list


def test_refusals_count_and_never_name(save, tmp_path):
    good = [slice_of(i, place=i) for i in range(3)]
    other = dataset(np.zeros((4, 6), np.uint16), SeriesInstanceUID=SERIES, **HU)
    size = dataset(np.zeros((8, 6), np.uint16), SeriesInstanceUID=SERIES, **HU)
    cine = dataset(np.zeros((2, 4, 6), np.uint16), SeriesInstanceUID=SERIES, **HU)
    colour = dataset(np.zeros((4, 6, 3), np.uint8), SeriesInstanceUID=SERIES)
    other.PhotometricInterpretation = "MONOCHROME1"
    for added, message in (
        ([slice_of(9, SeriesInstanceUID="1.2.3.777.9")], "belong to 2 series: 3, 1 files"),
        ([to_bytes(size)], "2 sizes: 3 of 4 x 6, 1 of 8 x 6 pixels"),
        ([to_bytes(cine)], "1 of 4 files hold several frames"),
        ([to_bytes(other)], "3 of grey, 1 of inverted grey"),
        ([to_bytes(colour)], "3 of grey, 1 of colour"),
        ([encode(PILImage.new("L", (6, 4)), "PNG")], "1 of 4 are not"),
        ([b"no picture"], "File 4 of 4: The file is not a picture"),
        ([b""], "File 4 of 4: The file is empty"),
        ([good[0][:-30]], "File 4 of 4: The pixel data cannot be decoded"),
    ):
        with pytest.raises(ImageError, match=message) as caught:
            open_stack(save(*good, *added))
        assert_no_secret(caught.value, caught.value.value)
        assert caught.value.remedy and (caught.value.__suppress_context__ or caught.value.__context__ is None)
    for paths in ([tmp_path / "SMITH_JOHN"], [*save(good[0]), tmp_path / "SMITH_JOHN" / "x"], [tmp_path]):
        with pytest.raises(ImageError, match=r"does not exist|not a file") as caught:
            open_stack(paths)
        assert_no_secret(caught.value, repr(caught.value.value))
    with pytest.raises(ImageError, match="No file"):
        open_stack([])


def test_damaged_places_are_as_good_as_none(save):
    """Only compared and never quoted, so damage in them is no reason to refuse a scan."""
    files = []
    for number in (2, 1):
        ds = dataset(np.full((4, 6), number, np.uint16), SeriesInstanceUID=SERIES, InstanceNumber=number, **HU)
        ds.ImageOrientationPatient = AXIAL
        ds.add_new("ImagePositionPatient", "LO", "DOE^JANE")
        files.append(to_bytes(ds))
    stack = open_stack(save(*files))
    assert first_values(stack) == [-1023, -1022]
    assert_no_secret(pickle.dumps(stack))


# Volumes and pictures ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, -1)])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize("known", [True, False])
def test_a_volume_is_drawn_as_by_open_image(order, flips, known, save):
    values = np.random.default_rng(0).normal(0, 500, (5, 6, 7)).astype(np.float32)
    stored = values[:: flips[0], :: flips[1], :: flips[2]].transpose(order)
    affine = np.eye(4)
    affine[:3, :3] = (np.diag([1.0, 2.0, 3.0]) * flips)[:, order]
    made = nibabel.Nifti1Image(stored, affine if known else None)
    made.header["descrip"] = b"DOE^JANE"
    data = gzip.compress(made.to_bytes())
    stack = open_stack(save(data))
    assert stack.slices == frame_count(data)
    for index in range(stack.slices):
        for window in (stack.window, (100.0, 300.0)):
            assert_same_picture(stack, data, index, window)
    if known:
        assert (stack.spacing_mm, stack.thickness_mm, stack.removed) == ((2, 1), 3, ("descrip",))
        assert stack.values.shape == (7, 6, 5)
    assert_no_secret(pickle.dumps(stack))


def test_whole_numbers_of_a_volume_are_exact(save):
    values = np.random.default_rng(0).integers(-1024, 3071, (4, 5, 6))
    for made, exact in ((nibabel.Nifti1Image(values.astype(np.float32), np.eye(4)), True),
                        (nibabel.Nifti1Image(values.astype(np.int16), np.eye(4)), True),
                        (nibabel.Nifti1Image(values.astype(np.float64) / 3, np.eye(4)), False)):  # fmt: skip
        stack = open_stack(save(made.to_bytes()))
        assert (stack.slope == 1) == exact
        wanted = np.asarray(made.dataobj)[::-1, ::-1].transpose(2, 1, 0)
        assert np.abs(stack.values * stack.slope + stack.intercept - wanted).max() <= (0 if exact else stack.slope / 2)
    scaled = nibabel.Nifti1Image(values.astype(np.int16), np.eye(4))
    scaled.header.set_slope_inter(0.1, -1000)
    stack = open_stack(save(scaled.to_bytes()))
    assert (stack.slope, stack.intercept) == pytest.approx((0.1, -1000))


def test_pages_of_a_tiff(save):
    pages = [PILImage.fromarray(np.full((8, 9), 1000 * i, np.uint16)) for i in (5, 1, 3)]
    preview = PILImage.new("RGB", (4, 4))
    data = encode(pages[0], "TIFF", save_all=True, append_images=[pages[1], preview, pages[2]])
    stack = open_stack(save(data))
    assert first_values(stack) == [5000, 1000, 3000]
    assert "1 of 4 pages are of another size or kind and left out" in stack.notes
    assert_same_picture(stack, data, 1, (2000, 3000))


def test_the_previews_of_a_large_picture_do_not_count(save, monkeypatch):
    sizes = [(64, 32), (32, 16), (16, 8)]
    pages = [PILImage.new("RGB", size) for size in sizes]
    monkeypatch.setattr(planes, "MAX_STACK_BYTES", 64 * 32 * 3)
    assert open_stack(save(encode(pages[0], "TIFF", save_all=True, append_images=pages[1:]))).slices == 1


def test_eight_bit_greys_can_be_windowed(save):
    picture = PILImage.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    data = encode(picture, "PNG")
    stack = open_stack(save(data))
    assert_same_picture(stack, data, 0, None)
    assert grey(stack.picture(0, 100, 20)).ravel()[[90, 100, 110]].tolist() == [0, 128, 255]


def test_colours_and_transparency(save):
    rgba = np.random.default_rng(0).integers(0, 256, (8, 9, 4), dtype=np.uint8)
    data = encode(PILImage.fromarray(rgba), "PNG")
    stack = open_stack(save(data))
    assert stack.colour and (stack.window, stack.presets, stack.slices) == (None, (), 1)
    assert_same_picture(stack, data, 0, None)
    assert stack.raw(0) == stack.picture(0).pixels.tobytes()
    assert "not used" in stack.picture(0, 1, 2).notes[-1]


def test_exif_does_not_survive(save):
    exif = PILImage.Exif()
    exif[0x0112], exif[0x010E] = 6, "DOE^JANE"
    stack = open_stack(save(encode(PILImage.new("RGB", (32, 16)), "JPEG", exif=exif)))
    assert stack.values.shape == (1, 32, 16, 3) and "ImageDescription" in stack.removed
    assert_no_secret(pickle.dumps(stack))


def test_large_slices_are_averaged_down_as_by_open_image(save, monkeypatch):
    monkeypatch.setattr("core.data.images.KEPT_PIXELS", 100)
    stored = np.random.default_rng(0).integers(0, 2000, (22, 31)).astype(np.uint16)
    rgb = np.random.default_rng(0).integers(0, 256, (22, 31, 3), dtype=np.uint8)
    for data in (dicom_bytes(stored, PixelSpacing=[1, 1], **HU), dicom_bytes(rgb, PixelSpacing=[1, 1])):
        stack, image = open_stack(save(data)), open_image(data)
        assert_same_picture(stack, data, 0, None)
        assert stack.picture(0).spacing_mm == image.spacing_mm == (3, 3)


# Limits --------------------------------------------------------------------------------------------------------------


def test_too_large_a_scan_is_refused_before_it_is_decoded(save, monkeypatch):
    nifti = nibabel.Nifti1Image(np.zeros((64, 32, 3), np.int16), np.eye(4)).to_bytes()
    tiff = encode(PILImage.new("RGB", (64, 32)), "TIFF", save_all=True, append_images=[PILImage.new("RGB", (64, 32))])
    broken = dicom_bytes(np.stack([RAMP] * 3), PixelData=b"\0\0")
    monkeypatch.setattr(planes, "MAX_STACK_BYTES", 2 * RAMP.nbytes)
    for contents in ([nifti], [tiff], [broken], [dicom_bytes(RAMP, SeriesInstanceUID=SERIES)] * 3):
        with pytest.raises(ImageError, match="too large to be shown") as caught:
            open_stack(save(*contents))
        assert "fewer slices" in caught.value.remedy
    assert open_stack(save(dicom_bytes(np.stack([RAMP] * 2)))).slices == 2


def test_slices_and_windows_that_do_not_exist(save):
    stack = open_stack(save(*shuffled_series(2)))
    for index in (-1, 2):
        for call in (stack.picture, stack.raw):
            with pytest.raises(ImageError, match="Choose 0 to 1; the stack has 2"):
                call(index)
    for window in ((0, 0), (float("nan"), 1)):
        with pytest.raises(ImageError, match="window"):
            stack.picture(0, *window)
    with pytest.raises(ValueError, match="read-only"):
        stack.values[0, 0, 0] = 1


def test_files_that_state_no_series_go_together_and_with_no_other(save):
    with pytest.raises(ImageError, match="belong to 2 series"):
        open_stack(save(slice_of(1), dicom_bytes(np.zeros((4, 6), np.uint16), **HU, SeriesInstanceUID=generate_uid())))
    assert open_stack(save(*[dicom_bytes(RAMP, **HU)] * 2)).slices == 2
