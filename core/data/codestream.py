"""Checks of a compressed frame before a decoder sees it: its own size must be the header's, and it must be whole.

A codestream carries its own size. A decoder that trusts it can be made to allocate gigabytes by a small file, and a
decoder that is lenient can return half a picture for a truncated one. Sources: ISO/IEC 10918-1 B.2 (JPEG frame
header), ISO/IEC 14495-1 C.2 (JPEG-LS), ISO/IEC 15444-1 A.5.1 (JPEG 2000 SIZ).
"""

from __future__ import annotations

import struct

from pydicom.uid import UID, JPEG2000TransferSyntaxes, RLETransferSyntaxes

from core.errors import ImageError

Size = tuple[int, int, int]  # rows, columns, samples a pixel

_J2K_START = b"\xff\x4f\xff\x51"
_END = b"\xff\xd9"  # end of image in JPEG and JPEG-LS, end of codestream in JPEG 2000
_TAIL = 16  # bytes of padding that writers leave behind the end marker
# Start-of-frame markers with a size: SOF0-15 without DHT (C4), JPG (C8) and DAC (CC), and SOF55 of JPEG-LS.
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
_WITHOUT_LENGTH = frozenset(range(0xD0, 0xD9)) | {0x01}


def check_codestream(frame: bytes, syntax: UID, expected: Size) -> None:
    """Refuse a compressed frame whose size disagrees with the header or that ends early.

    Args:
        frame: bytes of one frame as stored in the file.
        syntax: transfer syntax of the file.
        expected: rows, columns and samples a pixel in the header.

    Raises:
        ImageError: the sizes differ, or the frame has no end marker.
    """
    if syntax in RLETransferSyntaxes:
        return  # carries no size of its own, and pydicom checks the decoded length
    size = _j2k_size(frame) if syntax in JPEG2000TransferSyntaxes else _jpeg_size(frame)
    if size is None:
        raise ImageError(
            f"The compressed picture is not valid {syntax.name}", remedy="Export the file again from its source"
        )
    if size != expected:
        raise ImageError(
            f"The compressed picture is {_text(size)} and the header says {_text(expected)}",
            remedy="Export the file again from its source",
        )
    if _END not in frame[-_TAIL:]:
        raise ImageError(
            "The compressed picture ends early", value=f"{len(frame)} bytes", remedy="Transfer the file again"
        )


def _text(size: Size) -> str:
    return f"{size[0]} x {size[1]} pixels of {size[2]} samples"


def _j2k_size(frame: bytes) -> Size | None:
    start = frame.find(_J2K_START)
    if start < 0 or len(frame) < start + 42:
        return None
    right, bottom, left, top = struct.unpack_from(">4I", frame, start + 8)
    return bottom - top, right - left, struct.unpack_from(">H", frame, start + 40)[0]


def _jpeg_size(frame: bytes) -> Size | None:
    position = 2
    if frame[:2] != b"\xff\xd8":
        return None
    while position + 10 <= len(frame):
        if frame[position] != 0xFF:
            return None
        marker = frame[position + 1]
        if marker == 0xFF or marker in _WITHOUT_LENGTH:
            position += 1 if marker == 0xFF else 2
            continue
        if marker in _START_OF_FRAME:
            return struct.unpack_from(">2HB", frame, position + 5)
        position += 2 + struct.unpack_from(">H", frame, position + 2)[0]
    return None
