"""What a rater says of an item, as JSON, checked against the project's rubric.

- ``rate``: ``scores`` (criterion to 1..5), ``regions`` on the image, ``spans`` of the text.
- ``compare``: ``choices`` (criterion to the index of a response, ``tie`` or ``both_bad``), and with three or more
  responses a ``ranking`` (groups of indices, the best first). Indices are the item's, whatever side was shown.
- ``correct``: ``text``, and ``spans`` of what was wrong in the model's.
- all: ``cannot_judge`` with a reason, ``confidence`` 1 to 3, ``comment``, ``opened`` (looked at in full size).

An answer is written down only once all that was asked for is there, or a reason why it cannot be judged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from core.errors import FeedbackError
from core.feedback.rubric import CANNOT_JUDGE, SCALE, Rubric
from core.feedback.screen import MOST_CORRECTED, screened

OVERALL = "overall"
"""The criterion by which an output is good or bad."""
GOOD, BAD = 4, 2
"""An overall score from which an output counts as good, and up to which as bad; between them it is neither."""
CONFIDENCE = (1, 2, 3)
REGIONS = {"box": ("x0", "y0", "x1", "y1"), "point": ("x", "y"), "brush": ("width",), "mask": ()}
"""Kinds of regions with their numbers, in pixels of the image. A brush has ``points`` on top: [x, y] each. A mask, as
imports have it, has the ``counts`` of its pixels (``core.feedback.masks.run_lengths``)."""
VERDICTS = ("tie", "both_bad")
MOST_REGIONS = 100
MOST_POINTS = 5000
MOST_RUNS = 200_000


@dataclass(frozen=True)
class Output:
    """A response as an answer is checked against it: its text, or the size of its image."""

    text: str | None = None
    width: int = 0
    height: int = 0


def checked(kind: str, rubric: Rubric, outputs: list[Output], answer: dict, *, complete: bool = True) -> dict:
    """The answer as it may be stored, in the one form that exports and statistics read.

    Args:
        complete: False for a draft, in which anything may be missing.

    Raises:
        FeedbackError: something is missing, unknown or outside of the image or text, or a text seems to identify a
            patient.
    """
    try:
        return _checked(kind, rubric, outputs, answer, complete)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise FeedbackError("The answer has a part of another kind", value=type(error).__name__) from error


def _checked(kind: str, rubric: Rubric, outputs: list[Output], answer: dict, complete: bool) -> dict:
    own = {"rate": _rating, "compare": _comparison, "correct": _correction}[kind]
    common = {"cannot_judge": None, "confidence": None, "comment": "", "opened": False}
    unknown = set(answer) - set(common) - {"scores", "regions", "spans", "choices", "ranking", "text"}
    if unknown:
        raise FeedbackError("The answer has an unknown part", value=sorted(unknown)[0])
    said = common | {name: answer[name] for name in common if answer.get(name) is not None}
    _one_of("reason", said["cannot_judge"], (None, *CANNOT_JUDGE))
    _one_of("confidence", said["confidence"], (None, *CONFIDENCE))
    said["comment"], said["opened"] = screened(str(said["comment"])), bool(said["opened"])
    said |= own(rubric, outputs, answer)
    if complete and said["cannot_judge"] is None:
        _need_all(kind, rubric, outputs, said)
    return said


def _rating(rubric: Rubric, outputs: list[Output], answer: dict) -> dict:
    given, names = answer.get("scores") or {}, [c.name for c in rubric.criteria]
    _known("criterion", given, names)
    scores = {name: given[name] for name in names if name in given}
    for score in scores.values():
        _one_of("score", score, SCALE)
    return {
        "scores": scores,
        "regions": _regions(rubric, outputs[0], answer.get("regions") or []),
        "spans": _spans(rubric, outputs[0], answer.get("spans") or []),
    }


def _comparison(rubric: Rubric, outputs: list[Output], answer: dict) -> dict:
    names, places = [c.name for c in rubric.criteria], list(range(len(outputs)))
    choices = answer.get("choices") or {}
    _known("criterion", choices, names)
    for choice in choices.values():
        _one_of("choice", choice, (*places, *VERDICTS))
    ranking = answer.get("ranking") or []
    ranked = [index for group in ranking for index in group]
    for index in ranked:
        _one_of("output in the ranking", index, tuple(places))
    if len(set(ranked)) < len(ranked) or not all(ranking):
        raise FeedbackError("A ranking holds every output once", value=ranking)
    return {"choices": {name: choices[name] for name in names if name in choices}, "ranking": ranking}


def _correction(rubric: Rubric, outputs: list[Output], answer: dict) -> dict:
    text = answer.get("text")
    if text is not None and not isinstance(text, str):
        raise FeedbackError("A correction is a text", value=text)
    of = outputs[0].text or ""
    return {
        "text": text if text is None or text == of else screened(text, most=MOST_CORRECTED, known=of),
        "spans": _spans(rubric, outputs[0], answer.get("spans") or []),
    }


def _need_all(kind: str, rubric: Rubric, outputs: list[Output], said: dict) -> None:
    if kind == "correct":
        if not (said["text"] or "").strip():
            raise FeedbackError("The text is empty", remedy="Accept it as it is, correct it, or say why you cannot")
        return
    given = said["scores"] if kind == "rate" else said["choices"]
    missing = [c.question for c in rubric.criteria if c.name not in given]
    if missing:
        raise FeedbackError("There is no answer yet", value=missing[0], remedy="Give one, or say why you cannot judge")
    if kind == "compare" and (len(outputs) > 2 or said["ranking"]):
        _need_ranking(said, len(outputs))
    if not said["opened"] and any(output.text is None for output in outputs):
        raise FeedbackError("The image was not opened in full size", remedy="Press F, look at it, and submit again")


def _need_ranking(said: dict, outputs: int) -> None:
    """It holds all outputs, and says the same as the overall choice."""
    if sum(map(len, said["ranking"])) < outputs:
        raise FeedbackError("The outputs are not all ranked yet", remedy="Rank them, or say why you cannot judge")
    choice, best = said["choices"].get(OVERALL), said["ranking"][0]
    if (choice == "tie" and len(best) < 2) or (choice not in (None, *VERDICTS) and choice not in best):
        raise FeedbackError("The ranking begins with another one than the best overall", remedy="Change one of the two")


def _regions(rubric: Rubric, output: Output, regions: list[dict]) -> list[dict]:
    if len(regions) > MOST_REGIONS:
        raise FeedbackError("Too many regions", value=len(regions), remedy=f"Mark at most {MOST_REGIONS}")
    return [_region(rubric, output, region) for region in regions]


def _region(rubric: Rubric, output: Output, region: dict) -> dict:
    _one_of("label", region.get("label"), rubric.defects)
    _one_of("kind of region", region.get("kind"), tuple(REGIONS))
    if region["kind"] == "mask":
        return {"label": region["label"], "kind": "mask", "counts": _counts(output, region.get("counts"))}
    numbers = {name: _number(region.get(name)) for name in REGIONS[region["kind"]]}
    points = [[_number(x), _number(y)] for x, y in region.get("points", ())]
    if len(points) > MOST_POINTS:
        remedy = f"Mark it with several strokes of at most {MOST_POINTS}"
        raise FeedbackError("A brush stroke has too many points", value=len(points), remedy=remedy)
    if region["kind"] == "brush" and not points:
        raise FeedbackError("A brush stroke has no points")
    xs = [value for name, value in numbers.items() if name.startswith("x")] + [x for x, _ in points]
    ys = [value for name, value in numbers.items() if name.startswith("y")] + [y for _, y in points]
    if not all(0 <= x <= output.width for x in xs) or not all(0 <= y <= output.height for y in ys):
        raise FeedbackError("A region lies outside of the image", value=numbers)
    if region["kind"] == "box" and not (numbers["x0"] < numbers["x1"] and numbers["y0"] < numbers["y1"]):
        raise FeedbackError("A box is empty", value=numbers)
    return {"label": region["label"], "kind": region["kind"], **numbers, **({"points": points} if points else {})}


def _counts(output: Output, counts: object) -> list[int]:
    if not isinstance(counts, list) or not all(type(count) is int and count >= 0 for count in counts):
        raise FeedbackError("A mask needs the lengths of its runs")
    if len(counts) > MOST_RUNS:
        raise FeedbackError("A mask has too many runs", value=len(counts), remedy=f"Use at most {MOST_RUNS}")
    if sum(counts) != output.width * output.height:
        size = f"{output.width} x {output.height}"
        raise FeedbackError("A mask is not of the image's size", value=f"{sum(counts)} pixels for {size}")
    if not sum(counts[1::2]):
        raise FeedbackError("A mask is empty")
    return counts


def _spans(rubric: Rubric, output: Output, spans: list[dict]) -> list[dict]:
    found = []
    for span in spans:
        start, end, text = span.get("start"), span.get("end"), output.text or ""
        if not (isinstance(start, int) and isinstance(end, int) and 0 <= start <= end <= len(text)):
            raise FeedbackError("A span lies outside of the text", value=(start, end))
        _one_of("error class", span.get("error"), rubric.errors)
        found.append({
            "start": start, "end": end, "error": span["error"], "significant": bool(span.get("significant")),
            "laterality": bool(span.get("laterality")), "measurement": bool(span.get("measurement")),
        })  # fmt: skip
    return sorted(found, key=lambda span: (span["start"], span["end"]))


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e6:
        raise FeedbackError("A region needs numbers", value=value)
    return value


def _one_of(what: str, value: object, known: tuple) -> None:
    if isinstance(value, bool) or value not in known:
        raise FeedbackError(f"Unknown {what}", value=value, remedy=f"Use one of {', '.join(map(str, known))}")


def _known(what: str, given: dict, known: list[str]) -> None:
    for name in given:
        _one_of(what, name, tuple(known))


# Disputes ------------------------------------------------------------------------------------------------------------


def disputed(kind: str, answers: list[dict], dispute_range: int) -> str | None:
    """Why several people's answers call for an adjudicator; None when they do not.

    They do where somebody can judge what another cannot, where scores of a criterion lie ``dispute_range`` apart, where
    choices name different winners, where only some have marked a significant error, or where corrections differ.
    """
    if len(answers) < 2:
        return None
    able = [answer for answer in answers if answer["cannot_judge"] is None]
    if 0 < len(able) < len(answers):
        return "some cannot judge it"
    rules: dict[str, Callable[[list[dict]], str | None]] = {
        "rate": lambda said: _scores_apart(said, dispute_range) or _errors_apart(said),
        "compare": _winners_apart,
        "correct": lambda said: _errors_apart(said) or _texts_apart(said),
    }
    return rules[kind](able) if able else None


def _scores_apart(answers: list[dict], dispute_range: int) -> str | None:
    for name in answers[0]["scores"]:
        scores = [answer["scores"][name] for answer in answers]
        if max(scores) - min(scores) >= dispute_range:
            return f"{name}: {min(scores)} to {max(scores)}"
    return None


def _winners_apart(answers: list[dict]) -> str | None:
    for name in answers[0]["choices"]:
        if len({answer["choices"][name] for answer in answers if isinstance(answer["choices"][name], int)}) > 1:
            return f"{name}: different winners"
    return None


def _errors_apart(answers: list[dict]) -> str | None:
    significant = {any(span["significant"] for span in answer["spans"]) for answer in answers}
    return "a significant error for some" if len(significant) > 1 else None


def _texts_apart(answers: list[dict]) -> str | None:
    return "different corrections" if len({answer["text"] for answer in answers}) > 1 else None
