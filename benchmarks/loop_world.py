"""The world of ``benchmarks.feedback_loop``: a store of the studio, rater models with accounts in it, and what is
learned from what they say."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import torch
from PIL import Image as PILImage

from benchmarks.rater_models import RaterModel, Rule, truth_of
from core.config import NANO, ImageSampling
from core.data.records import Record, open_picture
from core.errors import NothingLearnedError
from core.evaluation.bench import BATCH
from core.evaluation.comparison import answers, compare
from core.feedback.gate import Gate, gate_of
from core.feedback.judged import judged
from core.feedback.people import Person
from core.feedback.projects import NewItem
from core.feedback.rubric import OVERALL, RUBRICS, Plan, Rubric
from core.feedback.runs import with_origins
from core.feedback.snapshots import Rules
from core.feedback.studio import StudioStore
from core.feedback.unseen import Request
from core.inference.events import SegmentDone
from core.inference.generator import Generator
from core.inference.once import image_sampling, turn_of
from core.inference.provenance import Provenance
from core.lineage import Lineage
from core.model.checkpoint import load
from core.sequence import Image, Segment
from core.tasks import TASKS
from core.training.learn import Learner
from core.training.loop import fingerprint_of, load_to_learn
from core.training.recipe import LearnRecipe
from core.training.sources import from_store


@dataclass
class World:
    """One scenario's store, people, and requests with their truths."""

    folder: Path
    store: StudioStore
    maintainer: Person
    root: Path
    rule: Rule
    base: Generator
    truths: dict[str, object]
    """By the SHA-256 of the request's picture."""
    seed: int

    @classmethod
    def of(cls, folder: Path, root: Path, rule: Rule, seed: int) -> World:
        shutil.rmtree(folder, ignore_errors=True)
        store = StudioStore(f"sqlite:///{folder / 'feedback.sqlite'}", folder / "pictures")
        maintainer = account(store, None, "maintainer", "maintainer")
        base = Generator(load(NANO, torch.device("cpu"), torch.float32))
        return cls(folder, store, maintainer, root, rule, base, {}, seed)

    def items(self, records: list[Record]) -> list[NewItem]:
        """What raters get: the answer to correct; or those answers to a request that differ, where there are such."""
        found = []
        for ids, outputs in self.answers(records, self.rule.samples):
            different = {json.dumps(output.to_json()): one for one, output in zip(ids, outputs, strict=True)}
            if len(different) > 1 or self.rule.kind == "correct":
                found.append(NewItem(tuple(different.values())))
        return found

    def request(self, record: Record, number: int) -> tuple[list[Segment], tuple[str, str, str]]:
        """Its inputs, and whose it is."""
        picture = Image(open_picture(self.root, record.input_img[0], record.place))
        read = lambda path: open_picture(self.root, path, record.place)  # noqa: E731
        self.truths[picture.sha256] = truth_of(self.rule, record, read)
        prompt = self.rule.prompts[number % len(self.rule.prompts)]
        return TASKS[self.rule.task].build([picture], prompt), ("records", record.patient, "")

    def answers(self, records: list[Record], seeds: int) -> list[tuple[list[str], list[Segment]]]:
        """What the checkpoint answers, ``seeds`` times to each request, with its ids: all of it is stored."""
        jobs = [(n, seed) for n in range(len(records)) for seed in range(seeds)]
        found: list[tuple[list[str], list[Segment]]] = [([], []) for _ in records]
        task, text = TASKS[self.rule.task], replace(self.base.config.text, temperature=self.rule.temperature)
        for start in range(0, len(jobs), BATCH):
            part = jobs[start : start + BATCH]
            asked = [self.request(records[n], n) for n, _ in part]
            turns = [
                turn_of(self.base, task, inputs, seeds * n + seed, self.drawn_with(seed), text)
                for (inputs, _), (n, seed) in zip(asked, part, strict=True)
            ]  # fmt: skip
            outputs = {i: e.segment for i, e in self.base.batch(turns) if isinstance(e, SegmentDone)}
            for i, ((n, seed), (inputs, case), turn) in enumerate(zip(part, asked, turns, strict=True)):
                about = Provenance.of(self.base.checkpoint, task.name, turn)
                ref = self.store.add_run(
                    self.maintainer, task=task.name, inputs=inputs, outputs=[outputs[i]], seed=turn.seed,
                    settings=json.loads(about.parameters), model_name=about.model, key=f"{n} {seed}", case=case,
                    model_fingerprint=self.base.checkpoint.fingerprint,
                )  # fmt: skip
                found[n][0].append(ref.response_ids[0])
                found[n][1].append(outputs[i])
        return found

    def drawn_with(self, sample: int) -> ImageSampling:
        own = image_sampling(self.base.config, TASKS[self.rule.task])
        steps = self.rule.timesteps
        return replace(own, num_timesteps=steps[sample % len(steps)]) if steps else own

    def project(self, name: str, kind: str, items: list[NewItem], raters: list[Person], overlap: int = 1) -> str:
        rubric = RUBRICS["text"] if kind == "correct" else Rubric((OVERALL,))
        project = self.store.projects.make(self.maintainer, name, kind, rubric, Plan(overlap=overlap), items)
        self.let_take_part(project, raters)
        self.store.projects.change_state(self.maintainer, project, "open")
        return project

    def golden(self, item: NewItem) -> NewItem:
        """The same item with the answer that is known to be right."""
        found = judged_outputs(self.store, item.response_ids)
        truth = self.truths[found[0][0]]
        answer = RaterModel(self.rule, noise=0.0).ranking([output for _, output in found], truth)
        return NewItem(item.response_ids, answer)

    def let_take_part(self, project: str, raters: list[Person]) -> None:
        for rater in raters:
            self.store.projects.add_member(self.maintainer, project, rater.id)

    def judge(self, project: str, raters: list[tuple[Person, RaterModel]], most: int | None = None) -> int:
        """Raters take turns until there is nothing more to judge, or ``most`` judgements are made."""
        made, waiting = 0, list(raters)
        while waiting and (most is None or made < most):
            person, model = waiting.pop(0)
            task = self.store.queue.next(person, project)
            if task is None:
                continue
            (sha256,) = [part["sha256"] for part in task.shown.inputs if part["type"] == "image"]
            truth = self.truths[sha256]
            if task.kind == "correct":
                answer = {"text": model.correction(truth)}
            else:
                answer = model.ranking([self.seen(one) for one in task.shown.outputs], truth)
            self.store.queue.submit(person, task.id, answer | {"opened": True}, 1.0, datetime.now(UTC))
            made += 1
            waiting.append((person, model))
        return made

    def seen(self, output: dict) -> str | PILImage.Image:
        return output["text"] if output["kind"] == "text" else self.store.blobs.read(output["sha256"]).convert("RGB")


def account(store: StudioStore, by: Person | None, name: str, role: str) -> Person:
    store.people.add(by, name, role, subject=f"rater-models|{name}")
    return store.people.of_subject(f"rater-models|{name}")


def people(world: World, count: int, bad: int = 0, group: str = "rater") -> list[tuple[Person, RaterModel]]:
    """Accounts with their rater models; the first ``bad`` are adversarial and careless in turns."""
    found = []
    for n in range(count):
        kind = ("adversarial", "careless")[n % 2] if n < bad else "honest"
        model = RaterModel(world.rule, kind, draw=random.Random(f"{world.seed}/{n}"))
        found.append((account(world.store, world.maintainer, f"{group}-model-{n}", "rater"), model))
    return found


def learned(world: World, project: str, recipe: LearnRecipe, name: str, held_out: list[Record], least_gold=0.0) -> dict:
    """A version out of what was judged so far, and how it does against the checkpoint on held-out patients."""
    rules = Rules((project,), test_share=0.1, least_gold=least_gold)
    snapshot = world.store.snapshots.make(world.maintainer, rules)
    folder = world.folder / "versions" / name
    folder.mkdir(parents=True)
    start = time.perf_counter()
    result, none = {"version": name, "counts": snapshot.counts}, asdict(gate_of([]))
    try:
        Learner(from_store(world.store, snapshot.sha256), load_to_learn(str(NANO)), recipe, folder, name).run()
    except NothingLearnedError as error:
        return result | {"nothing learned": str(error), "gate": none, "without noise": none}
    seconds = time.perf_counter() - start
    lineage = Lineage.read(folder)
    version = world.store.versions.register(world.maintainer, lineage, fingerprint_of(folder))
    new = Generator(load(folder, torch.device("cpu"), torch.float32))
    requests = [_stored(world, record, n) for n, record in enumerate(held_out)]
    sides = [answers(world.store, world.maintainer, one, requests, seed=10**6) for one in (new, world.base)]
    found = compare(world.store, world.maintainer, f"{name} against the base", *sides)
    result |= {"learning seconds": round(seconds, 1), "held out requests": len(requests), "alike": found.same}
    result |= {"metrics": lineage.metrics}
    if found.project_id is None:
        return result | {"gate": none, "without noise": none}
    world.store.versions.link(world.maintainer, version, found.project_id)
    judge = (account(world.store, world.maintainer, f"judge-{name}", "rater"), RaterModel(world.rule))
    judge[1].draw.seed(f"{world.seed}/{name}")
    world.let_take_part(found.project_id, [judge[0]])
    world.judge(found.project_id, [judge])
    result["gate"] = _rounded(world.store.versions.gate(version))
    result["without noise"] = _rounded(gate_of(list(_scores(world, found.project_id, new.checkpoint.name))))
    return result


def _stored(world: World, record: Record, number: int) -> Request:
    """A held-out request; its picture must be in the store to be shown."""
    inputs, _ = world.request(record, number)
    world.store.blobs.put(inputs[0])
    return Request(world.rule.task, [part.to_json() for part in inputs], None)


def _scores(world: World, project: str, name: str) -> Iterator[float]:
    """What a rater without noise says of each item: 1 for the version, 0 for the checkpoint."""
    for one in judged(world.store.database, project):
        (sha256,) = [part["sha256"] for part in one.outputs[0].inputs if part["type"] == "image"]
        outputs = [world.seen({"kind": o.kind, "text": o.text, "sha256": o.sha256}) for o in one.outputs]
        best = RaterModel(world.rule, noise=0.0).ranking(outputs, world.truths[sha256])["ranking"][0]
        yield 0.5 if len(best) > 1 else float(one.outputs[best[0]].model == name)


def judged_outputs(store: StudioStore, response_ids: tuple[str, ...]) -> list[tuple[str, object]]:
    """Outputs by their ids, each with the SHA-256 of its request's picture."""
    with store.database.reading() as session:
        rows = {response.id: (response, of) for response, of, _, _ in session.execute(with_origins(response_ids))}
    found = []
    for one in response_ids:
        response, generation = rows[one]
        (sha256,) = [part["sha256"] for part in generation.inputs if part["type"] == "image"]
        output = response.text if response.kind == "text" else store.blobs.read(response.sha256).convert("RGB")
        found.append((sha256, output))
    return found


def _rounded(gate: Gate) -> dict:
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in asdict(gate).items()}
