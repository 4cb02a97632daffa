"""What the demo knows about a browser tab while it is open, and what it tells the page."""

from __future__ import annotations

import dataclasses
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event as Flag
from threading import Lock

from core.config import ImageSampling
from core.errors import SettingsError
from core.inference.session import Session, Turn
from core.sequence import Image
from demo.render import Picture, Provenance

RANDOM_SEED = -1
SEEDS = 2**31


@dataclass(frozen=True)
class View:
    """What a page shows from now on; None leaves a part as it is."""

    status: str | None = None
    busy: bool | None = None
    messages: list[dict] | None = None
    box: dict | None = None
    picture: Picture | None = None
    words: str | None = None


@dataclass(frozen=True)
class Controls:
    """The settings of a page as they come out of its fields, where an emptied field is None."""

    seed: int | None = RANDOM_SEED
    num_timesteps: int | None = None
    timestep_shift: float | None = None
    cfg_text_scale: float | None = None
    cfg_img_scale: float | None = None
    cfg_renorm_type: str | None = None
    width: int | None = None
    height: int | None = None

    def drawn_seed(self) -> int:
        """The seed to use; ``RANDOM_SEED`` or an emptied field draws one."""
        if self.seed is None or self.seed == RANDOM_SEED:
            return secrets.randbelow(SEEDS)
        if not 0 <= self.seed < SEEDS:
            raise SettingsError(
                "The seed is out of range", value=self.seed, remedy=f"Use 0 to {SEEDS - 1}, or {RANDOM_SEED} for random"
            )
        return int(self.seed)

    def sampling(self, default: ImageSampling) -> ImageSampling:
        """The defaults with what the fields say instead."""
        values = dataclasses.asdict(self)
        names = ("num_timesteps", "timestep_shift", "cfg_text_scale", "cfg_img_scale", "cfg_renorm_type")
        changed = {name: values[name] for name in names if values[name] is not None}
        if self.width and self.height:
            changed["size"] = (int(self.height), int(self.width))
        return dataclasses.replace(default, **changed)


@dataclass(frozen=True)
class Attached:
    """The files that belong in the message box, what is to be known about them, and what could not be read."""

    paths: list[str]
    notes: str
    problems: str


@dataclass
class Job:
    """A request that was checked and waits for the model, or has it."""

    page: str
    turn: Turn
    provenance: Provenance
    before: int
    """Segments in the conversation before it, to which a failure takes it back."""
    box: dict | None = None
    stop: Flag = field(default_factory=Flag)
    running: bool = False

    def forgotten(self, visit: Visit) -> bool:
        """Whether its conversation was left for a new one meanwhile."""
        return self.page == "chat" and self.turn.session is not visit.session


@dataclass
class Visit:
    """One browser tab: its conversation, its files, and its request if there is one."""

    folder: Path
    session: Session
    messages: list[dict] = field(default_factory=list)
    attached: dict[str, Image] = field(default_factory=dict)
    """Images that were read and wait to be sent, by the path of the de-identified file."""
    read: dict[str, str] = field(default_factory=dict)
    """The de-identified file for every upload that was read and deleted."""
    shown: list[str] = field(default_factory=list)
    """The files in the message box."""
    scan: Image | None = None
    """The image on the page that edits."""
    job: Job | None = None
    lock: Lock = field(default_factory=Lock)
