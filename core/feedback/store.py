"""The feedback store: keeps what was generated and judged, and forgets it when its visitor says so.

It is safe to use from several threads and processes at once. What a call has returned for is on the disk.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.errors import FeedbackError
from core.feedback import consents, forgetting, rows, runs
from core.feedback.blobs import Blobs
from core.feedback.consents import Consent
from core.feedback.database import Database
from core.feedback.forgetting import ORPHAN_AGE, Summary
from core.feedback.models import (
    CHOICES,
    TRUST,
    Comparison,
    Generation,
    Rating,
    Response,
    utc_now,
)
from core.feedback.models import Consent as ConsentRow
from core.feedback.runs import GenerationRef
from core.feedback.screen import screened
from core.sequence import Segment, Sequence

KEPT = timedelta(days=365)

Row = TypeVar("Row", Generation, Response)


class FeedbackStore:
    """
    Args:
        url: of the database: ``sqlite:///FILE`` or ``postgresql://USER:PASSWORD@HOST/NAME``.
        pictures: where they are kept: a folder, or a URL that fsspec knows; of this store alone.
        text_version: of the words that visitors consent to.
        kept: so long a consent lasts.

    Raises:
        FeedbackError: the database or the place of the pictures cannot be used, or a newer program has changed it.
    """

    def __init__(self, url: str, pictures: str | Path, *, text_version: str = "1", kept: timedelta = KEPT) -> None:
        self.blobs = Blobs(pictures)
        self._text_version, self._kept = text_version, kept
        self.database = Database(url)

    def close(self) -> None:
        self.database.close()

    def __enter__(self) -> FeedbackStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Consent

    def give_consent(self) -> str:
        """Begins a consent, and returns the code with which it is used and withdrawn. Only its digest is stored."""
        code, now = consents.new_code(), utc_now()
        with self.database.writing() as session:
            session.add(
                ConsentRow(
                    code_hash=consents.code_hash(code),
                    text_version=self._text_version,
                    given_at=now,
                    expires_at=now + self._kept,
                )
            )
        return code

    def consent_of(self, code: str) -> Consent:
        """
        Raises:
            FeedbackError: the code is not known, or its consent was withdrawn or has expired.
        """
        with self.database.reading() as session:
            found = consents.find_valid(session, code, utc_now())
            return Consent(found.id, found.text_version, found.given_at, found.expires_at)

    # What was generated

    def add_generation(
        self,
        code: str,
        *,
        task: str,
        inputs: Sequence,
        settings: dict,
        seed: int,
        model_name: str,
        model_fingerprint: str,
        outputs: list[Segment],
        key: str,
        generated: Collection[str] = (),
    ) -> GenerationRef:
        """Stores a run of a model with its pictures.

        Args:
            inputs: what went in. A text counts as a person's, and must not identify a patient.
            settings: JSON-able; all that shaped the outputs, beside the seed.
            key: made by the caller. A second call with the same key and code stores nothing, and returns the first.
            generated: texts among the inputs that a model wrote in earlier turns: kept as they are, and marked.

        Raises:
            FeedbackError: the consent does not hold, a text seems to identify a patient, or it cannot be written.
        """
        consent = self.consent_of(code)

        def whose(session: Session) -> dict:
            consents.find_valid(session, code, utc_now(), hold=True)
            return {"consent_id": consent.id}

        return runs.keep(
            self.database, self.blobs, consent.id, whose, task=task, inputs=inputs, outputs=outputs,
            settings=settings, seed=seed, model_name=model_name, model_fingerprint=model_fingerprint, key=key,
            generated=generated,
        )  # fmt: skip

    # What people say of it

    def rate(self, code: str, response_id: str, value: int, comment: str = "") -> str:
        """A thumb up (+1) or down (-1), in place of the one that this visitor gave before. Returns its id.

        Raises:
            FeedbackError: the consent does not hold, there is no such response, the value is another, or the comment
                seems to identify a patient.
        """
        if value not in (1, -1):
            raise FeedbackError("A rating is +1 or -1", value=value)
        said = {"value": int(value), "comment": screened(comment) or None, "created_at": utc_now(), "trust": TRUST[0]}
        with self.database.writing() as session:
            consent = consents.find_valid(session, code, utc_now(), hold=True)
            _existing(session, Response, response_id)
            of = {"response_id": response_id, "consent_id": consent.id}
            insert = self.database.insert(Rating).values(of | said)
            replace = insert.on_conflict_do_update(index_elements=list(of), set_=said)
            return session.scalar(replace.returning(Rating.__table__.c.id))

    def correct(self, code: str, response_id: str, text: str) -> str:
        """Stores what a response should have said, as a response of its own, and returns its id. The same correction
        twice is one.

        Raises:
            FeedbackError: the consent does not hold, there is no such text, or the correction is empty or seems to
                identify a patient.
        """
        text = screened(text)
        if not text.strip():
            raise FeedbackError("The correction is empty", remedy="Write what the answer should have been")
        with self.database.writing() as session:
            consent = consents.find_valid(session, code, utc_now(), hold=True)
            wrong = _existing(session, Response, response_id)
            if wrong.kind != "text":
                raise FeedbackError("Only a text can be corrected", value=wrong.kind, remedy="Rate the picture instead")
            values = {
                "id": runs.derived_id(consent.id, "correction", response_id, text),
                "generation_id": wrong.generation_id,
                "place": wrong.place,
                "kind": "text",
                "text": text,
                "author": "person",
                "corrects_id": wrong.id,
                "consent_id": consent.id,
                "trust": TRUST[0],
            }
            self.database.add_new(session, Response, values)
            return values["id"]

    def compare(self, code: str, left_generation: str, right_generation: str, choice: str, comment: str = "") -> str:
        """A vote between two generations, left and right as they were shown. It is final. Returns its id.

        Raises:
            FeedbackError: the consent does not hold, there are no such generations, the choice is none of
                ``CHOICES``, this visitor has voted on the pair, or the comment seems to identify a patient.
        """
        if choice not in CHOICES:
            raise FeedbackError("Unknown choice", value=choice, remedy=f"Use one of {', '.join(CHOICES)}")
        if left_generation == right_generation:
            raise FeedbackError("A comparison needs two generations", remedy="Compare it with another one")
        comment = screened(comment)
        with self.database.writing() as session:
            consent = consents.find_valid(session, code, utc_now(), hold=True)
            for generation_id in (left_generation, right_generation):
                _existing(session, Generation, generation_id)
            values = {
                # The same for the sides swapped: the primary key keeps a visitor from voting twice.
                "id": runs.derived_id(consent.id, "comparison", *sorted((left_generation, right_generation))),
                "left_generation_id": left_generation,
                "right_generation_id": right_generation,
                "choice": choice,
                "comment": comment or None,
                "consent_id": consent.id,
            }
            if not self.database.add_new(session, Comparison, values):
                raise FeedbackError("You have voted on this pair", remedy="A vote is final: go on to the next pair")
            return values["id"]

    # What is kept

    def summary(self, code: str) -> Summary:
        """
        Raises:
            FeedbackError: the code is not known, or its consent was withdrawn or has expired.
        """
        with self.database.reading() as session:
            return forgetting.summary(session, consents.find_valid(session, code, utc_now()).id)

    def rows(self) -> Iterator[dict]:
        """Everything that no consent has taken back, as JSON-able dicts: see ``core.feedback.rows``."""
        return rows.rows(self.database, utc_now())

    def withdrawals(self) -> int:
        """How many consents were withdrawn, or purged when they had expired, since the store began."""
        with self.database.reading() as session:
            return session.scalar(select(func.count()).where(ConsentRow.withdrawn_at.is_not(None)))

    def origin(self) -> str | None:
        """What tells this database from others: the id of its first consent. None before there is one."""
        with self.database.reading() as session:
            return session.scalar(select(ConsentRow.id).order_by(ConsentRow.given_at, ConsentRow.id).limit(1))

    # What is forgotten

    def withdraw(self, code: str) -> int:
        """Deletes all that hangs on a consent, also one that has expired, and ends it. What others said of it goes
        too; a picture stays where somebody else's generation needs it. Returns how many generations, responses,
        ratings and comparisons were the visitor's; nothing the second time.

        Raises:
            FeedbackError: the code is not known, or the database cannot be written; or a picture cannot be deleted,
                which ``sweep`` will try again.
        """
        with self.database.reading() as session:
            consent_id = consents.find(session, code).id
        return forgetting.end_consent(self.database, self.blobs, consent_id, utc_now())

    def purge_expired(self, now: datetime | None = None) -> int:
        """Withdraws the consents that have expired, and returns how many those were."""
        now = now or utc_now()
        with self.database.reading() as session:
            expired = select(ConsentRow.id).where(ConsentRow.expires_at <= now, ConsentRow.withdrawn_at.is_(None))
            found = session.scalars(expired).all()
        for consent_id in found:
            forgetting.end_consent(self.database, self.blobs, consent_id, now)
        return len(found)

    def sweep(self, now: datetime | None = None) -> int:
        """Deletes the pictures that no row has needed for ``ORPHAN_AGE``, as failed writes leave them behind. Returns
        how many those were."""
        before = (now or utc_now()) - ORPHAN_AGE
        return forgetting.delete_unneeded(self.database, self.blobs, self.blobs.older_than(before.timestamp()))


def _existing(session: Session, table: type[Row], row_id: str) -> Row:
    """
    Raises:
        FeedbackError: there is no such row.
    """
    found = session.get(table, row_id)
    if found is None:
        remedy = "It may be withdrawn: ask again"
        raise FeedbackError(f"There is no such {table.__name__.lower()}", value=row_id, remedy=remedy)
    return found
