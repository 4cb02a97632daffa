"""A checkpoint on the records of a split, beside naive baselines: ``metrics.json`` and a page that shows it.

Here is the order of things; how a task is evaluated stands in ``tasks``, what it looks like in ``page``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

from core.config import NANO
from core.data.records import SPLITS, Record, open_picture, read_records
from core.errors import RecordError, SettingsError
from core.evaluation.alignment import scorer_of
from core.evaluation.bench import Bench, Example, balanced, patients_of
from core.evaluation.features import HubNetwork
from core.evaluation.page import write_page
from core.evaluation.tasks import EVALUATORS
from core.inference.generator import Generator
from core.model.checkpoint import load
from core.sequence import NOTICE
from core.tasks import TASKS

TRAIN_LIMIT = 1000
"""Training images that classifiers and mean images are made of, and real images of the evaluated split."""
OPENED = ("report", "segmentation", "virtual_staining", "cross_modal")
"""Tasks whose baselines open images of all their training records."""
FEW_PATIENTS = 10
NO_RECORD = "no record"


def evaluate(
    records: Path, model: str, out: Path, split: str = "test", limit: int = 200, seed: int = 0, features: str = "small",
    scorer: str = "likelihood",
) -> dict:  # fmt: skip
    """Evaluates a checkpoint and writes ``metrics.json``, ``index.html`` and ``images/`` into ``out``.

    ``metrics.json`` is written anew after every task, so that what is finished survives whatever happens later.

    Args:
        records: a file in the format of ``core.data.records``; its splits train and val serve the baselines.
        model: checkpoint folder or hub id.
        limit: records of a task, drawn with the seed.
        features: what Fréchet distances are measured in: "small", or a network for ``HubNetwork``.
        scorer: what judges how well a drawn image fits its caption, as in ``core.evaluation.alignment.scorer_of``;
            "likelihood" is the checkpoint that ships, whatever is evaluated.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        RecordError: a line or an image cannot be used, or the split has no record; raised before anything is computed.
        SettingsError: an impossible setting, or results that cannot be written.
        CheckpointError: the model, the network or the scorer cannot be loaded.
    """
    _check(split, limit, seed, out)
    everything = read_records(records)
    chosen, train, pool = _select(everything, split, limit, seed)
    if not any(chosen.values()):
        what = f"{records.name} has no record of a task in the split {split}"
        raise RecordError(what, value=str(records), remedy="Name another with --split")
    needed = [r for task, part in chosen.items() for r in (*part, *(train[task] if part and task in OPENED else ()))]
    _open_all(records.parent, [*needed, *pool, *train["text_to_image"]])
    generator = Generator(load(model))
    network = None if features == "small" else HubNetwork(features)
    judge = scorer_of(f"likelihood:{NANO}" if scorer == "likelihood" else scorer)
    bench = Bench(generator, records.parent, train, pool, seed, judge, network)
    settings = {
        "records": records.name, "split": split, "limit": limit, "seed": seed, "model": generator.checkpoint.name,
        **generator.checkpoint.computed_by(), "features": network.name if network else features,
        "scorer": bench.judged_by,
    }  # fmt: skip
    result = {"date": date.today().isoformat(), "settings": settings, "notice": NOTICE, "complete": False}
    result |= {"summary": {}, "tasks": {}, "rows": [], "controls": [], "groups": {}}
    examples: dict[str, list[Example]] = {}
    for task, part in chosen.items():
        examples[task] = _evaluate_task(bench, task, part, result)
        _write(result, out)
    result["complete"] = True
    with _writing(out):
        write_page(result, examples, out)
    _write(result, out)
    return result


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Turns a full or broken disk into one sentence."""
    try:
        yield
    except OSError as error:
        what, remedy = f"The results cannot be written ({error.strerror or error})", "Make room, or name another --out"
        raise SettingsError(what, value=str(out), remedy=remedy) from error


def _write(result: dict, out: Path) -> None:
    """Sums up what there is so far and replaces ``metrics.json``, whole or not at all."""
    judged = [row for row in result["rows"] if row["wins"] is not None]
    undecided = sum(row["undecided"] is True for row in judged)
    result["summary"] = {"beaten": sum(row["wins"] for row in judged), "of": len(judged), "undecided": undecided}
    text = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False)
    with _writing(out):
        part = out / "metrics.json.part"
        part.write_text(text + "\n", encoding="utf-8")
        part.replace(out / "metrics.json")


def _check(split: str, limit: int, seed: int, out: Path) -> None:
    if split not in SPLITS:
        raise SettingsError("Unknown split", value=split, remedy=f"Use one of {', '.join(SPLITS)}")
    if limit < 1:
        raise SettingsError("The limit must be at least 1", value=limit, remedy="200 is the default")
    if not 0 <= seed < 2**32 - limit:
        raise SettingsError("The seed must lie between 0 and 2^32", value=seed, remedy="0 is the default")
    try:
        (out / "images").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"The output folder cannot be made ({error.strerror})"
        raise SettingsError(what, value=str(out), remedy="Name another with --out") from error
    if not all(os.access(folder, os.W_OK) for folder in (out, out / "images")):
        raise SettingsError("The output folder is read-only", value=str(out), remedy="Name another with --out")


def _select(
    everything: list[Record], split: str, limit: int, seed: int
) -> tuple[dict[str, list[Record]], dict[str, list[Record]], list[Record]]:
    """(records to evaluate by task, records for the baselines by task, real images of the split).

    Baselines never see the evaluated split. Of captions there is one a picture, or real images would stand twice in a
    distribution; they are balanced over modalities, and training records over modalities and labels.
    """
    tested, known = {}, {}
    for task in TASKS:
        mine = [record for record in everything if record.sub_task_type == task]
        here = [record for record in mine if record.split == split]
        there = [record for record in mine if record.split in ("train", "val") and record.split != split]
        drawn = task == "text_to_image"
        here, there = (_distinct(part, seed) if drawn else part for part in (here, there))
        tested[task] = balanced(here, (lambda r: r.modality) if drawn else (lambda r: ""), limit, seed)
        known[task] = balanced(there, lambda r: (r.modality, r.label), TRAIN_LIMIT if drawn else len(there), seed)
        if drawn:
            pool = balanced(here, lambda r: (r.modality, r.label), TRAIN_LIMIT, seed)
    return tested, known, pool


def _distinct(records: list[Record], seed: int) -> list[Record]:
    """One record of each last image, chosen by the seed."""
    shuffled = balanced(records, lambda r: "", len(records), seed)
    return list({record.images[-1:]: record for record in shuffled}.values())


def _open_all(root: Path, records: list[Record]) -> None:
    """Opens every image that will be needed once, so that a broken one is found before hours of work."""
    opened: set[str] = set()
    for record in records:
        _check_parts(record)
        for path in record.images:
            if path not in opened:
                open_picture(root, path, record.place)
                opened.add(path)


def _check_parts(record: Record) -> None:
    """A record holds what its task is evaluated with; only a counterfactual may do without its last image."""
    task = TASKS[record.sub_task_type]
    lacks = {
        "an input image": task.images and not record.input_img,
        "an output image": task.outputs == ("image",) and not record.output_img,
        "an answer": task.outputs == ("text",) and not record.answer,
        "an instruction": not record.instruction,
    }
    if missing := [what for what, lacking in lacks.items() if lacking]:
        remedy = "Build or import the records again"
        raise RecordError(f"{record.place}: {task.name} lacks {missing[0]}", value=record.id, remedy=remedy)


def _evaluate_task(bench: Bench, task: str, records: list[Record], result: dict) -> list[Example]:
    """Puts what came out for a task into the result and returns its examples; one line on standard error."""
    notes = []
    if task in bench.generator.config.untrained_tasks:
        notes.append("the model was not trained for this task")
    patients = len(set(patients_of(records)))
    result["tasks"][task] = {"records": len(records), "patients": patients, "notes": notes}
    if not records:
        notes.append(NO_RECORD)
        print(f"{task}: {NO_RECORD}", file=sys.stderr, flush=True)
        return []
    if patients == 1:
        notes.append("one patient, so the intervals have no width")
    elif patients < FEW_PATIENTS:
        notes.append(f"{patients} patients are too few for a verdict")
    start = time.perf_counter()
    outcome = EVALUATORS[task](bench, records)
    notes += outcome.notes
    result["rows"] += outcome.rows
    result["controls"] += outcome.controls
    if outcome.groups:
        result["groups"][task] = outcome.groups
    line = f"{task}: {len(records)} records of {patients} patients in {time.perf_counter() - start:.0f} s"
    print(line, file=sys.stderr, flush=True)
    return outcome.examples
