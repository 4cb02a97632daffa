"""The studio's side of the feedback store: people, projects, queues and the log, over one database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from core.feedback import audit
from core.feedback.blobs import Blobs
from core.feedback.database import Database
from core.feedback.people import People
from core.feedback.projects import Projects
from core.feedback.queue import Queue


class StudioStore:
    """
    Args:
        url: of the database: ``sqlite:///FILE`` or ``postgresql://USER:PASSWORD@HOST/NAME``; that of the demo.
        pictures_folder: where pictures are kept; that of the demo.

    Raises:
        FeedbackError: the database cannot be used, or a newer program has changed it.
    """

    def __init__(self, url: str, pictures_folder: Path) -> None:
        self.blobs = Blobs(Path(pictures_folder))
        self.database = Database(url)
        self.people = People(self.database)
        self.projects = Projects(self.database)
        self.queue = Queue(self.database)

    def close(self) -> None:
        self.database.close()

    def __enter__(self) -> StudioStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def verify(self) -> Iterator[str]:
        """Every place where the log and the tables are not as they were left; see ``core.feedback.audit``."""
        with self.database.reading() as session:
            yield from audit.verify(session)
