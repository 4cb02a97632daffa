"""The visits that are going on, and the files that come with them."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock, Timer

from core.data.stack import Stack
from core.errors import ImageError
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
FORGOTTEN_SECONDS = 12 * 3600.0
"""So long a tab may stay open without a word."""
MOST_IMAGES = 4
"""In one message."""


@dataclass(frozen=True)
class Attached:
    """The files that belong in the message box, how they were read, and what could not be."""

    paths: list[str]
    images: list[Image]
    problems: list[str]


class Visits:
    """Finds the visit of a connection, and forgets the ones that nobody comes back to.

    Args:
        folder: where uploads arrive and files wait to be fetched.
    """

    def __init__(self, folder: Path) -> None:
        self.uploads, self.folder = Uploads(folder), folder.resolve()
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
            old, stray = self._of_token.get(token), self._of_tab.get(tab)
            if old is None:
                return stray or self._new(tab), False
            if stray is not None and stray is not old:
                stray.tabs.discard(tab)
                if not stray.tabs:
                    self._drop(stray)
            self._of_tab[tab] = old
            self._use(tab, old)
        return old, True

    def of(self, tab: str) -> Visit:
        """The visit of a connection, which begins when it is first asked for."""
        with self._lock:
            visit = self._of_tab.get(tab)
            if visit is None:
                return self._new(tab)
            self._use(tab, visit)
            return visit

    @staticmethod
    def _use(tab: str, visit: Visit) -> None:
        visit.tabs.add(tab)
        visit.used = time.monotonic()

    def _new(self, tab: str) -> Visit:
        if len(self._of_token) >= MOST_VISITS:
            self._drop(min(self._of_token.values(), key=lambda visit: (bool(visit.tabs), visit.used)))
        folder = Path(tempfile.mkdtemp(prefix="visit-", dir=self.folder))
        visit = Visit(folder)
        self._of_tab[tab] = self._of_token[visit.token] = visit
        self._use(tab, visit)
        return visit

    def leave(self, tab: str) -> None:
        """A connection is gone. If it does not come back, and no other one shows the visit, its requests are taken
        back."""
        with self._lock:
            visit = self._of_tab.get(tab)
            if visit is None:
                return
            visit.tabs.discard(tab)
            left = visit.used = time.monotonic()
        timer = Timer(RETURN_SECONDS, self._take_back, [visit, left])
        timer.daemon = True
        timer.start()

    def _take_back(self, visit: Visit, left: float) -> None:
        if not visit.tabs and visit.used == left:  # or it was there since, and may be on its way back once more
            for job in list(visit.jobs.values()):
                job.cancel()

    def sweep(self) -> None:
        """Forgets the visits that nobody comes back to and deletes their files, and old answers to programs."""
        now = time.monotonic()
        with self._lock:
            for visit in list(self._of_token.values()):
                if now - visit.used >= (FORGOTTEN_SECONDS if visit.tabs else KEPT_SECONDS):
                    self._drop(visit)
        self.uploads.forget()
        for file in self.answers.iterdir():
            with contextlib.suppress(OSError):
                if time.time() - file.stat().st_mtime >= KEPT_SECONDS:
                    file.unlink()

    def _drop(self, visit: Visit) -> None:
        self._of_token.pop(visit.token, None)
        self._of_tab = {tab: other for tab, other in self._of_tab.items() if other is not visit}
        for job in visit.jobs.values():
            job.cancel()
        shutil.rmtree(visit.folder, ignore_errors=True)

    # Uploads

    def attach(self, visit: Visit, paths: list[str]) -> Attached | None:
        """Replaces the files in the message box by de-identified ones. None when nothing has changed."""
        with visit.lock:
            if paths == visit.shown:
                return None
            kept, problems, refused = [], [], {}
            if len(paths) > MOST_IMAGES:
                problems.append(f"Too many images: {len(paths)}. Send at most {MOST_IMAGES} in one message.")
            for path in paths[:MOST_IMAGES]:
                try:
                    kept += self._attached(visit, path)
                except ImageError as error:
                    refused[path] = error
            problems += map(str, refused.values())
            visit.shown, visit.refused = kept, refused
            return Attached(kept, [visit.attached[path] for path in kept], problems)

    def _attached(self, visit: Visit, path: str) -> list[str]:
        """The de-identified file that stands for a path in the message box; none when there is none any more."""
        if path in visit.attached:
            return [path]
        if path in visit.refused and not Path(path).exists():
            raise visit.refused[path]
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
        with visit.lock:
            visit.scan = Scan(stack, render.save_slices(stack, visit.folder), time.monotonic(), stack.slices // 2)
            visit.evicted = False
        self._make_room(visit)
        return visit.scan

    def _make_room(self, newest: Visit) -> None:
        """Closes the scans that were opened longest ago, until all that are open fit."""
        with self._lock:
            others = [v for v in self._of_token.values() if v.scan is not None and v is not newest]
            total = newest.scan.stack.values.nbytes + sum(v.scan.stack.values.nbytes for v in others)
            for visit in sorted(others, key=lambda v: v.scan.opened):
                if total <= MOST_SCAN_BYTES:
                    return
                total -= visit.scan.stack.values.nbytes
                visit.scan, visit.evicted = None, True

    def view(self, visit: Visit, files: str, index: int, center: float | None, width: float | None) -> None:
        """Remembers which slice and window the tab looks at; the model is shown the same. What is said of a scan that
        is not open any more is not heard."""
        with visit.lock:
            scan = visit.scan
            if scan is not None and scan.files == files and 0 <= index < scan.stack.slices:
                visit.scan = replace(scan, index=index, center=center, width=width)
