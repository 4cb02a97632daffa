"""Small pictures and runs to store."""

from __future__ import annotations

import numpy as np
from PIL import Image as PILImage

from core.feedback.runs import GenerationRef
from core.feedback.store import FeedbackStore
from core.sequence import Image, Segment, Sequence, Text


def picture(seed: int = 0, *, side: int = 24, generated: bool = False) -> Image:
    """Noise, the same for the same seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    spacing = None if generated else (0.5, 0.5)
    return Image(PILImage.fromarray(pixels), spacing_mm=spacing, modality="MR", generated=generated)


def add(
    store: FeedbackStore,
    code: str,
    key: str = "first",
    *,
    inputs: Sequence | None = None,
    outputs: list[Segment] | None = None,
    fingerprint: str = "f" * 64,
) -> GenerationRef:
    """Stores a run: by default a picture and a question, answered with a text and a picture."""
    return store.add_generation(
        code,
        task="interleaved",
        inputs=[picture(1), Text("Which organ is shown?")] if inputs is None else inputs,
        settings={"temperature": 0.0, "size": (64, 64)},
        seed=2**31 - 1,
        model_name="nano",
        model_fingerprint=fingerprint,
        outputs=[Text("The brain."), picture(2, generated=True)] if outputs is None else outputs,
        key=key,
    )
