"""Versions are promoted and rolled back while a program runs, and whatever happens one of them answers."""

from __future__ import annotations

import gc
import json
import shutil
import signal
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image as PILImage

from core.errors import CheckpointError, PromptError
from core.feedback.store import FeedbackStore
from core.feedback.versions import Versions
from core.inference.events import SegmentDone
from core.inference.provenance import Provenance
from core.inference.service import Service
from core.inference.session import Session
from core.inference.versions import MOST_LEARNED, Offer, Version
from core.model.adapter import WEIGHTS
from core.sequence import Image
from tests.browser import ROOT
from tests.core.inference.learned import School, answer, question


@pytest.fixture
def school(tmp_path: Path, tiny_checkpoint: Path) -> Iterator[School]:
    school = School(tmp_path / "data", tiny_checkpoint)
    yield school
    school.close()


@pytest.fixture
def offer(school: School, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Offer]:
    """As the demo has it, but that it asks the registry each time."""
    monkeypatch.setattr("core.inference.versions.ASK_SECONDS", 0)
    monkeypatch.setattr(
        "core.model.checkpoint.pick_device", lambda: (school.base.model.device, school.base.model.dtype)
    )
    with FeedbackStore(f"sqlite:///{tmp_path / 'data' / 'feedback.sqlite'}", tmp_path / "data" / "pictures") as store:
        yield Offer([str(tiny_checkpoint)], Versions(store.database), school.folder)


def test_a_candidate_appears_is_promoted_and_rolled_back_while_the_program_runs(school: School, offer: Offer) -> None:
    assert list(offer.versions()) == ["tiny"] and offer.newest is None
    base = answer(offer.get().version)
    for name, seed in (("one", 1), ("two", 2)):
        school.learn(name, seed)
        school.compare(name)
    assert list(offer.versions()) == ["tiny", "two", "one"] and offer.newest.name == "two"
    assert offer.default.name == "tiny" and answer(offer.get().version) == base
    told = {name: answer(offer.get(name).version) for name in offer.versions()}
    assert len(set(told.values())) == 3
    conversation = offer.get().version, Session()
    for name, others in (("one", ["tiny", "two", "one"]), ("two", ["tiny", "two"])):
        school.promote(name)
        assert offer.default.name == name and answer(offer.get().version) == told[name]
        assert list(offer.versions()) == others, "what was replaced is retired"
    assert answer(*conversation) == base, "a conversation keeps its version"
    with pytest.raises(PromptError, match="no such model version"):
        offer.get("one")
    school.roll_back()
    assert answer(offer.get().version) == told["one"]
    school.roll_back()
    assert answer(offer.get().version) == base and list(offer.versions()) == ["tiny"]


def test_an_output_says_what_its_version_was_learned_from(school: School, offer: Offer, tmp_path: Path) -> None:
    school.learn("one")
    for name, learned in (("one", True), ("tiny", False)):
        version = offer.get(name).version
        about = Provenance.of(version.generator.checkpoint, "report", question(version, Session()))
        record = about.record(1.0)
        about.save(Image(PILImage.new("RGB", (8, 8)), generated=True), tmp_path / "drawn.png")
        with PILImage.open(tmp_path / "drawn.png") as drawn:
            kept = json.loads(drawn.info["Lineage"] or "null")
        assert record["model"] == name and record["lineage"] == kept and (kept is not None) == learned
        if learned:
            facts = {"parent": "tiny", "snapshot": school.snapshot[:12], "judgements": 6, "recipe": "For a test"}
            assert facts.items() <= kept.items() and kept["created_at"].startswith("2026-03-01")


def test_a_version_answers_for_whoever_began_with_it_after_it_was_let_go(school: School, offer: Offer) -> None:
    names = ["one", "two", "three"]
    for seed, name in enumerate(names):
        school.learn(name, seed)
    first, session = offer.versions()["one"], Session()
    alone = answer(first), answer(first, Session())
    service = Service()
    request = service.submit("somebody", first.generator, question(first, session))
    assert [e.segment.text for e in request if isinstance(e, SegmentDone)] == [alone[0]]
    models = {name: weakref.ref(offer.get(name).generator.model) for name in names}
    gc.collect()
    alive = [name for name, model in models.items() if model() is not None]
    assert alive == names[-MOST_LEARNED:], "neither the conversation nor its request holds the model"
    school.retire("one")
    assert "one" not in offer.versions()
    going_on = answer(first, session)
    assert len(session.history) == 4 and first.generator.checkpoint.fingerprint == first.fingerprint
    again = Session()
    answer(first, again)
    assert answer(first, again) == going_on
    service.close()


def test_a_request_that_runs_keeps_its_model(school: School, offer: Offer) -> None:
    for seed, name in enumerate(("one", "two", "three")):
        school.learn(name, seed)
    held = offer.get("one").generator
    for name in ("two", "three"):
        assert offer.get(name).generator is not held
    assert offer.get("one").generator is held, "it is not loaded beside itself"


@pytest.mark.parametrize("damage", ["gone", "cut off", "other weights", "another base"])
def test_where_the_promoted_version_cannot_be_loaded_the_base_answers(
    school: School, offer: Offer, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    base, folder = answer(offer.get().version), school.folder / "one"
    about = school.learn("one")
    school.compare("one")
    school.promote("one")
    if damage == "gone":
        shutil.rmtree(folder)
    elif damage == "cut off":
        (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:1000])
    elif damage == "other weights":
        school.learn("two", seed=2)
        shutil.copy(school.folder / "two" / WEIGHTS, folder / WEIGHTS)
    else:
        offer.named["tiny"] = Version(
            "tiny", "0" * 64, offer.base.folder, None, lambda _, generator=offer.base.generator: generator
        )
    capsys.readouterr()
    while "one" in offer.versions():  # until it was tried
        assert answer(offer.get().version) == base
    for _ in range(3):
        assert answer(offer.get().version) == base
        assert offer.default.name == "tiny" and "one" not in offer.versions()
    (line,) = capsys.readouterr().err.splitlines()
    assert about.name in line
    with pytest.raises(PromptError):
        offer.get("one")


def test_a_version_that_is_mended_is_offered_again(
    school: School, offer: Offer, monkeypatch: pytest.MonkeyPatch
) -> None:
    school.learn("one")
    folder = school.folder / "one"
    folder.rename(away := school.folder / "away")
    chosen = offer.versions()["one"]
    with pytest.raises(CheckpointError, match="cannot be loaded now"):
        offer.get("one")
    away.rename(folder)
    with pytest.raises(PromptError):
        offer.get("one")
    monkeypatch.setattr("core.inference.versions.RETRY_SECONDS", 0)
    assert answer(offer.get("one").version) == answer(chosen)


def test_a_registry_that_cannot_be_read_takes_nothing_away(
    school: School, offer: Offer, capsys: pytest.CaptureFixture[str]
) -> None:
    school.learn("one")
    before = list(offer.versions())
    (school.folder.parent / "feedback.sqlite").rename(school.folder.parent / "away")
    for _ in range(2):
        assert list(offer.versions()) == before and answer(offer.get().version)
    (school.folder.parent / "away").rename(school.folder.parent / "feedback.sqlite")
    assert len(capsys.readouterr().err.splitlines()) <= 1


def test_a_server_that_is_killed_while_versions_change_comes_back_with_one_of_them(
    school: School, tiny_checkpoint: Path
) -> None:
    told = {}
    school.learn("one", seed=1)
    school.compare("one")
    command = [sys.executable, "-m", "tests.core.inference.server", str(school.folder.parent), str(tiny_checkpoint)]
    for _ in range(3):
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
            for line in server.stdout:
                name, said = line.rstrip("\n").split(": ", 1)
                assert name in ("tiny", "one") and told.setdefault(name, said) == said
                if school.registry.served() is None:
                    school.promote("one")
                else:
                    school.roll_back()
                if len(told) == 2 and name == ("tiny" if school.registry.served() else "one"):
                    break  # it is about to change
            server.send_signal(signal.SIGKILL)
    assert told["tiny"] != told["one"]
