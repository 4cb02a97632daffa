"""Things to try: a few scans that come with pydicom, a simulated OCT scan, and captions for every modality."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from pydicom.data import get_testdata_file

from core.data.images import open_image
from core.data.oct_phantom import b_scan
from core.data.stack import Stack, open_stack, stack_of
from core.sequence import Image

CAPTIONS = {
    "chest X-ray": "A chest X-ray.",
    "CT": "A CT of the abdomen.",
    "MRI": "An MRI of the brain, T2-weighted.",
    "ultrasound": "An ultrasound of the breast.",
    "fundus photograph": "A fundus photograph of the eye.",
    "OCT": "An OCT of the eye.",
    "endoscopy": "An endoscopy of the colon.",
    "histopathology": "A histopathology of the lung.",
}
"""A caption to start from for every modality, in the words that the training captions use."""

_SCANS = (
    ("CT of the spine", "CT_small.dcm", "What imaging modality is this?"),
    ("MRI of the abdomen", "examples_overlay.dcm", "Which organ is shown?"),
    ("Ultrasound of the heart", "examples_ybr_color.dcm", "What imaging modality is this?"),
)


@dataclass(frozen=True)
class Example:
    """An image to try, with a question about it."""

    title: str
    image: Image
    question: str
    path: Path | None = None

    def stack(self) -> Stack:
        """What the viewer shows: the file's own values where there is a file."""
        return open_stack([self.path]) if self.path else stack_of(self.image)


def load_examples() -> list[Example]:
    """The examples whose files are installed; nothing is downloaded."""
    found = [(title, get_testdata_file(name, download=False), question) for title, name, question in _SCANS]
    examples = [Example(title, open_image(str(path)), question, Path(path)) for title, path, question in found if path]
    phantom = replace(Image(b_scan(3, "drusen")), modality="OPT", notes=("Simulated OCT scan, not of a person",))
    return [*examples, Example("Simulated OCT of the retina", phantom, "What does this OCT scan show?")]
