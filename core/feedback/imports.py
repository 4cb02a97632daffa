"""Brings files of others into the store, to be judged: read and checked as a whole first, and then stored run by run.
The same content is stored once, whoever brings it and however often."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from core.errors import FeedbackError
from core.feedback import runs
from core.feedback.blobs import Blobs
from core.feedback.database import Database
from core.feedback.files import opened
from core.feedback.leaving import Losses
from core.feedback.people import Person
from core.feedback.projects import NewItem
from core.feedback.rubric import Rubric
from core.feedback.studio_models import KINDS
from core.sequence import Image, Segment, Text

if TYPE_CHECKING:
    from core.feedback.reading import Picture, Reading, Run

IMPORTS = ("folder", "records", "label_studio", "coco")
"""What can be imported; ``core.feedback.readers`` says how."""
OWNER = "6f1c0e57-3d1b-4c0e-9a51-6a3f0d1d7a52"
"""The ids of what is imported are made from this one and from the content."""


@dataclass(frozen=True)
class Imported:
    """
    Attributes:
        items: to be judged, in the order of the source.
        losses: what was left out, by the reason.
        first: where each reason was met first.
    """

    items: list[NewItem]
    losses: Losses
    first: dict[str, str]

    def lines(self) -> list[str]:
        """What was left out, in words."""
        return [f"left out: {n} ({reason}; first: {self.first[reason]})" for reason, n in self.losses.items()]


class Imports:
    def __init__(self, database: Database, blobs: Blobs) -> None:
        self._database, self._blobs = database, blobs

    def read(
        self, by: Person, kind: str, source: Path | Mapping[str, bytes], *, asks: str = "rate",
        rubric: Rubric | None = None,
    ) -> Imported:  # fmt: skip
        """Stores what files hold as outputs of a model named ``import``.

        Args:
            kind: one of ``IMPORTS``.
            source: a folder, a zip, or a document with its pictures beside it; or contents by their names, as a
                browser sends them.
            asks: the kind of project that it is for.
            rubric: of that project; gold answers that do not fit it are refused before anything is stored.

        Raises:
            AccessError: only maintainers import.
            FeedbackError: something is not as it should be, with the file and line, and nothing was stored; or the
                store failed on the way, and a second call goes on.
        """
        from core.feedback.readers import READERS  # with pydicom, which a page of the studio does not need
        from core.feedback.reading import Reading

        by.need("maintainer")
        for what, value, known in (("import", kind, IMPORTS), ("project", asks, KINDS)):
            if value not in known:
                raise FeedbackError(f"Unknown kind of {what}", value=value, remedy=f"Use one of {', '.join(known)}")
        with opened(source) as files:
            reading = Reading(files, asks, rubric)
            found = list(READERS[kind](reading))
            if not found:
                reasons = "; ".join(f"{n}: {reason}" for reason, n in reading.losses.items())
                raise FeedbackError("There is nothing that can be imported", value=reasons or "no files")
            fingerprint = hashlib.sha256("\n".join(sorted(run.key for run in found)).encode()).hexdigest()
            items: list[NewItem] = []
            for done, run in enumerate(found):
                try:
                    items += self._keep(reading, run, fingerprint)
                except FeedbackError as error:
                    what = f"{error.what}. {done} of {len(found)} are stored"
                    raise FeedbackError(what, remedy="Import it again: what is stored is not stored twice") from error
        return Imported(items, reading.losses, reading.first)

    def _keep(self, reading: Reading, run: Run, fingerprint: str) -> list[NewItem]:
        def whose(session: Session) -> dict:
            return {"case_id": runs.case(self._database, session, *run.case, "") if run.case else None}

        def segment(part: Text | Picture) -> Segment:
            return part if isinstance(part, Text) else _image(reading, part)

        ref = runs.keep(
            self._database, self._blobs, OWNER, whose, task=run.task, inputs=list(map(segment, run.inputs)),
            outputs=list(map(segment, run.outputs)), settings=run.settings, seed=0, model_name=runs.IMPORT,
            model_fingerprint=fingerprint, key=run.key, generated=run.generated,
        )  # fmt: skip
        return [NewItem(tuple(ref.response_ids[place] for place in places), gold) for places, gold in run.items]


def _image(reading: Reading, picture: Picture) -> Image:
    about = {"spacing_mm": picture.spacing_mm, "modality": picture.modality, "generated": picture.generated}
    image = dataclasses.replace(reading.open(picture.name), **about)
    if image.sha256 != picture.sha256:
        raise FeedbackError("A file has changed while it was read")
    return image
