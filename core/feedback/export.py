"""Files of a project's judgements, in any layout: JSONL, CSV, Parquet or JSON, or a dataset folder with pictures."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow
import pyarrow.parquet

from core.errors import FeedbackError
from core.feedback.blobs import Blobs
from core.feedback.database import Database
from core.feedback.judged import Judged, judged
from core.feedback.layouts import ROWS, Losses, coco
from core.feedback.people import Person

LAYOUTS = (*ROWS, "coco")
CARD = """---
license: other
tags: [medical, preference, unimed-studio]
---
# {name}

{rows} rows in the layout `{layout}`, from judgements of {raters} raters about {items} items. Outputs are AI-generated:
for research, not for diagnosis. Raters have names that tell nothing; of patients there are digests only.

Left out: {losses}.
"""


class Exports:
    def __init__(self, database: Database, blobs: Blobs) -> None:
        self._database, self._blobs = database, blobs

    def write(self, by: Person, project_id: str, layout: str, path: Path) -> Losses:
        """Writes one file; its name says how: ``.jsonl``, ``.csv`` or ``.parquet``, and ``.json`` for COCO. Returns
        what the layout could not carry, by the reason.

        Raises:
            AccessError: only maintainers export.
            FeedbackError: the layout or the kind of file is unknown, or the file cannot be written.
        """
        by.need("maintainer")
        losses: Losses = Counter()
        found = judged(self._database, project_id)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if layout == "coco":
                path.write_text(json.dumps(coco(found, losses)), encoding="utf-8")
            elif layout in ROWS:
                _write(ROWS[layout](found, losses), path)
            else:
                raise FeedbackError("Unknown layout", value=layout, remedy=f"Use one of {', '.join(LAYOUTS)}")
        except OSError as error:
            raise FeedbackError(f"The export cannot be written ({error.strerror})", value=str(path)) from error
        return losses

    def folder(self, by: Person, project_id: str, layout: str, folder: Path) -> Losses:
        """A dataset folder for the hub: ``data.jsonl`` (COCO: ``data.json``), ``images/`` and a card."""
        losses = self.write(by, project_id, layout, folder / ("data.json" if layout == "coco" else "data.jsonl"))
        everything = list(judged(self._database, project_id))
        (folder / "images").mkdir(exist_ok=True)
        for sha256 in sorted(_pictures(everything)):
            self._blobs.read(sha256).save(folder / "images" / f"{sha256}.png")
        data = folder / "data.jsonl"
        card = CARD.format(
            name=everything[0].project if everything else "Nothing judged yet",
            rows=len(data.read_text(encoding="utf-8").splitlines()) if data.is_file() else "All",
            layout=layout,
            raters=len({one.rater for one in everything}),
            items=len({one.item for one in everything}),
            losses=", ".join(f"{count} ({reason})" for reason, count in losses.items()) or "nothing",
        )
        (folder / "README.md").write_text(card, encoding="utf-8")
        return losses


def _pictures(found: Iterable[Judged]) -> set[str]:
    outputs = [output for one in found for output in one.outputs]
    inputs = {s["sha256"] for output in outputs for s in output.inputs if s["type"] == "image"}
    return inputs | {output.sha256 for output in outputs if output.sha256}


def _write(rows: Iterator[dict], path: Path) -> None:
    kinds = {".jsonl": _write_lines, ".csv": _write_table, ".parquet": _write_parquet}
    if path.suffix not in kinds:
        raise FeedbackError("Unknown kind of file", value=path.name, remedy=f"Use one of {', '.join(kinds)}")
    kinds[path.suffix](rows, path)


def _write_lines(rows: Iterator[dict], path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _write_table(rows: Iterator[dict], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = None
        for row in rows:
            if writer is None:
                writer = csv.DictWriter(file, list(row))
                writer.writeheader()
            writer.writerow({name: json.dumps(v) if isinstance(v, list | dict) else v for name, v in row.items()})


def _write_parquet(rows: Iterator[dict], path: Path) -> None:
    """Nested settings differ from row to row, so that they are written as JSON."""
    flat = [{n: json.dumps(v) if isinstance(v, dict) or n == "guidance" else v for n, v in row.items()} for row in rows]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(flat), path)
