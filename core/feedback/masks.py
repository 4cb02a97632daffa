"""Regions of an image as pixels, and the ways in which others write pixels down: COCO's run lengths, plain and packed,
COCO's polygons, and Label Studio's brush.

Masks are bool of shape (height, width).
"""

from __future__ import annotations

import numpy as np
from PIL import Image as PILImage
from PIL import ImageDraw

from core.errors import FeedbackError

_UPSAMPLED = 5
"""COCO draws polygons so many times larger, and takes the pixels whose centres are inside."""
_WORD, _SIZES = 8, (3, 4, 8, 16)
"""Bits of a value, and of the four kinds of lengths, in Label Studio's brush."""


def rasterised(region: dict, width: int, height: int) -> np.ndarray:
    """The pixels of a region of ``core.feedback.answers``."""
    if region["kind"] == "mask":
        return from_run_lengths({"size": [height, width], "counts": region["counts"]})
    canvas = PILImage.new("1", (width, height))
    draw = ImageDraw.Draw(canvas)
    if region["kind"] == "box":
        draw.rectangle((region["x0"], region["y0"], region["x1"] - 1, region["y1"] - 1), fill=1)
    elif region["kind"] == "point":
        draw.point((min(int(region["x"]), width - 1), min(int(region["y"]), height - 1)), fill=1)
    else:
        points, radius = [tuple(point) for point in region["points"]], region["width"] / 2
        draw.line(points, fill=1, width=max(1, round(region["width"])), joint="curve")
        for x, y in (points[0], points[-1]):
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=1)
    return np.asarray(canvas)


def marked(answer: dict, width: int, height: int, label: str | None = None) -> np.ndarray:
    """All that an answer marks, or marks as something."""
    regions = [region for region in answer.get("regions", []) if label in (None, region["label"])]
    masks = [rasterised(region, width, height) for region in regions]
    return np.any(masks, axis=0) if masks else np.zeros((height, width), bool)


def bounds(mask: np.ndarray) -> list[int]:
    """Left, top, width and height of what is marked."""
    ys, xs = np.nonzero(mask)
    if not len(xs):
        return [0, 0, 0, 0]
    return [int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1]


def dice(one: np.ndarray, other: np.ndarray) -> float:
    """How far two masks overlap: 0 to 1; 1 for two empty ones."""
    both = int(one.sum()) + int(other.sum())
    return 2 * int((one & other).sum()) / both if both else 1.0


# COCO ----------------------------------------------------------------------------------------------------------------


def run_lengths(mask: np.ndarray) -> dict:
    """COCO's uncompressed RLE: lengths of runs of 0 and 1 in turns, column by column, beginning with 0."""
    flat = np.concatenate([[0], mask.T.reshape(-1).astype(np.int8), [0]])
    edges = np.flatnonzero(np.diff(flat))
    counts = np.diff(np.concatenate([[0], edges, [mask.size]])).tolist()
    return {"size": list(mask.shape), "counts": counts if counts[-1] or len(counts) == 1 else counts[:-1]}


def from_run_lengths(rle: dict) -> np.ndarray:
    """The mask of an uncompressed RLE."""
    height, width = rle["size"]
    values = np.arange(len(rle["counts"])) % 2
    return np.repeat(values, rle["counts"]).reshape(width, height).T.astype(bool)


def unpacked(text: str) -> list[int]:
    """The counts of a compressed RLE, as pycocotools writes it: five bits and a sign to a character, and from the third
    count on the difference to the one before the last.

    Raises:
        FeedbackError: it is none.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text.encode("utf-8"):
        digit = character - 48
        if not 0 <= digit < 64:
            raise FeedbackError("The packed run lengths have a character that does not belong there")
        value |= (digit & 0x1F) << shift
        shift += 5
        if not digit & 0x20:
            value -= (1 << shift) if digit & 0x10 else 0
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    if shift:
        raise FeedbackError("The packed run lengths are cut short")
    return counts


def polygon(points: list[float], width: int, height: int) -> np.ndarray:
    """The mask of one polygon, x and y in turns, pixel for pixel as COCO's own programs fill it."""
    xy = (_UPSAMPLED * np.asarray(points, float).reshape(-1, 2) + 0.5).astype(int)
    edges = [_line(start, end) for start, end in zip(xy, np.roll(xy, -1, axis=0), strict=True)]
    u, v = np.concatenate(edges).T
    crossing = np.flatnonzero(np.diff(u))
    x = (np.minimum(u[crossing], u[crossing + 1]) + 0.5) / _UPSAMPLED - 0.5
    y = (np.minimum(v[crossing], v[crossing + 1]) + 0.5) / _UPSAMPLED - 0.5
    kept = (np.floor(x) == x) & (x >= 0) & (x <= width - 1)
    places = x[kept].astype(int) * height + np.ceil(np.clip(y[kept], 0, height)).astype(int)
    # Between an odd and an even crossing, column by column, it is inside.
    flips = np.bincount(places, minlength=width * height + 1)[: width * height]
    return (np.cumsum(flips) % 2).reshape(width, height).T.astype(bool)


def _line(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Points of an edge, one for each step along its longer side, in its direction: int of shape (steps + 1, 2)."""
    along = int(abs(end[0] - start[0]) < abs(end[1] - start[1]))
    first, last = (end, start) if start[along] > end[along] else (start, end)
    steps = np.arange(last[along] - first[along] + 1)
    slope = (last[1 - along] - first[1 - along]) / max(1, len(steps) - 1)
    found = np.empty((len(steps), 2), int)
    found[:, along] = first[along] + steps
    found[:, 1 - along] = (first[1 - along] + slope * steps + 0.5).astype(int)
    return found[::-1] if first is end else found


# Label Studio --------------------------------------------------------------------------------------------------------


def brush(mask: np.ndarray) -> list[int]:
    """Label Studio's ``rle``: bytes of a stream of bits over RGBA, row by row. It has how many values there are (32
    bits), the bits of a value (5), those of the four kinds of lengths (4 each, all less one), and then the runs: 1,
    the kind of length (2 bits), the length less one, the value."""
    flat = np.repeat(mask.reshape(-1), 4)
    edges = np.flatnonzero(np.diff(flat.astype(np.int8))) + 1
    starts = np.concatenate([[0], edges])
    parts = [f"{flat.size:032b}{_WORD - 1:05b}", *(f"{size - 1:04b}" for size in _SIZES)]
    for start, length in zip(starts, np.diff(np.concatenate([starts, [flat.size]])).tolist(), strict=True):
        value = 255 if flat[start] else 0
        while length:
            some = min(length, 1 << _SIZES[-1])
            kind = next(i for i, size in enumerate(_SIZES) if some <= 1 << size)
            parts.append(f"1{kind:02b}{some - 1:0{_SIZES[kind]}b}{value:0{_WORD}b}")
            length -= some
    bits = "".join(parts)
    bits += "0" * (-len(bits) % 8)
    return list(int(bits, 2).to_bytes(len(bits) // 8, "big"))


def from_brush(rle: list[int], width: int, height: int) -> np.ndarray:
    """The mask of a brush: what is more than half opaque.

    Raises:
        FeedbackError: it is not of such an image, or cut short.
    """
    bits = "".join(f"{byte:08b}" for byte in rle)
    place = 0

    def read(size: int) -> int:
        nonlocal place
        place += size
        if place > len(bits):
            raise FeedbackError("The brush is cut short", value=f"{len(rle)} bytes")
        return int(bits[place - size : place], 2)

    total = read(32)
    word, sizes = read(5) + 1, [read(4) + 1 for _ in range(4)]
    if total != 4 * width * height:
        raise FeedbackError("The brush is of an image of another size", value=total // 4)
    values = np.zeros(total, np.int64)
    done = 0
    while done < total:
        is_run = read(1)
        end = done + 1 + read(sizes[read(2)])
        if is_run:
            values[done:end] = read(word)
        else:
            values[done:end] = [read(word) for _ in range(end - done)][: total - done]
        done = end
    return values.reshape(height, width, 4)[..., 3] > (1 << word) // 2 - 1
