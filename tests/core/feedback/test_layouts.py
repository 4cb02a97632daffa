"""Judgements in the layouts of others: nothing is turned round on the way, and what does not fit is counted."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from core.feedback.export import WRITERS
from core.feedback.judged import Judged
from core.feedback.label_studio import label_studio
from core.feedback.layouts import (
    ROWS,
    Layout,
    coco,
    imrmc,
    pick_a_pic,
    report_errors,
    trl_preference,
    trl_sft,
    trl_unpaired,
)
from core.feedback.masks import from_brush, from_run_lengths, rasterised, run_lengths
from tests.core.feedback.said import COMMON, DRAWN, OTHER, SCAN, compared, image, one, rated, text


def words(message: list[dict]) -> str:
    return message[0]["content"][0]["text"]


def test_the_better_text_is_the_chosen_one() -> None:
    losses = Counter()
    found = [
        compared(1, text("worse"), text("better", "2"), item="1"),
        compared("tie", text("a"), text("b", "2"), item="2"),
        one("correct", {"text": "right", "spans": []}, text("wrong"), item="3"),
        one("correct", {"text": "as it is", "spans": []}, text("as it is"), item="4"),
        compared(0, image(DRAWN), image(OTHER, "2"), item="5"),
    ]
    rows = list(trl_preference(found, losses))
    assert [(words(row["chosen"]), words(row["rejected"])) for row in rows] == [("better", "worse"), ("right", "wrong")]
    assert rows[0]["images"] == [SCAN] and rows[0]["patient"] == "patient"
    assert rows[0]["prompt"][0]["content"] == [{"type": "image"}, {"type": "text", "text": "Describe it."}]
    assert losses == {"a tie": 1, "accepted as it is: no pair": 1, "not a pair of texts": 1}


def test_a_ranking_of_texts_is_all_its_pairs() -> None:
    losses, texts = Counter(), [text(name, name) for name in ("a", "b", "c")]
    found = [one("compare", {"choices": {"overall": 2}, "ranking": [[2], [0, 1]]}, *texts)]
    rows = list(trl_preference(found, losses))
    assert [(words(row["chosen"]), words(row["rejected"])) for row in rows] == [("c", "a"), ("c", "b")]
    assert losses == {"a tie": 1}


def test_gold_items_teach_nothing() -> None:
    gold = COMMON | {"scores": {"overall": 1}}
    for layout in (trl_preference, trl_unpaired, trl_sft, pick_a_pic):
        losses = Counter()
        assert list(layout([rated(5, text("a"), gold=gold)], losses)) == []
        assert losses == {"of a gold item, by which raters are checked": 1}


SPAN = {"start": 0, "end": 5, "error": "severity", "significant": True, "laterality": False, "measurement": False}


def said() -> list[Judged]:
    """Texts that were rated, corrected and compared, with all that can be said of them."""
    more = {"comment": "Hm.", "confidence": 1, "spans": [SPAN]}
    return [
        rated(5, text("wrong words"), item="1", answer=more), rated(1, text("worse words", "2"), item="2"),
        one("correct", {"text": "right", **more}, text("wrong words"), item="3"),
        compared(1, text("worse"), text("better", "2"), item="4"),
    ]  # fmt: skip


def is_message(value: object, roles: tuple[str, ...]) -> bool:
    """A message with a list of parts, as TRL's documentation has it for vision."""
    parts = value["content"]
    fits = all(set(part) == {"type", "text"} if part["type"] == "text" else part == {"type": "image"} for part in parts)
    return set(value) == {"role", "content"} and value["role"] in roles and bool(parts) and fits


TRL = {
    trl_preference: {"prompt": ("user",), "chosen": ("assistant",), "rejected": ("assistant",)},
    trl_unpaired: {"prompt": ("user",), "completion": ("assistant",)},
    trl_sft: {"messages": ("user", "assistant")},
}
"""The columns of messages that TRL's types of datasets have, and whose they are."""


@pytest.mark.parametrize("layout", TRL)
def test_trl_layouts_are_as_its_documentation_says(layout: Layout) -> None:
    rows = list(layout(said(), Counter()))
    assert len(rows) == 2
    for row in rows:
        for column, roles in TRL[layout].items():
            assert [m["role"] for m in row[column]] == list(roles) and all(is_message(m, roles) for m in row[column])
        asked = row["messages" if layout is trl_sft else "prompt"][0]["content"]
        assert len(row["images"]) == sum(part["type"] == "image" for part in asked) == 1
        assert layout is not trl_unpaired or type(row["label"]) is bool
    told = [row for row in rows if row["comment"]]
    assert told and all((row["spans"], row["confidence"]) == ([SPAN], 1) for row in told)
    assert layout is not trl_unpaired or rows[0]["criteria"] == {"overall": 5}


def test_earlier_answers_of_a_conversation_are_the_models() -> None:
    given = [
        {"type": "image", "sha256": SCAN, "generated": True}, {"type": "text", "text": "Which organ?"},
        {"type": "text", "text": "The liver.", "generated": True}, {"type": "text", "text": "A lesion?"},
    ]  # fmt: skip
    output = replace(text("None."), inputs=given)
    pair = [compared(1, replace(text("One."), inputs=given), output)]
    rows = [*trl_unpaired([rated(5, output)], Counter()), *trl_preference(pair, Counter())]
    for messages in (*(row["prompt"] for row in rows), *(r["messages"][:-1] for r in trl_sft([rated(5, output)], {}))):
        assert [(m["role"], [part.get("text") for part in m["content"]]) for m in messages] == [
            ("user", [None, "Which organ?"]), ("assistant", ["The liver."]), ("user", ["A lesion?"]),
        ]  # fmt: skip
    assert all(row["images"] == [SCAN] for row in rows)


@pytest.mark.parametrize("layout", ["trl_preference", "trl_unpaired", "trl_sft"])
def test_parquet_has_the_rows_of_the_lines(layout: str, tmp_path: Path) -> None:
    rows = list(ROWS[layout](said(), Counter()))
    for ending in (".jsonl", ".parquet"):
        WRITERS[ending](rows, tmp_path / f"x{ending}")
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    table = pyarrow.parquet.read_table(tmp_path / "x.parquet").to_pylist()
    assert [alike(row, line) for row, line in zip(table, lines, strict=True)] == lines


def alike(found: object, line: object) -> object:
    """A value of a table as in the lines: what has no column of its own is JSON, and parts have all the same names."""
    if isinstance(line, dict):
        found = json.loads(found) if isinstance(found, str) else found
        assert all(value is None for name, value in found.items() if name not in line)
        return {name: alike(found[name], value) for name, value in line.items()}
    if isinstance(line, list):
        return [alike(one, other) for one, other in zip(found, line, strict=True)]
    return found


def test_tables_count_what_they_leave() -> None:
    unable = rated(1, text("c"), item="c", answer={"cannot_judge": "other"})
    losses = Counter()
    assert len(list(report_errors([*said(), unable], losses))) == 3, "what could not be judged is not free of errors"
    assert losses == {
        "scores by criterion": 2, "how sure the rater was": 3, "a comment": 2, "a corrected text": 1, "not a text": 1,
        "could not be judged": 1,
    }  # fmt: skip
    losses = Counter()
    assert len(list(imrmc([*said(), unable], losses))) == 2
    assert losses == {
        "marked errors of the text": 1, "how sure the rater was": 2, "a comment": 1, "not a rating": 2,
        "could not be judged": 1, "a case whose truth is not known": 1,
    }  # fmt: skip
    losses = Counter()
    coco([rated(1, image(DRAWN), answer={"comment": "Hm."}), *said()], losses)
    assert losses == {
        "scores by criterion": 1, "a comment": 1, "how sure the rater was": 1, "not a rated image": 4,
    }  # fmt: skip


def test_thumbs_and_texts_to_learn_from() -> None:
    losses, found = Counter(), [rated(score, text(str(score)), item=str(score)) for score in (1, 2, 3, 4, 5)]
    assert [(words(r["completion"]), r["label"]) for r in trl_unpaired(found, losses)] == [
        ("1", False), ("2", False), ("4", True), ("5", True),
    ]  # fmt: skip
    assert losses == {"neither good nor bad": 1}
    found.append(one("correct", {"text": "right", "spans": []}, text("wrong"), item="6"))
    assert [words(row["messages"][1:]) for row in trl_sft(found, Counter())] == ["4", "5", "right"]


def test_the_adjudicator_decides_and_nobody_counts_twice() -> None:
    losses = Counter()
    found = [
        rated(5, text("a"), item="1"), rated(1, text("a"), item="1", rater="rater-2"),
        rated(2, text("a"), item="1", rater="judge", purpose="adjudicate"),
        rated(4, text("b"), item="2"), rated(1, text("b"), item="2", occasion=1),
        rated(4, text("c"), item="3", answer={"cannot_judge": "other"}),
    ]  # fmt: skip
    assert [row["label"] for row in trl_unpaired(found, losses)] == [False, True]
    assert losses == {"an adjudicator has decided": 2, "a repeated judgement": 1, "could not be judged": 1}


@pytest.mark.parametrize(
    ("choice", "labels"), [(0, (1.0, 0.0)), (1, (0.0, 1.0)), ("tie", (0.5, 0.5)), ("both_bad", (None, None))]
)
def test_labels_of_image_pairs_belong_to_their_images(choice: object, labels: tuple) -> None:
    (row,) = pick_a_pic([compared(choice, image(DRAWN), image(OTHER, "2"))], Counter())
    assert (row["image_0_uid"], row["image_1_uid"]) == (DRAWN, OTHER)
    assert (row["label_0"], row["label_1"]) == labels and row["has_label"] == (labels[0] is not None)
    assert row["side_shown"] == [1, 0] and row["seeds"] == [1, 2] and row["source_images"] == [SCAN]


def test_a_ranking_is_all_its_pairs() -> None:
    answer = {"choices": {"overall": 2}, "ranking": [[2], [0, 1]]}
    images = [image(name * 64, name) for name in "123"]
    rows = list(pick_a_pic([one("compare", answer, *images)], Counter()))
    assert [(row["label_0"], row["label_1"]) for row in rows] == [(0.5, 0.5), (0.0, 1.0), (0.0, 1.0)]


def test_regions_keep_their_pixels_in_coco() -> None:
    regions = [
        {"label": "blur", "kind": "box", "x0": 3, "y0": 4, "x1": 10, "y1": 9},
        {"label": "artefact", "kind": "point", "x": 39.9, "y": 0},
        {"label": "blur", "kind": "brush", "width": 4, "points": [[5, 20], [30, 20]]},
    ]
    document = coco([rated(3, image(DRAWN), answer={"regions": regions})], Counter())
    (picture,) = document["images"]
    assert (picture["id"], picture["file_name"]) == (1, f"{DRAWN}.png")
    assert (picture["width"], picture["height"]) == (40, 30)
    assert [a["category_id"] for a in document["annotations"]] == [1, 2, 1]
    for annotation, region in zip(document["annotations"], regions, strict=True):
        mask = from_run_lengths(annotation["segmentation"])
        assert (mask == rasterised(region, 40, 30)).all() and annotation["area"] == mask.sum() > 0
    assert document["annotations"][0]["bbox"] == [3, 4, 7, 5] and document["annotations"][0]["area"] == 35


def test_run_lengths_are_those_of_coco() -> None:
    mask = np.array([[0, 1], [1, 1], [0, 0]], bool)  # column by column: 0 1 0, 1 1 0
    assert run_lengths(mask) == {"size": [3, 2], "counts": [1, 1, 1, 2, 1]}
    for filled in (np.ones((2, 2), bool), np.zeros((2, 2), bool), np.eye(4, dtype=bool)):
        assert (from_run_lengths(run_lengths(filled)) == filled).all()


def test_errors_have_their_class_and_words() -> None:
    span = {"start": 3, "end": 7, "error": "severity", "significant": True, "laterality": False, "measurement": False}
    found = [rated(2, text("no mild effusion"), answer={"spans": [span]}), rated(5, text("fine"), item="2")]
    first, second = report_errors(found, Counter())
    assert (first["category"], first["words"], first["significant"]) == (4, "mild", True)
    assert second["category"] is None and second["words"] is None


def test_readers_cases_and_truth() -> None:
    """Two models' outputs for one request are one case, or nothing could be paired."""
    gold, losses = {"scores": {"overall": 5}}, Counter()
    third = replace(image(DRAWN, "3"), inputs=[{"type": "image", "sha256": OTHER}])
    clash = [replace(image(DRAWN, name), patient="other") for name in "12"]
    found = [
        rated(4, image(DRAWN), gold=gold), rated(3, image(DRAWN), gold=gold, rater="rater-2"),
        rated(2, image(OTHER, "2"), item="2"), rated(5, replace(image(OTHER), seed=2), item="3"),
        rated(1, third, item="4"),
        rated(5, clash[0], item="5", gold=gold), rated(2, clash[1], item="6", gold={"scores": {"overall": 1}}),
    ]  # fmt: skip
    rows = list(imrmc(found, losses))
    one, other, last = dict.fromkeys(row["caseID"] for row in rows)
    assert [(row["caseID"], row["readerID"], row["modalityID"], row["score"]) for row in rows] == [
        (one, "rater-1", "model-1", 4), (one, "rater-2", "model-1", 3), (one, "rater-1", "model-2", 2),
        (other, "rater-1", "model-3", 1), (last, "rater-1", "model-1", 5), (last, "rater-1", "model-2", 2),
        (one, "truth", "truth", 1),
    ]  # fmt: skip
    del losses["how sure the rater was"]
    assert losses == {
        "a further output of a model for one request": 1, "a case whose truth is not known": 1,
        "a case whose truth differs between models": 1,
    }  # fmt: skip


def test_an_empty_text_stays_one_and_no_rater_is_an_account() -> None:
    """Label Studio takes ids and addresses of its own accounts alone, and numbers as ids."""
    gold = COMMON | {"scores": {"overall": 1}, "regions": [], "spans": []}
    (task,) = label_studio([rated(1, text(""), gold=gold)], Counter())
    assert task["data"]["output_0"] == ""
    assert all("completed_by" not in one and "id" not in one for one in task["annotations"])
    assert [one["meta"]["rater"] for one in task["annotations"]] == ["rater-1", "gold"]


def test_label_studio_places_boxes_in_per_cent() -> None:
    losses = Counter()
    regions = [
        {"label": "blur", "kind": "box", "x0": 10, "y0": 15, "x1": 30, "y1": 30},
        {"label": "blur", "kind": "brush", "width": 4, "points": [[5, 20]]},
    ]
    gold = COMMON | {"scores": {"overall": 1}, "regions": [], "spans": []}
    (task,) = label_studio([rated(3, image(DRAWN), answer={"regions": regions}, gold=gold)], losses)
    own, known = task["annotations"]
    box, stroke = own["result"][-2:]
    assert from_brush(stroke["value"]["rle"], 40, 30).sum() > 0
    assert {name: box["value"][name] for name in ("x", "y", "width", "height")} == {
        "x": 25.0, "y": 50.0, "width": 50.0, "height": 50.0,
    }  # fmt: skip
    assert (box["original_width"], box["original_height"]) == (40, 30)
    assert known["ground_truth"] and not own["ground_truth"] and own["lead_time"] == 12.5
    assert losses == {
        "the path of a brush stroke, of which the pixels are there": 1,
        "the model and settings of an output, which annotators are not to know": 1,
    }
