"""What is read of an import's files before anything of it is stored, and what is said of what cannot be taken."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from core.data.images import open_image
from core.errors import FeedbackError, UniMedError
from core.feedback.answers import Output, checked
from core.feedback.files import Files
from core.feedback.leaving import PARTS, Losses
from core.feedback.rubric import Rubric
from core.feedback.screen import screened
from core.sequence import NOTICE, Image, Text

HEAD_BYTES = 1024
"""Of a PNG file; where it says that a model drew it, if one of ours did."""

_MALFORMED = (KeyError, TypeError, ValueError, IndexError, AttributeError)


class NotTaken(Exception):
    """Well-formed, and of no use here; the message is the reason."""


@dataclass(frozen=True)
class Picture:
    """A file that holds a picture, and what it was when it was looked at."""

    name: str
    sha256: str
    width: int
    height: int
    spacing_mm: tuple[float, float] | None
    modality: str | None
    generated: bool = False


@dataclass(frozen=True)
class Run:
    """What is stored as one generation.

    Attributes:
        case: source and digest of the patient.
        items: which outputs are to be judged together, with what is known to be right.
        generated: texts among the inputs that a model wrote in earlier turns.
    """

    place: str
    task: str
    inputs: tuple[Text | Picture, ...]
    outputs: tuple[Text | Picture, ...]
    settings: dict
    case: tuple[str, str] | None
    items: tuple[tuple[tuple[int, ...], dict | None], ...]
    generated: frozenset[str] = frozenset()

    @property
    def key(self) -> str:
        """The same for the same content, whoever brings it."""
        sides = [[part.sha256 if isinstance(part, Picture) else part.text for part in side]
                 for side in (self.inputs, self.outputs)]  # fmt: skip
        return json.dumps([self.task, *sides, self.settings, self.case], sort_keys=True)


@dataclass
class Reading:
    """
    Attributes:
        asks: the kind of project that it is for, by which outputs become items.
        rubric: by which gold answers are checked; None checks none.
        losses: what was left out, by the reason.
        first: where each reason was met first.
    """

    files: Files
    asks: str
    rubric: Rubric | None
    losses: Losses = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    _looked_at: dict[str, Picture] = field(default_factory=dict)

    def left(self, reason: str, place: str, count: int = 1) -> None:
        self.losses[reason] += count
        self.first.setdefault(reason, place)

    def open(self, name: str) -> Image:
        return open_image(self.files.read(name))

    def look(self, name: str) -> Picture:
        """
        Raises:
            ImageError: it is no picture that can be read.
        """
        if name not in self._looked_at:
            data = self.files.read(name)
            image, drawn = open_image(data), NOTICE.encode() in data[:HEAD_BYTES]
            size = image.pixels.size
            self._looked_at[name] = Picture(name, image.sha256, *size, image.spacing_mm, image.modality, drawn)
        return self._looked_at[name]

    def beside(self, document: str, name: str) -> Picture:
        """The picture that a document names.

        Raises:
            FeedbackError: it is missing, or cannot be read.
        """
        found = self.files.beside(document, name)
        if found is None:
            raise FeedbackError("A picture is missing", value=name, remedy="Put it beside the document")
        return self.look(found)

    def run(
        self, place: str, task: str, inputs: list[Text | Picture], outputs: list[Text | Picture], settings: dict,
        case: tuple[str, str] | None, gold: dict | None = None, generated: frozenset[str] = frozenset(),
    ) -> Run:  # fmt: skip
        """
        Raises:
            NotTaken: a text seems to identify a patient, or nothing of it can be asked in such a project.
            FeedbackError: the gold answer does not fit the rubric.
        """
        for part in (*inputs, *outputs):
            if isinstance(part, Text):
                harmless(part.text)
        together = [tuple(range(len(outputs)))] if self.asks == "compare" else [(i,) for i in range(len(outputs))]
        if gold is not None and len(together) > 1:
            self.left("a gold answer about several outputs, which are judged alone", place)
            gold = None
        if gold is not None and self.rubric is not None:
            shown = [Output(o.text) if isinstance(o, Text) else Output(None, o.width, o.height) for o in outputs]
            known = checked(self.asks, self.rubric, shown, gold | {"opened": True}, complete=False)
            for part in [part for part in PARTS if gold.get(part) and not known.get(part)]:
                self.left(f"{PARTS[part]} of a gold answer, for which nobody asks", place)
        items = [(places, gold) for places in together if self._fits(place, [outputs[i] for i in places])]
        if not items:
            raise NotTaken("nothing to judge")
        return Run(place, task, tuple(inputs), tuple(outputs), settings, case, tuple(items), generated)

    def _fits(self, place: str, shown: list[Text | Picture]) -> bool:
        if self.asks == "compare" and len(shown) < 2:
            self.left("a single output, where several are compared", place)
        elif self.asks == "correct" and not isinstance(shown[0], Text):
            self.left("an image, where texts are corrected", place)
        else:
            return True
        return False


def harmless(text: str) -> str:
    """
    Raises:
        NotTaken: the text seems to identify a patient, or is too long.
    """
    try:
        return screened(text)
    except FeedbackError as error:
        raise NotTaken(error.what) from None


@contextmanager
def at(place: str, what: str) -> Iterator[None]:
    """Says of an error where it was met, unless it says so itself."""
    try:
        yield
    except UniMedError as error:
        if error.what.startswith(f"{place.partition(':')[0]}:"):
            raise
        raise FeedbackError(f"{place}: {error.what}", value=error.value, remedy=error.remedy) from error
    except _MALFORMED as error:
        why = f"it has no {error}" if isinstance(error, KeyError) else type(error).__name__
        raise FeedbackError(f"{place}: this is not {what} as it should be ({why})") from error


def entries(reading: Reading, what: str) -> Iterator[tuple[str, str, dict]]:
    """Name of the document, FILE:LINE or FILE: entry, and entry: of a list in one document, or of one to a line."""
    name = reading.files.document()
    data = reading.files.read(name)
    if name.endswith(".jsonl"):
        for number, line in enumerate(data.splitlines(), 1):
            if line.strip():
                yield name, f"{name}:{number}", as_json(line, f"{name}:{number}")
        return
    found = as_json(data, name)
    if not isinstance(found, list):
        raise FeedbackError(f"{name}: a list of {what} is expected", value=type(found).__name__)
    for number, entry in enumerate(found, 1):
        yield name, f"{name}: entry {number}", entry


def as_json(data: bytes, place: str) -> object:
    try:
        return json.loads(data)
    except json.JSONDecodeError as error:
        where = place if error.lineno == 1 else f"{place}:{error.lineno}"
        raise FeedbackError(f"{where}: not valid JSON ({error.msg})", remedy="Export it again") from error
    except (ValueError, RecursionError) as error:
        raise FeedbackError(f"{place}: not valid JSON ({type(error).__name__})", remedy="Export it again") from error
