"""The feedback store keeps what people say, and forgets it when they say so; on both databases."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from core.errors import FeedbackError
from core.feedback import consents, forgetting
from core.feedback.models import Base, utc_now
from core.feedback.store import FeedbackStore, Summary
from core.sequence import Text
from tests.core.feedback.builders import add, picture

OpenStore = Callable[..., FeedbackStore]


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


def everything(engine: sa.Engine) -> str:
    """All values of all tables."""
    with engine.connect() as connection:
        return repr([connection.execute(sa.select(table)).all() for table in Base.metadata.sorted_tables])


# Consent


def test_a_code_opens_its_consent_however_it_is_typed(store: FeedbackStore) -> None:
    code = store.give_consent()
    assert len(code.replace("-", "")) == 16 and code.count("-") == 3
    consent = store.consent_of(f" {code.lower().replace('-', ' ')} ")
    assert consent == store.consent_of(code)
    assert consent.expires_at - consent.given_at == timedelta(days=365)
    assert consent.text_version == "1"
    assert store.give_consent() != code


def test_the_code_is_not_stored(store: FeedbackStore, engine: sa.Engine, tmp_path: Path) -> None:
    code = store.give_consent()
    add(store, code)
    stored = everything(engine).encode() + b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert code.encode() not in stored
    assert code.replace("-", "").encode() not in stored


def test_without_a_consent_nothing_is_kept(open_store: OpenStore, pictures: Path) -> None:
    store = open_store(kept=timedelta(0))
    expired, withdrawn = store.give_consent(), open_store().give_consent()
    store.withdraw(withdrawn)
    for code, why in [("AAAA-AAAA-AAAA-AAAA", "not known"), (expired, "expired"), (withdrawn, "withdrawn")]:
        for use in (
            lambda code=code: store.consent_of(code),
            lambda code=code: store.summary(code),
            lambda code=code: add(store, code),
            lambda code=code: store.rate(code, "x", 1),
            lambda code=code: store.correct(code, "x", "y"),
            lambda code=code: store.compare(code, "x", "y", "tie"),
        ):
            with pytest.raises(FeedbackError, match=why):
                use()
    assert list(store.rows()) == []
    assert not pictures.exists()


# What was generated


def test_a_generation_comes_back_as_it_was(store: FeedbackStore) -> None:
    code = store.give_consent()
    before = utc_now()
    ref = add(store, code)
    (row,) = store.rows()
    assert json.loads(json.dumps(row)) == row
    assert row["id"] == ref.id
    assert row["task"] == "interleaved"
    assert row["prompt"] == "Which organ is shown?"
    assert row["inputs"] == json.loads(json.dumps([picture(1).to_json(), Text("Which organ is shown?").to_json()]))
    assert row["settings"] == {"temperature": 0.0, "size": [64, 64]}
    assert row["seed"] == 2**31 - 1
    assert row["model"] == {"name": "nano", "fingerprint": "f" * 64}
    created = datetime.fromisoformat(row["created_at"])
    assert created.utcoffset() == timedelta(0) and before <= created <= utc_now()
    text, image = row["responses"]
    assert [text["id"], image["id"]] == list(ref.response_ids)
    assert (text["kind"], text["text"], text["author"], text["trust"]) == ("text", "The brain.", "model", None)
    assert (image["kind"], image["sha256"]) == ("image", picture(2).sha256)
    assert store.blobs.read(image["sha256"]).tobytes() == picture(2).pixels.tobytes()


def test_the_same_key_stores_once(open_store: OpenStore) -> None:
    store, other = open_store(), open_store()
    code = store.give_consent()
    ref = add(store, code, "k")
    assert add(other, code, "k", outputs=[Text("Something else.")]) == ref
    assert add(store, code, "l") != ref
    assert add(store, store.give_consent(), "k") != ref  # a key is the visitor's own
    assert store.summary(code) == Summary(generations=2, responses=4, ratings=0, comparisons=0, pictures=2)


def test_a_model_version_is_its_name_and_its_weights(store: FeedbackStore) -> None:
    code = store.give_consent()
    for key, weights in enumerate("aabb"):
        add(store, code, str(key), fingerprint=weights * 64)
    first, retrained = ({"name": n, "fingerprint": w * 64} for n, w in (("nano", "a"), ("nano bbbbbbbbbbbb", "b")))
    assert [row["model"] for row in store.rows()] == [first, first, retrained, retrained]


def test_settings_that_are_no_json_are_refused(store: FeedbackStore) -> None:
    code = store.give_consent()
    for wrong in (float("nan"), {1, 2}):
        with pytest.raises(FeedbackError, match="settings"):
            store.add_generation(
                code, task="t", inputs=[], settings={"x": wrong}, seed=0, model_name="m", model_fingerprint="f",
                outputs=[], key="k",
            )  # fmt: skip


def test_texts_that_a_database_cannot_hold_are_kept_without_what_it_cannot(store: FeedbackStore) -> None:
    code = store.give_consent()
    odd = "a\0b\ud800c 🩻"
    ref = add(store, code, inputs=[Text(odd)], outputs=[Text(odd)])
    store.rate(code, ref.response_ids[0], 1, odd)
    (row,) = store.rows()
    assert row["prompt"] == row["responses"][0]["text"] == row["ratings"][0]["comment"] == "ab?c 🩻"


# What people say


def test_a_second_thumb_replaces_the_first(store: FeedbackStore) -> None:
    code, other = store.give_consent(), store.give_consent()
    ref = add(store, code)
    first = store.rate(code, ref.response_ids[0], 1, "Right.")
    assert store.rate(code, ref.response_ids[0], -1) == first
    store.rate(code, ref.response_ids[1], 1)
    store.rate(other, ref.response_ids[0], 1)
    (row,) = store.rows()
    given = {(r["response_id"], r["consent_id"], r["value"], r["comment"], r["trust"]) for r in row["ratings"]}
    mine, theirs = store.consent_of(code).id, store.consent_of(other).id
    text, image = ref.response_ids
    assert given == {
        (text, mine, -1, None, "untrusted"),
        (image, mine, 1, None, "untrusted"),
        (text, theirs, 1, None, "untrusted"),
    }


def test_thumbs_at_once_leave_one(store: FeedbackStore) -> None:
    code = store.give_consent()
    response = add(store, code).response_ids[0]
    values = [1, -1] * 4
    threads = [threading.Thread(target=store.rate, args=(code, response, value)) for value in values]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.summary(code).ratings == 1


def test_a_correction_is_a_response_of_its_own(store: FeedbackStore) -> None:
    code = store.give_consent()
    ref = add(store, code)
    first = store.correct(code, ref.response_ids[0], "The liver.")
    assert store.correct(code, ref.response_ids[0], "The liver.") == first
    second = store.correct(code, first, "The liver, in portal venous phase.")
    (row,) = store.rows()
    said = {r["id"]: r for r in row["responses"]}
    assert said[first]["corrects_id"] == ref.response_ids[0] and said[second]["corrects_id"] == first
    assert said[first]["author"] == "person" and said[first]["trust"] == "untrusted"
    assert said[ref.response_ids[0]]["text"] == "The brain."
    assert store.summary(code).responses == 4
    with pytest.raises(FeedbackError, match="Only a text"):
        store.correct(code, ref.response_ids[1], "The liver.")
    with pytest.raises(FeedbackError, match="empty"):
        store.correct(code, ref.response_ids[0], " \n")


def test_a_vote_is_final(store: FeedbackStore) -> None:
    code = store.give_consent()
    a, b, c = (add(store, code, key).id for key in "abc")
    store.compare(code, a, b, "left", "Sharper.")
    for left, right in [(a, b), (b, a)]:
        with pytest.raises(FeedbackError, match="final"):
            store.compare(code, left, right, "right")
    store.compare(code, c, a, "cannot_judge")
    store.compare(store.give_consent(), b, a, "both_bad")
    votes = [v for row in store.rows() for v in row["comparisons"]]
    shown = {(v["left_generation_id"], v["right_generation_id"], v["choice"], v["comment"]) for v in votes}
    assert shown == {(a, b, "left", "Sharper."), (c, a, "cannot_judge", None), (b, a, "both_bad", None)}


def test_what_makes_no_sense_is_refused(store: FeedbackStore) -> None:
    code = store.give_consent()
    ref = add(store, code)
    wrong = [
        ("rating is", lambda: store.rate(code, ref.response_ids[0], 0)),
        ("no such response", lambda: store.rate(code, "nobody's", 1)),
        ("no such response", lambda: store.correct(code, "nobody's", "text")),
        ("no such generation", lambda: store.compare(code, ref.id, "nobody's", "tie")),
        ("Unknown choice", lambda: store.compare(code, ref.id, "other", "up")),
        ("two generations", lambda: store.compare(code, ref.id, ref.id, "tie")),
    ]
    for why, call in wrong:
        with pytest.raises(FeedbackError, match=why):
            call()
    assert store.summary(code) == Summary(generations=1, responses=2, ratings=0, comparisons=0, pictures=2)


def test_texts_of_people_are_screened_and_those_of_models_are_not(store: FeedbackStore) -> None:
    code = store.give_consent()
    told = "The patient was born on 3 May 1958."
    ref = add(store, code, outputs=[Text(told)])
    other = add(store, code, "other")
    for call in (
        lambda: add(store, code, "third", inputs=[Text("Look."), Text(told)]),
        lambda: store.rate(code, ref.response_ids[0], 1, told),
        lambda: store.correct(code, ref.response_ids[0], told),
        lambda: store.compare(code, ref.id, other.id, "tie", told),
    ):
        with pytest.raises(FeedbackError, match="may identify") as refused:
            call()
        assert "1958" not in str(refused.value)
    assert store.summary(code) == Summary(generations=2, responses=3, ratings=0, comparisons=0, pictures=2)


def test_what_the_model_said_before_is_kept_unscreened_and_marked(store: FeedbackStore) -> None:
    code = store.give_consent()
    told = "Compare with 12.03.2021. " * 100
    store.add_generation(
        code, task="understanding", inputs=[Text("Describe it."), Text(told), Text("And now?")], settings={}, seed=0,
        model_name="nano", model_fingerprint="f", outputs=[Text("Nothing new.")], key="k", generated=[told],
    )  # fmt: skip
    (row,) = store.rows()
    assert row["prompt"] == "Describe it.\nAnd now?"
    assert row["inputs"][1] == {"type": "text", "text": told, "generated": True}
    assert row["inputs"][2] == {"type": "text", "text": "And now?"}


# What is forgotten


def test_a_withdrawal_takes_everything_along(store: FeedbackStore, engine: sa.Engine, pictures: Path) -> None:
    code, other = store.give_consent(), store.give_consent()
    mine, theirs = add(store, code), add(store, other, inputs=[Text("Another?")], outputs=[Text("Yes.")])
    store.rate(code, mine.response_ids[0], 1, "mine, on mine")
    store.rate(other, mine.response_ids[0], 1, "theirs, on mine")
    store.rate(code, theirs.response_ids[0], 1, "mine, on theirs")
    store.rate(other, theirs.response_ids[0], 1, "theirs, on theirs")
    correction = store.correct(code, theirs.response_ids[0], "my correction")
    store.correct(other, correction, "their correction of my correction")
    store.compare(other, mine.id, theirs.id, "tie", "their vote on mine")
    assert store.summary(code) == Summary(generations=1, responses=3, ratings=2, comparisons=0, pictures=2)

    assert store.withdraw(code) == 6
    stored = everything(engine)
    assert "mine" not in stored and "my correction" not in stored
    (row,) = store.rows()
    assert row["id"] == theirs.id and [r["comment"] for r in row["ratings"]] == ["theirs, on theirs"]
    assert [r["text"] for r in row["responses"]] == ["Yes."] and row["comparisons"] == []
    assert files(pictures) == set()
    assert store.withdraw(code) == 0
    assert store.withdrawals() == 1
    assert len(sa.inspect(engine).get_table_names()) and store.origin()


def test_a_picture_stays_while_somebody_needs_it(store: FeedbackStore, pictures: Path) -> None:
    code, other = store.give_consent(), store.give_consent()
    shared, own = picture(1), picture(3, generated=True)
    add(store, code, inputs=[shared], outputs=[own])
    add(store, other, inputs=[Text("Draw it.")], outputs=[shared])
    store.withdraw(code)
    assert files(pictures) == {f"{shared.sha256}.png"}
    store.withdraw(other)
    assert files(pictures) == set()


def test_sqlite_overwrites_what_is_withdrawn(tmp_path: Path) -> None:
    with FeedbackStore(f"sqlite:///{tmp_path}/feedback.db", tmp_path / "pictures") as store:
        code = store.give_consent()
        words = [f"withdrawn-{'abcdefghij'[n]}" * 20 for n in range(10)]
        for n, word in enumerate(words):
            store.rate(code, add(store, code, str(n), outputs=[Text(word)]).response_ids[0], 1, word)
        on_disk = lambda: b"".join(p.read_bytes() for p in tmp_path.glob("feedback.db*"))  # noqa: E731
        assert b"withdrawn-a" in on_disk()
        store.withdraw(code)
        assert b"withdrawn-" not in on_disk()


def test_an_expired_consent_is_hidden_then_purged(open_store: OpenStore, pictures: Path) -> None:
    store, brief = open_store(), open_store(kept=timedelta(days=1))
    code, short = store.give_consent(), brief.give_consent()
    ref = add(store, code, outputs=[Text("Stays.")], inputs=[])
    add(store, short)
    store.rate(short, ref.response_ids[0], 1)
    assert store.purge_expired() == 0
    later = utc_now() + timedelta(days=2)
    assert store.purge_expired(later) == 1
    assert store.purge_expired(later) == 0
    (row,) = store.rows()
    assert row["id"] == ref.id and row["ratings"] == []
    assert files(pictures) == set()
    with pytest.raises(FeedbackError, match="expired"):
        store.consent_of(short)


def test_rows_hide_what_has_expired_and_waits_for_the_purge(open_store: OpenStore, engine: sa.Engine) -> None:
    store = open_store()
    code, other = store.give_consent(), store.give_consent()
    ref = add(store, code)
    add(store, other, "other")
    store.rate(other, ref.response_ids[0], 1)
    store.correct(other, ref.response_ids[0], "The liver.")
    past = utc_now() - timedelta(days=3)
    with engine.begin() as connection:
        consents = Base.metadata.tables["consents"]
        of = consents.c.id == store.consent_of(other).id
        connection.execute(sa.update(consents).where(of).values(given_at=past, expires_at=past))
    (row,) = store.rows()
    assert row["id"] == ref.id and row["ratings"] == [] and len(row["responses"]) == 2
    assert store.withdraw(other) == 5  # the code still takes back what is left: 1 generation, 3 responses, 1 rating


def test_rows_come_in_order_over_many_batches(store: FeedbackStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.feedback.rows.BATCH", 3)
    code = store.give_consent()
    stored = [add(store, code, str(n), inputs=[], outputs=[Text(str(n))]).id for n in range(10)]
    assert [row["id"] for row in store.rows()] == stored


def test_a_sweep_deletes_pictures_that_nobody_needs(store: FeedbackStore, pictures: Path) -> None:
    add(store, store.give_consent())
    orphan = store.blobs.put(picture(9))
    (pictures / orphan[:2] / "x.part").write_bytes(b"cut off")
    assert store.sweep() == 0  # too young
    assert len(files(pictures)) == 4
    assert store.sweep(utc_now() + timedelta(hours=2)) == 1
    assert files(pictures) == {f"{picture(1).sha256}.png", f"{picture(2).sha256}.png"}


def test_a_withdrawal_waits_for_what_is_being_written(open_store: OpenStore) -> None:
    """Or else what is written would outlive its consent."""
    store, other = open_store(), open_store()
    code = store.give_consent()
    with store.database.writing() as session:
        consents.find_valid(session, code, utc_now(), hold=True)
        withdrawal = threading.Thread(target=other.withdraw, args=(code,))
        withdrawal.start()
        withdrawal.join(0.3)
        assert withdrawal.is_alive()
    withdrawal.join()
    with pytest.raises(FeedbackError, match="withdrawn"):
        store.consent_of(code)


def test_withdrawals_and_sweeps_never_take_a_picture_that_is_needed(open_store: OpenStore) -> None:
    """One thread stores runs with a picture while others withdraw theirs with the same one."""
    store, other = open_store(), open_store()
    keeper, stop, errors = store.give_consent(), threading.Event(), []

    def come_and_go() -> None:
        try:
            while not stop.is_set():
                code = other.give_consent()
                add(other, code, outputs=[])
                other.withdraw(code)
                forgetting.delete_unneeded(other.database, other.blobs, [picture(1).sha256])
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=come_and_go) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(15):
            code = store.give_consent()
            add(store, code, outputs=[])
            assert store.blobs.read(picture(1).sha256)
            store.withdraw(code)
        add(store, keeper, outputs=[])
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert errors == []
    assert store.blobs.read(picture(1).sha256)
