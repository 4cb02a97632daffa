"""The studio's side of the feedback store: people, projects, queues and the log, over one database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.feedback import audit, rights, runs, verification
from core.feedback.blobs import Blobs
from core.feedback.database import Database
from core.feedback.export import Exports
from core.feedback.imports import Imports
from core.feedback.models import Case
from core.feedback.people import People, Person
from core.feedback.projects import Projects
from core.feedback.queue import Queue
from core.feedback.rights import Withdrawal, Withdrawn
from core.feedback.runs import GenerationRef
from core.feedback.snapshots import Snapshots
from core.feedback.trust import Trust
from core.feedback.versions import Versions
from core.sequence import Segment, Sequence


class StudioStore:
    """
    Args:
        url: of the database: ``sqlite:///FILE`` or ``postgresql://USER:PASSWORD@HOST/NAME``; that of the demo.
        pictures: where they are kept: a folder, or a URL that fsspec knows; that of the demo.

    Raises:
        FeedbackError: the database or the place of the pictures cannot be used, or a newer program has changed it.
    """

    def __init__(self, url: str, pictures: str | Path) -> None:
        self.blobs = Blobs(pictures)
        self.database = Database(url)
        self.people = People(self.database)
        self.projects = Projects(self.database)
        self.queue = Queue(self.database)
        self.snapshots = Snapshots(self.database)
        self.exports = Exports(self.database, self.blobs)
        self.imports = Imports(self.database, self.blobs)
        self.trust = Trust(self.database)
        self.versions = Versions(self.database)

    def close(self) -> None:
        self.database.close()

    def __enter__(self) -> StudioStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add_run(
        self, by: Person, *, task: str, inputs: Sequence, outputs: list[Segment], settings: dict, seed: int,
        model_name: str, model_fingerprint: str, key: str, case: tuple[str, str, str] | str | None = None,
    ) -> GenerationRef:  # fmt: skip
        """Stores a run of a model that no visitor has made, with its pictures.

        Args:
            key: made by the caller. A second call with the same key stores nothing, and returns the first.
            case: source, patient and examination that it is about, of the patient only a digest is kept; or the id of
                one that is known.

        Raises:
            AccessError: only a maintainer may.
            FeedbackError: a text seems to identify a patient, or it cannot be written.
        """
        by.need("maintainer")

        def whose(session: Session) -> dict:
            if case is None or isinstance(case, str):
                return {"case_id": case}
            source, patient, name = case
            patient_hash = runs.patient_hash(source, patient)
            return {"case_id": runs.case(self.database, session, source, patient_hash, name)}

        return runs.keep(
            self.database, self.blobs, by.id, whose, task=task, inputs=inputs, outputs=outputs, settings=settings,
            seed=seed, model_name=model_name, model_fingerprint=model_fingerprint, key=key,
        )  # fmt: skip

    def verify(self) -> Iterator[str]:
        """Every place where the log and the tables are not as they were left, in words; nothing when all is well."""
        with self.database.reading(snapshot=True) as session:
            yield from verification.verify(session)

    def log_head(self) -> tuple[int, str]:
        """How many events the log has, and the hash of the newest: written down elsewhere, it shows whether somebody
        has written the whole log anew."""
        with self.database.reading() as session:
            return audit.head(session)

    def events(self, by: Person, limit: int) -> list[audit.Event]:
        """What was done of late, the newest first.

        Raises:
            AccessError: only a maintainer may.
        """
        by.need("maintainer")
        with self.database.reading() as session:
            return audit.newest(session, limit)

    def sources(self, by: Person) -> list[str]:
        """Where the patients are from whose examinations are kept.

        Raises:
            AccessError: only a maintainer may.
        """
        by.need("maintainer")
        with self.database.reading() as session:
            return list(session.scalars(select(Case.source).distinct().order_by(Case.source)))

    def withdraw_person(self, by: Person, user_id: str) -> Withdrawn:
        """See ``core.feedback.rights``."""
        return rights.withdraw_person(self.database, by, user_id)

    def withdraw_patient(self, by: Person, source: str, patient: str) -> Withdrawn:
        """See ``core.feedback.rights``."""
        return rights.withdraw_patient(self.database, self.blobs, by, source, patient)

    def withdrawals(self, by: Person, limit: int) -> list[Withdrawal]:
        """See ``core.feedback.rights``."""
        return rights.withdrawals(self.database, by, limit)
