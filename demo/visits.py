"""The visits that are going on, and the files that come with them."""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock, Timer

from core.data.stack import Stack
from core.errors import BusyError, ImageError
from core.inference.versions import Version
from core.sequence import Image
from demo import render
from demo.uploads import Uploads
from demo.visit import Scan, Visit

MOST_VISITS = 500
MOST_SCAN_BYTES = 1 << 30
"""Of the scans that are open in all tabs; the one that was opened longest ago is closed first."""
RETURN_SECONDS = 10.0
"""So long a request runs on for a page that is gone: enough for a reload, not for a closed tab."""
KEPT_SECONDS = 1800.0
"""So long a conversation waits for its tab to come back."""


@dataclass(frozen=True)
class Attached:
    """The files that belong in the message box, how they were read, and what could not be."""

    paths: list[str]
    images: list[Image]
    problems: list[str]


class Visits:
    """Finds the visit of a connection, and forgets the ones that nobody comes back to.

    Args:
        version: what a new visit begins with.
        folder: where uploads arrive and files wait to be fetched.
    """

    def __init__(self, version: Version, folder: Path) -> None:
        self._version, self.uploads, self.folder = version, Uploads(folder), folder.resolve()
        self._of_tab: dict[str, Visit] = {}
        self._of_token: dict[str, Visit] = {}
        self._lock = Lock()
        self.answers = self.folder / "answers"
        """Where the outputs of requests without a visit wait to be fetched."""
        self.answers.mkdir(exist_ok=True)

    def arrive(self, tab: str, token: str) -> tuple[Visit, bool]:
        """The visit that a tab was in before it was reloaded, and True; or a new one, and False.

        Args:
            tab: key of the connection.
            token: what the tab has kept from the last time, if anything.
        """
        with self._lock:
            old = self._of_token.get(token)
            if old is None:
                return self._of_tab.get(tab) or self._new(tab), False
            stray = self._of_tab.get(tab)
            self._of_tab[tab] = old
            old.tabs.add(tab)
        if stray is not None and stray is not old:
            self._forget(stray)
        return old, True

    def of(self, tab: str) -> Visit:
        """The visit of a connection, which begins when it is first asked for."""
        with self._lock:
            return self._of_tab.get(tab) or self._new(tab)

    def _new(self, tab: str) -> Visit:
        if len(self._of_token) >= MOST_VISITS:
            idle = min((v for v in self._of_token.values() if not v.tabs), key=lambda v: v.left, default=None)
            if idle is None:
                raise BusyError(f"{MOST_VISITS} people use this demo now", remedy="Try again in a minute")
            self._drop(idle)
        folder = Path(tempfile.mkdtemp(prefix="visit-", dir=self.folder))
        visit = Visit(folder, self._version, self._version.generator.session())
        visit.tabs.add(tab)
        self._of_tab[tab] = self._of_token[visit.token] = visit
        return visit

    def leave(self, tab: str) -> None:
        """A connection is gone. If no other one shows the visit soon, its requests are taken back."""
        with self._lock:
            visit = self._of_tab.pop(tab, None)
            if visit is None:
                return
            visit.tabs.discard(tab)
            visit.left = time.monotonic()
        timer = Timer(RETURN_SECONDS, self._take_back, [visit])
        timer.daemon = True
        timer.start()

    def _take_back(self, visit: Visit) -> None:
        if not visit.tabs:
            for job in list(visit.jobs.values()):
                job.cancel()

    def forget_consent(self, code: str) -> None:
        """After a withdrawal, the next feedback needs a new code."""
        with self._lock:
            for visit in self._of_token.values():
                if visit.consent == code:
                    visit.consent = None

    def sweep(self, seconds: float = KEPT_SECONDS) -> None:
        """Forgets the visits that were left so long ago, and deletes their files and old answers to programs."""
        with self._lock:
            gone = [v for v in self._of_token.values() if not v.tabs and time.monotonic() - v.left >= seconds]
            for visit in gone:
                self._drop(visit)
        for file in self.answers.iterdir():
            if time.time() - file.stat().st_mtime >= seconds:
                file.unlink(missing_ok=True)

    def _forget(self, visit: Visit) -> None:
        with self._lock:
            self._drop(visit)

    def _drop(self, visit: Visit) -> None:
        self._of_token.pop(visit.token, None)
        for tab in visit.tabs:
            self._of_tab.pop(tab, None)
        for job in visit.jobs.values():
            job.cancel()
        shutil.rmtree(visit.folder, ignore_errors=True)

    # Uploads

    def attach(self, visit: Visit, paths: list[str]) -> Attached | None:
        """Replaces the files in the message box by de-identified ones. None when nothing has changed."""
        with visit.lock:
            if paths == visit.shown:
                return None
            kept, problems = [], []
            for path in paths:
                try:
                    kept += self._attached(visit, path)
                except ImageError as error:
                    problems.append(str(error))
            visit.shown = kept
            return Attached(kept, [visit.attached[path] for path in kept], problems)

    def _attached(self, visit: Visit, path: str) -> list[str]:
        """The de-identified file that stands for a path in the message box; none when the file has failed before."""
        if path in visit.attached:
            return [path]
        if not Path(path).exists():  # the browser reports some changes twice
            return [visit.read[path]] if visit.read.get(path) in visit.attached else []
        image = self.uploads.picture(path)
        visit.read[path] = render.save_input(image, visit.folder)
        visit.attached[visit.read[path]] = image
        return [visit.read[path]]

    def attach_image(self, visit: Visit, image: Image, others: list[str]) -> list[str]:
        """Puts an image that is here already into the message box, beside others. Returns the paths."""
        path = render.save_input(image, visit.folder)
        visit.attached[path] = image
        visit.shown = [*(other for other in others if other in visit.attached), path]
        return visit.shown

    def open_scan(self, visit: Visit, source: list[str] | Stack) -> Scan:
        """Opens uploaded files (a picture, a volume, or a series of DICOM files) or a stack in the viewer.

        Raises:
            ImageError: they are not pictures of a supported kind, or do not belong together.
        """
        stack = source if isinstance(source, Stack) else self.uploads.scan(source)
        visit.scan = Scan(stack, render.save_slices(stack, visit.folder), time.monotonic(), stack.slices // 2)
        with self._lock:
            open_scans = sorted((v for v in self._of_token.values() if v.scan), key=lambda v: v.scan.opened)
            total = sum(v.scan.stack.values.nbytes for v in open_scans)
            for other in open_scans[:-1]:
                if total <= MOST_SCAN_BYTES:
                    break
                total -= other.scan.stack.values.nbytes
                other.scan = None
        return visit.scan

    def view(self, visit: Visit, index: int, center: float | None, width: float | None) -> None:
        """Remembers which slice and window the tab looks at; the model is shown the same."""
        if visit.scan is not None and 0 <= index < visit.scan.stack.slices:
            visit.scan = replace(visit.scan, index=index, center=center, width=width)
