"""``records import``: public data sets, in the layouts in which they are published, as records.

A split is kept as published. Where none is, or where it is to be drawn anew, 80% of the patients are train, 10% val and
10% test, by a hash. The patient is the true one where the layout tells, else the picture. Neither a file name nor an
identifier of the source is written: both leave as digests. A picture or entry that cannot be used is skipped and
counted with its reason.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from core.data.layouts.base import Desk, Layout
from core.data.layouts.pairs import PAIRS
from core.data.layouts.questions import QUESTIONS
from core.data.layouts.reports import REPORTS
from core.data.layouts.volumes import VOLUMES
from core.data.records import PictureStore, Record, write_records
from core.errors import RecordError

__all__ = ["LAYOUTS", "Layout", "import_dataset"]

LAYOUTS: dict[str, Layout] = QUESTIONS | PAIRS | VOLUMES | REPORTS


def import_dataset(
    name: str, folder: Path, out: Path, *, max_side: int = 512, seed: int = 0, coarse_side: int = 16,
    resplit: bool = False,
) -> Counter[str]:  # fmt: skip
    """Writes the records of a set to ``out`` and its pictures beside it. The same call gives the same file.

    Args:
        name: a name in ``LAYOUTS``.
        folder: as ``LAYOUTS[name].expects`` says.
        max_side: pictures are reduced until no side has more pixels.
        seed: for wordings and for the choice of pairs.
        coarse_side: longest side, in pixels, of what a super-resolution input was reduced to.
        resplit: draw the split by a hash of the patient in place of the published one, which may divide patients.

    Returns:
        The number of records by split and task ("train vqa"), of what was left out ("skipped: image missing"), and
        of patients whom the published split does not keep apart ("patients in more than one split").

    Raises:
        RecordError: the set is unknown, the folder is not laid out like it, nothing in it can be used, or the records
            cannot be written.
        ImageError: the pictures cannot be written.
    """
    name = name.lower().replace("-", "_")
    if name not in LAYOUTS:
        raise RecordError("Unknown data set", value=name, remedy=f"Use one of {', '.join(LAYOUTS)}")
    layout = LAYOUTS[name]
    missing = [pattern for pattern in layout.needs if not any(folder.glob(pattern))]
    if missing:
        what = f"The folder is not laid out like {name}: {', '.join(missing)} is missing"
        raise RecordError(what, value=str(folder), remedy=f"It should hold {layout.expects}")
    desk = Desk(name, layout, PictureStore(out, max_side), seed, coarse_side, resplit=resplit)
    counts: Counter[str] = Counter()
    records = _counted(layout.read(folder, desk), desk, counts)
    first = next(records, None)
    if first is None:
        reasons = ", ".join(f"{reason}: {number}" for reason, number in sorted((+desk.skipped).items()))
        what = f"Nothing in the folder can be used as {name} ({reasons or 'it is empty'})"
        raise RecordError(what, value=str(folder), remedy=f"It should hold {layout.expects}")
    write_records(out, chain([first], records))
    return counts + Counter({f"skipped: {reason}": number for reason, number in desk.skipped.items()})


def _counted(records: Iterator[Record], desk: Desk, counts: Counter[str]) -> Iterator[Record]:
    """Passes on every record once, and counts."""
    known, splits = set(), defaultdict(set)
    for record in records:
        if record.id in known:
            desk.skip("duplicate")
            continue
        known.add(record.id)
        splits[record.patient].add(record.split)
        counts[f"{record.split} {record.sub_task_type}"] += 1
        yield record
    counts["patients in more than one split"] = sum(len(where) > 1 for where in splits.values())
