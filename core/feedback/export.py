"""Files of a project's judgements, in any layout: JSONL, CSV, Parquet or JSON, or a dataset folder with pictures."""

from __future__ import annotations

import csv
import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from pathlib import Path

import pyarrow
import pyarrow.parquet

from core.errors import FeedbackError
from core.feedback.blobs import Blobs
from core.feedback.database import Database
from core.feedback.judged import Judged, judged, unjudged
from core.feedback.layouts import ROWS, coco
from core.feedback.leaving import Losses
from core.feedback.people import Person

COCO = "coco"
LAYOUTS = (*ROWS, COCO)
BATCH = 10_000
CARD = """---
license: other
tags: [medical, preference, unimed-studio]
---
# {name}

{rows} rows in the layout `{layout}`, from judgements of {raters} raters about {items} items. Outputs are AI-generated:
for research, not for diagnosis. Raters and patients have names that tell nothing.

Left out: {losses}.
"""


def described(layout: str) -> str:
    """What a layout holds, in a sentence or two."""
    return " ".join((coco if layout == COCO else ROWS[layout]).__doc__.split())


class Exports:
    def __init__(self, database: Database, blobs: Blobs) -> None:
        self._database, self._blobs = database, blobs

    def write(self, by: Person, project_id: str, layout: str, path: Path) -> Losses:
        """Writes one file: ``.jsonl``, ``.csv`` or ``.parquet``, and ``.json`` for COCO; or, under a name without an
        ending, a dataset folder for the hub with its pictures and a card. Returns what the layout could not carry, by
        the reason.

        Raises:
            AccessError: only maintainers export.
            FeedbackError: the layout or the kind of file is unknown, or the file cannot be written.
        """
        by.need("maintainer")
        if layout not in LAYOUTS:
            raise FeedbackError("Unknown layout", value=layout, remedy=f"Use one of {', '.join(LAYOUTS)}")
        losses = Counter()
        if waiting := unjudged(self._database, project_id):
            losses["an item that nobody has judged"] = waiting
        try:
            if path.suffix:
                path.parent.mkdir(parents=True, exist_ok=True)
                _write(layout, judged(self._database, project_id), losses, path)
            else:
                self._folder(layout, project_id, losses, path)
        except OSError as error:
            raise FeedbackError(f"The export cannot be written ({error.strerror})", value=str(path)) from error
        return losses

    def _folder(self, layout: str, project_id: str, losses: Losses, folder: Path) -> None:
        (folder / "images").mkdir(parents=True, exist_ok=True)
        seen = _Seen()
        found = seen.passing(judged(self._database, project_id))
        rows = _write(layout, found, losses, folder / ("data.json" if layout == COCO else "data.jsonl"))
        for sha256 in sorted(seen.pictures):
            self._blobs.read(sha256)  # whole, and the one it was
            target = folder / "images" / f"{sha256}.png"
            if not target.exists():
                self._blobs.copy(sha256, target)  # with what says that it is drawn
        card = CARD.format(
            name=seen.project,
            rows=rows,
            layout=layout,
            raters=len(seen.raters),
            items=seen.items,
            losses=", ".join(f"{count} ({reason})" for reason, count in losses.items()) or "nothing",
        )
        (folder / "README.md").write_text(card, encoding="utf-8")


class _Seen:
    """What a card says of judgements, and their pictures, noted while they pass."""

    def __init__(self) -> None:
        self.project, self.items = "Nothing judged yet", 0
        self.raters: set[str] = set()
        self.pictures: set[str] = set()

    def passing(self, found: Iterable[Judged]) -> Iterator[Judged]:
        for _, of_item in groupby(found, key=lambda one: one.item):
            self.items += 1
            for place, one in enumerate(of_item):
                if place == 0:
                    self.project = one.project
                    self.pictures |= _pictures(one)
                self.raters.add(one.rater)
                yield one


def _pictures(one: Judged) -> set[str]:
    inputs = {s["sha256"] for output in one.outputs for s in output.inputs if s["type"] == "image"}
    return inputs | {output.sha256 for output in one.outputs if output.sha256}


def _write(layout: str, found: Iterable[Judged], losses: Losses, path: Path) -> int:
    """Returns how many rows, or annotations, the file has. They pass one by one, and none is kept; a file that could
    not be finished is not there."""
    kinds = {".json": _write_document} if layout == COCO else WRITERS
    if path.suffix not in kinds:
        raise FeedbackError("Unknown kind of file", value=path.name, remedy=f"Use one of {', '.join(kinds)}")
    rows = coco(found, losses) if layout == COCO else ROWS[layout](found, losses)
    part = path.with_name(f"{path.name}.part")
    try:
        count = kinds[path.suffix](rows, part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return count


def _write_document(document: dict, path: Path) -> int:
    with path.open("w", encoding="utf-8") as file:
        json.dump(document, file)
    return len(document["annotations"])


def _write_lines(rows: Iterable[dict], path: Path) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for count, row in enumerate(rows, start=1):  # noqa: B007  the last one is how many
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return count


def _write_table(rows: Iterable[dict], path: Path) -> int:
    count, writer = 0, None
    with path.open("w", encoding="utf-8", newline="") as file:
        for count, row in enumerate(rows, start=1):  # noqa: B007
            if writer is None:
                writer = csv.DictWriter(file, list(row))
                writer.writeheader()
            writer.writerow({name: json.dumps(v) if isinstance(v, list | dict) else v for name, v in row.items()})
        if writer is None:
            file.write("\r\n")
    return count


def _write_parquet(rows: Iterable[dict], path: Path) -> int:
    """Nested settings differ from row to row, so that they are written as JSON. Of which type a column is tell only all
    rows: they are kept aside as lines until then."""
    count, schema = 0, pyarrow.schema([])
    with tempfile.TemporaryFile("w+", encoding="utf-8") as aside:
        for batch in _batches(rows):
            flat = [
                {n: json.dumps(v) if isinstance(v, dict) or n == "guidance" else v for n, v in row.items()}
                for row in batch
            ]
            own = pyarrow.Table.from_pylist(flat).schema
            schema = pyarrow.unify_schemas([schema, own], promote_options="permissive")
            aside.writelines(json.dumps(row) + "\n" for row in flat)
            count += len(flat)
        aside.seek(0)
        with pyarrow.parquet.ParquetWriter(path, schema) as writer:
            for batch in _batches(aside):
                writer.write_table(pyarrow.Table.from_pylist([json.loads(line) for line in batch], schema))
    return count


def _batches(rows: Iterable) -> Iterator[list]:
    left = iter(rows)
    while batch := list(islice(left, BATCH)):
        yield batch


WRITERS = {".jsonl": _write_lines, ".csv": _write_table, ".parquet": _write_parquet}
