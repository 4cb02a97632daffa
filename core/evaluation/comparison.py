"""A new version against the one that it was made of: both answer the same requests, and people say blindly which is
better."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from core.evaluation.bench import BATCH
from core.feedback.people import Person
from core.feedback.projects import NewItem
from core.feedback.rubric import OVERALL, Plan, Rubric
from core.feedback.runs import GenerationRef
from core.feedback.studio import StudioStore
from core.feedback.unseen import Request
from core.inference.events import SegmentDone
from core.inference.generator import Generator
from core.inference.once import turn_of
from core.inference.provenance import Provenance
from core.sequence import Image, Segment, Text
from core.tasks import TASKS


@dataclass(frozen=True)
class Comparison:
    """
    Attributes:
        project_id: the open project; None where both versions do the same on every request.
        items: requests on which they differ, which are the project's items.
        same: requests on which they do not.
    """

    project_id: str | None
    items: int
    same: int


Answers = list[tuple[GenerationRef, Segment]]
"""A run of each request, with its first output."""


def answers(
    store: StudioStore, by: Person, generator: Generator, requests: list[Request],
    tell: Callable[[int], object] = lambda done: None, seed: int = 0,
) -> Answers:  # fmt: skip
    """What a version answers with its own settings; all of it is stored. Requests of no task are left out.

    Args:
        tell: called with the number of requests that are answered.
    """
    known, found = [request for request in requests if request.task in TASKS], []
    for start in range(0, len(known), BATCH):
        found += _run(store, by, generator, known[start : start + BATCH], seed + start)
        tell(len(found))
    return found


def compare(store: StudioStore, by: Person, name: str, ours: Answers, theirs: Answers) -> Comparison:
    """An open, blinded project of what two versions answered differently to the same requests.

    Args:
        name: of the project; where there is one of that name, it is taken: a call that was cut off made it.
    """
    items = [
        NewItem((new.response_ids[0], old.response_ids[0]))
        for (new, made), (old, before) in zip(ours, theirs, strict=True) if made.to_json() != before.to_json()
    ]  # fmt: skip
    if not items:
        return Comparison(None, 0, len(ours))
    there = next((one.id for one in store.projects.of(by) if one.name == name), None)
    project = there or store.projects.make(by, name, "compare", Rubric((OVERALL,)), Plan(overlap=1), items)
    store.projects.change_state(by, project, "open")
    return Comparison(project, len(items), len(ours) - len(items))


def _run(
    store: StudioStore, by: Person, generator: Generator, requests: list[Request], seed: int
) -> Answers:  # fmt: skip
    """Answers a few requests and keeps what comes out."""
    turns = [
        turn_of(generator, TASKS[one.task], [_segment(store, part) for part in one.inputs], seed + number)
        for number, one in enumerate(requests)
    ]  # fmt: skip
    outputs: list[list[Segment]] = [[] for _ in turns]
    for index, event in generator.batch(turns):
        if isinstance(event, SegmentDone):
            outputs[index].append(event.segment)
    found = []
    for request, turn, made in zip(requests, turns, outputs, strict=True):
        about = Provenance.of(generator.checkpoint, request.task, turn)
        ref = store.add_run(
            by, task=request.task, inputs=turn.inputs, outputs=made, settings=json.loads(about.parameters),
            seed=turn.seed, model_name=generator.checkpoint.name, model_fingerprint=generator.checkpoint.fingerprint,
            key=f"compare {about.decode} {request.inputs}", case=request.case_id,
        )  # fmt: skip
        found.append((ref, made[0]))
    return found


def _segment(store: StudioStore, part: dict) -> Segment:
    """As it was when it was stored, so that the request stays the same."""
    if part["type"] == "text":
        return Text(part["text"])
    spacing = part.get("spacing_mm")
    pixels = store.blobs.read(part["sha256"]).convert("RGB")
    return Image(pixels, spacing and tuple(spacing), part.get("modality"), part.get("generated", False))
