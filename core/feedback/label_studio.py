"""Label Studio's JSON: tasks with annotations, from judgements and back.

What it has no words for stands in results of its own: ``confidence``, ``cannot_judge``, ``ranking`` (groups of outputs,
the best first) and ``shown``; what belongs to one marked error is a choice with the same ``id``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

from core.errors import FeedbackError
from core.feedback.answers import VERDICTS
from core.feedback.judged import Judged, Output
from core.feedback.leaving import Losses
from core.feedback.masks import brush, from_brush, rasterised, run_lengths

FLAGS = ("significant", "laterality", "measurement")
"""What is said of a marked error."""
TEXTS = ("text", "comment")
REGIONS = ("rectanglelabels", "keypointlabels", "brushlabels")
DECIMALS = 6
"""Of a pixel; places come back from per cent as they were."""


def label_studio(found: Iterable[Judged], losses: Losses) -> Iterator[dict]:
    """Tasks with annotations: ``rating``, ``choices``, ``textarea``, ``labels`` of a text; ``rectanglelabels``,
    ``keypointlabels`` (in per cent) and ``brushlabels`` of an image. Gold answers are annotations with
    ``ground_truth``. Raters stand in ``meta``: ``completed_by`` would have to be an account there, and ``id`` a
    number. Pictures are files by their SHA-256, in a dataset folder."""
    for _, of_item in groupby(found, key=lambda one: one.item):
        group = list(of_item)
        first, outputs = group[0], group[0].outputs
        losses["the model and settings of an output, which annotators are not to know"] += len(outputs)
        data = {"prompt": outputs[0].prompt, "task": outputs[0].task, "inputs": outputs[0].inputs}
        data |= {
            f"output_{i}": output.text if output.kind == "text" else f"{output.sha256}.png"
            for i, output in enumerate(outputs)
        }
        annotations = [_annotation(one, losses) for one in group]
        if first.gold is not None:
            annotations.append(_gold(first, losses))
        meta = {"outputs": [output.kind for output in outputs], "patient": outputs[0].patient}
        yield {"id": first.item, "data": data, "meta": meta, "annotations": annotations, "predictions": []}


def _annotation(one: Judged, losses: Losses) -> dict:
    return {
        "meta": {"rater": one.rater, "judgement": one.id}, "result": _results(one.answer, one.outputs[0], losses),
        "was_cancelled": one.answer["cannot_judge"] is not None, "ground_truth": False,
        "created_at": one.created_at.isoformat(), "lead_time": one.active_seconds, "purpose": one.purpose,
        "occasion": one.occasion,
    }  # fmt: skip


def _gold(one: Judged, losses: Losses) -> dict:
    return {
        "meta": {"rater": "gold"}, "result": _results(one.gold, one.outputs[0], losses),
        "was_cancelled": one.gold["cannot_judge"] is not None, "ground_truth": True,
    }  # fmt: skip


def _results(answer: dict, output: Output, losses: Losses) -> list[dict]:
    """The parts of an answer, each with its number as ``id``."""
    found = [_result(name, "rating", {"rating": score}) for name, score in answer.get("scores", {}).items()]
    found += [_result(name, "choices", {"choices": [str(c)]}) for name, c in answer.get("choices", {}).items()]
    groups = {"ranking": [" ".join(map(str, group)) for group in answer.get("ranking", [])]}
    groups |= {"cannot_judge": [answer["cannot_judge"]] if answer["cannot_judge"] is not None else []}
    groups |= {"shown": list(map(str, answer.get("shown", [])))}
    found += [_result(name, "choices", {"choices": values}) for name, values in groups.items() if values]
    if answer["confidence"] is not None:
        found.append(_result("confidence", "number", {"number": answer["confidence"]}))
    found += [_result(name, "textarea", {"text": [answer[name]]}) for name in TEXTS if answer.get(name)]
    for region in answer.get("regions", []):
        if output.width:
            found.append(_region(region, output, losses))
        else:
            losses["a region of an image whose size was not kept"] += 1
    numbered = [{"id": str(number), **result} for number, result in enumerate(found)]
    for span in answer.get("spans", []):
        numbered += _span(span, str(len(numbered)), output.text or "")
    return numbered


def _result(name: str, kind: str, value: dict) -> dict:
    return {"from_name": name, "to_name": "output_0", "type": kind, "value": value}


def _span(span: dict, number: str, text: str) -> Iterator[dict]:
    place = {"start": span["start"], "end": span["end"], "text": text[span["start"] : span["end"]]}
    yield {"id": number, **_result("spans", "labels", place | {"labels": [span["error"]]})}
    if flags := [flag for flag in FLAGS if span[flag]]:
        yield {"id": number, **_result("flags", "choices", place | {"choices": flags})}


def _region(region: dict, output: Output, losses: Losses) -> dict:
    x, y, label = 100 / output.width, 100 / output.height, [region["label"]]
    if region["kind"] == "box":
        kind, value = "rectanglelabels", {
            "x": region["x0"] * x, "y": region["y0"] * y, "width": (region["x1"] - region["x0"]) * x,
            "height": (region["y1"] - region["y0"]) * y, "rotation": 0,
        }  # fmt: skip
    elif region["kind"] == "point":
        kind, value = "keypointlabels", {"x": region["x"] * x, "y": region["y"] * y, "width": x}
    else:
        if region["kind"] == "brush":
            losses["the path of a brush stroke, of which the pixels are there"] += 1
        kind, value = "brushlabels", {"format": "rle", "rle": brush(rasterised(region, output.width, output.height))}
    size = {"original_width": output.width, "original_height": output.height, "image_rotation": 0}
    return _result("regions", kind, value | {kind: label}) | size


# And back ------------------------------------------------------------------------------------------------------------


def answer_of(annotation: dict, size: tuple[int, int] | None) -> dict:
    """The answer that an annotation of ours says, still to be checked against a rubric.

    Args:
        size: width and height of the first output, where that is an image.

    Raises:
        FeedbackError: a result is of another kind, or of an image of another size.
        KeyError, TypeError, ValueError, IndexError, AttributeError: a result has another form.
    """
    said: dict = {"scores": {}, "choices": {}, "regions": []}
    spans: dict[str, dict] = {}
    for result in annotation["result"]:
        name, kind, value = result["from_name"], result["type"], result["value"]
        if kind == "rating":
            said["scores"][name] = value["rating"]
        elif kind == "number" and name == "confidence":
            said["confidence"] = value["number"]
        elif kind == "textarea" and name in TEXTS:
            said[name] = "\n".join(value["text"])
        elif kind == "labels":
            spans[result["id"]] = {"start": value["start"], "end": value["end"], "error": value["labels"][0]}
        elif kind == "choices" and name == "flags":
            spans[result["id"]] |= dict.fromkeys(value["choices"], True)
        elif kind == "choices" and name == "cannot_judge":
            (said["cannot_judge"],) = value["choices"]
        elif kind == "choices" and name == "ranking":
            said["ranking"] = [[int(index) for index in group.split()] for group in value["choices"]]
        elif kind == "choices" and name == "shown":
            continue  # of the person's screen
        elif kind == "choices":
            (choice,) = value["choices"]
            said["choices"][name] = choice if choice in VERDICTS else int(choice)
        elif kind in REGIONS and size is not None:
            said["regions"].append(_region_of(result, *size))
        else:
            raise FeedbackError("There is no place for such a result", value=f"{name} ({kind})")
    return {name: part for name, part in (said | {"spans": list(spans.values())}).items() if part not in ([], {})}


def _region_of(result: dict, width: int, height: int) -> dict:
    kind, value = result["type"], result["value"]
    if (result["original_width"], result["original_height"]) != (width, height):
        sizes = f"{result['original_width']} x {result['original_height']} for {width} x {height}"
        raise FeedbackError("A region is of an image of another size", value=sizes)
    if value.get("rotation") or result.get("image_rotation"):
        raise FeedbackError("A region is turned", remedy="Mark it without a rotation")
    (label,) = value[kind]
    if kind == "brushlabels":
        return {
            "label": label,
            "kind": "mask",
            "counts": run_lengths(from_brush(value["rle"], width, height))["counts"],
        }

    def pixels(share: float, of: int) -> float:
        found = round(share * of / 100, DECIMALS)
        return int(found) if found == int(found) else found

    x, y = pixels(value["x"], width), pixels(value["y"], height)
    if kind == "keypointlabels":
        return {"label": label, "kind": "point", "x": x, "y": y}
    far = pixels(value["x"] + value["width"], width), pixels(value["y"] + value["height"], height)
    return {"label": label, "kind": "box", "x0": x, "y0": y, "x1": far[0], "y1": far[1]}
