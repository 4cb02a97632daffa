"""The rules by which judgements become something to learn from, one by one."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from core.errors import FeedbackError
from core.feedback.answers import checked
from core.feedback.judged import Judged, Output
from core.feedback.outputs import UNKNOWN
from core.feedback.rubric import RUBRICS
from core.feedback.settling import settled
from core.feedback.signals import Signal, signals

RUBRIC = RUBRICS["text"]
BOX = {"label": "blur", "kind": "box", "x0": 1, "y0": 1, "x1": 5, "y1": 5}
LAYOUT = {
    "text": (RUBRIC, lambda name: {"kind": "text", "text": name, "sha256": None, "width": None, "height": None}),
    "image": (
        RUBRICS["image"],
        lambda name: {"kind": "image", "text": None, "sha256": name * 64, "width": 24, "height": 24},
    ),
}


def output(name: str, kind: str = "text", request: str = "Report it.", patient: str | None = None) -> Output:
    inputs = [{"type": "image", "sha256": "0" * 64}, {"type": "text", "text": request}]
    return Output(
        id=f"response {name}", generation_id=f"generation {name}", task="report", prompt=request, inputs=inputs,
        settings={}, seed=0, model="m", fingerprint="f", patient=patient, **LAYOUT[kind][1](name),
    )  # fmt: skip


def judged(
    item: str, outputs: list[Output], rater: str = "a", kind: str = "rate", purpose: str = "judge", occasion: int = 0,
    gold: dict | None = None, **answer: object,
) -> Judged:  # fmt: skip
    rubric = LAYOUT[outputs[0].kind][0]
    sizes = [
        type("Size", (), {"text": o.text, "width": o.width or UNKNOWN, "height": o.height or UNKNOWN}) for o in outputs
    ]
    said = checked(kind, rubric, sizes, {"opened": True} | answer, complete="cannot_judge" not in answer)
    return Judged(
        id=f"{item}/{rater}/{purpose}", project="p", kind=kind, rubric=rubric.to_json(), item=item, place=0, gold=gold,
        rater=rater, purpose=purpose, occasion=occasion, version=1, answer=said, active_seconds=1.0,
        created_at=datetime.now(UTC), outputs=tuple(outputs),
    )  # fmt: skip


def scores(overall: int, kind: str = "text") -> dict:
    return {criterion.name: overall for criterion in LAYOUT[kind][0].criteria}


def learned(*found: Judged, overlap: int = 1, mistrusted: tuple[str, ...] = ()) -> tuple[list[Signal], Counter[str]]:
    losses: Counter[str] = Counter()
    items = settled([replace(one, needed=overlap) for one in found], losses, mistrusted)
    return list(signals(items, losses)), losses


def told(found: list[Signal]) -> list[tuple[str, str | None, str | None]]:
    """Kind, chosen and rejected, by the letters that the outputs are made of."""

    def name(segment: dict | None) -> str | None:
        return segment and (segment.get("text") or segment["sha256"][0])

    return [(one.kind, name(one.chosen), name(one.rejected)) for one in found]


def test_a_correction_is_imitated_and_preferred_and_an_accepted_text_imitated() -> None:
    found, losses = learned(
        judged("1", [output("x")], kind="correct", text="y"), judged("2", [output("z")], kind="correct", text="z")
    )
    assert told(found) == [("sft", "y", None), ("pair", "y", "x"), ("sft", "z", None)] and not losses
    assert found[0].judgements == ["1/a/judge"] and found[0].inputs[0]["type"] == "image"


def test_a_comparison_is_a_pair_for_the_majority() -> None:
    both = [output("x"), output("y")]

    def said(item: str, *choices: object) -> list[Judged]:
        return [judged(item, both, str(n), "compare", choices={"overall": c}) for n, c in enumerate(choices)]

    found, losses = learned(*said("1", 0), *said("2", 1, 1, "tie"), *said("3", "tie"), *said("4", "both_bad"))
    assert told(found) == [("pair", "x", "y"), ("pair", "y", "x")]
    assert [one.weight for one in found] == [1.0, 2 / 3]
    assert losses == {"tie, both bad, no majority, or alike": 2}
    assert learned(*said("5", 1, "tie"))[0] == []
    assert learned(*said("6", 0, 1))[1] == {"disputed, and not decided": 2}


def test_a_ranking_is_a_pair_for_each_two_that_are_not_tied() -> None:
    three = [output(name, "image") for name in "abc"]
    choices = {c.name: 2 for c in RUBRICS["image"].criteria}
    found, _ = learned(judged("1", three, kind="compare", choices=choices, ranking=[[2], [0, 1]]))
    assert told(found) == [("pair", "c", "a"), ("pair", "c", "b")]
    bad = choices | {"overall": "both_bad"}
    assert learned(judged("1", three, kind="compare", choices=bad, ranking=[[2], [0, 1]]))[0] == []
    with pytest.raises(FeedbackError, match="begins with another"):
        judged("1", three, kind="compare", choices=choices, ranking=[[0], [1, 2]])


def test_outputs_of_different_requests_or_alike_are_no_pair() -> None:
    other = output("y", request="Another.")
    found, losses = learned(
        judged("1", [output("x"), other], kind="compare", choices={"overall": 0}),
        judged("2", [output("x"), output("x")], kind="compare", choices={"overall": 0}),
    )
    assert found == [] and sum(losses.values()) == 2 and losses["outputs of different requests or patients"] == 1


def test_what_was_made_of_nothing_or_of_another_patient_has_no_like() -> None:
    def rated(item: str, name: str, score: int, patient: str, inputs: list[dict]) -> Judged:
        made = replace(output(name, "image", patient=patient), inputs=inputs)
        return judged(item, [made], scores=scores(score, "image"))

    same = [{"type": "text", "text": "One."}]
    found, _ = learned(
        rated("1", "a", 5, "p", []), rated("2", "b", 1, "q", []),
        rated("3", "c", 5, "p", same), rated("4", "d", 1, "q", same),
    )  # fmt: skip
    assert {one.kind for one in found} == {"sft", "unpaired"}


def test_good_and_bad_ratings_and_pairs_of_one_request_with_the_defects_of_the_worse() -> None:
    def rated(item: str, name: str, score: int, regions: list[dict], request: str) -> Judged:
        made = output(name, "image", request)
        return judged(item, [made], scores=scores(score, "image"), regions=regions)

    found, losses = learned(
        rated("1", "a", 5, [], "One."), rated("2", "b", 2, [BOX], "One."), rated("3", "c", 3, [], "One."),
        rated("4", "d", 1, [BOX], "Other."),
    )  # fmt: skip
    assert told(found) == [
        ("sft", "a", None), ("unpaired", "a", None), ("unpaired", None, "b"), ("unpaired", None, "d"),
        ("pair", "a", "b"), ("pair", "a", "c"),
    ]  # fmt: skip
    assert [one.regions for one in found] == [[], [], [BOX], [BOX], [BOX], []]
    assert found[4].judgements == ["1/a/judge", "2/a/judge"]
    assert losses == {"neither good nor bad": 1}


def test_the_mean_of_raters_counts_and_waits_for_all() -> None:
    two = [judged("1", [output("x")], rater, scores=scores(score)) for rater, score in (("a", 4), ("b", 5))]
    assert told(learned(*two, overlap=2)[0]) == [("sft", "x", None), ("unpaired", "x", None)]
    assert learned(two[0], overlap=2)[1] == {"not yet said by all": 1}


def test_an_adjudicator_decides_and_others_do_not_count() -> None:
    apart = [judged("1", [output("x")], rater, scores=scores(score)) for rater, score in (("a", 1), ("b", 5))]
    assert learned(*apart)[1] == {"disputed, and not decided": 2}
    decided = judged("1", [output("x")], "c", purpose="adjudicate", scores=scores(5))
    found, _ = learned(*apart, decided)
    assert told(found) == [("sft", "x", None), ("unpaired", "x", None)]
    assert {tuple(one.judgements) for one in found} == {("1/c/adjudicate",)}


def test_what_cannot_be_judged_is_gold_or_said_twice_teaches_nothing() -> None:
    unable = judged("1", [output("x")], cannot_judge="image quality")
    gold = judged("2", [output("x")], gold={"scores": scores(5)}, scores=scores(5))
    again = [judged("3", [output("x")], occasion=n, scores=scores(score)) for n, score in ((0, 3), (1, 5))]
    found, losses = learned(unable, gold, *again)
    assert found == []
    assert losses == {
        "could not be judged": 1, "of a gold item, by which raters are checked": 1, "a repeated judgement": 1,
        "neither good nor bad": 1,
    }  # fmt: skip


def test_the_word_of_mistrusted_raters_does_not_count() -> None:
    said = [judged("1", [output("x")], rater, scores=scores(score)) for rater, score in (("a", 1), ("b", 5))]
    found, _ = learned(*said, overlap=2, mistrusted=("a",))
    assert told(found) == [("sft", "x", None), ("unpaired", "x", None)]
    assert learned(*said, overlap=2, mistrusted=("a", "b"))[1] == {"of a mistrusted rater": 2}


def test_a_patient_stays_together_and_so_does_a_request_of_nobody() -> None:
    def group(name: str, request: str, patient: str | None) -> str:
        (found, *_), _ = learned(judged("1", [output(name, request=request, patient=patient)], scores=scores(5)))
        return found.group

    assert group("x", "One.", "p") == group("y", "Other.", "p") == "p"
    assert group("x", "One.", None) == group("y", "Other.", None) != "p", "one picture"
