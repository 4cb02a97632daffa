"""What raters have said of one criterion, as columns of numbers: all that statistics need of a project, without the
requests, outputs and answers that ``core.feedback.judged`` reads."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from sqlalchemy import ColumnElement, Select, String, cast, func, null, select
from sqlalchemy.orm import Session

from core.feedback.database import Database
from core.feedback.judged import VISITOR, rater_name
from core.feedback.masks import dice, marked
from core.feedback.models import Generation, ModelVersion, Response
from core.feedback.studio_models import Item, Judgement, Project

TIE, BOTH_BAD = -1.0, -2.0
VERDICTS = {"tie": TIE, "both_bad": BOTH_BAD}
CLOSE = 1
"""A score of a gold item is right within so much."""
OVERLAP = 0.5
"""Regions are right from so much of overlap (Dice)."""
CHUNK, BATCH = 50_000, 5_000
SAID = Judgement.__table__.c


@dataclass(frozen=True)
class Columns:
    """The judgements of raters that count, a row each; adjudications are left out.

    Attributes:
        raters: names that are the same within a project and tell nothing, in alphabetical order.
        items: ids, in the order of their places.
        rater, item: int, indices of these.
        occasion: int, 0 for the first judgement of an item by a rater.
        value: float, the score; of a choice the number of the output, ``TIE`` or ``BOTH_BAD``; NaN without one.
        seconds: float, time on the item, idle time removed.
        unable: bool, that it could not be judged.
        gold: by rater, share of right answers to gold items, where something is known of what they say.
        repeats: by rater, share of criteria that were answered alike the second time.
        sides: of shape (items, outputs), which of ``models`` made each output, -1 beyond the last. Of comparisons
            alone.
    """

    raters: list[str]
    items: list[str]
    rater: np.ndarray
    item: np.ndarray
    occasion: np.ndarray
    value: np.ndarray
    seconds: np.ndarray
    unable: np.ndarray
    gold: dict[str, float]
    repeats: dict[str, float]
    models: list[str]
    sides: np.ndarray


def columns(database: Database, project_id: str, criterion: str | None) -> Columns:
    """Of a project.

    Args:
        criterion: whose values are read; None for a project that asks for none.
    """
    with database.reading(snapshot=True) as session:
        project = session.get_one(Project, project_id)
        there = select(Item.id).where(Item.project_id == project_id, Item.withdrawn_at.is_(None)).order_by(Item.place)
        items = list(session.scalars(there))
        places, people = {one: n for n, one in enumerate(items)}, _People(project_id)
        query = select(
            SAID.item_id, SAID.user_id, SAID.occasion, SAID.version, SAID.active_seconds,
            SAID.answer["cannot_judge"].as_string().is_not(None), _said(project.kind, criterion),
        ).where(SAID.project_id == project_id, SAID.purpose == "judge", SAID.withdrawn_at.is_(None))  # fmt: skip
        rows = np.concatenate([np.empty((0, 7)), *_chunks(session, query, places, people)])
        names, order = people.sorted()
        rows[:, 1] = order[rows[:, 1].astype(int)]
        rows = _newest(rows)
        rater, item = rows[:, 1].astype(int), rows[:, 0].astype(int)
        again = {items[n] for n in item[rows[:, 2] > 0]}
        models, sides = _sides(session, project_id, places) if project.kind == "compare" else ([], np.empty((0, 0)))
        gold, repeats = _gold(session, project), _repeats(session, project, again)
    value = np.where(rows[:, 5] > 0, np.nan, rows[:, 6])
    return Columns(names, items, rater, item, rows[:, 2].astype(int), value, rows[:, 4], rows[:, 5] > 0, gold, repeats,
                   models, sides)  # fmt: skip


def by_day(database: Database, project_id: str) -> dict[str, int]:
    """Judgements of each day (UTC), revisions not counted."""
    at = SAID.created_at if database.is_sqlite else func.timezone("UTC", SAID.created_at)
    day = cast(func.date(at, type_=String), String)
    query = (
        select(day, func.count()).where(SAID.project_id == project_id, SAID.version == 1).group_by(day).order_by(day)
    )
    with database.reading() as session:
        return {str(one): count for one, count in session.execute(query)}


class _People(dict):
    """Numbers of accounts, as they come."""

    def __init__(self, project_id: str) -> None:
        super().__init__()
        self.project_id = project_id

    def __missing__(self, user_id: str) -> int:
        return self.setdefault(user_id, len(self))

    def sorted(self) -> tuple[list[str], np.ndarray]:
        """Their names, and where each number stands among them."""
        names = [rater_name(self.project_id, one) for one in self]
        order = np.argsort(np.argsort(names)) if names else np.empty(0, int)
        return sorted(names), order


def _said(kind: str, criterion: str | None) -> ColumnElement:
    if criterion is None or kind == "correct":
        return null()
    if kind == "rate":
        return SAID.answer[("scores", criterion)].as_integer()
    return SAID.answer[("choices", criterion)].as_string()


def _chunks(session: Session, query: Select, places: dict[str, int], people: _People) -> Iterator[np.ndarray]:
    """Rows of numbers: item, rater, occasion, version, seconds, unable, value."""
    found = session.connection().execute(query, execution_options={"yield_per": CHUNK})  # no objects on the way
    for chunk in found.partitions():
        item, user, *numbers, said = zip(*chunk, strict=True)
        items = [places.get(one, -1) for one in item]
        values = [np.nan if one is None else VERDICTS.get(one, one) for one in said]
        rows = np.array([items, [people[one] for one in user], *numbers, values], dtype=float).T
        yield rows[rows[:, 0] >= 0]


def _newest(rows: np.ndarray) -> np.ndarray:
    """The newest version of each, item by item."""
    rows = rows[np.lexsort((rows[:, 3], rows[:, 2], rows[:, 1], rows[:, 0]))]
    last = np.ones(len(rows), bool)
    last[:-1] = (rows[1:, :3] != rows[:-1, :3]).any(axis=1)
    return rows[last]


# Whole answers, where they are needed --------------------------------------------------------------------------------


def _gold(session: Session, project: Project) -> dict[str, float]:
    query = select(Item.id, Item.gold, Item.response_ids).where(
        Item.project_id == project.id, Item.withdrawn_at.is_(None), Item.gold.is_not(None)
    )
    found = session.execute(query).all()
    shown, sizes = [ids[0] for *_, ids in found], {}
    for start in range(0, len(shown), BATCH):
        of = select(Response.id, Response.width, Response.height)
        rows = session.execute(of.where(Response.id.in_(shown[start : start + BATCH])))
        sizes |= {one: (width, height) for one, width, height in rows if width}
    gold = {item: (answer, sizes.get(ids[0])) for item, answer, ids in found}
    right = ((user, is_right(said, *gold[item])) for (user, item, n), said in _answers(session, gold) if n == 0)
    return _shares(project, ((user, one) for user, one in right if one is not None))


def is_right(answer: dict, gold: dict, size: tuple[int, int] | None = None) -> bool | None:
    """Whether an answer says what is known: scores within ``CLOSE``, regions from ``OVERLAP``. None where nothing that
    it says is known.

    Args:
        size: width and height of the output, if it is a picture.
    """
    if answer["cannot_judge"] is not None or gold.get("cannot_judge") is not None:
        return (answer["cannot_judge"] is None) == (gold.get("cannot_judge") is None)
    known = [answer["text"] == gold["text"]] if gold.get("text") else []
    known += [answer["choices"].get(name) == choice for name, choice in gold.get("choices", {}).items()]
    known += [abs(answer["scores"][name] - score) <= CLOSE for name, score in gold.get("scores", {}).items()]
    for label in {region["label"] for region in gold.get("regions", [])} if size else ():
        known.append(dice(marked(gold, *size, label), marked(answer, *size, label)) >= OVERLAP)
    return all(known) if known else None


def _repeats(session: Session, project: Project, items: Collection[str]) -> dict[str, float]:
    names, said = [criterion["name"] for criterion in project.rubric["criteria"]], dict(_answers(session, items))
    alike = (
        (user, one)
        for (user, item, occasion), answer in said.items()
        if occasion and (user, item, 0) in said
        for one in said_again(answer, said[user, item, 0], names)
    )
    return _shares(project, alike)


def said_again(answer: dict, first: dict, criteria: Iterable[str]) -> Iterator[bool]:
    """Whether an answer repeats the first one: its text, or each criterion of which one of the two says something."""
    if "text" in answer:
        yield (answer["cannot_judge"], answer["text"]) == (first["cannot_judge"], first["text"])
        return
    for name in criteria:
        both = value_of(answer, name), value_of(first, name)
        if both != (None, None):
            yield both[0] == both[1]


def _answers(session: Session, items: Iterable[str]) -> Iterator[tuple[tuple[str, str, int], dict]]:
    """The newest answers of raters about items, by account, item and occasion."""
    rest = iter(items)
    while some := list(islice(rest, BATCH)):
        query = select(SAID.user_id, SAID.item_id, SAID.occasion, SAID.answer).where(
            SAID.item_id.in_(some), SAID.purpose == "judge", SAID.withdrawn_at.is_(None)
        )  # fmt: skip
        found = session.connection().execute(query.order_by(SAID.version))
        yield from {(user, item, occasion): answer for user, item, occasion, answer in found}.items()


def value_of(answer: dict, criterion: str) -> float | None:
    """What an answer says of a criterion, as a number; None where it says nothing."""
    if answer["cannot_judge"] is not None:
        return None
    said = answer.get("scores", answer.get("choices", {})).get(criterion)
    return None if said is None else VERDICTS.get(said, said)


def _shares(project: Project, found: Iterable[tuple[str, bool]]) -> dict[str, float]:
    by_user: dict[str, list[bool]] = {}
    for user, right in found:
        by_user.setdefault(user, []).append(right)
    return {rater_name(project.id, user): sum(of) / len(of) for user, of in by_user.items()}


def _sides(session: Session, project_id: str, places: dict[str, int]) -> tuple[list[str], np.ndarray]:
    """The models, and which of them made each output of each item."""
    query = select(Item.id, Item.response_ids).where(Item.project_id == project_id, Item.withdrawn_at.is_(None))
    shown = {places[item]: ids for item, ids in session.execute(query)}
    rest, by_response = iter([one for ids in shown.values() for one in ids]), {}
    while some := list(islice(rest, BATCH)):
        of = select(Response.id, Response.author, ModelVersion.name)
        of = of.join(Generation, Response.generation_id == Generation.id)
        of = of.join(ModelVersion, Generation.model_version_id == ModelVersion.id)
        rows = session.execute(of.where(Response.id.in_(some)))
        by_response |= {one: name if author == "model" else VISITOR for one, author, name in rows}
    models = sorted(set(by_response.values()))
    number = {name: n for n, name in enumerate(models)}
    sides = np.full((len(places), max(map(len, shown.values()), default=0)), -1)
    for place, ids in shown.items():
        sides[place, : len(ids)] = [number[by_response[one]] for one in ids]
    return models, sides
