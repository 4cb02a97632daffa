"""Versions are promoted and rolled back while a program runs, and whatever happens one of them answers."""

from __future__ import annotations

import dataclasses
import gc
import json
import random
import shutil
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count, cycle
from pathlib import Path
from threading import Event, Timer
from types import ModuleType, SimpleNamespace
from unittest import mock

import pytest
from PIL import Image as PILImage

from core.errors import CheckpointError, MemoryShortageError, PromptError, StorageError
from core.feedback.store import FeedbackStore
from core.feedback.studio_models import Training
from core.feedback.versions import VersionInfo, Versions
from core.inference.events import SegmentDone
from core.inference.provenance import Provenance
from core.inference.service import Service
from core.inference.session import Session
from core.inference.versions import MOST_LEARNED, Loaded, Offer, Version
from core.model.adapter import WEIGHTS
from core.model.checkpoint import Checkpoint, load_learned
from core.sequence import Image
from tests.browser import ROOT
from tests.core.inference.learned import School, answer, question

LIMIT = 300
"""Seconds after which a test fails that would hang."""


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


def soon(is_so: Callable[[], bool]) -> None:
    """Waits until something is so; what never is fails."""
    deadline = time.monotonic() + LIMIT
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_candidate_appears_is_promoted_and_rolled_back_while_the_program_runs(school: School, offer: Offer) -> None:
    assert list(offer.versions()) == ["tiny"] and offer.newest is None
    base = answer(offer.get().version)
    for name, seed, parent in (("one", 1, None), ("two", 2, "one")):
        school.learn(name, seed, parent)
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


@pytest.mark.parametrize("error", [StorageError("The database is away"), KeyError("base")], ids=["away", "damaged"])
def test_a_registry_that_cannot_be_read_takes_nothing_away(
    school: School,
    offer: Offer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    school.learn("one")
    before = list(offer.versions())
    for _ in range(2):
        with monkeypatch.context() as away:
            away.setattr(Versions, "all", mock.Mock(side_effect=error))
            for _ in range(3):
                assert list(offer.versions()) == before and answer(offer.get().version)
        (line,) = capsys.readouterr().err.splitlines()
        assert "cannot be read" in line
        assert list(offer.versions()) == before


@pytest.mark.parametrize("change", [{"base": None}, {"created_at": "yesterday"}], ids=["missing", "date"])
def test_a_damaged_row_takes_no_other_version_away(
    school: School, offer: Offer, capsys: pytest.CaptureFixture[str], change: dict
) -> None:
    school.learn("one", seed=1)
    school.learn("two", seed=2)
    with school.store.database.writing() as session:
        row = session.get_one(Training, school.ids["one"])
        whole = row.lineage
        row.lineage = {key: value for key, value in (whole | change).items() if value is not None}
    for _ in range(3):
        assert list(offer.versions()) == ["tiny", "two"]
    (line,) = capsys.readouterr().err.splitlines()
    assert "version one is damaged" in line
    with school.store.database.writing() as session:
        session.get_one(Training, school.ids["one"]).lineage = whole
    assert list(offer.versions()) == ["tiny", "two", "one"]


def test_what_rests_on_withdrawn_judgements_is_not_offered_but_stays_in_service(school: School, offer: Offer) -> None:
    for seed, name in enumerate(("one", "two")):
        school.learn(name, seed)
    school.compare("one")
    assert offer.get("two").version.name == "two"
    school.promote("one")
    school.store.withdraw_person(school.by, school.team.raters[0].id)
    assert all(info.tainted for info in school.registry.all())
    assert list(offer.versions()) == ["tiny", "one"] and offer.newest is None
    soon(lambda: offer.default.name == "one")


class Flips:
    """A registry in which two versions take turns at being the promoted one."""

    def __init__(self, found: list[VersionInfo]) -> None:
        self._found, self._promoted = found, cycle(found)
        self.names = {info.name for info in found}

    def all(self) -> list[VersionInfo]:
        promoted = next(self._promoted)
        return [dataclasses.replace(i, state="promoted" if i is promoted else "candidate") for i in self._found]


def test_the_base_never_answers_in_between(
    school: School, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.inference.versions.ASK_SECONDS", 0.001)
    for seed, name in enumerate(("one", "two")):
        school.learn(name, seed)
    registry = Flips(school.registry.all())
    offer = Offer([str(tiny_checkpoint)], registry, school.folder)

    def ask(_: int) -> set[tuple[str, str]]:
        found, deadline = set(), time.monotonic() + LIMIT
        for n in count():
            chosen = offer.get() if n % 2 else Loaded(offer.default, offer.get().generator)
            assert chosen.generator.checkpoint.name in registry.names
            found.add(chosen.version.name)
            if n > 3000 and len(found) > 1:
                return found
            assert time.monotonic() < deadline, "the registry was never asked again"

    with ThreadPoolExecutor(4) as threads:
        assert all(found == registry.names for found in threads.map(ask, range(4)))


# Memory ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Says how many learned versions fit into memory at once."""
    alive, most = weakref.WeakSet(), [99]

    def read(folder: Path, base: Path) -> Checkpoint:
        if len(alive) >= most[0]:
            raise MemoryShortageError("The weights need more than there is")
        alive.add((found := load_learned(folder, base)).model)
        return found

    monkeypatch.setattr("core.inference.versions.load_learned", read)
    return lambda count: most.__setitem__(0, count)


def test_where_memory_is_short_the_one_in_service_stays_and_the_others_make_room(
    school: School, offer: Offer, room: Callable[[int], None]
) -> None:
    for seed, name in enumerate(("one", "two", "three", "four")):
        school.learn(name, seed)
    school.compare("one")
    school.promote("one")
    soon(lambda: offer.default.name == "one")
    model = weakref.ref(offer.get().generator.model)
    for name in ("two", "three", "four"):
        assert offer.get(name).version.name == name
    assert offer.get().generator.model is model(), "others were used since, and it stayed"
    room(2)
    offer.get("two")
    room(1)
    with pytest.raises(MemoryShortageError, match="no memory"):
        offer.get("three")
    assert "three" in offer.versions(), "it is whole"
    assert offer.get().generator.model is model()
    room(2)
    assert offer.get("three").version.name == "three"


def test_where_there_is_no_room_beside_it_what_was_in_service_goes(
    school: School, offer: Offer, room: Callable[[int], None]
) -> None:
    registry = with_one_in_service(school, offer)
    room(1)
    registry.promoted = "two"
    soon(lambda: offer.default.name == "two")


def with_one_in_service(school: School, offer: Offer) -> Stands:
    """Two versions, of which the first is promoted and loaded."""
    for seed, name in enumerate(("one", "two")):
        school.learn(name, seed)
    registry = offer._registry = Stands(school.registry.all())
    registry.promoted = "one"
    soon(lambda: offer.default.name == "one")
    return registry


class Stands:
    """A registry that says what is promoted as it is told."""

    def __init__(self, found: list[VersionInfo]) -> None:
        self._found, self.promoted = found, ""

    def all(self) -> list[VersionInfo]:
        states = {True: "promoted", False: "candidate"}
        return [dataclasses.replace(info, state=states[info.name == self.promoted]) for info in self._found]


def test_what_was_in_service_answers_until_the_next_one_is_there(
    school: School, offer: Offer, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = with_one_in_service(school, offer)
    begun, go_on = Event(), Event()

    def slow(folder: Path, base: Path) -> Checkpoint:
        begun.set()
        assert go_on.wait(LIMIT)
        return load_learned(folder, base)

    monkeypatch.setattr("core.inference.versions.load_learned", slow)
    registry.promoted = "two"
    soon(lambda: offer.default.name == "one" and begun.is_set())
    assert offer.get().version.name == "one" and answer(offer.get().version)
    go_on.set()
    soon(lambda: offer.get().version.name == "two")


def test_what_is_promoted_at_the_start_is_there_before_the_first_request(school: School, tiny_checkpoint: Path) -> None:
    school.learn("one")
    school.compare("one")
    school.promote("one")
    assert Offer([str(tiny_checkpoint)], school.registry, school.folder).default.name == "one"


def test_on_zerogpu_the_registry_is_asked_again_at_the_start(
    school: School, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("spaces")
    module.GPU = lambda task, duration: task
    monkeypatch.setitem(sys.modules, "spaces", module)
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    monkeypatch.setattr("core.inference.versions.ASK_SECONDS", 0)
    for seed, name in enumerate(("one", "two", "three")):
        school.learn(name, seed)
    registry = Stands(school.registry.all())
    registry.promoted = "one"
    found = mock.Mock(side_effect=[StorageError("Away"), registry.all()])
    offer = Offer([str(tiny_checkpoint)], SimpleNamespace(all=found), school.folder)
    assert list(offer.versions()) == ["tiny", "one", "three"] and offer.get().version.name == "one"
    assert found.call_count == 2


def test_a_server_that_is_killed_while_versions_change_comes_back_with_one_of_them(
    school: School, tiny_checkpoint: Path
) -> None:
    for name, seed, parent in (("one", 0, None), ("two", 1, "one")):
        school.learn(name, seed, parent)
        school.compare(name)
    data, told, drawn = school.folder.parent, {}, random.Random(0)
    url, pictures = f"sqlite:///{data / 'feedback.sqlite'}", str(data / "pictures")
    changing = ["tests.core.feedback.promoter", url, pictures, *school.ids.values()]
    answering = ["tests.core.inference.server", str(data), str(tiny_checkpoint)]
    for _ in range(2):
        with running(answering) as server:
            heard = [server.stdout.readline()]
            with running(changing) as promoter:
                promoter.stdout.readline()
                heard += [server.stdout.readline() for _ in range(drawn.randint(20, 60))]
                server.kill()
                assert promoter.poll() is None, "it changes them until then"
        for line in heard:
            assert ": " in line, "the server ended, or took too long"
            name, said = line.rstrip("\n").split(": ", 1)
            assert name in ("tiny", "one", "two") and told.setdefault(name, said) == said
        assert list(school.store.verify()) == []
    assert len(told) > 1 and len(set(told.values())) == len(told)


@contextmanager
def running(module: list[str]) -> Iterator[subprocess.Popen]:
    """A process that is killed when the block ends, or when it takes too long."""
    command = [sys.executable, "-m", *module]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        limit = Timer(LIMIT, process.kill)
        limit.start()
        try:
            yield process
        finally:
            limit.cancel()
            process.kill()
