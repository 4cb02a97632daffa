"""What the raters of ``benchmarks.studio_raters`` have told of themselves, and whether the database says the same."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import sqlalchemy as sa

from core.feedback.models import Base
from core.feedback.studio import StudioStore


@dataclass
class Diary:
    """What one rater has told of itself."""

    ms: dict[str, list[float]] = field(default_factory=dict)
    failed: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    sent: dict[str, dict] = field(default_factory=dict)
    """By nonce."""
    submitted: list[str] = field(default_factory=list)
    saved: dict[str, dict] = field(default_factory=dict)
    """The last answer that was saved, by assignment."""

    def note(self, line: str) -> None:
        match json.loads(line):
            case {"call": call, "ms": ms}:
                self.ms.setdefault(call, []).append(ms)
            case {"call": call, "failed": failed}:
                self.failed[f"{call}: {failed}"] += 1
            case {"wrong": wrong}:
                self.wrong.append(wrong)
            case {"sent": sent}:
                self.sent[sent["nonce"]] = sent
            case {"submitted": nonce}:
                self.submitted.append(nonce)
            case {"saved": assignment, "answer": answer}:
                self.saved[assignment] = answer


def problems(url: str, pictures: Path, diaries: list[Diary], ratings: int, overlap: int) -> Iterator[str]:
    """What the raters have met, and what in the database is not as they left it."""
    for number, diary in enumerate(diaries):
        yield from (f"rater{number}: {wrong}" for wrong in diary.wrong)
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        yield from _judgements(connection, diaries, ratings, overlap)
        yield from _drafts(connection, diaries)
    with StudioStore(url, pictures) as store:
        yield from (f"the log: {found}" for found in store.verify())


def _judgements(connection: sa.Connection, diaries: list[Diary], ratings: int, overlap: int) -> Iterator[str]:
    tables = Base.metadata.tables
    judgements, users, items = tables["judgements"], tables["users"], tables["items"]
    responses, generations = tables["responses"], tables["generations"]
    asked = sa.select(responses.c.id, generations.c.prompt).join_from(responses, generations)
    prompts = {response: prompt for response, prompt in connection.execute(asked)}
    query = sa.select(judgements, users.c.login, items.c.response_ids).join(users, judgements.c.user_id == users.c.id)
    found = connection.execute(query.join(items, judgements.c.item_id == items.c.id)).all()
    by_nonce = Counter(row.answer["comment"][-20:] for row in found)
    sent = {nonce: (f"rater{n}", said) for n, diary in enumerate(diaries) for nonce, said in diary.sent.items()}
    acknowledged = {nonce for diary in diaries for nonce in diary.submitted}
    yield from (f"lost: {sent[nonce]}" for nonce in acknowledged - by_nonce.keys())
    yield from (f"doubled: {nonce}, {times} times" for nonce, times in by_nonce.items() if times > 1)
    yield from (f"nobody sent {nonce}" for nonce in by_nonce.keys() - sent.keys())
    for row in found:
        login, said = sent.get(row.answer["comment"][-20:], ("", {"answer": {}}))
        there = row.login, prompts[row.response_ids[0]], row.assignment_id
        if there != (login, said.get("item"), said.get("assignment")):
            yield f"misattributed: {there} is {login}, {said}"
        if any(row.answer[name] != value for name, value in said["answer"].items()):
            yield f"changed: {row.answer} is {said}"
    if len(found) != ratings or len(acknowledged) != ratings:
        yield f"{ratings} ratings were to be made: {len(acknowledged)} were acknowledged, {len(found)} are there"
    for what, most, of in (("item", overlap, "item_id"), ("item and rater", 1, "item_id user_id")):
        counts = Counter(tuple(getattr(row, name) for name in of.split()) for row in found)
        yield from (f"{count} judgements of one {what}: {key}" for key, count in counts.items() if count > most)


def _drafts(connection: sa.Connection, diaries: list[Diary]) -> Iterator[str]:
    """Every item that was saved and not submitted has what was saved last, and there are no other drafts."""
    drafts = Base.metadata.tables["drafts"]
    there = {row.assignment_id: row.answer for row in connection.execute(sa.select(drafts))}
    for diary in diaries:
        done = {said["assignment"] for said in diary.sent.values()}
        for assignment, answer in diary.saved.items():
            if assignment in done:
                continue
            draft = there.pop(assignment, None)
            if draft is None or any(draft[name] != value for name, value in answer.items()):
                yield f"saved, but not there: {answer} is {draft}"
    yield from (f"a draft that was not left: {draft}" for draft in there.values())


def summary(diaries: list[Diary], seconds: float, down: float) -> dict:
    times: dict[str, list[float]] = {}
    for diary in diaries:
        for call, ms in diary.ms.items():
            times.setdefault(call, []).extend(ms)
    done = sum(len(diary.submitted) for diary in diaries)
    failed = Counter({what: sum(diary.failed[what] for diary in diaries) for diary in diaries for what in diary.failed})
    return {
        "ratings": done,
        "seconds": round(seconds),
        "seconds_down": round(down),
        "ratings_per_s": round(done / seconds, 1),
        "ratings_per_s_while_up": round(done / (seconds - down), 1),
        "ms": {call: percentiles(ms) for call, ms in times.items()},
        "sent_again": dict(failed.most_common()),
    }


def percentiles(ms: list[float]) -> dict:
    half, most = np.percentile(ms, (50, 95))
    return {"n": len(ms), "p50": round(float(half), 1), "p95": round(float(most), 1), "max": round(max(ms))}
