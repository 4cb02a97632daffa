"""What every evaluation shares: running the model on records, and a row that stands beside its naive baselines."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image as PILImage

from core.data.records import Record, open_picture
from core.evaluation.features import FeatureNetwork, SmallClassifier
from core.evaluation.metrics import Interval, bootstrap
from core.inference.events import SegmentDone
from core.inference.generator import Generator
from core.inference.once import turn_of
from core.sequence import Image, Text
from core.tasks import TASKS

BATCH = 16
EXAMPLES = 12
"""Records of a task that the page shows: the first of the seeded order, not the best."""
Picture = PILImage.Image
Inputs = list[Image | Text]


@dataclass(frozen=True)
class Output:
    """What the model gave for one record; ``image`` is None where it only writes."""

    text: str = ""
    image: Picture | None = None


@dataclass(frozen=True)
class Panel:
    """A picture on the page; ``drawn`` says that the model made it."""

    title: str
    picture: Picture
    drawn: bool = False


@dataclass(frozen=True)
class Example:
    """One record on the page: its pictures, and lines such as ("answer", "CT")."""

    heading: str
    panels: tuple[Panel, ...]
    lines: tuple[tuple[str, str], ...] = ()


@dataclass
class Outcome:
    """What came out for one task. All but ``examples`` goes into ``metrics.json``."""

    rows: list[dict] = field(default_factory=list)
    controls: list[dict] = field(default_factory=list)
    groups: dict[str, dict[str, dict]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)


@dataclass
class Bench:
    """A model, the folder of the records, and the records that baselines learn from, by task.

    Fréchet distances are measured in ``features``, or in ``modality_network`` where it is None.
    """

    generator: Generator
    root: Path
    train: dict[str, list[Record]]
    pool: list[Record]
    """Real images of the evaluated split with captions and labels, not only the selected ones."""
    seed: int
    features: FeatureNetwork | None = None

    def inputs(self, record: Record) -> list[Picture]:
        return [open_picture(self.root, path, record.place) for path in record.input_img]

    def target(self, record: Record) -> Picture:
        """The last image that the record holds: what should have been drawn."""
        return open_picture(self.root, record.images[-1], record.place)

    def run(self, records: list[Record], pictures: list[list[Picture]] | None = None) -> list[Output]:
        """The model's outputs for records of one task, in order; ``pictures`` replace the records' own inputs.

        The seed of record i is the bench's seed + i.
        """
        outputs: list[Output] = []
        for start in range(0, len(records), BATCH):
            part = records[start : start + BATCH]
            turns = []
            for i, record in enumerate(part, start):
                given = self.inputs(record) if pictures is None else pictures[i]
                inputs: Inputs = [*map(Image, given), Text(record.instruction)]
                turns.append(turn_of(self.generator, TASKS[record.sub_task_type], inputs, self.seed + i))
            texts, images = [""] * len(part), [None] * len(part)
            for index, event in self.generator.batch(turns):
                if isinstance(event, SegmentDone) and isinstance(event.segment, Text):
                    texts[index] = event.segment.text.strip()
                elif isinstance(event, SegmentDone):
                    images[index] = event.segment.pixels
            outputs += map(Output, texts, images)
        return outputs

    @cached_property
    def modality_network(self) -> SmallClassifier | None:
        """Tells modalities apart, trained on real training images; None where they show fewer than two."""
        return self.classifier(self.train["text_to_image"], lambda record: record.modality)

    @cached_property
    def network(self) -> FeatureNetwork | None:
        """What Fréchet distances are measured in."""
        return self.features or self.modality_network

    def classifier(self, records: list[Record], label: Callable[[Record], str]) -> SmallClassifier | None:
        """A classifier of the records' last images; None where there are fewer than two labels."""
        labels = [label(record) for record in records]
        if len(set(labels)) < 2:
            return None
        return SmallClassifier().fit((self.target(record) for record in records), labels, self.seed)


def balanced(records: Sequence[Record], key: Callable[[Record], Hashable], limit: int, seed: int) -> list[Record]:
    """Up to ``limit`` records in a seeded order that takes one of each key in turn; each record at most once."""
    shuffled = sorted(records, key=lambda record: record.id)
    random.Random(seed).shuffle(shuffled)
    queues: dict[Hashable, list[Record]] = {}
    for record in shuffled:
        queues.setdefault(key(record), []).append(record)
    order = sorted(queues, key=str)
    longest = max(map(len, queues.values()), default=0)
    return [queues[k][i] for i in range(longest) for k in order if i < len(queues[k])][:limit]


def patients_of(records: Sequence[Record]) -> list[str]:
    return [record.patient for record in records]


def plain(interval: Interval) -> dict:
    """An interval as JSON; a number that is not finite is None."""
    numbers = {name: getattr(interval, name) for name in ("value", "low", "high")}
    return {name: round(float(number), 5) if math.isfinite(number) else None for name, number in numbers.items()}


def row(
    task: str, metric: str, model: Interval, baselines: dict[str, Interval], records: Sequence[Record],
    unit: str = "share", higher: bool = True,
) -> dict:  # fmt: skip
    """A line of the result: the model beside the best of its naive baselines on the same records.

    ``unit`` is "share" (of 1), "dB", "px" or "". ``wins`` compares the values; it is None without a baseline.
    """
    sign = 1 if higher else -1
    best = max(baselines, key=lambda name: sign * baselines[name].value, default=None)
    return {
        "task": task,
        "metric": metric,
        "unit": unit,
        "better": "higher" if higher else "lower",
        "model": plain(model),
        "baseline": {"name": best, **plain(baselines[best])} if best else None,
        "baselines": {name: plain(interval) for name, interval in baselines.items()},
        "wins": bool(sign * model.value > sign * baselines[best].value) if best else None,
        "n": len(records),
        "patients": len(set(patients_of(records))),
    }


def scored(
    task: str, metric: str, model: Sequence[float], baselines: dict[str, Sequence[float]],
    records: Sequence[Record], unit: str = "share", higher: bool = True, seed: int = 0,
) -> dict:  # fmt: skip
    """A row of means over records, with 95% intervals from a bootstrap over patients."""
    patients = patients_of(records)

    def mean(values: Sequence[float]) -> Interval:
        return bootstrap(np.asarray(values, dtype=float), patients, seed=seed)

    return row(task, metric, mean(model), {k: mean(v) for k, v in baselines.items()}, records, unit, higher)
