"""People of a studio, and projects for them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import pytest
import sqlalchemy as sa

from core.feedback.models import Base, utc_now
from core.feedback.people import Person
from core.feedback.projects import NewItem
from core.feedback.queue import Task
from core.feedback.rubric import ANATOMY, DEFECTS, ERRORS, OVERALL, Plan, Rubric
from core.feedback.studio import StudioStore
from core.lineage import Lineage
from core.sequence import Segment, Text
from tests.core.feedback.builders import picture

RUBRIC = Rubric((ANATOMY, OVERALL), DEFECTS, ERRORS)
MODEL, OTHER, FINGERPRINT, SEED, SETTING = "secret-model", "second-model", "fedcba" * 8, 987654321, "secret-setting"
NOON = datetime.fromisoformat("2026-03-01T12:00:00.123+02:00")
"""By the clock of a browser."""


class Clock:
    """The queue's time, which a test moves on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._later = timedelta(0)
        monkeypatch.setattr("core.feedback.queue.utc_now", lambda: utc_now() + self._later)

    def move(self, **by: float) -> None:
        self._later += timedelta(**by)


def account(store: StudioStore, by: Person | None, name: str, role: str) -> Person:
    """Somebody whom an identity provider knows: no time goes into a password."""
    store.people.add(by, name, role, subject=f"test|{name}")
    return store.people.of_subject(f"test|{name}")


@dataclass
class Team:
    store: StudioStore
    maintainer: Person
    adjudicator: Person
    raters: list[Person]

    @classmethod
    def of(cls, store: StudioStore, raters: int = 2) -> Team:
        maintainer = account(store, None, "mona", "maintainer")
        names = ["rita", "ralf", "rosa", "rolf", "ruth"][:raters]
        return cls(
            store, maintainer, account(store, maintainer, "judith", "adjudicator"),
            [account(store, maintainer, name, "rater") for name in names],
        )  # fmt: skip

    def outputs(self, kind: str = "image", count: int = 4, model: str = MODEL, patient: str | None = None) -> list[str]:
        """Responses of a model, one to each of ``count`` requests; the same requests for every model."""
        found = []
        for n in range(count):
            output: Segment = Text(f"Finding {n}, no effusion.") if kind == "text" else picture(100 + n, generated=True)
            ref = self.store.add_run(
                self.maintainer, task="super_resolution", inputs=[picture(n), Text(f"Sharper, please ({n}).")],
                outputs=[output], settings={"scheduler": SETTING}, seed=SEED, model_name=model,
                model_fingerprint=FINGERPRINT + model, key=f"{kind} {model} {patient} {n}",
                case=("archive", patient, str(n)) if patient else None,
            )  # fmt: skip
            found += ref.response_ids
        return found

    def project(
        self, kind: str = "rate", count: int = 4, plan: Plan | None = None, items: list[NewItem] | None = None,
        name: str = "", repeated: bool = False,
    ) -> str:  # fmt: skip
        """An open project in which everybody takes part."""
        if items is None:
            one = self.outputs("text" if kind == "correct" else "image", count)
            ids = zip(one, self.outputs(count=count, model=OTHER), strict=True) if kind == "compare" else zip(one)
            items = [NewItem(tuple(of), repeated=repeated) for of in ids]
        projects, by = self.store.projects, self.maintainer
        project = projects.make(by, name or f"{kind} {count}", kind, RUBRIC, plan)
        projects.add_items(by, project, items)
        for rater in self.raters:
            projects.add_member(by, project, rater.id)
        projects.add_member(by, project, self.adjudicator.id, "adjudicate")
        projects.change_state(by, project, "open")
        return project

    def next(self, person: Person, project: str) -> Task | None:
        return self.store.queue.next(person, project, "adjudicate" if person is self.adjudicator else "judge")

    def submit(self, person: Person, task: Task, score: int = 4, reason: str = "", **more: object) -> int:
        said = answer(task.kind, score) | more
        return self.store.queue.submit(person, task.id, said, 12.5, NOON, reason)

    def judge_all(self, person: Person, project: str, score: int = 4, **more: object) -> list[Task]:
        """Everything that comes to somebody."""
        done = []
        while (task := self.next(person, project)) is not None:
            self.submit(person, task, score, **more)
            done.append(task)
        return done


def report(team: Team, text: str, patient: str, model: str = MODEL) -> str:
    (response,) = team.store.add_run(
        team.maintainer, task="report", inputs=[picture(1), Text("Report it.")], outputs=[Text(text)], settings={},
        seed=0, model_name=model, model_fingerprint=FINGERPRINT + model, key=f"{text} {patient} {model}",
        case=("archive", patient, "1"),
    ).response_ids  # fmt: skip
    return response


def filled(team: Team, count: int = 3, name: str = "one") -> str:
    """A project of comparisons that both raters have finished, each of a patient of its own."""
    patients = [f"{name} {n}" for n in range(count)]
    items = [NewItem((report(team, "Good.", of), report(team, "Bad.", of, OTHER))) for of in patients]
    project = team.project("compare", items=items, name=name, plan=Plan(overlap=2))
    for rater in team.raters:
        team.judge_all(rater, project, choices={"anatomy": 0, "overall": 0})
    return project


def lineage(name: str, snapshot: str, parent: str = MODEL, created_at: str = "2026-03-01T12:00:00+00:00") -> Lineage:
    """Of a version that was learned on top of the team's model."""
    return Lineage(
        name, parent, MODEL, FINGERPRINT + MODEL, FINGERPRINT + parent, snapshot, {"pair, train": 3}, 6, {"steps": 2},
        "", {}, created_at,
    )  # fmt: skip


def answer(kind: str = "rate", score: int = 4) -> dict:
    """One that is complete. Of a comparison the score is the index of the better one."""
    if kind == "correct":
        return {"text": f"Finding {score}."}
    if kind == "compare":
        return {"choices": {"anatomy": score % 2, "overall": "tie"}, "opened": True}
    return {"scores": {"anatomy": score, "overall": 3}, "opened": True}


def judgements(engine: sa.Engine, *columns: str, **of: object) -> list[tuple]:
    """What is written down, the oldest first."""
    table = Base.metadata.tables["judgements"]
    query = sa.select(*(table.c[name] for name in columns)).order_by(table.c.created_at)
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(query.filter_by(**of))]


def told_apart(task: Task) -> str:
    """What tells the items of a project apart."""
    return "\n".join(segment["text"] for segment in task.shown.inputs if segment["type"] == "text")
