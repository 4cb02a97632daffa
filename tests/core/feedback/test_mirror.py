"""The mirror on the hub: private, complete, and without what was withdrawn; against a hub of our own."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from core.errors import FeedbackError
from core.feedback.mirror import Mirror
from core.feedback.store import FeedbackStore
from core.sequence import Text
from tests.core.feedback.builders import add, picture
from tests.core.feedback.hub import Hub, Repo

TOKEN = "hf_secretsecretsecret"
WRONG_TOKEN = "hf_wrongwrongwrong"
REPO = "clinic/feedback"

Open = Callable[..., Mirror]


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub(TOKEN)
    yield hub
    hub.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeedbackStore]:
    with FeedbackStore(f"sqlite:///{tmp_path}/feedback.db", tmp_path / "pictures") as store:
        yield store


@pytest.fixture
def open_mirror(hub: Hub, store: FeedbackStore, tmp_path: Path) -> Iterator[Open]:
    """Starts a mirror that pushes when it is told to, after the push that it begins with."""
    with ExitStack() as stack:

        def open_mirror(**changes: object) -> Mirror:
            given = {"repo_id": REPO, "token": TOKEN, "minutes": 10_000, "endpoint": hub.url, **changes}
            mirror = Mirror(store, tmp_path / "mirror", **given)
            stack.callback(mirror.stop)
            return mirror

        yield open_mirror


def push(mirror: Mirror) -> None:
    mirror.trigger().result(timeout=60)


def mirrored(hub: Hub) -> tuple[list[dict], set[str]]:
    """The rows and the names of the pictures at the head of the repository."""
    files = {name: content for name, content in hub.repos[REPO].head.items() if name != ".gitattributes"}
    rows = [json.loads(line) for name, c in files.items() if name.endswith(".jsonl") for line in c.splitlines()]
    return rows, {name.rpartition("/")[2] for name in files if name.endswith(".png")}


def names(*seeds: int) -> set[str]:
    return {f"{picture(seed).sha256}.png" for seed in seeds}


def test_everything_is_mirrored_into_a_private_repository(
    open_mirror: Open, hub: Hub, store: FeedbackStore, tmp_path: Path
) -> None:
    code = store.give_consent()
    ref = add(store, code)
    mirror = open_mirror()
    push(mirror)
    assert hub.repos[REPO].private
    assert mirrored(hub) == (json.loads(json.dumps(list(store.rows()))), names(1, 2))
    store.rate(code, ref.response_ids[0], 1, "Right.")
    add(store, code, "second", inputs=[picture(3)], outputs=[Text("Fine.")])
    push(mirror)
    assert mirrored(hub) == (json.loads(json.dumps(list(store.rows()))), names(1, 2, 3))
    commits = len(hub.repos[REPO].commits)
    push(mirror)  # nothing is new
    assert len(hub.repos[REPO].commits) == commits
    assert not (tmp_path / "mirror" / "staged").exists()  # no second copy stays on this disk
    assert not any("squash" in request for request in hub.requests)


def test_pictures_of_another_place_are_mirrored(hub: Hub, tmp_path: Path) -> None:
    with FeedbackStore(f"sqlite:///{tmp_path}/feedback.db", f"memory://{tmp_path}") as store:
        add(store, store.give_consent())
        mirror = Mirror(store, tmp_path / "mirror", repo_id=REPO, token=TOKEN, minutes=10_000, endpoint=hub.url)
        push(mirror)
        mirror.stop()
        assert mirrored(hub)[1] == names(1, 2)


def test_an_empty_store_is_not_mirrored(open_mirror: Open, hub: Hub) -> None:
    push(open_mirror())
    assert list(hub.repos[REPO].head) == [".gitattributes"]


def test_what_is_withdrawn_vanishes_from_head_history_and_storage(
    open_mirror: Open, hub: Hub, store: FeedbackStore
) -> None:
    code, other = store.give_consent(), store.give_consent()
    add(store, code, inputs=[picture(1)], outputs=[picture(2), Text("Withdrawn words.")])
    add(store, other, inputs=[picture(1)], outputs=[Text("Kept words.")])
    mirror = open_mirror()
    push(mirror)
    store.withdraw(code)
    push(mirror)
    repo = hub.repos[REPO]
    rows, pictures = mirrored(hub)
    assert [row["responses"][0]["text"] for row in rows] == ["Kept words."] and pictures == names(1)
    assert len(repo.commits) == 1 and len(repo.large) == 1
    assert not any(b"Withdrawn words." in content for commit in repo.commits for content in commit.values())
    squashes = sum("squash" in request for request in hub.requests)
    push(mirror)
    mirror.stop()
    push(open_mirror())  # a program that starts again remembers
    assert sum("squash" in request for request in hub.requests) == squashes == 1
    store.withdraw(other)
    push(open_mirror())
    assert mirrored(hub) == ([], set()) and len(repo.commits) == 1 and repo.large == {}


def test_a_squash_that_failed_is_done_again(open_mirror: Open, hub: Hub, store: FeedbackStore) -> None:
    code = store.give_consent()
    add(store, code)
    mirror = open_mirror()
    push(mirror)
    store.withdraw(code)
    hub.refuses = 403
    with pytest.raises(FeedbackError):
        push(mirror)
    assert not any("squash" in request for request in hub.requests)
    hub.refuses = 0
    push(mirror)
    assert len(hub.repos[REPO].commits) == 1 and mirrored(hub) == ([], set())


def test_a_new_database_does_not_wipe_the_mirror_of_the_old(
    open_mirror: Open, hub: Hub, store: FeedbackStore, tmp_path: Path
) -> None:
    add(store, store.give_consent(), outputs=[Text("Old.")])
    push(open_mirror())
    with FeedbackStore(f"sqlite:///{tmp_path}/new/feedback.db", tmp_path / "new" / "pictures") as new:
        add(new, new.give_consent(), outputs=[Text("New.")])
        mirror = Mirror(new, tmp_path / "new" / "mirror", repo_id=REPO, token=TOKEN, minutes=10_000, endpoint=hub.url)
        push(mirror)
        mirror.stop()
    assert {row["responses"][0]["text"] for row in mirrored(hub)[0]} == {"Old.", "New."}


def test_a_public_repository_is_refused(open_mirror: Open, hub: Hub, store: FeedbackStore) -> None:
    add(store, store.give_consent())
    hub.repos[REPO] = Repo(private=False)
    with pytest.raises(FeedbackError, match=r"public: 'clinic/feedback'.*Make it private"):
        open_mirror()
    assert list(hub.repos[REPO].head) == [".gitattributes"]
    hub.repos[REPO].private = True
    mirror = open_mirror()
    push(mirror)
    hub.repos[REPO].private = False  # somebody has opened it since
    add(store, store.give_consent(), "second")
    with pytest.raises(FeedbackError, match="public"):
        push(mirror)
    assert len(mirrored(hub)[0]) == 1


@pytest.mark.parametrize(("repo_id", "token"), [(REPO, ""), ("feedback", TOKEN), ("a/b/c", TOKEN)])
def test_half_a_setting_is_refused(open_mirror: Open, repo_id: str, token: str) -> None:
    with pytest.raises(FeedbackError, match="OWNER/NAME"):
        open_mirror(repo_id=repo_id, token=token)


def test_the_token_is_told_to_nobody(
    open_mirror: Open, hub: Hub, store: FeedbackStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    add(store, store.give_consent())
    with pytest.raises(FeedbackError, match=r"not mirrored \(401") as wrong:
        open_mirror(token=WRONG_TOKEN)
    told = traceback.format_exception(wrong.value)
    mirror = open_mirror()
    push(mirror)
    add(store, store.give_consent(), "second")
    hub.refuses = 403  # and the hub repeats the token in its answer
    with pytest.raises(FeedbackError, match=r"403 .*\*\*\*") as refused:
        push(mirror)
    told += traceback.format_exception(refused.value)
    assert wrong.value.__context__ is None and refused.value.__context__ is None
    everything = "\n".join([*told, caplog.text, repr(mirror)])
    assert TOKEN not in everything and WRONG_TOKEN not in everything
    assert "not mirrored" in caplog.text
