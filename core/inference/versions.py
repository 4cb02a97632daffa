"""The model versions on offer: the checkpoints that were named at the start, and the learned ones of the registry."""

from __future__ import annotations

import gc
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock, Thread
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakValueDictionary

import torch

from core.errors import CheckpointError, MemoryShortageError, PromptError, SettingsError, UniMedError
from core.inference.generator import Generator
from core.inference.zerogpu import ZeroGenerator, is_here, prepare
from core.lineage import Lineage
from core.model.checkpoint import Checkpoint, load, load_learned
from core.model.fingerprint import learned_fingerprint

if TYPE_CHECKING:
    from core.feedback.versions import VersionInfo, Versions

ASK_SECONDS = 2.0
"""Between two looks into the registry."""
RETRY_SECONDS = 60.0
"""So long a version that could not be loaded is not offered."""
START_TRIES = 5
"""Looks into the registry on ZeroGPU, where there is none after the start."""
SHORTAGES = (MemoryShortageError, torch.OutOfMemoryError, MemoryError)
MOST_LEARNED = 2
"""Learned versions that stay in memory beside the one in service: enough for a comparison of two."""


@dataclass(frozen=True, eq=False)
class Version:
    """A model version: the name and the digest that its outputs carry, and what it was learned from.

    It holds no weights: who has had one for long, such as a page, does not keep its model in memory.
    """

    name: str
    fingerprint: str
    folder: Path
    lineage: Lineage | None
    _load: Callable[[Version], Generator] = field(repr=False)

    @property
    def generator(self) -> Generator:
        """Its model; a learned one is loaded here when it is not in memory.

        Raises:
            CheckpointError: it cannot be loaded.
        """
        return self._load(self)

    @property
    def card(self) -> str:
        """The model card in Markdown, without its front matter; empty where the folder has none."""
        path = self.folder / "README.md"
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        return text.split("---\n", 2)[-1] if text.startswith("---\n") else text


class Loaded(NamedTuple):
    """A version with its model, which stays in memory for as long as somebody holds this."""

    version: Version
    generator: Generator


@dataclass(frozen=True)
class _Known:
    """What the registry told last. It is replaced as a whole, so that nobody sees one half of a change."""

    learned: tuple[Version, ...] = ()
    promoted: Version | None = None


class Offer:
    """Which versions there are now, and which one is the default.

    A learned version is offered as a candidate and while it is promoted, where the base that it was learned on was
    named at the start. A candidate is loaded when it is first used, and not offered where it is tainted: it rests on
    judgements that were withdrawn. A promoted version is loaded beside the requests, and what was in service before
    goes on until it is there; one that is tainted stays in service until a person decides, whom the studio warns. On a
    Space with ZeroGPU learned versions are loaded at the start, and what is registered or promoted later waits for the
    next one.

    Args:
        sources: checkpoints (folders or hub ids). They are loaded at once, are always offered, and the first is the
            default where no learned version is promoted.
        registry: tells the learned versions; None: there are none.
        folder: where their folders lie, each under its name.

    Raises:
        CheckpointError: a named checkpoint cannot be loaded.
        SettingsError: two have the same name, so that nobody could tell their outputs apart.
    """

    def __init__(self, sources: list[str], registry: Versions | None = None, folder: Path | None = None) -> None:
        self._zero = is_here()
        if self._zero:
            prepare()
        self.named = self._load_named(sources)
        self.base = next(iter(self.named.values()))
        self._registry, self._folder = registry, folder
        self._served = self._base = Loaded(self.base, self.base.generator)
        self._known = _Known()
        self._shelf = _Shelf(MOST_LEARNED)
        self._asking, self._due = Lock(), 0.0
        self._loader, self._again = Thread(), 0.0
        self._failed: dict[str, float] = {}
        self._told: set[str] = set()
        if registry is not None:
            self._start()

    # What there is

    def versions(self) -> dict[str, Version]:
        """What is offered now, by name: the named checkpoints, then the learned versions, the newest first."""
        self._ask()
        return self.named | {version.name: version for version in self._known.learned if not self._is_broken(version)}

    @property
    def default(self) -> Version:
        """The version that answers where nobody has chosen one. It is in memory."""
        return self._in_service().version

    @property
    def newest(self) -> Version | None:
        """The candidate that was made last."""
        self._ask()
        known = self._known
        return next((one for one in known.learned if one is not known.promoted and not self._is_broken(one)), None)

    def get(self, name: str = "") -> Loaded:
        """The version with this name, or else the default, with its model.

        Raises:
            PromptError: no version of this name is offered.
            CheckpointError: it cannot be loaded.
        """
        if not name:
            return self._in_service()
        found = self.versions()
        if name not in found:
            remedy = f"Choose one of these: {', '.join(found)}"
            raise PromptError("There is no such model version", value=name, remedy=remedy)
        return Loaded(found[name], found[name].generator)

    def _in_service(self) -> Loaded:
        self._ask()
        return self._served

    # The registry

    def _start(self) -> None:
        """Loads what is promoted before anything is served, and on ZeroGPU as many candidates as stay in memory."""
        for _ in range(START_TRIES if self._zero else 1):
            if self._look():
                break
            time.sleep(ASK_SECONDS)
        known = self._known
        candidates = [version for version in known.learned if version is not known.promoted] if self._zero else []
        first = [*([known.promoted] if known.promoted else []), *candidates][:MOST_LEARNED]
        for version in first:
            with suppress(CheckpointError):
                _ = version.generator
            self._follow(may_load=False)
        if self._zero:
            self._known = replace(known, learned=tuple(v for v in first if self._shelf.find(v.fingerprint)))
        self._due = float("inf") if self._zero else time.monotonic() + ASK_SECONDS

    def _ask(self) -> None:
        """Looks into the registry when that is due. Who comes meanwhile goes on with what was known."""
        if self._registry is None or not self._asking.acquire(blocking=False):
            return
        try:
            if time.monotonic() >= self._due:
                self._due = time.monotonic() + ASK_SECONDS
                self._look()
                self._follow()
        finally:
            self._asking.release()

    def _look(self) -> bool:
        """Whether the registry could be read. Where it cannot, what was known stays."""
        try:
            self._learn(self._registry.all())
        except (UniMedError, KeyError, TypeError, ValueError) as error:
            reason = str(error) if isinstance(error, UniMedError) else type(error).__name__
            self._tell("registry", f"The registry of model versions cannot be read: {reason}")
            return False
        self._told.discard("registry")
        return True

    def _learn(self, found: list[VersionInfo]) -> None:
        learned, promoted = [], None
        for info in found:
            serves = info.state == "promoted"
            if info.state == "retired" or (info.tainted and not serves):
                continue
            base = next((v for v in self.named.values() if v.fingerprint == info.lineage.base_fingerprint), None)
            version = self.named.get(info.name) or (base and self._version(info, base))
            if version is None and serves:
                what = f"Version {info.name} is promoted, but its base {info.lineage.base} was not named at the start"
                self._tell(info.fingerprint, f"{what}; {self.base.name} serves")
            if version is not None and info.name not in self.named:
                learned.append(version)
            promoted = version if serves else promoted
        self._known = _Known(tuple(learned), promoted)

    def _follow(self, *, may_load: bool = True) -> None:
        """Puts what is promoted into service, where it is in memory; otherwise it is loaded beside the requests."""
        promoted = self._known.promoted
        if promoted is None:
            self._served = self._base
        elif promoted.name in self.named:
            self._served = Loaded(promoted, promoted.generator)
        elif promoted.fingerprint != self._served.version.fingerprint:
            if (generator := self._shelf.find(promoted.fingerprint)) is not None:
                self._served = Loaded(promoted, generator)
            elif may_load and self._may_try(promoted):
                self._loader = Thread(target=self._load, args=[promoted], name="versions", daemon=True)
                self._loader.start()

    def _may_try(self, promoted: Version) -> bool:
        return not self._loader.is_alive() and not self._is_broken(promoted) and time.monotonic() >= self._again

    def _load(self, promoted: Version) -> None:
        """Where there is no room for it beside the version before it, that one goes and the base answers meanwhile."""
        for _ in range(2):
            try:
                _ = promoted.generator
                return
            except MemoryShortageError:
                self._served = self._base
            except CheckpointError:  # which was told
                return
        self._again = time.monotonic() + RETRY_SECONDS
        self._tell(promoted.fingerprint, f"Version {promoted.name} is promoted and waits for memory")

    def _version(self, info: VersionInfo, base: Version) -> Version:
        folder = self._folder / info.name

        def read() -> Generator:
            Lineage.read(folder)
            if learned_fingerprint(base.fingerprint, folder) != info.fingerprint:
                remedy = "Copy its folder again"
                raise CheckpointError("The weights are not those that were registered", value=info.name, remedy=remedy)
            return self._generator(load_learned(folder, base.folder))

        return Version(info.name, info.fingerprint, folder, info.lineage, lambda version: self._take(version, read))

    # Memory

    def _load_named(self, sources: list[str]) -> dict[str, Version]:
        named: dict[str, Version] = {}
        for source in sources:
            checkpoint = load(source)
            name, generator = checkpoint.name, self._generator(checkpoint)
            if name in named:
                raise SettingsError(
                    "Two checkpoints have the same name", value=name, remedy="Give one another 'version' in config.json"
                )
            folder = checkpoint.adapter or checkpoint.folder
            named[name] = Version(name, checkpoint.fingerprint, folder, checkpoint.lineage, lambda _, g=generator: g)
        return named

    def _generator(self, checkpoint: Checkpoint) -> Generator:
        return ZeroGenerator(checkpoint) if self._zero else Generator(checkpoint)

    def _take(self, version: Version, read: Callable[[], Generator]) -> Generator:
        try:
            generator = self._shelf.take(version.fingerprint, read)
        except SHORTAGES:
            what, remedy = "There is no memory for this model version now", "Use another one, or try again later"
            problem = MemoryShortageError(what, value=version.name, remedy=remedy)
        except Exception as error:  # whatever it was, somebody else must answer
            self._failed[version.fingerprint] = time.monotonic()
            reason = str(error) if isinstance(error, UniMedError) else type(error).__name__
            self._tell(version.fingerprint, f"Version {version.name} cannot be loaded: {reason}")
            what = "This model version cannot be loaded now"
            problem = CheckpointError(what, value=version.name, remedy="Use another one")
        else:
            self._told.discard(version.fingerprint)
            return generator
        raise problem  # not from the failure, whose frames would keep what was loaded by then

    def _is_broken(self, version: Version) -> bool:
        return time.monotonic() - self._failed.get(version.fingerprint, -RETRY_SECONDS) < RETRY_SECONDS

    def _tell(self, key: str, sentence: str) -> None:
        """Once for as long as it is so."""
        if key not in self._told:
            self._told.add(key)
            print(sentence, file=sys.stderr, flush=True)


class _Shelf:
    """Generators of learned versions: the last used ones, and those that somebody holds, such as a request."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[str, Generator] = OrderedDict()
        self._alive: WeakValueDictionary[str, Generator] = WeakValueDictionary()
        self._lock, self._loading = Lock(), Lock()

    def take(self, key: str, read: Callable[[], Generator]) -> Generator:
        """The one under a key; read, one at a time, where nobody has it. Where memory is short, those that nobody holds
        make room."""
        if (found := self.find(key)) is None:
            with self._loading:
                if (found := self.find(key)) is None:
                    self._make_room(self._most - 1)
                    try:
                        found = read()
                    except SHORTAGES:
                        self._make_room(0)
                    if found is None:
                        gc.collect()
                        torch.cuda.empty_cache()
                        found = read()
                    with self._lock:
                        self._kept[key] = self._alive[key] = found
        return found

    def find(self, key: str) -> Generator | None:
        """The one under a key, where it is in memory."""
        with self._lock:
            if (found := self._alive.get(key)) is not None:
                self._kept[key] = found
                self._kept.move_to_end(key)
        self._make_room(self._most)
        return found

    def _make_room(self, most: int) -> None:
        with self._lock:
            while len(self._kept) > most:
                self._kept.popitem(last=False)
