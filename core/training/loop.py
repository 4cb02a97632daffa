"""From a snapshot to a candidate: learn, evaluate, register, and have it compared blindly. Each step is done once: a
call that was cut off goes on where it was."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch

from core.errors import SettingsError, UniMedError
from core.evaluation.comparison import Comparison, compare
from core.evaluation.evaluate import evaluate
from core.feedback.people import Person
from core.feedback.studio import StudioStore
from core.feedback.unseen import unseen
from core.inference.generator import Generator
from core.lineage import Lineage, is_learned
from core.model.checkpoint import Checkpoint, load, pick_device
from core.model.fingerprint import learned_fingerprint
from core.training.learn import Learner, Progress
from core.training.recipe import LearnRecipe
from core.training.sources import Source

LIMIT = 50
"""Records of each task that both versions are evaluated on."""


@dataclasses.dataclass(frozen=True)
class Order:
    """What is to be made.

    Attributes:
        source: what is learned from.
        base: the version to begin with: checkpoint folder, hub id or version folder.
        out: the version folder; its name is the version's.
        compare: on how many requests that were not learned from both versions are compared; 0 compares nothing.
        records: file of records on which every task is evaluated with both versions, or None.
    """

    source: Source
    base: str
    recipe: LearnRecipe
    out: Path
    compare: int = 40
    records: Path | None = None


def make_version(store: StudioStore, by: Person, order: Order) -> tuple[str, Comparison | None]:
    """Makes a candidate. Returns its id, and the comparison where there is one.

    Raises:
        UniMedError: something cannot be used, or another run has the folder; ``progress.json`` says what.
    """
    by.need("maintainer")
    order.out.mkdir(parents=True, exist_ok=True)
    progress = Progress(order.out)
    try:
        if not is_learned(order.out):
            Learner(order.source, load_to_learn(order.base), order.recipe, order.out, order.out.name).run()
        lineage = Lineage.read(order.out)
        asked = json.loads(json.dumps(dataclasses.asdict(order.recipe)))
        if (lineage.snapshot, lineage.recipe) != (order.source.sha256, asked):
            remedy = "Give this one another name"
            raise SettingsError("There is another version of that name", value=lineage.name, remedy=remedy)
        if order.records is not None and "tasks" not in lineage.metrics:
            progress.tell("evaluating")
            _evaluate(order, lineage)
        comparison = None
        version_id = store.versions.register(by, Lineage.read(order.out), fingerprint_of(order.out))
        info = next(one for one in store.versions.all() if one.id == version_id)
        if order.compare and info.project_id is None:
            comparison = _compare(store, by, order, version_id, progress)
        progress.tell("done")
        return version_id, comparison
    except UniMedError as error:
        progress.tell("failed", message=str(error))
        raise


def load_to_learn(source: str) -> Checkpoint:
    """A version to train on: in float32 on a CPU, in bfloat16 on a GPU, where its adapter alone is in float32."""
    device, _ = pick_device()
    return load(source, device, torch.float32 if device.type == "cpu" else torch.bfloat16)


def fingerprint_of(folder: Path) -> str:
    """What outputs of a version folder carry."""
    return learned_fingerprint(Lineage.read(folder).base_fingerprint, folder)


def _compare(store: StudioStore, by: Person, order: Order, version_id: str, progress: Progress) -> Comparison:
    requests = unseen(store.database, order.source.signals, order.compare)
    progress.tell("comparing", 0, 2 * len(requests))
    new, old = Generator(load(str(order.out))), Generator(load(order.base))
    found = compare(store, by, new, old, requests, lambda done, of: progress.tell("comparing", done, of))
    if found.project_id is not None:
        store.versions.link(by, version_id, found.project_id)
    return found


def _evaluate(order: Order, lineage: Lineage) -> None:
    """Every task by both versions on the same records, into the version's metrics."""
    folder, results = order.out / "evaluation", {}
    for name, source in (("old", order.base), ("new", str(order.out))):
        done = folder / name / "metrics.json"
        found = json.loads(done.read_text(encoding="utf-8")) if done.is_file() else {}
        results[name] = found if found.get("complete") else evaluate(order.records, source, folder / name, limit=LIMIT)
    metrics = lineage.metrics | {"tasks": side_by_side(results["old"]["rows"], results["new"]["rows"])}
    dataclasses.replace(lineage, metrics=metrics).write(order.out)


def side_by_side(old: list[dict], new: list[dict]) -> list[dict]:
    """Rows of two evaluations on the same records. ``worse`` says that the new value lies on the wrong side of the old
    one's interval."""
    found = []
    for before, after in zip(old, new, strict=True):
        low, high, value = before["model"]["low"], before["model"]["high"], after["model"]["value"]
        known = None not in (low, high, value)
        worse = known and (value < low if before["better"] == "higher" else value > high)
        found.append({
            "task": before["task"], "metric": before["metric"], "better": before["better"],
            "old": before["model"]["value"], "new": value, "low": low, "high": high, "worse": worse,
        })  # fmt: skip
    return found
