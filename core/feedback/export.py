"""Files of a project's judgements, in any layout: JSONL, CSV, Parquet or JSON, or a dataset folder with pictures."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable
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
CARD = """---
license: other
tags: [medical, preference, unimed-studio]
---
# {name}

{rows} rows in the layout `{layout}`, from judgements of {raters} raters about {items} items. Outputs are AI-generated:
for research, not for diagnosis. Raters have names that tell nothing; of patients there are digests only.

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
        found, losses = list(judged(self._database, project_id)), Counter()
        if waiting := unjudged(self._database, project_id):
            losses["an item that nobody has judged"] = waiting
        try:
            if path.suffix:
                path.parent.mkdir(parents=True, exist_ok=True)
                _write(layout, found, losses, path)
            else:
                self._folder(layout, found, losses, path)
        except OSError as error:
            raise FeedbackError(f"The export cannot be written ({error.strerror})", value=str(path)) from error
        return losses

    def _folder(self, layout: str, found: list[Judged], losses: Losses, folder: Path) -> None:
        (folder / "images").mkdir(parents=True, exist_ok=True)
        rows = _write(layout, found, losses, folder / ("data.json" if layout == COCO else "data.jsonl"))
        for sha256 in sorted(_pictures(found)):
            self._blobs.read(sha256)  # whole, and the one it was
            target = folder / "images" / f"{sha256}.png"
            if not target.exists():
                self._blobs.copy(sha256, target)  # with what says that it is drawn
        card = CARD.format(
            name=found[0].project if found else "Nothing judged yet",
            rows=rows,
            layout=layout,
            raters=len({one.rater for one in found}),
            items=len({one.item for one in found}),
            losses=", ".join(f"{count} ({reason})" for reason, count in losses.items()) or "nothing",
        )
        (folder / "README.md").write_text(card, encoding="utf-8")


def _pictures(found: Iterable[Judged]) -> set[str]:
    outputs = [output for one in found for output in one.outputs]
    inputs = {s["sha256"] for output in outputs for s in output.inputs if s["type"] == "image"}
    return inputs | {output.sha256 for output in outputs if output.sha256}


def _write(layout: str, found: list[Judged], losses: Losses, path: Path) -> int:
    """Returns how many rows, or annotations, the file has."""
    kinds = {".json": _write_document} if layout == COCO else WRITERS
    if path.suffix not in kinds:
        raise FeedbackError("Unknown kind of file", value=path.name, remedy=f"Use one of {', '.join(kinds)}")
    rows = coco(found, losses) if layout == COCO else list(ROWS[layout](found, losses))
    kinds[path.suffix](rows, path)
    return len(rows["annotations"] if layout == COCO else rows)


def _write_document(document: dict, path: Path) -> None:
    path.write_text(json.dumps(document), encoding="utf-8")


def _write_lines(rows: list[dict], path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _write_table(rows: list[dict], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else [])
        writer.writeheader()
        for row in rows:
            writer.writerow({name: json.dumps(v) if isinstance(v, list | dict) else v for name, v in row.items()})


def _write_parquet(rows: list[dict], path: Path) -> None:
    """Nested settings differ from row to row, so that they are written as JSON."""
    flat = [{n: json.dumps(v) if isinstance(v, dict) or n == "guidance" else v for n, v in row.items()} for row in rows]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(flat), path)


WRITERS = {".jsonl": _write_lines, ".csv": _write_table, ".parquet": _write_parquet}
