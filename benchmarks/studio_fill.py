"""Fills a database for ``benchmarks.studio_scale``, behind the program's back: the log knows nothing of these rows."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice

import numpy as np
import sqlalchemy as sa

from core.feedback.models import Case, Generation, ModelVersion, Response, new_id, new_salt
from core.feedback.people import Person
from core.feedback.rubric import OVERALL, PROMPT, Plan, Rubric
from core.feedback.studio import StudioStore
from core.feedback.studio_models import Assignment, Item, Judgement

RATERS = 20
UNFINISHED = 300
CRITERION = OVERALL.name
RUBRIC = Rubric((PROMPT, OVERALL), errors=("omission",))
BATCH = 5000
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
Rows = Iterator[dict]


def insert(store: StudioStore, table: type, rows: Rows) -> None:
    while some := list(islice(rows, BATCH)):
        with store.database.writing() as session:
            session.execute(sa.insert(table.__table__), some)


def outputs(store: StudioStore, items: int) -> list[str]:
    """Texts of a model about scans of patients, one an item."""
    version, cases = new_id(), [new_id() for _ in range(max(1, items // 5))]
    generations, responses = [new_id() for _ in range(items)], [new_id() for _ in range(items)]
    insert(store, ModelVersion, iter([{"id": version, "name": "scale", "fingerprint": "f" * 64}]))
    insert(store, Case, (
        {"id": one, "patient_hash": f"{n:064x}", "name": "1", "source": "archive"} for n, one in enumerate(cases)
    ))  # fmt: skip
    insert(store, Generation, (
        {
            "id": one, "task": "report", "prompt": "Write the report of this radiograph.", "settings": {"steps": 9},
            "inputs": [{"type": "image", "sha256": f"{n:064x}"}, {"type": "text", "text": "Write the report."}],
            "seed": n, "model_version_id": version, "case_id": cases[n % len(cases)],
        }
        for n, one in enumerate(generations)
    ))  # fmt: skip
    insert(store, Response, (
        {
            "id": one, "generation_id": generations[n], "place": 0, "kind": "text", "author": "model",
            "text": f"Case {n}: heart and mediastinum are of normal size. No effusion, no pneumothorax. " * 4,
        }
        for n, one in enumerate(responses)
    ))  # fmt: skip
    return responses


def project(store: StudioStore, by: Person, people: list[Person], name: str, plan: Plan) -> str:
    made = store.projects.make(by, name, "rate", RUBRIC, plan)
    for person in people:
        store.projects.add_member(by, made, person.id)
    return made


def opened(store: StudioStore, project_id: str, responses: list[str], gold: dict[int, dict], taken: np.ndarray,
           disputed: dict[int, str]) -> list[str]:  # fmt: skip
    """Puts the items in, and opens the project."""
    ids = [new_id() for _ in responses]
    insert(store, Item, (
        {
            "id": one, "project_id": project_id, "place": n, "response_ids": [responses[n]], "content_sha256": "0" * 64,
            "gold": gold.get(n), "repeated": n % 100 == 0, "taken": int(taken[n]), "disputed": disputed.get(n),
        }
        for n, one in enumerate(ids)
    ))  # fmt: skip
    with store.database.writing() as session:
        session.execute(sa.text("UPDATE projects SET state = 'open' WHERE id = :id"), {"id": project_id})
    return ids


def answer(overall: int, prompt: int, unable: bool) -> dict:
    scores = {} if unable else {PROMPT.name: prompt, CRITERION: overall}
    return {
        "cannot_judge": "image quality" if unable else None, "confidence": 2, "comment": "", "opened": True,
        "scores": scores, "regions": [], "spans": [], "shown": [0],
    }  # fmt: skip


def said(store: StudioStore, project_id: str, items: list[str], cells: Rows) -> None:
    """Assignments and judgements: cells hold item, user, answer, seconds and moment; a second version now and then."""
    while some := list(islice(cells, BATCH)):
        held, told = [], []
        for n, cell in enumerate(some):
            assignment, at = new_id(), cell["at"]
            own = {"project_id": project_id, "item_id": items[cell["item"]], "user_id": cell["user"]}
            own |= {"purpose": "judge", "occasion": cell["occasion"]}
            held.append({
                **own, "id": assignment, "shown": [0], "assigned_at": at, "leased_until": at, "submitted_at": at,
            })  # fmt: skip
            for version in (1, 2) if n % 100 == 0 else (1,):
                told.append({
                    **own, "id": new_id(), "assignment_id": assignment, "version": version, "answer": cell["answer"],
                    "salt": new_salt(), "reason": None if version == 1 else "slip", "active_seconds": cell["seconds"],
                    "said_at": at, "created_at": at,
                })  # fmt: skip
        insert(store, Assignment, iter(held))
        insert(store, Judgement, iter(told))


def fill(store: StudioStore, items: int, ratings: int) -> tuple[list[Person], dict[str, str]]:
    """The raters, and the projects by name."""
    random_, draw = random.Random(0), np.random.default_rng(0)
    maintainer, *people = [account(store, f"person{n}", "rater" if n else "maintainer") for n in range(RATERS + 1)]
    responses, overlap = outputs(store, items), max(2, min(RATERS, round(ratings / items)))
    quality = draw.normal(3.2, 1.0, items)
    bias = draw.normal(0, 0.15, RATERS)
    taken = np.full(items, overlap)
    taken[draw.choice(items, min(UNFINISHED, items), replace=False)] = overlap // 2
    of = [random_.sample(range(RATERS), count) for count in taken]
    scores = [
        np.clip(np.rint(quality[n] + bias[who] + draw.normal(0, 0.4, len(who))), 1, 5) for n, who in enumerate(of)
    ]
    apart = {n: f"{CRITERION}: {s.min():.0f} to {s.max():.0f}" for n, s in enumerate(scores) if np.ptp(s) >= 2}
    gold = {n: answer(int(scores[n][0]), 3, False) for n in range(0, items, 50)}

    def cells() -> Rows:
        for n, who in enumerate(of):
            for place, rater in enumerate(who):
                score = int(scores[n][place])
                at = BEGIN + timedelta(seconds=60.0 * (n + place) + rater)
                yield {
                    "item": n, "user": people[rater].id, "seconds": 5 + 40 * random_.random(), "at": at, "occasion": 0,
                    "answer": answer(score, max(1, score - 1), random_.random() < 0.01),
                }  # fmt: skip

    projects = {
        "ending": project(store, maintainer, people, "ending", Plan(overlap=overlap)),
        "fresh": project(store, maintainer, people, "fresh", Plan(overlap=overlap)),
        "half": project(store, maintainer, people, "half", Plan(design="crossed")),
    }
    ids = opened(store, projects["ending"], responses, gold, taken, apart)
    said(store, projects["ending"], ids, cells())
    opened(store, projects["fresh"], responses, {}, np.zeros(items), {})
    some = set(random_.sample(range(items), items // 2))
    ids = opened(store, projects["half"], responses, {}, np.array([n in some for n in range(items)]), {})
    first = {"user": people[0].id, "seconds": 10.0, "occasion": 0, "answer": answer(3, 3, False)}
    said(store, projects["half"], ids, ({**first, "item": n, "at": BEGIN + timedelta(seconds=n)} for n in sorted(some)))
    return people, projects


def account(store: StudioStore, name: str, role: str) -> Person:
    by = Person("", "", "maintainer") if role == "rater" else None
    store.people.add(by, name, role, subject=f"fill|{name}")
    return store.people.of_subject(f"fill|{name}")
