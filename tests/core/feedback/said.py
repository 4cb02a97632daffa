"""Judgements as exports and statistics read them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime

import numpy as np

from core.feedback.columns import Columns, is_right, said_again, value_of
from core.feedback.judged import Judged, Output
from core.feedback.rubric import RUBRICS

SCAN, DRAWN, OTHER = "a" * 64, "b" * 64, "c" * 64
COMMON = {"cannot_judge": None, "confidence": 2, "comment": "", "opened": True, "shown": [0]}


def text(words: str, name: str = "1") -> Output:
    inputs = [{"type": "image", "sha256": SCAN}, {"type": "text", "text": "Describe it."}]
    return Output(f"r{name}", "text", words, None, None, None, f"g{name}", "report", "Describe it.", inputs, {}, 1,
                  f"model-{name}", f"weights-{name}", "patient")  # fmt: skip


def image(sha256: str, name: str = "1") -> Output:
    inputs = [{"type": "image", "sha256": SCAN}]
    return Output(f"r{name}", "image", None, sha256, 40, 30, f"g{name}", "super_resolution", "", inputs, {"steps": 9},
                  int(name), f"model-{name}", f"weights-{name}", "patient")  # fmt: skip


def one(kind: str, answer: dict, *outputs: Output, item: str = "i", gold: dict | None = None, rater: str = "rater-1",
        purpose: str = "judge", occasion: int = 0) -> Judged:  # fmt: skip
    rubric = RUBRICS["text" if outputs[0].kind == "text" else "image"].to_json()
    return Judged(f"j-{item}-{rater}", "p", kind, rubric, item, 0, gold, rater, purpose, occasion, 1, COMMON | answer,
                  12.5, datetime(2026, 1, 1, tzinfo=UTC), outputs)  # fmt: skip


def rated(overall: int, output: Output, **more: object) -> Judged:
    answer = {"scores": {"overall": overall}, "regions": [], "spans": [], **more.pop("answer", {})}
    return one("rate", answer, output, **more)


def compared(choice: object, left: Output, right: Output, **more: object) -> Judged:
    return one("compare", {"choices": {"overall": choice}, "ranking": [], "shown": [1, 0]}, left, right, **more)


def columns_of(found: Iterable[Judged], criterion: str) -> Columns:
    """The columns that one would make of judgements without haste."""
    said = sorted(
        (one for one in found if one.purpose == "judge"), key=lambda one: (one.place, one.rater, one.occasion)
    )
    raters, items = sorted({one.rater for one in said}), list(dict.fromkeys(one.item for one in said))
    first = {(one.rater, one.item): one for one in said if not one.occasion}
    gold, repeats = defaultdict(list), defaultdict(list)
    for one in said:
        if one.gold is not None and not one.occasion:
            output = one.outputs[0]
            gold[one.rater].append(is_right(one.answer, one.gold, output.width and (output.width, output.height)))
        before = first.get((one.rater, one.item))
        if one.occasion and before:
            repeats[one.rater] += said_again(one.answer, before.answer, [c["name"] for c in one.rubric["criteria"]])
    values = [value_of(one.answer, criterion) for one in said]
    compares = bool(said) and said[0].kind == "compare"
    made = {one.item: [output.model for output in one.outputs] for one in said} if compares else {}
    models = sorted({model for of in made.values() for model in of})
    sides = np.full((len(items), max(map(len, made.values()), default=0)) if compares else (0, 0), -1)
    for item, of in made.items():
        sides[items.index(item), : len(of)] = [models.index(model) for model in of]
    known = ((rater, [one for one in of if one is not None]) for rater, of in gold.items())
    return Columns(
        raters,
        items,
        np.array([raters.index(one.rater) for one in said], int),
        np.array([items.index(one.item) for one in said], int),
        np.array([one.occasion for one in said], int),
        np.array([np.nan if value is None else value for value in values], float),
        np.array([one.active_seconds for one in said], float),
        np.array([one.answer["cannot_judge"] is not None for one in said], bool),
        {rater: sum(of) / len(of) for rater, of in known if of},
        {rater: sum(of) / len(of) for rater, of in repeats.items() if of},
        models,
        sides,
    )
