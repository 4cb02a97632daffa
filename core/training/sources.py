"""Where a learner has its signals from: a snapshot in the database, or one that was written to a folder."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image as PILImage

from core.errors import FeedbackError
from core.feedback.snapshots import TEST, TRAIN
from core.feedback.studio import StudioStore


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
    """
    Raises:
        FeedbackError: there is no such snapshot, it was emptied, or it has nothing to train on.
    """
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
        lines = (folder / "signals.jsonl").read_text(encoding="utf-8").splitlines()
        signals = [json.loads(line) for line in lines]
        sha256, judgements = about["sha256"], about["judgements"]
    except (OSError, ValueError, KeyError) as error:
        what = f"That is no folder of a snapshot ({type(error).__name__})"
        raise FeedbackError(what, value=folder.name, remedy="Write it with feedback snapshot") from error

    def picture(of: str) -> PILImage.Image:
        try:
            return PILImage.open(folder / "pictures" / f"{of}.png").convert("RGB")
        except OSError as error:
            raise FeedbackError("A picture of the snapshot cannot be read", value=of[:12]) from error

    return _checked(Source(sha256, signals, judgements, picture))


def _checked(source: Source) -> Source:
    if not source.of(TRAIN):
        raise FeedbackError("The snapshot has nothing to train on", remedy="Hold fewer patients out, or judge more")
    return source
