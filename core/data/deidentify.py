"""What may identify a patient in a DICOM header, and the short list of attributes that may pass.

The safe direction is an allow-list: ``strip`` copies the attributes that drawing needs (``KEPT``) and drops
everything else, private attributes included, at every depth. The table of identifying attributes only names, for
a person, what was dropped.

Source: DICOM PS3.15 (2024b), Table E.1-1 "Application Level Confidentiality Profile Attributes", every row of the
Basic Profile; defined terms of Modality from PS3.3 C.7.3.1.1.1.
"""

from __future__ import annotations

import struct

from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import BytesLengthException
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag
from pydicom.uid import (
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    MultiFrameSingleBitSecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
)

from core.errors import ImageError

# Group number -> element numbers, both hexadecimal. The names come from pydicom's dictionary.
_BASIC_PROFILE_TABLE = {
    "0000": "1000 1001",
    "0002": "0003",
    "0004": "1511",
    "0008": """0012 0013 0014 0015 0017 0018 0019 0020 0021 0022 0023 0024 0025 002A 0030 0031 0032 0033 0034 0035
        0050 0054 0055 0058 0080 0081 0082 0090 0092 0094 0096 009C 009D 0106 0107 0201 1000 1010 1030 103E 1040
        1041 1048 1049 1050 1052 1060 1062 1070 1072 1080 1084 1088 1110 1111 1120 1140 1155 1195 2111 2112 3010
        4000""",
    "0010": """0010 0020 0021 0030 0032 0040 0050 0101 0102 1000 1001 1002 1005 1010 1020 1030 1040 1050 1060 1080
        1081 1090 1100 2000 2110 2150 2152 2154 2155 2160 2180 21A0 21B0 21C0 21D0 21F0 2203 2297 2299 4000""",
    "0012": """0010 0020 0021 0022 0023 0030 0031 0032 0040 0041 0042 0043 0050 0051 0055 0060 0071 0072 0073 0081
        0082 0086 0087""",
    "0014": "407C 407E",
    "0016": """002B 004B 004D 004E 004F 0050 0051 0070 0071 0072 0073 0074 0075 0076 0077 0078 0079 007A 007B 007C
        007D 007E 007F 0080 0081 0082 0083 0084 0085 0086 0087 0088 0089 008A 008B 008C 008D 008E""",
    "0018": """0010 0027 0035 1000 1002 1004 1005 1007 1008 1009 100A 100B 1012 1014 1030 1042 1043 1072 1073 1078
        1079 1200 1201 1202 1203 1204 1205 11BB 1400 2042 4000 5011 700A 700C 700E 9074 9151 9185 9367 9369 936A
        9371 9373 937B 937F 9424 9516 9517 9623 9701 9804 9919 9937 A002 A003""",
    "0020": "000D 000E 0010 0027 0052 0200 3401 3403 3405 3406 4000 9158 9161 9164",
    "0028": "1199 1214 4000",
    "0032": """0012 0032 0033 0034 0035 1000 1001 1010 1011 1020 1021 1030 1032 1033 1040 1041 1050 1051 1060 1066
        1067 1070 4000""",
    "0034": "0001 0002 0005 0007",
    "0038": """0004 0010 0011 0014 001A 001B 001C 001D 001E 0020 0021 0030 0032 0040 0050 0060 0061 0062 0064 0300
        0400 0500 4000""",
    "003A": "0310 0314 0329 032B",
    "0040": """0001 0002 0003 0004 0005 0006 0007 0009 000B 0010 0011 0012 0241 0242 0243 0244 0245 0250 0251 0253
        0254 0275 0280 0310 050A 0512 0513 051A 0551 0554 0555 0562 0600 0602 0610 06FA 1001 1002 1004 1005 100A
        1010 1011 1101 1102 1103 1104 1400 2001 2004 2005 2008 2009 2010 2011 2016 2017 2400 3001 4005 4008 4010
        4011 4023 4025 4027 4028 4030 4034 4035 4036 4037 4050 4051 4052 A023 A024 A027 A030 A032 A033 A073 A075
        A078 A07A A07C A082 A088 A110 A112 A120 A121 A122 A123 A124 A13A A171 A172 A192 A193 A307 A352 A353 A354
        A358 A402 A730 DB06 DB07 DB0C DB0D E004""",
    "0042": "0011",
    "0044": "0004 000B 0010 0104 0105",
    "0050": "001B 0020 0021",
    "0062": "0021",
    "0064": "0003",
    "0068": "6226 6270",
    "006A": "0003 0005 0006",
    "0070": "0001 0082 0083 0084 0086 031A 1101 1102",
    "0072": "000A 005E 005F 0061 0063 0065 0066 0068 006A 006B 006C 006D 006E 0070 0071",
    "0074": "1234 1236",
    "0088": "0140 0200 0904 0906 0910 0912",
    "0100": "0420",
    "0400": "0100 0105 0115 0310 0402 0403 0404 0550 0551 0552 0561 0562 0563 0564 0565 0600",
    "2030": "0020",
    "2100": "0040 0050 0070 0140",
    "2200": "0002 0005",
    "3002": "0121 0123",
    "3006": "0002 0004 0006 0008 0009 0024 0026 0028 002D 002E 0038 004D 004E 0085 0088 00A6 00C2",
    "3008": "0024 0025 0054 0056 0105 0162 0164 0166 0168 0250 0251",
    "300A": """0002 0003 0004 0006 0007 000B 000E 0013 0016 0072 0083 00B2 00C3 00DD 0196 01A6 01B2 0216 022C 022E
        02EB 0608 0609 0611 0615 0619 0623 062A 0650 0676 067C 067D 0700 0734 0736 073A 0741 0742 0760 0783 0785
        078E 0792 0794 079A""",
    "300C": "0113 0127",
    "300E": "0004 0005 0008",
    "3010": """0006 000B 000F 0013 0015 0017 001B 002D 0031 0033 0034 0035 0036 0037 0038 003B 0043 004C 004D 0054
        0056 005A 005C 0061 006E 006F 0077 007A 007B 007F 0081 0085""",
    "4000": "0010 4000",
    "4008": """0040 0042 0100 0101 0102 0108 0109 010A 010B 010C 0111 0112 0113 0114 0115 0118 0119 011A 0200 0202
        0300 4000""",
    "FFFA": "FFFA",
    "FFFC": "FFFC",
}
BASIC_PROFILE = frozenset(
    int(group + element, 16) for group, elements in _BASIC_PROFILE_TABLE.items() for element in elements.split()
)
# Repeating groups of the same table: curves 50xx, and overlay data and comments 60xx.
_OVERLAY_ELEMENTS = {0x3000: "OverlayData", 0x4000: "OverlayComments"}

_KEPT_LIST = """
    SOPClassUID Modality BurnedInAnnotation
    Rows Columns NumberOfFrames SamplesPerPixel PhotometricInterpretation PlanarConfiguration
    BitsAllocated BitsStored HighBit PixelRepresentation
    PixelPaddingValue PixelPaddingRangeLimit FloatPixelPaddingValue FloatPixelPaddingRangeLimit
    DoubleFloatPixelPaddingValue DoubleFloatPixelPaddingRangeLimit
    RescaleSlope RescaleIntercept ModalityLUTSequence VOILUTSequence LUTDescriptor LUTData
    WindowCenter WindowWidth VOILUTFunction PresentationLUTShape
    RedPaletteColorLookupTableDescriptor GreenPaletteColorLookupTableDescriptor
    BluePaletteColorLookupTableDescriptor RedPaletteColorLookupTableData GreenPaletteColorLookupTableData
    BluePaletteColorLookupTableData SegmentedRedPaletteColorLookupTableData
    SegmentedGreenPaletteColorLookupTableData SegmentedBluePaletteColorLookupTableData
    PixelSpacing ImagerPixelSpacing NominalScannedPixelSpacing PixelAspectRatio ImageOrientationPatient
    SequenceOfUltrasoundRegions RegionSpatialFormat PhysicalUnitsXDirection PhysicalUnitsYDirection
    PhysicalDeltaX PhysicalDeltaY
    SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence PixelMeasuresSequence
    PixelValueTransformationSequence FrameVOILUTSequence PlaneOrientationSequence
    PixelData FloatPixelData DoubleFloatPixelData ExtendedOffsetTable ExtendedOffsetTableLengths
"""
KEPT = frozenset(_KEPT_LIST.split())

_MODALITY_LIST = """
    AR ASMT AU BDUS BI BMD CFM CR CT CTPROTOCOL DG DMS DOC DX ECG EEG EMG EOG EPS ES FID GM HC HD IO IOL IVOCT IVUS
    KER KO LEN LS MG MR NM OAM OCT OP OPM OPT OPTBSV OPTENF OPV OSS OT PA PLAN POS PR PT PX REG RESP RF RG RTDOSE
    RTIMAGE RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT RWV SEG SM SMR SR SRF STAIN TEXTUREMAP TG US VA XA XAPROTOCOL XC
"""
MODALITIES = frozenset(_MODALITY_LIST.split())

_OFTEN_BURNED_IN = {
    SecondaryCaptureImageStorage,
    MultiFrameSingleBitSecondaryCaptureImageStorage,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
}

_NUMERIC = frozenset(["US", "SS", "UL", "SL", "UV", "SV", "IS", "DS", "FL", "FD"])
_BINARY = frozenset(["OB", "OW", "OL", "OV", "OF", "OD"])

# What pydicom's lazy conversion raises on a damaged element.
HEADER_ERRORS = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, NotImplementedError, OSError)
HEADER_ERRORS += (EOFError, RecursionError, struct.error, BytesLengthException)


def strip(header: Dataset) -> tuple[Dataset, tuple[str, ...]]:
    """Copy what drawing needs out of a header and name what was left behind.

    Args:
        header: dataset as pydicom read it, with or without pixel data. It is not changed.

    Returns:
        A dataset that holds nothing but the attributes of ``KEPT`` (also inside sequences) and the transfer syntax,
        and the sorted keywords of the identifying attributes that had a value, with "private attributes" for all
        of the private ones.

    Raises:
        ImageError: a kept attribute cannot be read. Its value is never quoted.
    """
    clean = _kept(header)
    clean.set_original_encoding(*header.original_encoding)
    clean.file_meta = FileMetaDataset()
    try:
        syntax = header.file_meta.get("TransferSyntaxUID")
    except HEADER_ERRORS:
        syntax = ()
    if syntax is not None:
        if not isinstance(syntax, str):
            raise _unreadable("TransferSyntaxUID")
        clean.file_meta.TransferSyntaxUID = syntax
    return clean, tuple(sorted(_identifying(header)))


def modality(header: Dataset) -> str | None:
    """Modality as a defined term of the standard, or None: free text in that field could name a person."""
    code = header.get("Modality")
    return str(code) if isinstance(code, str) and code in MODALITIES else None


def burned_in_note(header: Dataset) -> str | None:
    """A warning for a person when the pixels themselves may show who the patient is, or None."""
    stated = str(header.get("BurnedInAnnotation") or "").strip().upper()
    if stated == "YES":
        return "Burned-in annotation may identify the patient; crop it before sharing"
    kind = header.get("SOPClassUID")
    often = (isinstance(kind, str) and kind in _OFTEN_BURNED_IN) or header.get("Modality") == "US"
    if stated != "NO" and often:
        return "The file does not say whether text is burned into the picture; look for names before sharing"
    return None


def _unreadable(keyword: str) -> ImageError:
    return ImageError(f"The header attribute {keyword} cannot be read", remedy="Export the file again from its source")


def _kept(item: Dataset) -> Dataset:
    clean = Dataset()
    for tag in list(item.keys()):
        keyword = keyword_for_tag(tag)
        if keyword not in KEPT or tag.is_private:
            continue
        try:
            element = item[tag]
        except HEADER_ERRORS:
            raise _unreadable(keyword) from None
        if _kind_of_value(element.VR) not in {_kind_of_value(vr) for vr in dictionary_VR(tag).split(" or ")}:
            raise _unreadable(keyword)
        if element.VR == "SQ":
            clean.add_new(tag, "SQ", Sequence(_kept(child) for child in element.value))
        else:
            clean.add(element)
    return clean


def _kind_of_value(vr: str) -> str:
    """Kind of a value representation: numbers may stand in for numbers (IS for US, say), nothing else for another."""
    if vr in _NUMERIC:
        return "number"
    return vr if vr == "SQ" else "bytes" if vr in _BINARY else "text"


def _identifying(item: Dataset) -> set[str]:
    found: set[str] = set()
    for tag in list(item.keys()):
        element = item.get_item(tag, keep_deferred=True)  # raw: a value is not converted, nor its errors met
        name = _identifying_name(tag)
        if name and element.value not in (None, b"", ""):
            found.add(name)
        if not tag.is_private and "SQ" in (element.VR, _dictionary_vr(tag)):
            found |= _identifying_in_sequence(item, tag)
    return found


def _identifying_in_sequence(item: Dataset, tag: BaseTag) -> set[str]:
    try:
        children = list(item[tag].value)
        return set().union(*(_identifying(child) for child in children))
    except HEADER_ERRORS:
        return set()  # unreadable, and dropped all the same


def _dictionary_vr(tag: BaseTag) -> str | None:
    return dictionary_VR(tag) if dictionary_has_tag(tag) else None


def _identifying_name(tag: BaseTag) -> str | None:
    if tag.is_private:
        return "private attributes"
    if 0x5000 <= tag.group <= 0x50FF:
        return "CurveData"
    if 0x6000 <= tag.group <= 0x60FF:
        return _OVERLAY_ELEMENTS.get(tag.element)
    if int(tag) in BASIC_PROFILE:
        return keyword_for_tag(tag)
    return None
