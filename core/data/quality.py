"""Quality control of records in the paper's steps (arXiv 2510.15710, UniMed-5M): text, pictures, alignment, experts.

1. Texts that are too short or too long go.
2. Pictures that are too small go.
3. Of each task of each dataset the worst aligned share goes, by a ``Scorer`` (``core.evaluation.alignment``). Only
   pictures with a text about them are scored: an understanding record by its picture and all that is said, a
   generation record by its picture and caption. The text of an interleaved record is an instruction, which says
   nothing about how well its pictures match; these and text alone pass unscored.
4. Records that experts rated below the gate go.

The paper validates by seven dimensions with a gate of 0.85. Its names of the dimensions were not at hand when this was
written: ``DIMENSIONS`` is this project's own choice of what experts judge.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Protocol

from PIL import Image as PILImage

from core.data.records import Record, iterate, open_picture
from core.errors import RecordError, SettingsError

DIMENSIONS = (
    "factual_accuracy",
    "completeness",
    "clarity",
    "clinical_relevance",
    "image_text_consistency",
    "terminology",
    "safety",
)
"""What experts rate, each from 0 (unusable) to 1 (perfect)."""
SCORED_AT_ONCE = 32
ROUNDING = 1e-9
"""Of sums in floating point: seven times 0.85 is a mean of 0.85, not less."""

Ratings = dict[str, dict[str, list[float]]]
"""By record id and dimension, the scores of all raters."""


class Scorer(Protocol):
    """Tells how well texts fit their pictures."""

    name: str

    def scores(self, pairs: list[tuple[PILImage.Image, str]]) -> list[float]:
        """A number for each RGB picture with its text; higher is better, and only the order matters.

        A text is a caption, or a question, a line break and the answer.
        """
        ...


@dataclass(frozen=True)
class QualityRules:
    """The paper's limits.

    Attributes:
        min_text, max_text: characters of all message values of a record together.
        min_side: pixels, of both sides of every picture.
        alignment_drop: share of the worst aligned that goes; 0 switches the step off.
        ratings: a file of expert ratings, see ``read_ratings``; None switches the step off.
        rating_gate: the mean rating that a rated record needs.
    """

    min_text: int = 10
    max_text: int = 1024
    min_side: int = 128
    alignment_drop: float = 0.5
    ratings: Path | None = None
    rating_gate: float = 0.85

    def __post_init__(self) -> None:
        if not 0 <= self.min_text <= self.max_text:
            raise SettingsError("min_text must lie between 0 and max_text", value=self.min_text, remedy="Try 10")
        if not 0 <= self.alignment_drop < 1:
            raise SettingsError("alignment_drop must lie in [0, 1)", value=self.alignment_drop, remedy="Try 0.5")
        if not 0 <= self.rating_gate <= 1:
            raise SettingsError("rating_gate must lie in [0, 1]", value=self.rating_gate, remedy="Try 0.85")


@dataclass
class StepReport:
    """What one step did.

    Attributes:
        reasons: (FILE:LINE or id, why) of every record that was dropped.
        notes: what else a person should know, such as what was not looked at.
    """

    name: str
    kept: int
    reasons: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def dropped(self) -> int:
        return len(self.reasons)

    def lines(self) -> list[str]:
        """For a terminal: the totals, the notes, and every dropped record with its reason."""
        total = f"{self.name}: kept {self.kept}, dropped {self.dropped}"
        return [total, *(f"  {note}" for note in self.notes), *(f"  {place}: {why}" for place, why in self.reasons)]


def filter_records(
    records: list[Record], root: Path, rules: QualityRules, scorer: Scorer | None
) -> tuple[list[Record], list[StepReport]]:
    """The records that pass every step, in their order, and what each step did.

    Args:
        root: folder of the records file.
        scorer: None skips the alignment step, and its report says so.

    Raises:
        RecordError: a picture cannot be read, a rating is malformed, or a score is no number.
    """
    reports: list[StepReport] = []

    def apply(name: str, reason: Callable[[Record], str], notes: list[str]) -> None:
        nonlocal records
        reasons = [(record, reason(record)) for record in records]
        records = [record for record, why in reasons if not why]
        dropped = [(record.place or record.id, why) for record, why in reasons if why]
        reports.append(StepReport(name, len(records), dropped, notes))

    apply("text", lambda record: _text_fault(record, rules), [])
    sides: dict[str, int] = {}
    apply("image size", lambda record: _size_fault(record, root, rules, sides), [])
    worst, notes = _worst_aligned(records, root, rules, scorer)
    apply("alignment", lambda record: worst.get(record.id, ""), notes)
    faults, notes = _rating_faults(records, rules)
    apply("expert ratings", lambda record: faults.get(record.id, ""), notes)
    return records, reports


def _text_fault(record: Record, rules: QualityRules) -> str:
    length = sum(len(message.value) for message in record.message)
    if length < rules.min_text:
        return f"{length} characters, fewer than {rules.min_text}"
    return f"{length} characters, more than {rules.max_text}" if length > rules.max_text else ""


def _size_fault(record: Record, root: Path, rules: QualityRules, sides: dict[str, int]) -> str:
    """``sides`` keeps the shorter side of every picture that was opened before."""
    for path in record.images:
        if path not in sides:
            sides[path] = min(open_picture(root, path, record.place).size)
        if sides[path] < rules.min_side:
            return f"a side of {sides[path]} pixels, fewer than {rules.min_side}: {path}"
    return ""


def _pair(record: Record) -> tuple[str, str] | None:
    """Path and text that are scored against each other; None where no text describes a picture."""
    if record.main_task_type == "understanding" and record.input_img:
        return record.input_img[0], "\n".join(message.value for message in record.message)
    if record.main_task_type == "generation" and record.output_img:
        return record.output_img[-1], record.instruction
    return None


def _worst_aligned(
    records: list[Record], root: Path, rules: QualityRules, scorer: Scorer | None
) -> tuple[dict[str, str], list[str]]:
    """Why records go, by id, and notes. The number in each group is rounded down; ties go by id."""
    if scorer is None:
        return {}, ["the paper's alignment step was not run: no scorer was named"]
    if not rules.alignment_drop:
        return {}, ["switched off"]
    groups: dict[str, list[tuple[Record, str, str]]] = defaultdict(list)
    unscored: Counter[str] = Counter()
    for record in records:
        if pair := _pair(record):
            groups[f"{record.sub_task_type} of {record.dataset}"].append((record, *pair))
        else:
            unscored[record.main_task_type] += 1
    worst = {}
    for group, members in groups.items():
        ranked = sorted(_scored(members, root, scorer), key=lambda scored: (scored[1], scored[0].id))
        for rank, (record, score) in enumerate(ranked[: int(rules.alignment_drop * len(ranked) + ROUNDING)], 1):
            worst[record.id] = f"alignment {score:.4f} is number {rank} from below of {len(ranked)} {group}"
    notes = [f"scored by {scorer.name}"]
    notes += [f"{count} {kind} records are not scored and kept" for kind, count in sorted(unscored.items())]
    return worst, notes


def _scored(members: list[tuple[Record, str, str]], root: Path, scorer: Scorer) -> list[tuple[Record, float]]:
    """Records with their scores; only a few pictures are in memory at once."""
    out = []
    for start in range(0, len(members), SCORED_AT_ONCE):
        part = members[start : start + SCORED_AT_ONCE]
        scores = scorer.scores([(open_picture(root, path, record.place), text) for record, path, text in part])
        for (record, _, _), score in zip(part, scores, strict=True):
            if not math.isfinite(score):
                what = f"{record.place}: {scorer.name} gives no finite score"
                raise RecordError(what, value=score, remedy="Use another scorer, or switch alignment off")
            out.append((record, score))
    return out


def read_ratings(path: Path) -> Ratings:
    """Reads expert ratings: a JSONL file with one line a record, rater and dimension.

    ``{"record_id": "...", "rater": "...", "dimension": one of DIMENSIONS, "score": 0 to 1}``

    Raises:
        RecordError: the file cannot be opened, or a line is malformed or stands there twice.
    """
    ratings: Ratings = defaultdict(lambda: defaultdict(list))
    seen: dict[tuple[str, str, str], str] = {}
    for place, line in iterate(path):
        try:
            values = json.loads(line)
        except ValueError as error:
            raise RecordError(f"{place}: not valid JSON ({error})", remedy="Export the ratings again") from error
        if not isinstance(values, dict):
            raise RecordError(f"{place}: a rating must be a JSON object", remedy="Export the ratings again")
        for name in ("record_id", "rater", "dimension"):
            if not isinstance(values.get(name), str):
                raise RecordError(f"{place}: {name} must be a string", value=values.get(name))
        key, score = (values["record_id"], values["rater"], values["dimension"]), values.get("score")
        if key[2] not in DIMENSIONS:
            remedy = f"Use one of {', '.join(DIMENSIONS)}"
            raise RecordError(f"{place}: unknown dimension", value=key[2], remedy=remedy)
        if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
            raise RecordError(f"{place}: score must be a number from 0 to 1", value=score)
        if key in seen:
            what = f"{place}: the rater has rated this dimension of the record in {seen[key]} already"
            raise RecordError(what, value=key, remedy="Remove one of the two lines")
        seen[key] = place
        ratings[key[0]][key[2]].append(float(score))
    return ratings


def _rating_faults(records: list[Record], rules: QualityRules) -> tuple[dict[str, str], list[str]]:
    """Why rated records go, by id, and notes. Raters are averaged in each dimension, then the dimensions."""
    if rules.ratings is None:
        return {}, ["no ratings were named"]
    ratings, faults, means = read_ratings(rules.ratings), {}, []
    rated = [record.id for record in records if record.id in ratings]
    for name in rated:
        missing = [dimension for dimension in DIMENSIONS if dimension not in ratings[name]]
        if missing:
            faults[name] = f"incomplete ratings, {', '.join(missing)} missing"
            continue
        means.append(fmean(fmean(scores) for scores in ratings[name].values()))
        if means[-1] < rules.rating_gate - ROUNDING:
            faults[name] = f"mean rating {means[-1]:.3f}, below {rules.rating_gate}"
    notes = [f"{len(records) - len(rated)} unrated records are kept"]
    if means:
        notes.append(f"mean rating of {len(means)} completely rated records: {fmean(means):.3f}")
    if absent := len(ratings.keys() - set(rated)):
        notes.append(f"{absent} rated ids are not among the records that came this far")
    return faults, notes
