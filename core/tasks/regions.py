"""Points and boxes as prompts of a segmentation, for any model that segments a whole picture.

The model is shown a crop around the region, and its mask is put back where the crop lies: only what is inside of the
box, or the part that the point hits. This makes a prompt out of where the model looks; the model itself knows neither.
Coordinates are pixels of the picture from its top left corner, and pixel i covers i to i + 1, as browsers count.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image as PILImage
from scipy.ndimage import label

from core.errors import PromptError
from core.sequence import Image

Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels; right and bottom lie outside."""

THRESHOLD = 128
"""Grey value from which a pixel of a mask lies inside, as in ``core.evaluation.tasks``."""

MARGIN = 0.25  # of the sides of a box, shown around it
MIN_MARGIN = 16  # pixels
MIN_SIDE = 2  # pixels of a box within the picture; less is a slip of the hand
POINT_SIDE = 0.5  # of the picture's shorter side, shown around a point
REACH = 0.05  # of the picture's shorter side, from a point to the nearest part of the mask

_COORDINATES = {"point": 2, "box": 4}
_EIGHT_NEIGHBOURS = np.ones((3, 3), bool)


@dataclass(frozen=True)
class Region:
    """Where a person pointed.

    Attributes:
        kind: "point" or "box".
        coordinates: (x, y) of a point; (x, y, x, y) of two opposite corners of a box, in any order.

    Raises:
        PromptError: another kind, or not this many finite numbers.
    """

    kind: str
    coordinates: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.kind not in _COORDINATES:
            raise PromptError("Unknown kind of region", value=self.kind, remedy="Give a point or a box")
        try:
            numbers = tuple(float(number) for number in self.coordinates)
        except (TypeError, ValueError):
            numbers = ()
        if len(numbers) != _COORDINATES[self.kind] or not all(math.isfinite(number) for number in numbers):
            remedy = "Give x, y of a point, or x, y, x, y of a box"
            raise PromptError(f"The {self.kind} has impossible coordinates", value=self.coordinates, remedy=remedy)
        object.__setattr__(self, "coordinates", numbers)

    def crop(self, image: Image) -> tuple[Image, Box]:
        """What the model is shown: the box with a margin, or a square around the point, within the picture.

        Returns:
            The part of the picture, with its spacing, and where it lies.

        Raises:
            PromptError: the point lies outside of the picture, or the box has too little of it.
        """
        width, height = image.pixels.size
        if self.kind == "box":
            left, top, right, bottom = self._inner(image)
            x = max(MIN_MARGIN, math.ceil(MARGIN * (right - left)))
            y = max(MIN_MARGIN, math.ceil(MARGIN * (bottom - top)))
            box = (max(0, left - x), max(0, top - y), min(width, right + x), min(height, bottom + y))
        else:
            column, row = self._pixel(image)
            side = max(1, round(POINT_SIDE * min(width, height)))
            left = min(max(0, column - side // 2), width - side)
            top = min(max(0, row - side // 2), height - side)
            box = (left, top, left + side, top + side)
        note = f"Part of the picture: columns {box[0]} to {box[2] - 1}, rows {box[1]} to {box[3] - 1}"
        return dataclasses.replace(image, pixels=image.pixels.crop(box), notes=(*image.notes, note)), box

    def paste(self, mask: Image, image: Image, box: Box) -> Image:
        """The model's mask of a crop on a black picture of the image's size, reduced to what was asked for.

        Args:
            mask: of the crop, in any size; it is resized and then cut at ``THRESHOLD``.
            image: the picture that ``crop`` was given.
            box: where the crop lies in it.

        Returns:
            White inside and black outside. Of a box all that lies within it; of a point the part that it hits, where
            pixels that touch at a corner hang together, else the nearest part within ``REACH``, else nothing.

        Raises:
            PromptError: the point, the box of the region or that of the crop does not lie in the picture.
        """
        width, height = image.pixels.size
        if not (0 <= box[0] < box[2] <= width and 0 <= box[1] < box[3] <= height):
            raise PromptError("The crop does not lie in the picture", value=box, remedy="Give the box that crop gave")
        size = (box[2] - box[0], box[3] - box[1])
        part = mask.pixels.convert("L").resize(size, PILImage.Resampling.BILINEAR)
        inside_HW = np.zeros((height, width), bool)
        inside_HW[box[1] : box[3], box[0] : box[2]] = np.asarray(part) >= THRESHOLD
        if self.kind == "box":
            left, top, right, bottom = self._inner(image)
            kept_HW = np.zeros_like(inside_HW)
            kept_HW[top:bottom, left:right] = inside_HW[top:bottom, left:right]
            note = "Mask within the box" if kept_HW.any() else "The mask is empty within the box"
        else:
            kept_HW, note = _part_at(inside_HW, *self._pixel(image))
        pixels = PILImage.fromarray(np.where(kept_HW, 255, 0).astype(np.uint8)).convert("RGB")
        return Image(
            pixels=pixels,
            spacing_mm=image.spacing_mm,
            modality=image.modality,
            generated=True,
            notes=(*mask.notes, note),
        )

    def _pixel(self, image: Image) -> tuple[int, int]:
        """Column and row of the point."""
        column, row = (math.floor(number) for number in self.coordinates)
        if not (0 <= column < image.pixels.width and 0 <= row < image.pixels.height):
            size = f"{image.pixels.width} x {image.pixels.height} pixels"
            raise PromptError(
                "The point lies outside of the picture", value=self.coordinates, remedy=f"Point into its {size}"
            )
        return column, row

    def _inner(self, image: Image) -> Box:
        """Whole pixels that the box touches within the picture."""
        xs, ys = sorted(self.coordinates[::2]), sorted(self.coordinates[1::2])
        left, top = max(0, math.floor(xs[0])), max(0, math.floor(ys[0]))
        right, bottom = min(image.pixels.width, math.ceil(xs[1])), min(image.pixels.height, math.ceil(ys[1]))
        if right - left < MIN_SIDE or bottom - top < MIN_SIDE:
            raise PromptError(
                "The box holds too little of the picture",
                value=self.coordinates,
                remedy=f"Draw a box of {MIN_SIDE} x {MIN_SIDE} pixels or more within "
                f"{image.pixels.width} x {image.pixels.height} pixels",
            )
        return left, top, right, bottom


def _part_at(inside_HW: np.ndarray, column: int, row: int) -> tuple[np.ndarray, str]:
    """The connected part of a mask at a pixel or nearest to it, bool [H, W], and a note for a person."""
    parts_HW, _ = label(inside_HW, structure=_EIGHT_NEIGHBOURS)
    if parts_HW[row, column]:
        return parts_HW == parts_HW[row, column], "Part of the mask under the point"
    rows, columns = np.nonzero(parts_HW)
    if not rows.size:
        return inside_HW, "The mask is empty"
    distances = np.hypot(rows - row, columns - column)
    nearest = int(distances.argmin())
    if distances[nearest] > REACH * min(inside_HW.shape):
        return np.zeros_like(inside_HW), "No part of the mask lies under or near the point"
    note = f"Part of the mask nearest to the point, {distances[nearest]:.0f} pixels from it"
    return parts_HW == parts_HW[rows[nearest], columns[nearest]], note


@dataclass(frozen=True)
class Area:
    """How much of a picture a mask covers.

    Attributes:
        pixels: inside the mask.
        fraction: of the picture, 0 to 1.
        mm2: square millimetres, or None where the spacing is not known.
    """

    pixels: int
    fraction: float
    mm2: float | None


def mask_area(mask: Image, spacing_mm: tuple[float, float] | None) -> Area:
    """Area of a mask of a whole picture: pixels of a grey value of ``THRESHOLD`` or more.

    Args:
        mask: in the size of the picture that ``spacing_mm`` belongs to.
        spacing_mm: distance between pixel centres as (row, column), or None.
    """
    inside_HW = np.asarray(mask.pixels.convert("L")) >= THRESHOLD
    pixels = int(inside_HW.sum())
    mm2 = pixels * spacing_mm[0] * spacing_mm[1] if spacing_mm else None
    return Area(pixels, pixels / inside_HW.size, mm2)
