"""What every evaluation shares: running the model on records, and a row that stands beside its naive baselines."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image as PILImage

from core.data.quality import Scorer
from core.data.records import Record, open_picture
from core.evaluation.alignment import LikelihoodScorer, same_weights
from core.evaluation.features import FeatureNetwork, SmallClassifier
from core.evaluation.metrics import Interval, bootstrap, bootstrap_statistic, frechet
from core.inference.events import SegmentDone
from core.inference.generator import Generator
from core.inference.once import turn_of
from core.sequence import Image, Text
from core.tasks import TASKS

BATCH = 16
EXAMPLES = 12
"""Records of a task that the page shows: the first of the seeded order, not the best."""
DRAWS, WIDE = 200, 256
"""Bootstrap draws of a distance, a tenth of them for features wider than ``WIDE``: its cost grows with their cube."""
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

    Fréchet distances are measured in ``features``, or in a classifier that is trained on the spot where it is None.
    ``judge`` tells how well a drawn picture fits its caption.
    """

    generator: Generator
    root: Path
    train: dict[str, list[Record]]
    pool: list[Record]
    """Real images of the evaluated split with captions and labels, not only the selected ones."""
    seed: int
    judge: Scorer
    features: FeatureNetwork | None = None
    _of_states: dict[str, SmallClassifier | None] = field(default_factory=dict)

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
        return self._classifier("modalities", self.train["text_to_image"], lambda record: record.modality)

    def state_network(self, modality: str) -> SmallClassifier | None:
        """Tells a modality's states (the records' labels) apart; None where training images show fewer than two."""
        if modality not in self._of_states:
            known = [r for r in self.train["text_to_image"] if r.modality == modality and r.label]
            self._of_states[modality] = self._classifier(f"the states of {modality}", known, lambda r: r.label)
        return self._of_states[modality]

    @cached_property
    def network(self) -> FeatureNetwork | None:
        """What Fréchet distances are measured in. With a single modality the classifier of its states serves, if any.
        """
        if network := self.features or self.modality_network:
            return network
        modalities = {record.modality for record in self.train["text_to_image"]}
        return self.state_network(modalities.pop()) if modalities else None

    @cached_property
    def judged_by(self) -> str:
        """The judge's name, without a folder's path, and whether it is the evaluated model itself."""
        judge = self.judge
        kind, _, source = judge.name.partition(":")
        name = f"{kind}:{Path(source).name}" if source and Path(source).is_dir() else judge.name
        own = isinstance(judge, LikelihoodScorer) and same_weights(judge.checkpoint, self.generator.checkpoint)
        return f"{name}, which is the evaluated model itself: it judges its own work" if own else name

    def _classifier(self, what: str, records: list[Record], label: Callable[[Record], str]) -> SmallClassifier | None:
        """A classifier of the records' last images; None where there are fewer than two labels."""
        labels = [label(record) for record in records]
        if len(set(labels)) < 2:
            return None
        return SmallClassifier(what).fit((self.target(record) for record in records), labels, self.seed)


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

    ``unit`` is "share" (of 1), "dB", "px", "nats" or "". ``wins`` compares the values; it is None without a baseline.
    ``difference`` (model minus best baseline) and ``undecided`` are None where the metric has no value of each record.
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
        "difference": None,
        "undecided": None,
        "n": len(records),
        "patients": len(set(patients_of(records))),
    }


def scored(
    task: str, metric: str, model: Sequence[float], baselines: dict[str, Sequence[float]],
    records: Sequence[Record], unit: str = "share", higher: bool = True, seed: int = 0,
) -> dict:  # fmt: skip
    """A row of means over records, with 95% intervals from a bootstrap over patients.

    It is undecided whether the model is better than the best baseline where the interval of their difference on the
    same records holds 0, or where there is one patient and hence no interval.
    """
    patients = patients_of(records)

    def mean(values: Sequence[float]) -> Interval:
        return bootstrap(np.asarray(values, dtype=float), patients, seed=seed)

    found = row(task, metric, mean(model), {k: mean(v) for k, v in baselines.items()}, records, unit, higher)
    if best := found["baseline"]:
        gain = mean(np.subtract(model, baselines[best["name"]]))
        undecided = bool(gain.low <= 0 <= gain.high) or len(set(patients)) == 1
        found |= {"difference": plain(gain), "undecided": undecided}
    return found


def distant(
    task: str, metric: str, network: FeatureNetwork, drawn: list[Picture], baselines: dict[str, list[Picture]],
    real: list[Picture], records: Sequence[Record], seed: int, groups: Sequence[Hashable] | None = None,
) -> dict:  # fmt: skip
    """A row of the Fréchet distance to one real image for each record, of which there are two or more.

    With ``groups``, one a record, it is the mean of the distances within each, weighted by its records: all records
    together would forgive an image that shows the state of another record.
    """
    reference = network.features(real)
    draws = DRAWS if reference.shape[1] <= WIDE else DRAWS // 10
    numbers: dict[Hashable, int] = {}
    group_of = np.array([numbers.setdefault(g, len(numbers)) for g in groups or [None] * len(records)])

    def distance(images: list[Picture]) -> Interval:
        given = network.features(images)

        def within_groups(rows: np.ndarray) -> float:
            parts = [rows[group_of[rows] == group] for group in np.unique(group_of[rows])]
            parts = [part for part in parts if len(part) > 1]  # a draw of patients may hold one record of a group
            distances = [frechet(given[part], reference[part]) for part in parts]
            return float(np.average(distances, weights=list(map(len, parts))))

        found = bootstrap_statistic(patients_of(records), within_groups, draws, seed)
        return replace(found, low=max(0.0, found.low))  # the interval is moved by a bias; no distance is negative

    naives = {name: distance(images) for name, images in baselines.items()}
    found = row(task, metric, distance(drawn), naives, records, unit="", higher=False)
    return found | {"network": network.name}


def by_group(keys: Sequence[str], columns: dict[str, Sequence[float]]) -> dict[str, dict]:
    """Means of the columns by group, the largest group first."""
    members: dict[str, list[int]] = {}
    for i, key in enumerate(keys):
        members.setdefault(key, []).append(i)
    return {
        key: {"n": len(m), **{name: round(float(np.mean([v[i] for i in m])), 5) for name, v in columns.items()}}
        for key, m in sorted(members.items(), key=lambda item: (-len(item[1]), item[0]))
    }
