"""Judgements in the layouts of others. Each function makes rows of them and counts what its layout cannot carry.

Field names follow ``TRL`` (vision preference, unpaired preference, language modelling with ``messages``), Pick-a-Pic
(Kirstain et al. 2023), Label Studio's JSON, COCO's object detection format with RLE masks, ReXVal (Yu et al. 2023) and
iMRMC (Gallas et al. 2009).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby

import numpy as np
from PIL import Image as PILImage
from PIL import ImageDraw

from core.feedback.judged import Judged, Output

GOOD, BAD = 4, 2
"""An overall score from which an output counts as good, and up to which as bad; between them it is neither."""
OVERALL = "overall"

Losses = Counter[str]
"""What was left out, by the reason."""
Layout = Callable[[Iterable[Judged], Losses], Iterator[dict]]


def counting(found: Iterable[Judged], losses: Losses) -> Iterator[Judged]:
    """One judgement for each thing that can be learned: the adjudicator's where there is one, else all first ones that
    could judge."""
    for _, of_item in groupby(found, key=lambda one: one.item):
        group = list(of_item)
        decided = [one for one in group if one.purpose == "adjudicate"]
        for one in group:
            if one.answer["cannot_judge"] is not None:
                losses["could not be judged"] += 1
            elif decided and one is not decided[-1]:
                losses["an adjudicator has decided"] += 1
            elif one.occasion > 0:
                losses["a repeated judgement"] += 1
            else:
                yield one


# TRL -----------------------------------------------------------------------------------------------------------------


def trl_preference(found: Iterable[Judged], losses: Losses) -> Iterator[dict]:
    """``images``, ``prompt``, ``chosen``, ``rejected``: pairs of texts. A pair of images needs ``pick_a_pic``; an image
    whose report was corrected is never a rejected one."""
    for one in counting(found, losses):
        if one.kind == "correct":
            if one.answer["text"] == one.outputs[0].text:
                losses["accepted as it is: no pair"] += 1
                continue
            yield _pair(one, one.outputs[0], one.answer["text"], one.outputs[0].text)
        elif one.kind == "compare" and all(output.kind == "text" for output in one.outputs):
            choice = one.answer["choices"].get(OVERALL)
            if not isinstance(choice, int) or len(one.outputs) != 2:
                losses["a tie, both bad, or more than two"] += 1
                continue
            better, worse = one.outputs[choice], one.outputs[1 - choice]
            yield _pair(one, better, better.text, worse.text)
        else:
            losses["not a pair of texts"] += 1


def trl_unpaired(found: Iterable[Judged], losses: Losses) -> Iterator[dict]:
    """``images``, ``prompt``, ``completion``, ``label``: texts that are good or bad."""
    for one in counting(found, losses):
        score = one.answer.get("scores", {}).get(OVERALL)
        if one.kind != "rate" or one.outputs[0].kind != "text" or score is None:
            losses["not a rated text"] += 1
        elif BAD < score < GOOD:
            losses["neither good nor bad"] += 1
        else:
            images, prompt = _request(one.outputs[0])
            completion = [_message("assistant", one.outputs[0].text)]
            yield {"images": images, "prompt": prompt, "completion": completion, "label": score >= GOOD, **_about(one)}


def trl_sft(found: Iterable[Judged], losses: Losses) -> Iterator[dict]:
    """``images``, ``messages``: texts as a person has corrected or accepted them, and texts that were rated good."""
    for one in counting(found, losses):
        output = one.outputs[0]
        if one.kind == "correct":
            text = one.answer["text"]
        elif one.kind == "rate" and output.kind == "text" and one.answer["scores"].get(OVERALL, 0) >= GOOD:
            text = output.text
        else:
            losses["not a text that somebody stands for"] += 1
            continue
        images, prompt = _request(output)
        yield {"images": images, "messages": [*prompt, _message("assistant", text)], **_about(one)}


def _pair(one: Judged, output: Output, chosen: str, rejected: str) -> dict:
    images, prompt = _request(output)
    both = {"chosen": [_message("assistant", chosen)], "rejected": [_message("assistant", rejected)]}
    return {"images": images, "prompt": prompt, **both, **_about(one)}


def _request(output: Output) -> tuple[list[str], list[dict]]:
    """Pictures by SHA-256, and one message of a user in which they stand at their places."""
    images = [segment["sha256"] for segment in output.inputs if segment["type"] == "image"]
    parts = [{"type": "image"} if s["type"] == "image" else {"type": "text", "text": s["text"]} for s in output.inputs]
    return images, [{"role": "user", "content": parts}]


def _message(role: str, text: str) -> dict:
    return {"role": role, "content": [{"type": "text", "text": text}]}


def _about(one: Judged) -> dict:
    output = one.outputs[0]
    return {"task": output.task, "patient": output.patient, "rater": one.rater, "judgement": one.id}


# Pictures ------------------------------------------------------------------------------------------------------------


def pick_a_pic(found: Iterable[Judged], losses: Losses) -> Iterator[dict]:
    """Pairs of images with the label of each side; .5 and .5 for a tie. Both bad have no label."""
    for one in counting(found, losses):
        if one.kind != "compare" or any(output.kind != "image" for output in one.outputs):
            losses["not a comparison of images"] += 1
            continue
        for first, second, choice in _pairs(one):
            left, right = one.outputs[first], one.outputs[second]
            label = {first: (1.0, 0.0), second: (0.0, 1.0), "tie": (0.5, 0.5)}.get(choice)
            yield {
                "caption": left.prompt, "image_0_uid": left.sha256, "image_1_uid": right.sha256,
                "label_0": label and label[0], "label_1": label and label[1], "has_label": label is not None,
                "model_0": left.model, "model_1": right.model, "are_different": left.sha256 != right.sha256,
                "ranking_id": one.id, "user_id": one.rater, "created_at": one.created_at.isoformat(),
                "source_images": [s["sha256"] for s in left.inputs if s["type"] == "image"], "task": left.task,
                "seeds": [left.seed, right.seed], "guidance": [left.settings, right.settings],
                "checkpoint_sha": [left.fingerprint, right.fingerprint], "side_shown": one.answer["shown"],
                "criteria": one.answer["choices"], "patient": left.patient,
            }  # fmt: skip


def _pairs(one: Judged) -> Iterator[tuple[int, int, int | str | None]]:
    """Pairs of an item with who wins: of two the overall choice, of more all pairs of the ranking."""
    if len(one.outputs) == 2:
        yield 0, 1, one.answer["choices"].get(OVERALL)
        return
    rank = {index: place for place, group in enumerate(one.answer["ranking"]) for index in group}
    for first in range(len(one.outputs)):
        for second in range(first + 1, len(one.outputs)):
            better = first if rank[first] < rank[second] else second
            yield first, second, "tie" if rank[first] == rank[second] else better


def coco(found: Iterable[Judged], losses: Losses) -> dict:
    """Regions on images: boxes with their corners, brush strokes as uncompressed RLE, points as boxes of one pixel."""
    images: dict[str, dict] = {}
    labels: dict[str, int] = {}
    annotations: list[dict] = []
    for one in found:
        output = one.outputs[0]
        if one.kind != "rate" or output.kind != "image" or not output.width:
            losses["not a rated image"] += 1
            continue
        size = {"width": output.width, "height": output.height}
        image = images.setdefault(output.sha256, {"id": len(images) + 1, "file_name": f"{output.sha256}.png", **size})
        for region in one.answer["regions"]:
            mask = rasterised(region, output.width, output.height)
            category = labels.setdefault(region["label"], len(labels) + 1)
            annotations.append({
                "id": len(annotations) + 1, "image_id": image["id"], "category_id": category, "iscrowd": 1,
                "segmentation": run_lengths(mask), "area": int(mask.sum()), "bbox": _bounds(mask),
                "rater": one.rater, "kind": region["kind"],
            })  # fmt: skip
        losses["scores and comments"] += 1
    categories = [{"id": number, "name": name} for name, number in labels.items()]
    return {"images": list(images.values()), "categories": categories, "annotations": annotations}


def rasterised(region: dict, width: int, height: int) -> np.ndarray:
    """The pixels of a region: bool of shape (height, width)."""
    canvas = PILImage.new("1", (width, height))
    draw = ImageDraw.Draw(canvas)
    if region["kind"] == "box":
        draw.rectangle((region["x0"], region["y0"], region["x1"] - 1, region["y1"] - 1), fill=1)
    elif region["kind"] == "point":
        draw.point((min(int(region["x"]), width - 1), min(int(region["y"]), height - 1)), fill=1)
    else:
        points, radius = [tuple(point) for point in region["points"]], region["width"] / 2
        draw.line(points, fill=1, width=max(1, round(region["width"])), joint="curve")
        for x, y in (points[0], points[-1]):
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=1)
    return np.asarray(canvas)


def run_lengths(mask: np.ndarray) -> dict:
    """COCO's uncompressed RLE: lengths of runs of 0 and 1 in turns, column by column, beginning with 0."""
    flat = np.concatenate([[0], mask.T.reshape(-1).astype(np.int8), [0]])
    edges = np.flatnonzero(np.diff(flat))
    counts = np.diff(np.concatenate([[0], edges, [mask.size]])).tolist()
    return {"size": list(mask.shape), "counts": counts if counts[-1] or len(counts) == 1 else counts[:-1]}


def from_run_lengths(rle: dict) -> np.ndarray:
    """The mask of an uncompressed RLE."""
    height, width = rle["size"]
    values = np.arange(len(rle["counts"])) % 2
    return np.repeat(values, rle["counts"]).reshape(width, height).T.astype(bool)


def _bounds(mask: np.ndarray) -> list[int]:
    ys, xs = np.nonzero(mask)
    if not len(xs):
        return [0, 0, 0, 0]
    return [int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1]


# Tables --------------------------------------------------------------------------------------------------------------


def report_errors(found: Iterable[Judged], losses: Losses) -> Iterator[dict]:
    """A row for each marked error of a text: its class from 1 to 6 and its significance (ReXVal), with laterality,
    measurement and the words. A text without errors has a row without a class."""
    for one in found:
        spans = one.answer.get("spans")
        if spans is None or one.outputs[0].text is None:
            losses["not a text"] += 1
            continue
        output = one.outputs[0]
        row = {"study_id": one.item, "report": output.id, "rater_index": one.rater, "model": output.model}
        nothing = dict.fromkeys(("start", "end", "error", "significant", "laterality", "measurement"))
        for span in spans or [nothing]:
            words = output.text[span["start"] : span["end"]] if spans else None
            category = one.rubric["errors"].index(span["error"]) + 1 if spans else None
            yield {**row, "category": category, **span, "words": words}


def imrmc(found: Iterable[Judged], losses: Losses) -> Iterator[dict]:
    """``readerID,caseID,modalityID,score``, and the truth of gold items as scores of the reader ``truth``."""
    told: set[str] = set()
    for one in found:
        score = one.answer.get("scores", {}).get(OVERALL)
        if one.kind != "rate" or score is None or one.occasion or one.purpose != "judge":
            losses["not a first overall score"] += 1
            continue
        truth = one.gold and one.gold.get("scores", {}).get(OVERALL)
        if truth is not None and one.item not in told:
            told.add(one.item)
            yield {"readerID": "truth", "caseID": one.item, "modalityID": "truth", "score": int(truth >= GOOD)}
        yield {"readerID": one.rater, "caseID": one.item, "modalityID": one.outputs[0].model, "score": score}


def label_studio(found: Iterable[Judged], losses: Losses) -> Iterator[dict]:
    """Tasks with annotations: ``rating``, ``choices``, ``textarea``, ``rectanglelabels`` (in per cent) and
    ``keypointlabels``, ``labels`` for spans. Brush strokes are left to COCO."""
    for _, of_item in groupby(found, key=lambda one: one.item):
        group = list(of_item)
        outputs = group[0].outputs
        data = {"prompt": outputs[0].prompt, "task": outputs[0].task}
        data |= {f"output_{i}": output.text or f"{output.sha256}.png" for i, output in enumerate(outputs)}
        annotations = [_annotation(one, losses) for one in group]
        if (gold := group[0].gold) is not None:
            annotations.append(_annotation(group[0], losses, gold))
        yield {"id": group[0].item, "data": data, "annotations": annotations, "predictions": []}


def _annotation(one: Judged, losses: Losses, gold: dict | None = None) -> dict:
    answer, output = gold or one.answer, one.outputs[0]
    results = [_result(name, "rating", {"rating": score}) for name, score in answer.get("scores", {}).items()]
    results += [_result(name, "choices", {"choices": [str(c)]}) for name, c in answer.get("choices", {}).items()]
    for name in ("text", "comment"):
        if answer.get(name):
            results.append(_result(name, "textarea", {"text": [answer[name]]}))
    for span in answer.get("spans", []):
        words = (output.text or "")[span["start"] : span["end"]]
        place = {"start": span["start"], "end": span["end"], "text": words, "labels": [span["error"]]}
        results.append(_result("spans", "labels", place))
    for region in answer.get("regions", []):
        if region["kind"] == "brush" or not output.width:
            losses["a brush stroke"] += 1
            continue
        results.append(_region_result(region, output))
    created = one.created_at.isoformat()
    return {
        "id": f"{one.id}-gold" if gold else one.id, "completed_by": "gold" if gold else one.rater, "result": results,
        "was_cancelled": answer["cannot_judge"] is not None, "ground_truth": gold is not None, "created_at": created,
        "lead_time": one.active_seconds,
    }  # fmt: skip


def _region_result(region: dict, output: Output) -> dict:
    x, y = 100 / output.width, 100 / output.height
    if region["kind"] == "box":
        value = {
            "x": region["x0"] * x, "y": region["y0"] * y, "width": (region["x1"] - region["x0"]) * x,
            "height": (region["y1"] - region["y0"]) * y, "rotation": 0, "rectanglelabels": [region["label"]],
        }  # fmt: skip
        result = _result("regions", "rectanglelabels", value)
    else:
        value = {"x": region["x"] * x, "y": region["y"] * y, "keypointlabels": [region["label"]]}
        result = _result("regions", "keypointlabels", value)
    return result | {"original_width": output.width, "original_height": output.height}


def _result(name: str, kind: str, value: dict) -> dict:
    return {"from_name": name, "to_name": "output_0", "type": kind, "value": value}


ROWS: dict[str, Layout] = {
    "trl_preference": trl_preference,
    "trl_unpaired": trl_unpaired,
    "trl_sft": trl_sft,
    "pick_a_pic": pick_a_pic,
    "report_errors": report_errors,
    "imrmc": imrmc,
    "label_studio": label_studio,
}
"""Layouts that are rows; COCO is one document."""
