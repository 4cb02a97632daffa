"""What the model reads and writes: an ordered list of text and image segments.

A ``Sequence`` is JSON-able: texts are stored as they are, images by the SHA-256 of their pixels.
Nothing here loads torch.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property

from PIL import Image as PILImage

NOTICE = "AI-generated. For research, not for diagnosis."
"""What every output carries."""


@dataclass(frozen=True)
class Text:
    """A piece of text, without any markers of the model."""

    text: str

    def to_json(self) -> dict:
        return {"type": "text", "text": self.text}


@dataclass(frozen=True, eq=False)
class Image:
    """An 8-bit RGB picture that is free of patient data.

    Attributes:
        pixels: Pillow image in mode RGB.
        spacing_mm: distance between pixel centres as (row, column) in millimetres, or None when unknown.
        modality: DICOM modality code such as "CT", or None when unknown.
        generated: True when a model drew it.
        notes: what was done on the way in (window, frame, rescaling), each a short sentence for a person.
        removed: names of the header attributes that were dropped because they may identify a person.
    """

    pixels: PILImage.Image
    spacing_mm: tuple[float, float] | None = None
    modality: str | None = None
    generated: bool = False
    notes: tuple[str, ...] = field(default=())
    removed: tuple[str, ...] = field(default=())

    @cached_property
    def sha256(self) -> str:
        """SHA-256 over width, height and the RGB bytes."""
        size = f"{self.pixels.width}x{self.pixels.height}:".encode()
        return hashlib.sha256(size + self.pixels.tobytes()).hexdigest()

    def to_json(self) -> dict:
        return {
            "type": "image",
            "sha256": self.sha256,
            "width": self.pixels.width,
            "height": self.pixels.height,
            "spacing_mm": self.spacing_mm,
            "modality": self.modality,
            "generated": self.generated,
        }


Segment = Text | Image
Sequence = list[Segment]
