"""Where a learner has its signals from: a snapshot in the database, or one that was written to a folder."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image as PILImage

from core.errors import FeedbackError
from core.feedback.snapshots import TEST, TRAIN
from core.feedback.studio import StudioStore
from core.sequence import Image

AGAIN = "Write it again with feedback snapshot"


@dataclass(frozen=True)
class Source:
    """
    Attributes:
        sha256: names the snapshot.
        signals: ``core.feedback.signals.Signal`` as JSON, each with its ``split``.
        judgements: how many judgements they rest on.
        picture: the RGB picture with a SHA-256.
    """

    sha256: str
    signals: list[dict]
    judgements: int
    picture: Callable[[str], PILImage.Image]

    def of(self, split: str) -> list[tuple[int, dict]]:
        """Signals of a split with their places in the snapshot."""
        return [(place, one) for place, one in enumerate(self.signals) if one["split"] == split]

    def counts(self) -> dict[str, int]:
        """Signals by kind and split."""
        found = Counter(f"{one['kind']}, {one['split']}" for one in self.signals)
        return {key: found[key] for key in sorted(found, key=lambda key: (key.endswith(TEST), key))}


def from_store(store: StudioStore, sha256: str) -> Source:
    """The snapshot whose SHA-256 begins so.

    Raises:
        FeedbackError: there is no such snapshot, it was emptied, or it has nothing to train on.
    """
    sha256 = store.snapshots.find(sha256).sha256
    signals = store.snapshots.read(sha256)
    judgements = {one for signal in signals for one in signal["judgements"]}
    return _checked(Source(sha256, signals, len(judgements), lambda of: store.blobs.read(of).convert("RGB")))


def from_folder(folder: Path) -> Source:
    """A folder that ``python -m core feedback snapshot`` has written.

    Raises:
        FeedbackError: it is none, damaged, or has nothing to train on.
    """
    try:
        about = json.loads((folder / "snapshot.json").read_text(encoding="utf-8"))
        content = (folder / "signals.jsonl").read_bytes()
        sha256, judgements, written = about["sha256"], about["judgements"], about["signals_sha256"]
        if hashlib.sha256(content).hexdigest() != written:
            raise FeedbackError("The signals are not those that were written", value=folder.name, remedy=AGAIN)
        signals = [json.loads(line) for line in content.decode("utf-8").splitlines()]
    except (OSError, ValueError, KeyError) as error:
        what = f"That is no folder of a snapshot ({type(error).__name__})"
        raise FeedbackError(what, value=folder.name, remedy=AGAIN) from error

    def picture(of: str) -> PILImage.Image:
        try:
            pixels = PILImage.open(folder / "pictures" / f"{of}.png").convert("RGB")
        except OSError as error:
            raise FeedbackError("A picture of the snapshot cannot be read", value=of[:12], remedy=AGAIN) from error
        if Image(pixels).sha256 != of:
            raise FeedbackError("A picture of the snapshot was changed", value=of[:12], remedy=AGAIN)
        return pixels

    return _checked(Source(sha256, signals, judgements, picture))


def _checked(source: Source) -> Source:
    if not source.of(TRAIN):
        raise FeedbackError("The snapshot has nothing to train on", remedy="Hold fewer patients out, or judge more")
    return source
