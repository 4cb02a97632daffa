"""Counts what cannot be taken along, in an export as in an import: nothing is dropped in silence."""

from __future__ import annotations

from collections import Counter

Losses = Counter[str]
"""What was left out, by the reason."""
TAINTED = "made by a version that rests on something withdrawn"
PARTS = {
    "cannot_judge": "why it could not be judged",
    "scores": "scores by criterion",
    "choices": "choices by criterion",
    "ranking": "a ranking",
    "text": "a corrected text",
    "regions": "regions of the image",
    "spans": "marked errors of the text",
    "confidence": "how sure the rater was",
    "comment": "a comment",
}
"""What an answer of ``core.feedback.answers`` may say, in words."""


def leave(answer: dict, losses: Losses, *names: str) -> None:
    """Counts those parts of an answer that say something."""
    for name in names:
        if answer.get(name):
            losses[PARTS[name]] += 1
