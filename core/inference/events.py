"""What a running generation tells the outside. The core emits these; an interface draws them."""

from __future__ import annotations

from dataclasses import dataclass

from core.sequence import Image, Segment


@dataclass(frozen=True)
class Waiting:
    """The request is the ``position``-th that waits for the model, from 1, and will have it in about ``seconds``.

    ``seconds`` is None until the first answer has shown how fast the machine is.
    """

    position: int
    seconds: float | None


@dataclass(frozen=True)
class TextDelta:
    """New characters of the text that is being written."""

    text: str


@dataclass(frozen=True)
class ImageProgress:
    """``step`` of ``steps`` denoising steps are done."""

    step: int
    steps: int


@dataclass(frozen=True)
class ImagePreview:
    """What the image would be if the remaining steps changed nothing."""

    image: Image
    step: int


@dataclass(frozen=True)
class SegmentDone:
    """A whole output: a text or an image. Outputs that follow see it."""

    segment: Segment


@dataclass(frozen=True)
class Stopped:
    """The generation ended because it was asked to; what came before stays valid."""


Event = Waiting | TextDelta | ImageProgress | ImagePreview | SegmentDone | Stopped
