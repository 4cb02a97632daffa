"""Which item comes next to whom, in each of the designs.

No item is lost or given twice when somebody disappears: an item that is taken is leased, and goes back to the others
when the lease has run out. Whoever comes back gets it again, with what they had entered, if it still needs somebody.
"""

from __future__ import annotations

import random
from datetime import datetime, timedelta

import numpy as np
from sqlalchemy import BigInteger, ColumnElement, Exists, Select, cast, exists, func, select, update
from sqlalchemy.orm import Session, aliased

from core.feedback.people import Person
from core.feedback.rubric import Plan
from core.feedback.studio_models import Assignment, Item, Judgement, Member, Project

PRIME = 2_147_483_647
"""Places are permuted modulo this prime: another order for each person, which the database can sort by."""
JUDGED = Assignment.submitted_at.is_not(None)
FEW = 1000
NEAR = 500
"""Among so many next places of a person's order an item is looked for first."""


class Dealer:
    """Deals the items of a project out to one person. Whoever deals holds the project's row, so there is one at once.

    Args:
        purpose: ``judge`` or ``adjudicate``.
    """

    def __init__(self, session: Session, person: Person, project: Project, purpose: str, now: datetime) -> None:
        self._session, self._person, self._project, self._purpose, self._now = session, person, project, purpose, now
        self._plan = Plan.from_json(project.plan)

    def next(self) -> Assignment | None:
        """What this person is at, or came back to, or else a new one; None when there is nothing."""
        self._take_back()
        assignment = self._unfinished() or self._back() or self._fresh() or self._again()
        if assignment is not None:
            assignment.leased_until = self._now + timedelta(minutes=self._plan.lease_minutes)
        return assignment

    def paces(self, limit: int) -> list[float]:
        """Seconds that this person took for the newest of them."""
        query = select(Judgement.active_seconds).join(Assignment, Judgement.assignment_id == Assignment.id)
        query = query.where(*self._judged(), Judgement.version == 1).order_by(Assignment.submitted_at.desc())
        return list(self._session.scalars(query.limit(limit)))

    def standing(self) -> tuple[int, int]:
        """How many judgements this person has given in this part, revisions not counted; and how many items would still
        come to them if nobody else went on."""
        query = select(func.count(), func.coalesce(func.sum(Assignment.occasion), 0)).where(*self._judged())
        done, again = self._session.execute(query).one()
        if self._purpose == "adjudicate":
            disputed = select(Item.id).where(*self._there(), Item.disputed.is_not(None))
            left = self._count(disputed.where(~self._mine(JUDGED), ~self._with_another()))
        else:
            twice = self._mine(JUDGED, Assignment.occasion == 1)
            to_repeat = select(Item.id).where(*self._there(), Item.repeated, self._mine(JUDGED), ~twice)
            left = self._left_to_begin(done - again) + self._count(to_repeat)
        return done, left

    def _left_to_begin(self, judged: int) -> int:
        """How many items are still to be judged for the first time, by a person who has judged so many."""
        is_open = select(Item.id).where(*self._there(), *self._open())
        if self._plan.design != "open":  # all that is judged was among it, but for what was withdrawn since
            withdrawn = select(Item.id).where(Item.project_id == self._project.id, Item.withdrawn_at.is_not(None))
            return self._count(is_open) - judged + self._count(withdrawn.where(self._mine(JUDGED)))
        first = select(Assignment.id).where(*self._part(), Assignment.occasion == 0)
        if (few := self._few_open()) is not None:
            opened, of = len(few), (Assignment.user_id == self._person.id, Assignment.purpose == self._purpose)
            both = select(Assignment.id).where(Assignment.item_id.in_(few), *of, Assignment.occasion == 0, JUDGED)
        else:  # it is never asked of each open item whether this person has judged it: there may be too many
            opened, both = self._count(is_open), first.where(JUDGED, self._of_item(*self._open()))
        held = first.where(~JUDGED, Assignment.leased_until.is_not(None))
        beyond = self._of_item(Item.taken >= self._plan.overlap)
        return opened - self._count(both) + self._count(held.where(beyond))

    def _take_back(self) -> None:
        """Ends the leases that have run out. What was entered stays, for when that person comes back."""
        expired = (
            Assignment.project_id == self._project.id, Assignment.submitted_at.is_(None),
            Assignment.leased_until <= self._now,
        )  # fmt: skip
        query = select(Assignment.item_id).where(*expired, Assignment.purpose == "judge", Assignment.occasion == 0)
        for item_id in self._session.scalars(query).all():
            self._session.execute(update(Item).where(Item.id == item_id).values(taken=Item.taken - 1))
        self._session.execute(update(Assignment).where(*expired).values(leased_until=None))

    def _unfinished(self) -> Assignment | None:
        query = self._own().where(Assignment.leased_until.is_not(None))
        return self._session.scalar(query.order_by(Assignment.assigned_at).limit(1))

    def _back(self) -> Assignment | None:
        """An item that was taken back from this person, if it still needs somebody."""
        needed: tuple[ColumnElement[bool], ...] = ()
        if self._purpose == "adjudicate":
            needed = Item.disputed.is_not(None), ~self._with_another()
        elif self._plan.design == "open":
            needed = ((Assignment.occasion == 1) | (Item.taken < self._plan.overlap),)
        query = self._own(*needed).where(Assignment.leased_until.is_(None))
        assignment = self._session.scalar(query.order_by(Assignment.assigned_at).limit(1))
        if assignment is not None and self._purpose == "judge" and assignment.occasion == 0:
            self._session.get_one(Item, assignment.item_id).taken += 1
        return assignment

    def _fresh(self) -> Assignment | None:
        """An item that this person has never had."""
        query = select(Item).where(~self._mine())
        if self._purpose == "adjudicate":
            query = query.where(*self._there(), Item.disputed.is_not(None), ~self._with_another())
            return self._assign(self._session.scalar(query.order_by(Item.place).limit(1)), 0)
        factor, shift = self._order()
        order = (cast(Item.place, BigInteger) * factor + shift) % PRIME
        query = query.order_by(order).limit(1)
        if self._plan.design == "open" and (few := self._few_open()) is not None:
            return self._assign(self._session.scalar(query.where(Item.id.in_(few))), 0)
        # It is nearly always among the next places, and only sometimes all that are open must be looked at.
        query = query.where(*self._there())
        near = query.where(Item.place.in_(self._next_places(factor, shift)), *self._open(indexed=False))
        return self._assign(self._session.scalar(near) or self._session.scalar(query.where(*self._open())), 0)

    def _few_open(self) -> list[str] | None:
        """The items that still need somebody, in the open design; None where there are many. Both databases find them
        by their index; within a longer query they would expect many, and read whole tables."""
        query = select(Item.id).where(*self._there(), *self._open()).order_by(Item.taken).limit(FEW + 1)
        found = list(self._session.scalars(query))
        return found if len(found) <= FEW else None

    def _order(self) -> tuple[int, int]:
        """Factor and shift by which this person's order comes of the places. It goes on after the item that they
        judged last, and begins anew at the end."""
        seed = random.Random(f"{self._plan.order_seed}/{self._person.id}")
        factor, shift = seed.randrange(1, PRIME), seed.randrange(PRIME)
        query = select(Item.place).join(Assignment, Assignment.item_id == Item.id)
        query = query.where(*self._judged(), Assignment.occasion == 0).order_by(Assignment.submitted_at.desc()).limit(1)
        last = self._session.scalar(query)
        return factor, shift if last is None else (-last * factor - 1) % PRIME

    def _next_places(self, factor: int, shift: int) -> list[int]:
        last = self._session.scalar(select(func.max(Item.place)).where(Item.project_id == self._project.id))
        orders = (np.arange((-1 if last is None else last) + 1) * factor + shift) % PRIME
        near = np.argpartition(orders, NEAR)[:NEAR] if len(orders) > NEAR else np.arange(len(orders))
        return near.tolist()

    def _again(self) -> Assignment | None:
        """An item for the second time, once the washout is over."""
        if self._purpose == "adjudicate":
            return None
        first = aliased(Assignment)
        query = (
            select(Item)
            .join(first, first.item_id == Item.id)
            .where(*self._there(), Item.repeated, ~self._mine(Assignment.occasion == 1))
            .where(
                first.user_id == self._person.id,
                first.project_id == self._project.id,
                first.purpose == "judge",
                first.occasion == 0,
            )
            .where(first.submitted_at <= self._now - timedelta(days=self._plan.washout_days))
        )
        return self._assign(self._session.scalar(query.order_by(first.submitted_at).limit(1)), 1)

    def _assign(self, item: Item | None, occasion: int) -> Assignment | None:
        if item is None:
            return None
        order = list(range(len(item.response_ids)))
        random.SystemRandom().shuffle(order)
        assignment = Assignment(
            project_id=item.project_id, item_id=item.id, user_id=self._person.id, purpose=self._purpose,
            occasion=occasion, shown=order, assigned_at=self._now,
        )  # fmt: skip
        self._session.add(assignment)
        if self._purpose == "judge" and occasion == 0:
            item.taken += 1
        self._session.flush()
        return assignment

    # Parts of the queries

    def _there(self) -> tuple[ColumnElement[bool], ...]:
        return Item.project_id == self._project.id, Item.withdrawn_at.is_(None)

    def _open(self, indexed: bool = True) -> tuple[ColumnElement[bool], ...]:
        """That an item is for this person, as the design says.

        Args:
            indexed: False keeps SQLite from going through all open items, where their places are given.
        """
        if self._plan.design == "open":
            return ((Item.taken if indexed else Item.taken + 0) < self._plan.overlap,)
        if self._plan.design == "split":
            member = self._session.get_one(Member, (self._project.id, self._person.id, "judge"))
            return (Item.place % self._plan.groups == member.place % self._plan.groups,)
        return ()

    def _part(self) -> tuple[ColumnElement[bool], ...]:
        return (
            Assignment.user_id == self._person.id,
            Assignment.project_id == self._project.id,
            Assignment.purpose == self._purpose,
        )

    def _judged(self) -> tuple[ColumnElement[bool], ...]:
        return *self._part(), JUDGED

    def _own(self, *conditions: ColumnElement[bool]) -> Select[Assignment]:
        """What this person has had and not answered, of items that are there."""
        return select(Assignment).where(*self._part(), ~JUDGED, self._of_item(*conditions))

    def _of_item(self, *conditions: ColumnElement[bool]) -> Exists:
        """That an assignment's item is there and so."""
        return exists().where(Item.id == Assignment.item_id, *self._there(), *conditions).correlate(Assignment)

    def _mine(self, *conditions: ColumnElement[bool]) -> Exists:
        """That this person has had the item in this part."""
        of = Assignment.user_id == self._person.id, Assignment.purpose == self._purpose
        return exists().where(Assignment.item_id == Item.id, *of, *conditions).correlate(Item)

    def _with_another(self) -> Exists:
        """That another person has or had the item in this part."""
        other = aliased(Assignment)
        held = other.leased_until.is_not(None), other.user_id != self._person.id
        return exists().where(other.item_id == Item.id, other.purpose == self._purpose, *held).correlate(Item)

    def _count(self, query: Select) -> int:
        return self._session.scalar(select(func.count()).select_from(query.subquery()))
