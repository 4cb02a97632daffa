"""Judgements in the layouts of others. Each function makes rows of them and counts what its layout cannot carry.

Field names follow ``TRL`` (vision preference, unpaired preference, language modelling with ``messages``), Pick-a-Pic
(Kirstain et al. 2023), COCO's object detection format with RLE masks, ReXVal (Yu et al. 2023) and iMRMC (Gallas et al.
2009); Label Studio has a module of its own. Where a layout allows columns of one's own, they carry the rest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby

from core.feedback.answers import BAD, GOOD, OVERALL
from core.feedback.judged import Judged, Output
from core.feedback.label_studio import label_studio
from core.feedback.leaving import Losses, leave
from core.feedback.masks import bounds, rasterised, run_lengths
from core.feedback.settling import settled

GOLD = "gold"
"""In place of a rater, for what is known to be right."""

Layout = Callable[[Iterable[Judged], Losses], Iterator[dict]]


def counting(found: Iterable[Judged], losses: Losses) -> Iterator[Judged]:
    """What may be trained on: the judgements of settled items."""
    return (one for item in settled(found, losses) for one in item.said)


# TRL -----------------------------------------------------------------------------------------------------------------


def trl_preference(found: Iterable[Judged], losses: Losses) -> Iterator[dict]:
    """``images``, ``prompt``, ``chosen``, ``rejected``: pairs of texts, of a ranking all that differ. A pair of images
    needs ``pick_a_pic``; an image whose report was corrected is never a rejected one."""
    for one in counting(found, losses):
        if one.kind == "correct":
            if one.answer["text"] == one.outputs[0].text:
                losses["accepted as it is: no pair"] += 1
                continue
            yield _pair(one, one.outputs[0], one.answer["text"], one.outputs[0].text)
        elif one.kind == "compare" and all(output.kind == "text" for output in one.outputs):
            for first, second, choice in _pairs(one):
                if not isinstance(choice, int):
                    losses[{"tie": "a tie", "both_bad": "both bad"}.get(choice, "no overall choice")] += 1
                    continue
                better, worse = one.outputs[choice], one.outputs[first + second - choice]
                yield _pair(one, better, better.text, worse.text)
        else:
            losses["not a pair of texts"] += 1


def trl_unpaired(found: Iterable[Judged], losses: Losses) -> Iterator[dict]:
    """``images``, ``prompt``, ``completion``, ``label``: texts that are good or bad."""
    for one in counting(found, losses):
        score = one.answer.get("scores", {}).get(OVERALL)
        if one.kind != "rate" or one.outputs[0].kind != "text":
            losses["not a rated text"] += 1
        elif score is None:
            losses["no overall score"] += 1
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
    """Pictures by SHA-256, and the messages before the answer: of a user, with the pictures at their places, and of the
    model in earlier turns of a conversation."""
    images = [segment["sha256"] for segment in output.inputs if segment["type"] == "image"]
    messages: list[dict] = []
    for role, segments in groupby(output.inputs, key=_role):
        parts = [{"type": "image"} if s["type"] == "image" else {"type": "text", "text": s["text"]} for s in segments]
        messages.append({"role": role, "content": parts})
    return images, messages


def _role(segment: dict) -> str:
    """A picture is a user's, even one that was drawn: it was given anew."""
    return "assistant" if segment["type"] == "text" and segment.get("generated") else "user"


def _message(role: str, text: str) -> dict:
    return {"role": role, "content": [{"type": "text", "text": text}]}


def _about(one: Judged) -> dict:
    """The rest of the answer, and where it is from. Spans are of the model's text."""
    output, answer = one.outputs[0], one.answer
    return {
        "task": output.task, "patient": output.patient, "rater": one.rater, "judgement": one.id,
        "models": [output.model for output in one.outputs], "criteria": answer.get("scores", answer.get("choices", {})),
        "ranking": answer.get("ranking", []), "spans": answer.get("spans", []), "confidence": answer["confidence"],
        "comment": answer["comment"], "purpose": one.purpose,
    }  # fmt: skip


# Pictures ------------------------------------------------------------------------------------------------------------


def pick_a_pic(found: Iterable[Judged], losses: Losses) -> Iterator[dict]:
    """Pairs of images with the label of each side; .5 and .5 for a tie. Both bad have no label. The pictures
    themselves are files by the names of their ``uid``, in a dataset folder."""
    for one in counting(found, losses):
        if one.kind != "compare" or any(output.kind != "image" for output in one.outputs):
            losses["not a comparison of images"] += 1
            continue
        for first, second, choice in _pairs(one):
            left, right = one.outputs[first], one.outputs[second]
            losses["the bytes of a picture, which is a file by its uid"] += 2
            label = {first: (1.0, 0.0), second: (0.0, 1.0), "tie": (0.5, 0.5)}.get(choice)
            yield {
                "caption": left.prompt, "image_0_uid": left.sha256, "image_1_uid": right.sha256,
                "label_0": label and label[0], "label_1": label and label[1], "has_label": label is not None,
                "model_0": left.model, "model_1": right.model, "are_different": left.sha256 != right.sha256,
                "ranking_id": one.id, "user_id": one.rater, "created_at": one.created_at.isoformat(),
                "source_images": [s["sha256"] for s in left.inputs if s["type"] == "image"], "task": left.task,
                "seeds": [left.seed, right.seed], "guidance": [left.settings, right.settings],
                "checkpoint_sha": [left.fingerprint, right.fingerprint], "side_shown": one.answer["shown"],
                "criteria": one.answer["choices"], "ranking": one.answer["ranking"], "patient": left.patient,
                "confidence": one.answer["confidence"], "comment": one.answer["comment"],
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
    """Regions on images as uncompressed RLE, of raters and of gold answers. A point is one pixel."""
    document: dict[str, list[dict]] = {"images": [], "categories": [], "annotations": []}
    images: dict[str, dict] = {}
    labels: dict[str, int] = {}
    told: set[str] = set()
    for one in found:
        output = one.outputs[0]
        if one.kind != "rate" or output.kind != "image":
            losses["not a rated image"] += 1
            continue
        if not output.width:
            losses["of an image whose size was not kept"] += 1
            continue
        if output.sha256 not in images:
            size = {"width": output.width, "height": output.height}
            about = {"task": output.task, "prompt": output.prompt, "model": output.model, "patient": output.patient}
            file = f"{output.sha256}.png"
            images[output.sha256] = {"id": len(images) + 1, "file_name": file, **size, **about}
        by = {"rater": one.rater, "purpose": one.purpose, "occasion": one.occasion, "judgement": one.id}
        said = [(by, one.answer)]
        if one.gold is not None and one.item not in told:
            told.add(one.item)
            said.append(({"rater": GOLD, "purpose": GOLD, "occasion": 0, "judgement": None}, one.gold))
        for who, answer in said:
            leave(answer, losses, "cannot_judge", "scores", "spans", "confidence", "comment")
            for region in answer["regions"]:
                annotation = {"id": len(document["annotations"]) + 1, "image_id": images[output.sha256]["id"]}
                category = labels.setdefault(region["label"], len(labels) + 1)
                pixels = _pixels(region, output.width, output.height)
                document["annotations"].append({**annotation, "category_id": category, **pixels, **who})
    categories = [{"id": number, "name": name} for name, number in labels.items()]
    return document | {"images": list(images.values()), "categories": categories}


def _pixels(region: dict, width: int, height: int) -> dict:
    """A region in COCO's words, and in ours where those say more: a box may begin between two pixels."""
    mask = rasterised(region, width, height)
    own = {} if region["kind"] == "mask" else {"region": region}
    rle = {"segmentation": run_lengths(mask), "area": int(mask.sum()), "bbox": bounds(mask), "iscrowd": 1}
    return {**rle, "kind": region["kind"], **own}


# Tables --------------------------------------------------------------------------------------------------------------


def report_errors(found: Iterable[Judged], losses: Losses) -> Iterator[dict]:
    """A row for each marked error of a text: its class from 1 to 6 and its significance (ReXVal), with laterality,
    measurement and the words. A text without errors has a row without a class."""
    told: set[str] = set()
    for one in found:
        spans, output = one.answer.get("spans"), one.outputs[0]
        if one.gold is not None and one.item not in told:
            told.add(one.item)
            losses["a gold answer"] += 1
        if spans is None or output.text is None:
            losses["not a text"] += 1
            continue
        if one.answer["cannot_judge"] is not None:
            losses["could not be judged"] += 1
            continue
        text = one.answer.get("text")
        kept = one.answer | {"text": None if text == output.text else text}
        leave(kept, losses, "scores", "text", "confidence", "comment")
        row = {
            "study_id": one.item, "report": output.id, "rater_index": one.rater, "model": output.model,
            "purpose": one.purpose, "occasion": one.occasion,
        }  # fmt: skip
        nothing = dict.fromkeys(("start", "end", "error", "significant", "laterality", "measurement"))
        for span in spans or [nothing]:
            words = output.text[span["start"] : span["end"]] if spans else None
            category = one.rubric["errors"].index(span["error"]) + 1 if spans else None
            yield {**row, "category": category, **span, "words": words}


def imrmc(found: Iterable[Judged], losses: Losses) -> Iterator[dict]:
    """``readerID,caseID,modalityID,score``: a case is a patient's request, which all models have, and each model a
    modality. Of several outputs of a model for it the first counts. The truth of cases of gold items follows, as scores
    of the reader ``truth``."""
    read: dict[tuple[str, str, str], str] = {}
    truths: dict[str, set[int]] = {}
    for one in found:
        score = one.answer.get("scores", {}).get(OVERALL)
        if (reason := _no_reading(one, score)) is not None:
            losses[reason] += 1
            continue
        output = one.outputs[0]
        case = _case(output)
        if read.setdefault((one.rater, case, output.model), one.item) != one.item:
            losses["a further output of a model for one request"] += 1
            continue
        others = {name: value for name, value in one.answer["scores"].items() if name != OVERALL}
        leave(one.answer | {"scores": others}, losses, "scores", "regions", "spans", "confidence", "comment")
        truth = one.gold and one.gold.get("scores", {}).get(OVERALL)
        truths.setdefault(case, set()).update(() if truth is None else {int(truth >= GOOD)})
        yield {"readerID": one.rater, "caseID": case, "modalityID": output.model, "score": score}
    for case, known in truths.items():
        if len(known) == 1:
            yield {"readerID": "truth", "caseID": case, "modalityID": "truth", "score": known.pop()}
        else:
            losses["a case whose truth is not known" if not known else "a case whose truth differs between models"] += 1


def _case(output: Output) -> str:
    """The same for all outputs that answer one request about one patient."""
    request = [output.patient, output.task, output.inputs]
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:16]


def _no_reading(one: Judged, score: int | None) -> str | None:
    if one.kind != "rate":
        return "not a rating"
    if one.purpose != "judge":
        return "an adjudication"
    if one.occasion:
        return "a repeated judgement"
    if one.answer["cannot_judge"] is not None:
        return "could not be judged"
    return "no overall score" if score is None else None


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
