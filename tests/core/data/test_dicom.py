"""DICOM in: equal to pydicom's own result on every file it ships, exact formulas, no patient data, no crash."""

import contextlib
import io
import json
import random
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, convert_color_space, pixel_array
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
    UltrasoundImageStorage,
)

from core.data import dicom
from core.data.deidentify import BASIC_PROFILE, KEPT
from core.data.images import frame_count, open_image
from core.errors import ImageError
from tests.core.data.builders import dataset, dicom_bytes, grey, to_bytes
from tests.core.data.conftest import PROPERTY

DATA = Path(pydicom.__file__).parent / "data"
FOLDERS = ("test_files", "charset_files", "palettes")
SHIPPED = sorted(path for folder in FOLDERS for path in (DATA / folder).rglob("*") if path.is_file())
RAMP = np.arange(-1024, 1024, dtype=np.int16).reshape(32, 64)
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


# Every file that pydicom ships ---------------------------------------------------------------------------------------


def pydicom_result(ds: Dataset, path: Path) -> np.ndarray:
    """First frame as uint8, (rows, columns) or (rows, columns, 3), through pydicom's own functions."""
    arr = pixel_array(ds, index=0, raw=True)
    photometric = ds.PhotometricInterpretation
    if photometric == "PALETTE COLOR":
        return np.rint(apply_color_lut(arr, ds) / 65535 * 255).astype(np.uint8)
    if photometric in ("YBR_FULL", "YBR_FULL_422"):
        return convert_color_space(arr, "YBR_FULL", "RGB")
    if ds.SamplesPerPixel == 3:
        return np.rint(arr / (2.0**ds.BitsStored - 1) * 255).astype(np.uint8)
    shown = arr != ds.PixelPaddingValue if "PixelPaddingValue" in ds else np.ones(arr.shape, bool)
    values = apply_modality_lut(arr, ds)
    if "WindowCenter" in ds:
        ends = np.array([-(2 ** (ds.BitsStored - 1)), 2 ** (ds.BitsStored - 1) - 1.0])
        ends = ends if ds.PixelRepresentation else np.array([0, 2.0**ds.BitsStored - 1])
        low, high = ends * float(ds.get("RescaleSlope", 1)) + float(ds.get("RescaleIntercept", 0))
        values = apply_voi_lut(values, ds)
    elif ds.BitsStored == 8:
        low, high = 0, 255
    else:
        low, high = values[shown].min(), values[shown].max()
    scaled = (values.astype(float) - low) / (high - low)
    scaled = 1 - scaled if photometric == "MONOCHROME1" else scaled
    return np.where(shown, np.rint(scaled * 255), 0).astype(np.uint8)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(DATA)))
def test_shipped_file_equals_pydicom_or_is_refused(path, record_property):
    try:
        ds = pydicom.dcmread(path, force=True)
        has_pixels = any(keyword in ds for keyword in PIXELS)
        expected = pydicom_result(ds, path) if has_pixels else None
    except (ValueError, RuntimeError, AttributeError, NotImplementedError):
        expected = None
    try:
        image, result = open_image(path), "equal to pydicom"
    except ImageError as error:
        image, result = None, f"refused: {error}"
    if has_pixels:
        syntax = pydicom.uid.UID(ds.file_meta.get("TransferSyntaxUID", "")).name.split(" Image Compression")[0]
        facts = (ds.get("Modality"), ds.get("PhotometricInterpretation"), ds.get("NumberOfFrames", 1))
        name = path.relative_to(DATA)
        record_property(PROPERTY, f"{name} | {syntax[:40]} | {' | '.join(str(fact) for fact in facts)} | {result}")
    assert (image is None) == (expected is None), result
    if image is not None:
        rgb = np.asarray(image.pixels).astype(int)
        difference = np.abs(rgb - (expected if expected.ndim == 3 else expected[..., None]))
        # Half-way values may round either way, because the two formulas round differently before.
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.01
        assert frame_count(path) == int(ds.get("NumberOfFrames") or 1)


def test_shipped_files_are_there():
    assert len(SHIPPED) > 150


# Grey values ---------------------------------------------------------------------------------------------------------


def test_linear_window_of_the_standard():
    image = open_image(dicom_bytes(RAMP, RescaleSlope=2, RescaleIntercept=10, WindowCenter=40, WindowWidth=400))
    values = RAMP * 2.0 + 10
    expected = np.clip((values - 39.5) / 399 + 0.5, 0, 1)
    assert np.array_equal(grey(image), np.rint(255 * expected))
    assert "Window center 40, width 400 (from the file)" in image.notes


def test_chosen_window_overrides_the_file():
    data = dicom_bytes(RAMP, WindowCenter=40, WindowWidth=400)
    image = open_image(data, window=(0, 2))
    assert "Window center 0, width 2 (chosen by a person)" in image.notes
    assert np.array_equal(grey(image), np.where(RAMP >= 0, 255, 0))


@pytest.mark.parametrize("window", [(0, 0), (0, -5), (float("nan"), 10), (0, float("inf")), (1, 2, 3), ("a", 1), 5])
def test_impossible_window_is_refused(window):
    with pytest.raises(ImageError, match="window"):
        open_image(dicom_bytes(RAMP), window=window)


def test_sigmoid_and_linear_exact():
    window = {"WindowCenter": 64, "WindowWidth": 128}
    sigmoid = grey(open_image(dicom_bytes(RAMP, VOILUTFunction="SIGMOID", **window)))
    assert np.array_equal(sigmoid, np.rint(255 / (1 + np.exp(-4 * (RAMP - 64.0) / 128))))
    exact = grey(open_image(dicom_bytes(RAMP, VOILUTFunction="LINEAR_EXACT", **window)))
    assert np.array_equal(exact, np.rint(255 * np.clip(RAMP / 128, 0, 1)))
    with pytest.raises(ImageError, match="VOI LUT function"):
        open_image(dicom_bytes(RAMP, VOILUTFunction="CUBIC", **window))


def test_impossible_window_of_the_file_is_noted_and_not_used():
    image = open_image(dicom_bytes(RAMP, WindowCenter=40, WindowWidth=0))
    assert any("not possible and not used" in note for note in image.notes)
    assert "No window in the file: full range -1024 to 1023 shown" in image.notes


def test_monochrome1_is_the_inverse_of_monochrome2():
    window = {"WindowCenter": 0, "WindowWidth": 512}
    two = grey(open_image(dicom_bytes(RAMP, **window))).astype(int)
    one = grey(open_image(dicom_bytes(RAMP, PhotometricInterpretation="MONOCHROME1", **window)))
    assert np.abs(one - (255 - two)).max() <= 1  # a half rounds to even on either side
    inverse = {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"}
    assert np.array_equal(one, grey(open_image(dicom_bytes(RAMP, **inverse, **window))))  # not inverted twice
    odd = open_image(dicom_bytes(RAMP, PresentationLUTShape="INVERSE", **window))
    assert any("contradict" in note for note in odd.notes)


def test_padding_is_black_and_outside_the_range():
    stored = RAMP.copy()
    stored[0, :10], stored[1, :10] = -2000, -1990
    for photometric in ("MONOCHROME1", "MONOCHROME2"):
        ds = dataset(stored, PhotometricInterpretation=photometric, PixelPaddingValue=-2000)
        ds.PixelPaddingRangeLimit = -1990
        image = open_image(to_bytes(ds))
        assert "No window in the file: full range -1014 to 1023 shown" in image.notes
        assert not grey(image)[:2, :10].any()
    blank = open_image(dicom_bytes(np.full((4, 4), 7, np.int16), PixelPaddingValue=7))
    assert not grey(blank).any()
    assert "Every pixel is padding: the picture is black" in blank.notes


def lut(first: int, entries: list[int], bits: int) -> Sequence:
    item = Dataset()
    item.add_new("LUTDescriptor", "US" if first >= 0 else "SS", [len(entries), first, bits])
    item.add_new("LUTData", "OW", np.array(entries, "<u2").tobytes())
    return Sequence([item])


def test_modality_and_voi_tables():
    stored = np.arange(16, dtype=np.uint16).reshape(4, 4)
    table = [v * v for v in range(10)]
    image = open_image(dicom_bytes(stored, ModalityLUTSequence=lut(3, table, 16), WindowCenter=40.5, WindowWidth=82))
    values = np.array(table)[np.clip(stored.astype(int) - 3, 0, 9)]
    assert np.array_equal(grey(image), np.rint(255 * np.clip((values - 40) / 81 + 0.5, 0, 1)))
    voi = open_image(dicom_bytes(stored, VOILUTSequence=lut(4, [0, 1000, 4095], 12), WindowCenter=1, WindowWidth=2))
    assert np.array_equal(
        grey(voi), np.rint(np.array([0, 1000, 4095])[np.clip(stored.astype(int) - 4, 0, 2)] / 4095 * 255)
    )
    short = lut(0, [1, 2, 3], 16)
    short[0].LUTDescriptor = [9, 0, 16]
    with pytest.raises(ImageError, match="announces 9"):
        open_image(dicom_bytes(stored, VOILUTSequence=short))


def test_bits_stored_below_allocated_and_signed():
    stored = (np.arange(-8, 8, dtype=np.int16).reshape(4, 4) & 0x0FFF).astype(np.uint16)  # 12 bits, sign in bit 11
    ds = dataset(stored, BitsStored=12, HighBit=11, PixelRepresentation=1)
    assert np.array_equal(grey(open_image(to_bytes(ds))).ravel(), np.rint(np.arange(16) / 15 * 255))


def implicit(ds) -> bytes:
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    return to_bytes(ds)


def test_first_value_of_a_voi_table_follows_what_goes_into_it():
    """-1024 in implicit VR reads as 64512; rescaled values can be negative although the stored ones cannot."""
    stored = np.array([[0, 512, 768, 1024]], np.uint16)
    ds = dataset(stored, RescaleSlope=1, RescaleIntercept=-1024)
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [1025, 2**16 - 1024, 8])
    item.add_new("LUTData", "OW", np.linspace(0, 255, 1025).astype("<u2").tobytes())
    ds.VOILUTSequence = Sequence([item])
    assert grey(open_image(implicit(ds))).tolist() == [[0, 127, 191, 255]]


def test_multi_valued_texts_are_an_image_or_a_sentence():
    for keyword in ("Modality", "SOPClassUID", "VOILUTFunction", "PresentationLUTShape", "BurnedInAnnotation"):
        ds = dataset(np.zeros((4, 4), np.uint8))
        ds.add_new(keyword, *(("UI", ["1.2", "1.3"]) if keyword == "SOPClassUID" else ("CS", ["CT", "PT"])))
        with contextlib.suppress(ImageError):
            assert open_image(to_bytes(ds)).modality in (None, "CT")


def test_palettes_that_would_get_wrong_colours_are_refused():
    colours = {"PhotometricInterpretation": "PALETTE COLOR", "SamplesPerPixel": 1}
    ds = dataset(np.array([[0, 300]], np.uint16), **colours)
    for colour in ("Red", "Green", "Blue"):
        ds.add_new(f"{colour}PaletteColorLookupTableDescriptor", "US", [512, 0, 8])
        ds.add_new(f"{colour}PaletteColorLookupTableData", "OW", bytes(512))
    with pytest.raises(ImageError, match="palette is not supported"):
        open_image(to_bytes(ds))


def test_float_pixel_data():
    ds = dataset(np.zeros((4, 4), np.float32))
    values = np.linspace(-1, 1, 16, dtype=np.float32)
    values[3] = np.nan
    del ds.PixelData, ds.BitsStored, ds.HighBit, ds.PixelRepresentation
    ds.add_new("FloatPixelData", "OF", values.tobytes())
    ds.PixelPaddingValue = 5  # says nothing about floating-point pixels, and must not break them
    result = grey(open_image(to_bytes(ds))).ravel()
    assert result[3] == 0 and result[0] == 0 and result[-1] == 255


def test_eight_bit_values_are_not_stretched():
    stored = np.arange(50, 114, dtype=np.uint8).reshape(8, 8)
    assert np.array_equal(grey(open_image(dicom_bytes(stored))), stored)


def test_multi_frame_and_functional_groups():
    stored = np.stack([RAMP, RAMP * 0 + 5])
    ds = dataset(stored)
    groups = []
    for spacing, center in ((0.5, 0), (0.25, 100)):
        item, measures, window = Dataset(), Dataset(), Dataset()
        measures.PixelSpacing = [spacing, spacing]
        window.WindowCenter, window.WindowWidth = center, 200
        item.PixelMeasuresSequence, item.FrameVOILUTSequence = Sequence([measures]), Sequence([window])
        groups.append(item)
    ds.PerFrameFunctionalGroupsSequence = Sequence(groups)
    data = to_bytes(ds)
    assert frame_count(data) == 2
    first, second = open_image(data), open_image(data, frame=1)
    assert "Frame 2 of 2" in second.notes and "Window center 100, width 200 (from the file)" in second.notes
    assert (first.spacing_mm, second.spacing_mm) == ((0.5, 0.5), (0.25, 0.25))
    for frame in (2, -1):
        with pytest.raises(ImageError, match="Choose 0 to 1; the file has 2"):
            open_image(data, frame=frame)


# Colour, transfer syntaxes, geometry ---------------------------------------------------------------------------------


def test_planar_configuration_and_transfer_syntax_do_not_matter():
    rgb = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(open_image(dicom_bytes(rgb)).pixels), rgb)
    planar = dataset(rgb, PlanarConfiguration=1, PixelData=rgb.transpose(2, 0, 1).tobytes())
    assert np.array_equal(np.asarray(open_image(to_bytes(planar)).pixels), rgb)
    for syntax in (ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian):
        other = dataset(rgb)
        other.file_meta.TransferSyntaxUID = syntax
        stream = io.BytesIO()
        pydicom.dcmwrite(stream, other, enforce_file_format=True)
        assert np.array_equal(np.asarray(open_image(stream.getvalue()).pixels), rgb)
    for syntax in (RLELossless, JPEG2000Lossless):
        other = dataset(rgb)
        other.compress(syntax, generate_instance_uid=False)
        assert np.array_equal(np.asarray(open_image(to_bytes(other)).pixels), rgb)


def test_window_on_colour_is_noted():
    image = open_image(dicom_bytes(np.zeros((2, 2, 3), np.uint8)), window=(1, 2))
    assert "The window does not apply to a colour picture and was not used" in image.notes


def test_dataset_without_preamble_and_meta():
    ds = dataset(RAMP)
    stream = io.BytesIO()
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    pydicom.dcmwrite(stream, ds, enforce_file_format=False)
    data = stream.getvalue()
    start = data.index(b"\x08\x00\x16\x00")
    image = open_image(data[start:])
    assert np.array_equal(grey(image), grey(open_image(to_bytes(ds))))
    assert "The file does not state its transfer syntax; it was inferred" in image.notes


@pytest.mark.parametrize(
    ("attributes", "spacing", "note"),
    [
        ({"PixelSpacing": [0.5, 0.7]}, (0.5, 0.7), "not square"),
        ({"PixelSpacing": [0.5, 0.5], "ImagerPixelSpacing": [0.6, 0.6]}, (0.5, 0.5), None),
        ({"ImagerPixelSpacing": [0.2, 0.2]}, (0.2, 0.2), "at the detector"),
        ({"NominalScannedPixelSpacing": [0.3, 0.3]}, (0.3, 0.3), "film scanner"),
        ({"PixelSpacing": [0, 0]}, None, None),
        ({}, None, None),
    ],
)
def test_spacing(attributes, spacing, note):
    image = open_image(dicom_bytes(RAMP, **attributes))
    assert image.spacing_mm == spacing
    assert note is None or any(note in text for text in image.notes)


def test_orientation_is_told():
    image = open_image(dicom_bytes(RAMP, ImageOrientationPatient=[0, 1, 0, 0, 0, -1]))
    assert "Orientation: left edge A, top edge H" in image.notes


# Patient data --------------------------------------------------------------------------------------------------------

SECRETS = ("DOE^JANE", "MRN-4711", "19330101", "GENERAL HOSPITAL", "PRIVATE-SECRET", "NESTED^NAME", "1.2.3.777.1")


def identified() -> Dataset:
    ds = dataset(RAMP, PatientName=SECRETS[0], PatientID=SECRETS[1], PatientBirthDate=SECRETS[2])
    ds.InstitutionName, ds.StudyInstanceUID = SECRETS[3], SECRETS[6]
    ds.private_block(0x0011, "ACME", create=True).add_new(1, "LO", SECRETS[4])
    nested, region = Dataset(), Dataset()
    nested.PatientName = region.OperatorsName = SECRETS[5]
    ds.RequestAttributesSequence, ds.SequenceOfUltrasoundRegions = Sequence([nested]), Sequence([region])
    ds.WindowCenterWidthExplanation = ds.ImageComments = SECRETS[0]
    ds.WindowCenter, ds.WindowWidth = 0, 100
    return ds


def assert_no_secret(text: str | bytes):
    text = text if isinstance(text, str) else text.decode("latin-1")
    assert not [secret for secret in SECRETS if secret in text]


def test_identifiers_never_survive(caplog, capfd, recwarn):
    image = open_image(to_bytes(identified()))
    stream = io.BytesIO()
    image.pixels.save(stream, "PNG")
    for text in (repr(image), str(image.notes), json.dumps(image.to_json()), str(vars(image)), stream.getvalue()):
        assert_no_secret(text)
    assert image.pixels.info == {}
    assert {
        "PatientName", "PatientID", "PatientBirthDate", "InstitutionName", "StudyInstanceUID", "SOPInstanceUID",
        "RequestAttributesSequence", "ImageComments", "OperatorsName", "private attributes",
    } <= set(image.removed)  # fmt: skip
    assert_no_secret(caplog.text + "".join(capfd.readouterr()))
    assert not recwarn.list


def test_errors_never_quote_the_file(caplog, capfd):
    """Secrets in every field that is looked at, and in damaged elements."""
    for keyword in sorted(KEPT):
        ds = identified()
        tag = pydicom.datadict.tag_for_keyword(keyword)
        ds.pop(tag, None)
        ds.add(pydicom.dataelem.RawDataElement(pydicom.tag.Tag(tag), "LO", 8, SECRETS[0].encode(), 0, False, True))
        try:
            stream = io.BytesIO()
            pydicom.dcmwrite(stream, ds, enforce_file_format=False)
        except (ValueError, TypeError, AttributeError):
            continue  # pydicom will not write this one
        try:
            assert_no_secret(repr(open_image(stream.getvalue())))
        except ImageError as error:
            assert_no_secret(str(error) + repr(error.value))
            assert error.__suppress_context__ or error.__context__ is None
    assert_no_secret(caplog.text + "".join(capfd.readouterr()))


def test_free_text_in_modality_is_dropped():
    assert open_image(dicom_bytes(RAMP, Modality="DOE JANE")).modality is None


def test_keep_list_and_basic_profile_do_not_overlap():
    assert not {pydicom.datadict.tag_for_keyword(keyword) for keyword in KEPT} & BASIC_PROFILE
    assert all(pydicom.datadict.dictionary_has_tag(tag) for tag in BASIC_PROFILE)


@pytest.mark.parametrize(
    ("attributes", "note"),
    [
        ({"BurnedInAnnotation": "YES"}, "Burned-in annotation may identify the patient; crop it before sharing"),
        ({"SOPClassUID": UltrasoundImageStorage}, "look for names before sharing"),
        ({"SOPClassUID": UltrasoundImageStorage, "BurnedInAnnotation": "NO"}, None),
        ({}, None),
    ],
)
def test_burned_in_text_is_warned_of(attributes, note):
    notes = " ".join(open_image(dicom_bytes(RAMP, **attributes)).notes)
    assert (note in notes) if note else ("Burned" not in notes and "before sharing" not in notes)


# Refusals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"Rows": 20_000, "Columns": 20_000}, "too large: '20000 x 20000 pixels'"),
        ({"NumberOfFrames": 0}, "NumberOfFrames is not a positive whole number"),
        ({"BitsStored": 17}, "contradict each other"),
        ({"HighBit": 3}, "contradict each other"),
        ({"PhotometricInterpretation": "HSV"}, "photometric interpretation is not supported"),
        ({"PhotometricInterpretation": "YBR_RCT", "SamplesPerPixel": 3}, "needs a JPEG 2000"),
        ({"SamplesPerPixel": 3}, "cannot have this many samples a pixel: 3"),
        ({"RescaleSlope": 0, "RescaleIntercept": 0}, "RescaleSlope is 0"),
        ({"PixelData": RAMP.tobytes()[:-64]}, "cannot be decoded"),
        ({"PhotometricInterpretation": "PALETTE COLOR", "PixelRepresentation": 0}, "palette is missing"),
        ({"PresentationLUTShape": "LIN OD"}, "presentation LUT shape"),
    ],
)
def test_inconsistent_headers_are_refused(attributes, message):
    with pytest.raises(ImageError, match=message) as caught:
        open_image(dicom_bytes(RAMP, **attributes))
    assert caught.value.remedy


def test_400_megapixels_are_refused_at_once(tmp_path):
    path = tmp_path / "large.dcm"
    path.write_bytes(dicom_bytes(RAMP, Rows=20_000, Columns=20_000))
    start = time.perf_counter()
    for call in (open_image, frame_count):
        with pytest.raises(ImageError, match="too large"):
            call(path)
    assert time.perf_counter() - start < 1


def test_codestream_larger_than_its_header_is_refused():
    ds = dataset(np.zeros((64, 64), np.uint8))
    ds.compress(JPEG2000Lossless, generate_instance_uid=False)
    ds.Rows = 32
    with pytest.raises(ImageError, match="64 x 64 pixels of 1 samples and the header says 32 x 64"):
        open_image(to_bytes(ds))


def test_second_header_behind_the_pixels_is_checked_too():
    behind = b"\x28\x00\x10\x00US\x02\x00\x20\x4e" + b"\x28\x00\x11\x00US\x02\x00\x20\x4e"  # 20000 x 20000
    with pytest.raises(ImageError, match="too large"):
        open_image(dicom_bytes(RAMP) + behind)


def test_deflate_bomb_is_refused(monkeypatch):
    ds = dataset(np.zeros((512, 512), np.uint8))
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data = to_bytes(ds)
    assert open_image(data).pixels.size == (512, 512)
    ds.file_meta.PrivateInformationCreatorUID, ds.file_meta.PrivateInformation = "1.2", bytes(4000)
    longer = to_bytes(ds)
    monkeypatch.setattr(dicom, "MAX_INFLATED_BYTES", 100_000)
    for bomb in (data, longer):
        with pytest.raises(ImageError, match="too large when unpacked"):
            open_image(bomb)
    with pytest.raises(ImageError):
        open_image(DeflatedExplicitVRLittleEndian.encode().ljust(128, b"\0") + b"DICM\x02\0\0")


@pytest.mark.parametrize("name", ["MR_small.dcm", "MR_small_RLE.dcm", "SC_rgb_jpeg_dcmtk.dcm", "image_dfl.dcm"])
def test_truncated_anywhere_is_refused(name):
    data = (DATA / "test_files" / name).read_bytes()
    lengths = [*range(0, min(len(data), 2000), 97), *range(2000, len(data) - 64, max(1, len(data) // 12))]
    whole = np.asarray(open_image(data).pixels)
    for length in lengths:
        try:
            cut = np.asarray(open_image(data[:length]).pixels)
        except ImageError:
            continue
        assert np.array_equal(cut, whole)  # only what stands behind the pixels may be missing


@pytest.mark.parametrize(
    "name", ["CT_small.dcm", "examples_palette.dcm", "MR_small_jp2klossless.dcm", "SC_rgb_jpeg.dcm"]
)
def test_damaged_bytes_give_an_image_or_an_error(name):
    data = (DATA / "test_files" / name).read_bytes()
    for seed in range(60):
        source = random.Random(seed)
        damaged = bytearray(data)
        for _ in range(source.choice([1, 4, 16])):
            damaged[source.randrange(source.choice([500, 2000, len(data)]))] = source.randrange(256)
        try:
            assert open_image(bytes(damaged)).pixels.mode == "RGB"
        except ImageError as error:
            assert error.remedy
