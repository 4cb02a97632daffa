"""Judgements as exports and statistics read them."""

from __future__ import annotations

from datetime import UTC, datetime

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
