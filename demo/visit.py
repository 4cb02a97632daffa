"""What the demo knows about a browser tab: its scan, its conversation, and the requests that run for it."""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import Condition, Lock, RLock, Thread

from core.config import ImageSampling, TextSampling
from core.data.stack import Stack
from core.errors import ImageError, SettingsError
from core.inference.generator import Generator
from core.inference.service import Request
from core.inference.session import Session, Turn
from core.inference.versions import Version
from core.sequence import Image, Text
from core.tasks.regions import Region
from demo.render import Reply
from demo.strings import ENGLISH, Words

RANDOM_SEED = -1
TELL_SECONDS = 0.1
"""Between two messages about one request: as often as a person can see, and no burden with many of them."""
SEEDS = 2**31


@dataclass(frozen=True)
class Controls:
    """The settings of a page as they come out of its fields, where an emptied or absent field is None."""

    seed: int | None = RANDOM_SEED
    num_timesteps: int | None = None
    timestep_shift: float | None = None
    cfg_text_scale: float | None = None
    cfg_img_scale: float | None = None
    cfg_renorm_type: str | None = None
    width: int | None = None
    height: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_new_tokens: int | None = None
    think: bool = False

    def drawn_seed(self) -> int:
        """The seed to use; ``RANDOM_SEED`` or an emptied field draws one."""
        if self.seed is None or self.seed == RANDOM_SEED:
            return secrets.randbelow(SEEDS)
        if not 0 <= self.seed < SEEDS:
            raise SettingsError(
                "The seed is out of range", value=self.seed, remedy=f"Use 0 to {SEEDS - 1}, or {RANDOM_SEED} for random"
            )
        return int(self.seed)

    def image(self, default: ImageSampling) -> ImageSampling:
        """The defaults with what the fields say instead."""
        names = ("num_timesteps", "timestep_shift", "cfg_text_scale", "cfg_img_scale", "cfg_renorm_type")
        changed = self._given(names)
        if self.width and self.height:
            changed["size"] = (int(self.height), int(self.width))
        return dataclasses.replace(default, **changed)

    def text(self, default: TextSampling) -> TextSampling:
        changed = self._given(("temperature", "top_p", "max_new_tokens"))
        return dataclasses.replace(default, **changed)

    def _given(self, names: tuple[str, ...]) -> dict:
        values = dataclasses.asdict(self)
        return {name: values[name] for name in names if values[name] is not None}


@dataclass(frozen=True)
class Scan:
    """The scan that a tab has open, and the view of it that the model is shown."""

    stack: Stack
    files: str
    """Path of the file that the viewer fetches for a slice, with ``{slice}`` where the index goes."""
    opened: float = 0.0
    """When, on the monotonic clock."""
    index: int = 0
    center: float | None = None
    width: float | None = None

    @property
    def image(self) -> Image:
        return self.stack.picture(self.index, self.center, self.width)


@dataclass
class Part:
    """One answer of a job: what is asked of which version, and what has come of it."""

    label: str
    version: Version
    generator: Generator | None = field(repr=False)
    """Its model, until the request is queued, which then holds it: a page may keep a part for long."""
    turn: Turn
    reply: Reply
    prompt: str = ""
    shown: Image | None = None
    """The picture that the page lays beside the output; None where there is none."""
    region: Region | None = None
    box: tuple[int, int, int, int] | None = None
    """The part of ``shown`` that the model saw, where a region was given."""
    request: Request | None = None
    files: dict[str, str] = field(default_factory=dict)
    """Files that the page shows beside the output, by what they show; written once."""

    @cached_property
    def judged(self) -> tuple[list[Image | Text], list[Image | Text]]:
        """The input and the outputs as they were shown: with a region, the whole picture and the mask put back."""
        outputs = [done if isinstance(done, str) else done.image for done in self.reply.done]
        segments = [Text(output) if isinstance(output, str) else output for output in outputs]
        if self.region is None:
            return list(self.turn.inputs), segments
        texts = [segment for segment in self.turn.inputs if isinstance(segment, Text)]
        return [self.shown, *texts], [self.region.paste(segments[0], self.shown, self.box)]


@dataclass(eq=False)
class Job:
    """Requests of one page that belong together. They run on when the page is reloaded; ``follow`` tells what comes."""

    page: str
    parts: list[Part]
    before: int = 0
    """Segments in the conversation before it, to which a failure takes it back."""
    box: dict | None = None
    """The message as it was sent, to be given back after a failure."""
    messages: list[dict] = field(default_factory=list)
    """The conversation up to and with the message."""
    images: list[tuple[str, Image]] = field(default_factory=list)
    """Its images with their files, in order."""
    reference: Image | None = None
    started: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    error: Exception | None = None
    vote: str | None = None
    """What the visitor has chosen, for good."""
    voting: Lock = field(default_factory=Lock)
    vote_code: str | None = None
    """The code under which the vote is kept, if it is."""
    id: str = field(default_factory=lambda: secrets.token_hex(16))
    finish: Callable[[Job], None] = lambda job: None
    """Called once when all is done, before anybody is told."""
    done: bool = False
    told: bool = False
    """Whether its page has shown its end: what is shown after that, such as a refusal, stays."""
    _open: int = 0
    _changes: int = 0
    _changed: Condition = field(default_factory=Condition)

    def run(self) -> None:
        """Collects the events of every part in threads of its own, which end with them."""
        self._open = len(self.parts)
        for part in self.parts:
            Thread(target=self._collect, args=[part], daemon=True).start()

    def _collect(self, part: Part) -> None:
        error = None
        try:
            for event in part.request:
                part.reply.add(event)
                self._tell()
        except Exception as failure:  # whatever it was, the page must come back to life
            error = failure.with_traceback(None)  # its frames would keep the model in memory
        with self._changed:
            self._open -= 1
            last = self._open == 0
            if error is not None and self.error is None:
                self.error = error
            self.seconds = time.monotonic() - self.started
        if error is not None:
            self.cancel()
        if last:
            self.finish(self)
            self.done = True
        self._tell()

    def _tell(self) -> None:
        with self._changed:
            self._changes += 1
            self._changed.notify_all()

    @property
    def stopped(self) -> bool:
        return any(part.reply.stopped for part in self.parts)

    @property
    def came_to_nothing(self) -> bool:
        """Whether it failed, or was stopped before the model had it."""
        return self.error is not None or (self.stopped and not any(part.reply.started for part in self.parts))

    def follow(self) -> Iterator[None]:
        """Yields whenever there is something new to show, and once when all is done. Who is slow skips some."""
        seen = -1
        while True:
            with self._changed:
                while self._changes == seen and not self.done:
                    self._changed.wait()
                seen, done = self._changes, self.done
            if done:
                return
            yield
            with self._changed:
                self._changed.wait_for(lambda: self.done, TELL_SECONDS)

    def cancel(self) -> None:
        for part in self.parts:
            part.request.cancel()


@dataclass(eq=False)
class Visit:
    """One browser tab. It outlives a reload: ``token`` is what the tab keeps."""

    folder: Path
    choice: str = ""
    """Name of the version that the next conversation begins with; empty for the default."""
    version: Version | None = None
    """That of the conversation, from its first message on."""
    session: Session = field(default_factory=Session)
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    messages: list[dict] = field(default_factory=list)
    images: list[tuple[str, Image]] = field(default_factory=list)
    """Every image of the conversation with its file, in order."""
    written: set[str] = field(default_factory=set)
    """Its texts that the model wrote."""
    attached: dict[str, Image] = field(default_factory=dict)
    """Images that were read and wait to be sent, by the path of the de-identified file."""
    read: dict[str, str] = field(default_factory=dict)
    """The de-identified file for every upload that was read and deleted."""
    refused: dict[str, ImageError] = field(default_factory=dict)
    """What was wrong with the uploads that came last."""
    shown: list[str] = field(default_factory=list)
    """The files in the message box."""
    scan: Scan | None = None
    jobs: dict[str, Job] = field(default_factory=dict)
    """The last request of every page, running or done."""
    consent: str | None = None
    """The code of the visitor who agreed that feedback is kept."""
    say: Words = ENGLISH
    tabs: set[str] = field(default_factory=set)
    """Keys of the connections that show it now: none, one, or two during a reload."""
    used: float = 0.0
    """When it was last asked for, on the monotonic clock."""
    evicted: bool = False
    """Whether its scan was closed to make room for others."""
    lock: RLock = field(default_factory=RLock)
