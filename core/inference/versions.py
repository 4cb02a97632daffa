"""The model versions on offer: the checkpoints that were named at the start, and the learned ones of the registry."""

from __future__ import annotations

import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from core.errors import CheckpointError, PromptError, SettingsError, UniMedError
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
MOST_LEARNED = 2
"""Learned versions that stay in memory: enough for a comparison of two."""


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


class Offer:
    """Which versions there are now, and which one is the default.

    A learned version is offered as a candidate and while it is promoted, where the base that it was learned on was
    named at the start. It is loaded when it is first used. On a Space with ZeroGPU learned versions are loaded at the
    start, and what is registered or promoted later waits for the next one.

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
        self._shelf = _Shelf(MOST_LEARNED)
        self._learned: list[Version] = []
        self._promoted = ""
        self._asking, self._asked = Lock(), -ASK_SECONDS
        self._failed: dict[str, float] = {}
        self._told: set[str] = set()
        if self._zero:
            self._load_once()

    # What there is

    def versions(self) -> dict[str, Version]:
        """What is offered now, by name: the named checkpoints, then the learned versions, the newest first."""
        self._ask()
        return {**self.named, **{version.name: version for version in self._learned if not self._is_broken(version)}}

    @property
    def default(self) -> Version:
        """The version that answers where nobody has chosen one. It may have to be loaded yet: see ``get``."""
        return self.versions().get(self._promoted, self.base)

    @property
    def newest(self) -> Version | None:
        """The candidate that was made last."""
        found = self.versions()
        learned = [version for name, version in found.items() if name not in self.named and name != self._promoted]
        return learned[0] if learned else None

    def get(self, name: str = "") -> Version:
        """A version that is in memory: the one with this name, or else the default. Where the promoted one cannot be
        loaded, the first checkpoint goes on being the default.

        Raises:
            PromptError: no version of this name is offered.
            CheckpointError: it cannot be loaded.
        """
        if not name:
            return self._default_that_runs()
        found = self.versions()
        if name not in found:
            raise PromptError("There is no such model version", value=name, remedy=f"Use one of {list(found)}")
        _ = found[name].generator
        return found[name]

    def _default_that_runs(self) -> Version:
        chosen = self.default
        try:
            _ = chosen.generator
        except CheckpointError:
            return self.base
        return chosen

    # The registry

    def _ask(self) -> None:
        """Looks into the registry when that is due. Who comes meanwhile goes on with what was known."""
        if self._registry is None or not self._asking.acquire(blocking=False):
            return
        try:
            if time.monotonic() - self._asked >= ASK_SECONDS:
                self._learn(self._registry.all())
                self._told.discard("registry")
        except UniMedError as error:
            self._tell("registry", f"The registry of model versions cannot be read: {error}")
        finally:
            self._asked = float("inf") if self._zero else time.monotonic()
            self._asking.release()

    def _learn(self, found: list[VersionInfo]) -> None:
        learned, promoted = [], ""
        for info in found:
            if info.state == "retired" or info.name in self.named:
                promoted = info.name if info.state == "promoted" else promoted
                continue
            base = next((v for v in self.named.values() if v.fingerprint == info.lineage.base_fingerprint), None)
            if base is not None:
                learned.append(self._version(info, base))
                promoted = info.name if info.state == "promoted" else promoted
            elif info.state == "promoted":
                what = f"Version {info.name} is promoted, but its base {info.lineage.base} was not named at the start"
                self._tell(info.fingerprint, f"{what}; {self.base.name} serves")
        self._learned, self._promoted = learned, promoted

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

    def _load_once(self) -> None:
        """On ZeroGPU: the promoted version and the newest candidates, as many as stay in memory."""
        self._ask()
        first = sorted(self._learned, key=lambda version: version.name != self._promoted)  # stable: the newest first
        ready = []
        for version in first[:MOST_LEARNED]:
            try:
                ready.append((version, version.generator))
            except CheckpointError:
                continue
        self._learned = [version for version, _ in ready]

    def _generator(self, checkpoint: Checkpoint) -> Generator:
        return ZeroGenerator(checkpoint) if self._zero else Generator(checkpoint)

    def _take(self, version: Version, read: Callable[[], Generator]) -> Generator:
        try:
            generator = self._shelf.take(version.fingerprint, read)
        except Exception as error:  # whatever it was, somebody else must answer
            self._failed[version.fingerprint] = time.monotonic()
            reason = str(error) if isinstance(error, UniMedError) else type(error).__name__
            self._tell(version.fingerprint, f"Version {version.name} cannot be loaded: {reason}")
            what = "This model version cannot be loaded now"
            raise CheckpointError(what, value=version.name, remedy="Use another one") from None
        self._told.discard(version.fingerprint)
        return generator

    def _is_broken(self, version: Version) -> bool:
        return time.monotonic() - self._failed.get(version.fingerprint, -RETRY_SECONDS) < RETRY_SECONDS

    def _tell(self, key: str, sentence: str) -> None:
        """Once for as long as it is so."""
        if key not in self._told:
            self._told.add(key)
            print(sentence, file=sys.stderr, flush=True)


class _Shelf:
    """Generators of learned versions: the last used ones, and those that a request runs on."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[str, Generator] = OrderedDict()
        self._alive: WeakValueDictionary[str, Generator] = WeakValueDictionary()
        self._lock, self._loading = Lock(), Lock()

    def take(self, key: str, read: Callable[[], Generator]) -> Generator:
        """The one under a key; read, one at a time, where nobody has it."""
        if (found := self._find(key)) is None:
            with self._loading:
                if (found := self._find(key)) is None:
                    with self._lock:
                        self._make_room(self._most - 1)
                    found = read()
                    with self._lock:
                        self._kept[key] = self._alive[key] = found
        return found

    def _find(self, key: str) -> Generator | None:
        with self._lock:
            if (found := self._alive.get(key)) is not None:
                self._kept[key] = found
                self._kept.move_to_end(key)
                self._make_room(self._most)
            return found

    def _make_room(self, most: int) -> None:
        while len(self._kept) > most:
            self._kept.popitem(last=False)
