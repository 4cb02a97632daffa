"""A checkpoint on the records of a split, beside naive baselines: ``metrics.json`` and a page that shows it.

Here is the order of things; how a task is evaluated stands in ``tasks``, what it looks like in ``page``.
"""

from __future__ import annotations

import json
import sys
import time
from datetime import date
from pathlib import Path

from PIL import Image as PILImage
from PIL import ImageDraw

from core.data.records import SPLITS, Record, open_picture, read_records
from core.errors import RecordError, SettingsError
from core.evaluation.bench import BATCH, Bench, Example, Picture, balanced, patients_of
from core.evaluation.features import network_of
from core.evaluation.page import write_page
from core.evaluation.tasks import EVALUATORS
from core.inference.events import SegmentDone
from core.inference.generator import Generator
from core.inference.once import task_turn
from core.inference.provenance import NOTICE
from core.model.checkpoint import load
from core.tasks import TASKS

TRAIN_LIMIT = 1000
"""Training records of a task whose images the baselines see, and real images that a distance is measured to."""
NO_RECORD = "no record"


def evaluate(
    records: Path, model: str, out: Path, split: str = "test", limit: int = 200, seed: int = 0, features: str = "small"
) -> dict:
    """Evaluates a checkpoint and writes ``metrics.json``, ``index.html`` and ``images/`` into ``out``.

    Args:
        records: a file in the format of ``core.data.records``; its splits train and val serve the baselines.
        model: checkpoint folder or hub id.
        limit: records of a task, drawn with the seed.
        features: what Fréchet distances are measured in: "small", or the hub id of an image network.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        RecordError: a line or an image cannot be used; raised before anything is computed.
        SettingsError: an impossible setting, or a folder that cannot be written.
        CheckpointError: the model cannot be loaded.
    """
    _check(split, limit, seed, out)
    everything = read_records(records)
    chosen, train, pool = _select(everything, split, limit, seed)
    blind = {"vqa"}  # its baselines open no image
    needed = [r for task, part in chosen.items() for r in (*part, *(train[task] if part and task not in blind else ()))]
    _open_all(records.parent, [*needed, *pool, *train["text_to_image"]])
    generator = Generator(load(model))
    network = None if features == "small" else network_of(features)
    bench = Bench(generator, records.parent, train, pool, seed, network)
    settings = {
        "records": records.name, "split": split, "limit": limit, "seed": seed, "model": generator.checkpoint.name,
        **generator.checkpoint.computed_by(), "features": features,
    }  # fmt: skip
    result = {"date": date.today().isoformat(), "settings": settings, "notice": NOTICE}
    result |= {"summary": {}, "tasks": {}, "rows": [], "controls": [], "groups": {}}
    examples: dict[str, list[Example]] = {}
    for task, part in chosen.items():
        examples[task] = _evaluate_task(bench, task, part, result)
    judged = [r["wins"] for r in result["rows"] if r["wins"] is not None]
    result["summary"] = {"beaten": sum(judged), "of": len(judged)}
    text = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False)
    (out / "metrics.json").write_text(text + "\n", encoding="utf-8")
    write_page(result, examples, out)
    return result


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


def _select(
    everything: list[Record], split: str, limit: int, seed: int
) -> tuple[dict[str, list[Record]], dict[str, list[Record]], list[Record]]:
    """(records to evaluate by task, records for the baselines by task, real images of the split).

    Baselines never see the evaluated split. Captions are balanced over modalities, and what is learned from over
    modalities and labels.
    """
    tested, known = {}, {}
    for task in TASKS:
        mine = [record for record in everything if record.sub_task_type == task]
        here = [record for record in mine if record.split == split]
        there = [record for record in mine if record.split in ("train", "val") and record.split != split]
        modality = (lambda r: r.modality) if task == "text_to_image" else (lambda r: "")
        tested[task] = balanced(here, modality, limit, seed)
        there = _distinct(there) if task == "text_to_image" else there
        most = len(there) if task == "vqa" else TRAIN_LIMIT
        known[task] = balanced(there, lambda r: (r.modality, r.label), most, seed)
    real = _distinct([r for r in everything if r.split == split and r.sub_task_type == "text_to_image"])
    return tested, known, balanced(real, lambda r: (r.modality, r.label), TRAIN_LIMIT, seed)


def _distinct(records: list[Record]) -> list[Record]:
    """One record of each last image: captions of one picture add nothing to what pictures look like."""
    return list({record.images[-1:]: record for record in records}.values())


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


def contact_sheet(generator: Generator, captions: list[str], per_row: int = 8, seed: int = 0) -> Picture:
    """Draws every caption ``per_row`` times, a row each, with the caption and the mark above; image i has seed + i."""
    height, width = generator.config.image.size
    margin, label = 4, 14
    sheet = PILImage.new("RGB", (per_row * (width + margin), len(captions) * (height + label + margin)), "white")
    pen = ImageDraw.Draw(sheet)
    for i, caption in enumerate(captions):
        top = i * (height + label + margin)
        pen.text((2, top + 1), f"{caption}  (AI-generated)", fill="black")
        for start in range(0, per_row, BATCH):
            columns = range(start, min(start + BATCH, per_row))
            turns = [task_turn(generator, TASKS["text_to_image"], [], caption, seed + column) for column in columns]
            for index, event in generator.batch(turns):
                if isinstance(event, SegmentDone):
                    sheet.paste(event.segment.pixels, (columns[index] * (width + margin), top + label))
    return sheet
