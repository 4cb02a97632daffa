"""What a model can learn from judgements: the one table of rules, for settled items (``core.feedback.settling``).

==========  ===================================  =====================================================================
asked       said                                 becomes
==========  ===================================  =====================================================================
correct     another text                         ``sft`` of it, and a ``pair``: it over the model's text
correct     accepted as it is                    ``sft`` of the model's text
compare     one output wins, for most raters     ``pair``: it over each other output (of a ranking: each over the later)
compare     tie, both bad, no majority           nothing, whatever the ranking
rate        mean overall score of ``GOOD`` on    ``sft`` and a good ``unpaired`` one
rate        mean overall score up to ``BAD``     a bad ``unpaired`` one, with the regions that were marked
rate        two outputs of one request lie       ``pair``: the best over each that is so much worse, with its regions
            ``MARGIN`` or more apart
==========  ===================================  =====================================================================

Nothing comes of outputs that are alike, and of the rubric for training data, whose outputs no model has made. Outputs
make a pair only where request and patient are the same; what was made of nothing, as imported pictures, has no like. A
picture is never rejected because its report was corrected. What was left out is counted by its reason.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import combinations
from statistics import fmean

from core.feedback.answers import BAD, GOOD, OVERALL
from core.feedback.judged import Output
from core.feedback.leaving import Losses
from core.feedback.settling import Settled

MARGIN = 1.0
"""Mean overall scores that lie so far apart make a pair."""
SFT, PAIR, UNPAIRED = "sft", "pair", "unpaired"


@dataclass(frozen=True)
class Signal:
    """Something to learn from.

    Attributes:
        kind: ``sft`` (imitate ``chosen``), ``pair`` (prefer ``chosen`` to ``rejected``), or ``unpaired`` (more like
            ``chosen``, or less like ``rejected``).
        inputs: segments of the request, as ``core.sequence`` writes them.
        chosen, rejected: ``{"type": "text", "text"}`` or ``{"type": "image", "sha256", "width", "height"}``.
        weight: the share of the raters who say so.
        regions: defects of the rejected picture, as in ``core.feedback.answers``.
        group: what must not be split between training and test: a patient, or else the request's pictures or words.
        judgements: what it rests on.
        edit: whether ``chosen`` is what a person made of ``rejected``.
    """

    kind: str
    task: str
    inputs: list[dict]
    chosen: dict | None
    rejected: dict | None
    weight: float
    regions: list[dict]
    group: str
    judgements: list[str]
    edit: bool = False

    def to_json(self) -> dict:
        return asdict(self)


def signals(items: Iterable[Settled], losses: Losses) -> Iterator[Signal]:
    """All signals of a project's settled items; see the table above."""
    requests: dict[str, list[tuple[float, Settled]]] = {}
    for item in items:
        if item.item.kind == "correct":
            yield from _corrected(item, losses)
        elif item.item.kind == "compare":
            yield from _compared(item, losses)
        elif (score := _overall(item)) is None:
            losses["no overall score"] += 1
        else:
            yield from _rated(item, score, losses)
            if item.item.outputs[0].inputs:
                requests.setdefault(request(item.item.outputs[0]), []).append((score, item))
    for of_request in requests.values():
        yield from _apart(of_request)


def _corrected(item: Settled, losses: Losses) -> Iterator[Signal]:
    output, text = item.item.outputs[0], item.said[0].answer["text"]
    chosen = {"type": "text", "text": text}
    yield _signal(SFT, item, output, chosen)
    if text != output.text:
        yield _signal(PAIR, item, output, chosen, segment(output), edit=True)


def _compared(item: Settled, losses: Losses) -> Iterator[Signal]:
    outputs = item.item.outputs
    if len({request(output) for output in outputs}) > 1:
        losses["outputs of different requests or patients"] += 1
        return
    any_pair = False
    for first, second in combinations(range(len(outputs)), 2):
        votes = Counter(winner(one.answer, first, second) for one in item.said)
        best, most = votes.most_common(1)[0]
        if best is None or 2 * most <= len(item.said):
            continue
        better, worse = outputs[best], outputs[first + second - best]
        if segment(better) == segment(worse):
            continue
        any_pair = True
        yield _signal(PAIR, item, better, segment(better), segment(worse), most / len(item.said))
    if not any_pair:
        losses["tie, both bad, no majority, or alike"] += 1


def winner(answer: dict, first: int, second: int) -> int | None:
    """Which of two outputs an answer puts before the other; None for neither."""
    if answer["choices"].get(OVERALL) == "both_bad":
        return None
    rank = {index: place for place, group in enumerate(answer["ranking"]) for index in group}
    if rank:
        return None if rank[first] == rank[second] else min(first, second, key=rank.get)
    choice = answer["choices"].get(OVERALL)
    return choice if choice in (first, second) and not isinstance(choice, str) else None


def _rated(item: Settled, score: float, losses: Losses) -> Iterator[Signal]:
    output = item.item.outputs[0]
    if score >= GOOD:
        yield _signal(SFT, item, output, segment(output))
        yield _signal(UNPAIRED, item, output, segment(output))
    elif score <= BAD:
        yield _signal(UNPAIRED, item, output, None, segment(output), regions=_regions(item))
    else:
        losses["neither good nor bad"] += 1


def _apart(rated: list[tuple[float, Settled]]) -> Iterator[Signal]:
    """The best of the outputs of one request, over each that is much worse."""
    best, better = max(rated, key=lambda one: (one[0], one[1].item.outputs[0].id))
    output = better.item.outputs[0]
    for score, worse in rated:
        rejected = worse.item.outputs[0]
        if best - score < MARGIN or segment(output) == segment(rejected):
            continue
        said = Settled(better.item, better.said + worse.said)
        yield _signal(PAIR, said, output, segment(output), segment(rejected), regions=_regions(worse))


def _overall(item: Settled) -> float | None:
    scores = [one.answer["scores"].get(OVERALL) for one in item.said]
    return None if None in scores else fmean(scores)


def _regions(item: Settled) -> list[dict]:
    return [region for one in item.said for region in one.answer["regions"]]


def segment(output: Output) -> dict:
    """What was put out, as a side of a signal."""
    if output.kind == "text":
        return {"type": "text", "text": output.text}
    return {"type": "image", "sha256": output.sha256, "width": output.width, "height": output.height}


def request(output: Output) -> str:
    """What outputs must have in common to be compared."""
    return json.dumps([output.task, output.inputs, output.patient], sort_keys=True)


def group_of(patient: str | None, inputs: list[dict]) -> str:
    """What must stay on one side of a split."""
    pictures = sorted(segment["sha256"] for segment in inputs if segment["type"] == "image")
    words = [segment["text"] for segment in inputs if segment["type"] == "text"]
    return patient or hashlib.sha256(json.dumps(pictures or words).encode()).hexdigest()


def _signal(
    kind: str, item: Settled, output: Output, chosen: dict | None, rejected: dict | None = None, weight: float = 1.0,
    regions: list[dict] | None = None, edit: bool = False,
) -> Signal:  # fmt: skip
    return Signal(
        kind, output.task, output.inputs, chosen, rejected, weight, regions or [],
        group_of(output.patient, output.inputs), sorted(one.id for one in item.said), edit,
    )  # fmt: skip
