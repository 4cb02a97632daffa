"""Which item comes next to whom, in each of the designs.

No item is lost or given twice when somebody disappears: an item that is taken is leased, and goes back to the others
when the lease has run out. Whoever comes back gets it again, with what they had entered, if it still needs somebody.
"""

from __future__ import annotations

import random
from datetime import datetime, timedelta

from sqlalchemy import BigInteger, ColumnElement, Exists, Select, cast, exists, func, select, update
from sqlalchemy.orm import Session, aliased

from core.feedback.people import Person
from core.feedback.rubric import Plan
from core.feedback.studio_models import Assignment, Item, Member, Project

PRIME = 2_147_483_647
"""Places are permuted modulo this prime: another order for each person, which the database can sort by."""


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

    def left(self) -> int:
        """How many items would come to this person if nobody else went on."""
        items = select(func.count()).select_from(Item).where(*self._there())
        done = self._mine(Assignment.submitted_at.is_not(None))
        if self._purpose == "adjudicate":
            return self._session.scalar(items.where(Item.disputed.is_not(None), ~done, ~self._with_another()))
        held = self._mine(Assignment.leased_until.is_not(None))
        fresh = items.where(~done)
        if self._plan.design == "open":
            fresh = fresh.where((Item.taken < self._plan.overlap) | held)
        elif self._plan.design == "split":
            fresh = fresh.where(self._in_group())
        twice = self._mine(Assignment.submitted_at.is_not(None), Assignment.occasion == 1)
        return self._session.scalar(fresh) + self._session.scalar(items.where(Item.repeated, done, ~twice))

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
        query = self._own().where(Assignment.leased_until.is_(None))
        if self._purpose == "adjudicate":
            query = query.where(Item.disputed.is_not(None), ~self._with_another())
        elif self._plan.design == "open":
            query = query.where((Assignment.occasion == 1) | (Item.taken < self._plan.overlap))
        assignment = self._session.scalar(query.order_by(Assignment.assigned_at).limit(1))
        if assignment is not None and self._purpose == "judge" and assignment.occasion == 0:
            self._session.get_one(Item, assignment.item_id).taken += 1
        return assignment

    def _fresh(self) -> Assignment | None:
        """An item that this person has never had."""
        query = select(Item).where(*self._there(), ~self._mine())
        if self._purpose == "adjudicate":
            query = query.where(Item.disputed.is_not(None), ~self._with_another())
            return self._assign(self._session.scalar(query.order_by(Item.place).limit(1)), 0)
        if self._plan.design == "open":
            query = query.where(Item.taken < self._plan.overlap)
        elif self._plan.design == "split":
            query = query.where(self._in_group())
        seed = random.Random(f"{self._plan.order_seed}/{self._person.id}")
        factor, shift = seed.randrange(1, PRIME), seed.randrange(PRIME)
        order = (cast(Item.place, BigInteger) * factor + shift) % PRIME
        return self._assign(self._session.scalar(query.order_by(order).limit(1)), 0)

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

    def _own(self) -> Select[Assignment]:
        """What this person has had and not answered."""
        return (
            select(Assignment)
            .join(Item, Assignment.item_id == Item.id)
            .where(*self._there(), Assignment.user_id == self._person.id, Assignment.purpose == self._purpose)
            .where(Assignment.submitted_at.is_(None))
        )

    def _mine(self, *conditions: ColumnElement[bool]) -> Exists:
        """That this person has had the item in this part."""
        of = Assignment.user_id == self._person.id, Assignment.purpose == self._purpose
        return exists().where(Assignment.item_id == Item.id, *of, *conditions).correlate(Item)

    def _with_another(self) -> Exists:
        """That another person has or had the item in this part."""
        other = aliased(Assignment)
        held = other.leased_until.is_not(None), other.user_id != self._person.id
        return exists().where(other.item_id == Item.id, other.purpose == self._purpose, *held).correlate(Item)

    def _in_group(self) -> ColumnElement[bool]:
        member = self._session.get_one(Member, (self._project.id, self._person.id, "judge"))
        return Item.place % self._plan.groups == member.place % self._plan.groups
