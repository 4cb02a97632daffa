"""From a snapshot to a candidate: learn, evaluate, register, and have it compared blindly. Each step is done once: a
call that was cut off goes on where it was."""

from __future__ import annotations

import dataclasses
import gc
import json
import tempfile
from pathlib import Path

import torch

from core.config import COMPARE
from core.errors import SettingsError, UniMedError
from core.evaluation.comparison import Comparison, answers, compare
from core.evaluation.evaluate import evaluate
from core.feedback.people import Person
from core.feedback.studio import StudioStore
from core.feedback.unseen import unseen
from core.feedback.versions import comparison_name
from core.inference.generator import Generator
from core.lineage import Lineage, is_learned
from core.model.checkpoint import Checkpoint, load, pick_device
from core.model.fingerprint import fingerprint, learned_fingerprint
from core.model.hub import resolve
from core.training.learn import Learner
from core.training.monitor import Progress
from core.training.recipe import LearnRecipe
from core.training.sources import Source
from core.training.state import RunStates

CARD = """---
license: other
tags: [medical, lora, unimed-studio]
---

# {name}

Made of {parent} by learning from {judgements} judgements (snapshot `{snapshot}`), on {created_at}: an adapter over
{base}. **For research and demonstration only. Never for diagnosis, treatment or any decision about a patient.**

Signals: {signals}.

| held-out pairs | |
| --- | --- |
{held_out}
"""
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
    compare: int = COMPARE
    records: Path | None = None


def make_version(
    order: Order, store: StudioStore | None = None, by: Person | None = None
) -> tuple[str | None, Comparison | None]:
    """Makes a candidate. Returns its id, and the comparison where one was made. Without a store, as on a machine that
    only learns, it ends with the version folder, and there is neither.

    Raises:
        UniMedError: something cannot be used, which ``progress.json`` says too; or another run has the folder.
    """
    if store is not None:
        by.need("maintainer")
    order.out.mkdir(parents=True, exist_ok=True)
    progress = Progress(order.out)
    with RunStates(order.out).locked():
        _need_same(order)
        try:
            lineage = _learn(order, progress)
            made = (None, None) if store is None else _register(store, by, order, lineage, progress)
        except UniMedError as error:
            progress.tell("failed", message=str(error))
            raise
        progress.tell("done")
        return made


def _learn(order: Order, progress: Progress) -> Lineage:
    """The version folder, with its card."""
    if not is_learned(order.out):
        Learner(order.source, load_to_learn(order.base), order.recipe, order.out, order.out.name).run()
        _free()
    lineage = Lineage.read(order.out)
    if order.records is not None and "tasks" not in lineage.metrics:
        progress.tell("evaluating")
        lineage = _evaluate(order, lineage)
    (order.out / "README.md").write_text(card(lineage), encoding="utf-8")
    return lineage


def _need_same(order: Order) -> None:
    """What has the folder already is what is asked for. If it is not, it stays as it is, with what it says of itself.

    Raises:
        SettingsError: it is another version.
    """
    if not is_learned(order.out):
        return
    lineage, asked = Lineage.read(order.out), json.loads(json.dumps(dataclasses.asdict(order.recipe)))
    made_of = lineage.snapshot, lineage.recipe, lineage.parent_fingerprint
    if made_of != (order.source.sha256, asked, fingerprint_of(resolve(order.base))):
        remedy = "Give this one another name, with --name"
        raise SettingsError("There is another version of that name", value=lineage.name, remedy=remedy)


def _register(
    store: StudioStore, by: Person, order: Order, lineage: Lineage, progress: Progress
) -> tuple[str, Comparison | None]:
    version_id = store.versions.register(by, lineage, fingerprint_of(order.out))
    info = next(one for one in store.versions.all() if one.id == version_id)
    if not order.compare or info.project_id is not None:
        return version_id, None
    return version_id, _compare(store, by, order, version_id, progress)


def load_to_learn(source: str) -> Checkpoint:
    """A version to train on: in bfloat16 on a GPU, where its adapter alone is in float32. On a CPU, and where it was
    learned itself, in float32: rounded weights would lose what it learned."""
    device, _ = pick_device()
    wide = device.type == "cpu" or is_learned(resolve(source))
    return load(source, device, torch.float32 if wide else torch.bfloat16)


def fingerprint_of(folder: Path) -> str:
    """What outputs carry of the version in a checkpoint folder or version folder."""
    if not is_learned(folder):
        return fingerprint(folder)
    return learned_fingerprint(Lineage.read(folder).base_fingerprint, folder)


def _compare(store: StudioStore, by: Person, order: Order, version_id: str, progress: Progress) -> Comparison:
    """One version after the other: the full-size model is in memory once."""
    requests = unseen(store.database, order.source.signals, order.compare)
    sides = []
    for number, source in enumerate((order.base, str(order.out))):
        generator = Generator(load(source))
        before = number * len(requests)
        tell = lambda done, before=before: progress.tell("comparing", before + done, 2 * len(requests))  # noqa: E731
        tell(0)
        sides.append(answers(store, by, generator, requests, tell))
        del generator
        _free()
    found = compare(store, by, comparison_name(version_id), sides[1], sides[0])
    if found.project_id is not None:
        store.versions.link(by, version_id, found.project_id)
    return found


def _free() -> None:
    """Gives the memory of a model back that nobody needs any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _evaluate(order: Order, lineage: Lineage) -> Lineage:
    """Every task by both versions on the same records, into the version's metrics. Pictures of the records are not
    kept."""
    rows = []
    for name, source in (("old", order.base), ("new", str(order.out))):
        kept = order.out / "evaluation" / f"{name}.json"
        if not kept.is_file():
            kept.parent.mkdir(exist_ok=True)
            with tempfile.TemporaryDirectory() as folder:
                found = evaluate(order.records, source, Path(folder), limit=LIMIT)
            _free()
            part = kept.with_suffix(".part")
            part.write_text(json.dumps(found["rows"]), encoding="utf-8")
            part.replace(kept)
        rows.append(json.loads(kept.read_text(encoding="utf-8")))
    lineage = dataclasses.replace(lineage, metrics=lineage.metrics | {"tasks": side_by_side(*rows)})
    lineage.write(order.out)
    return lineage


def side_by_side(old: list[dict], new: list[dict]) -> list[dict]:
    """Rows of two evaluations on the same records. ``worse`` says that the new value lies on the wrong side of the old
    one's interval, where that has a width."""
    found = []
    for before, after in zip(old, new, strict=True):
        low, high, value = before["model"]["low"], before["model"]["high"], after["model"]["value"]
        known = None not in (low, high, value) and low < high  # of one patient the noise is unknown
        worse = known and (value < low if before["better"] == "higher" else value > high)
        found.append({
            "task": before["task"], "metric": before["metric"], "better": before["better"],
            "old": before["model"]["value"], "new": value, "low": low, "high": high, "worse": worse,
        })  # fmt: skip
    return found


def card(about: Lineage) -> str:
    """The model card of a version."""
    held_out = "\n".join(f"| {key.replace('_', ' ')} | {value:g} |" for key, value in about.metrics["held_out"].items())
    signals = ", ".join(f"{count} {kind}" for kind, count in about.signals.items())
    return CARD.format(**about.to_json() | {"signals": signals, "held_out": held_out or "| none | |"})
