"""Judgements in the layouts of others: nothing is turned round on the way, and what does not fit is counted."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from core.feedback.label_studio import label_studio
from core.feedback.layouts import coco, imrmc, pick_a_pic, report_errors, trl_preference, trl_sft, trl_unpaired
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
    gold = {"scores": {"overall": 5}}
    found = [rated(4, image(DRAWN), gold=gold), rated(3, image(DRAWN), gold=gold, rater="rater-2")]
    rows = list(imrmc(found, Counter()))
    assert [(row["readerID"], row["modalityID"], row["score"]) for row in rows] == [
        ("truth", "truth", 1), ("rater-1", "model-1", 4), ("rater-2", "model-1", 3),
    ]  # fmt: skip


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
