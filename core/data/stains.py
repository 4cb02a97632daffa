"""Serial sections in several stains: registration by landmarks (or by phase correlation) and tiles of both stains.

Registration is an affine map (landmarks, least squares) or a shift (scikit-image's phase correlation of the tissue
outlines at a quarter of the size), so cells do not match one to one: neighbouring sections are not the same tissue.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image as PILImage
from skimage.registration import phase_cross_correlation
from skimage.transform import AffineTransform

from core.data.images import open_image
from core.errors import ImageError, RecordError

TILE, STEP = 256, 160
"""Side of a tile and distance between two, in pixels."""
STAINS = {"ki67": "Ki-67", "cd31": "CD31", "prospc": "proSPC", "cc10": "Cc10", "_he": "H&E", "-he-": "H&E"}
"""Parts of a file name, in lower case, and the stain that they mean."""
LEAST_TISSUE = 0.35
"""Tiles with a smaller share of tissue are left out."""


class Section(NamedTuple):
    """One stained section: its image below the root, its landmark file below the source's folder or "", FILE:LINE."""

    path: str
    landmarks: str
    place: str


def stain_of(path: str) -> str:
    """The stain that a file name tells, or an empty string."""
    return next((stain for part, stain in STAINS.items() if part in Path(path).name.lower()), "")


def registered_tiles(
    root: Path, source: str, sections: list[Section]
) -> Iterator[tuple[str, str, str, PILImage.Image, PILImage.Image]]:
    """(stain, other stain, name, tile, tile of the other) of H&E against each other stain, in both directions.

    Args:
        sections: of one tissue; images below ``root``, landmarks below ``root/source``.

    Raises:
        RecordError: a section cannot be opened or registered; the message starts with its FILE:LINE.
    """
    by_stain = {stain_of(section.path): section for section in sections}
    if "H&E" not in by_stain:
        return
    he_section = by_stain.pop("H&E")
    he = _opened(root, he_section)
    for stain, section in sorted(by_stain.items()):
        if not stain:
            continue
        other = _opened(root, section)
        marks = [root / source / s.landmarks for s in (he_section, section)]
        try:
            transform = _by_landmarks(*marks) if all(m.is_file() for m in marks) else _by_phase(he, other)
        except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
            what = f"{section.place}: {section.path} cannot be registered with {he_section.path} ({error})"
            raise RecordError(what, remedy="Name X and Y of at least three landmarks in both files") from error
        moved = other.transform(
            he.size, PILImage.Transform.AFFINE, tuple(transform.params[:2].ravel()), PILImage.Resampling.BICUBIC,
            fillcolor=(255, 255, 255),
        )  # fmt: skip
        tops, lefts = (range(0, max(1, side - TILE + 1), STEP) for side in (he.height, he.width))
        for top, left in itertools.product(tops, lefts):
            box = (left, top, left + TILE, top + TILE)
            tiles = he.crop(box), moved.crop(box)
            if min(map(_tissue, tiles)) >= LEAST_TISSUE:
                yield "H&E", stain, f"{he_section.path}>{stain}/{top}/{left}", *tiles
                yield stain, "H&E", f"{section.path}>H&E/{top}/{left}", *reversed(tiles)


def _opened(root: Path, section: Section) -> PILImage.Image:
    try:
        return open_image(root / section.path).pixels
    except (ImageError, OSError) as error:
        what = f"{section.place}: {section.path} cannot be used ({error})"
        raise RecordError(what, remedy="Copy the file again, or remove the row") from error


def _tissue(tile: PILImage.Image) -> float:
    """Share of pixels that are darker than the slide."""
    return float((np.asarray(tile.convert("L")) < 225).mean())


def _by_landmarks(he: Path, other: Path) -> AffineTransform:
    """Map from places in the H&E image to places in the other one.

    Raises:
        OSError, KeyError, ValueError, TypeError: a file is no table of X and Y, or its places lie on a line.
    """
    points = []
    for path in (he, other):
        with path.open(newline="", encoding="utf-8") as file:
            points.append(np.array([[float(row["X"]), float(row["Y"])] for row in csv.DictReader(file)]))
    shared = min(map(len, points))
    if shared < 3:
        raise ValueError(f"{shared} landmarks")
    transform = AffineTransform.from_estimate(points[0][:shared], points[1][:shared])
    if not transform:
        raise ValueError("the landmarks lie on a line")
    return transform


def _by_phase(he: PILImage.Image, other: PILImage.Image) -> AffineTransform:
    size = (he.width // 4, he.height // 4)
    a, b = (255.0 - np.asarray(image.convert("L").resize(size), dtype=np.float32) for image in (he, other))
    shift, _, _ = phase_cross_correlation(a, b)
    scale = np.array([other.width / he.width, other.height / he.height])
    return AffineTransform(scale=scale, translation=-4 * shift[::-1] * scale)
