"""The whole loop on the tiny checkpoint: judged, learned, compared, promoted; and what a withdrawal does to it."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage

from core.__main__ import main
from core.config import ROOT
from core.errors import FeedbackError, SettingsError
from core.feedback.projects import NewItem
from core.feedback.rubric import OVERALL, Plan, Rubric
from core.feedback.runs import with_origins
from core.feedback.snapshot_folder import write
from core.feedback.snapshots import Rules
from core.feedback.studio import StudioStore
from core.feedback.studio_models import Assignment, Item
from core.inference.once import run_task
from core.inference.versions import Offer
from core.lineage import Lineage
from core.model.checkpoint import load
from core.sequence import Image
from core.tasks import TASKS
from core.training.loop import Order, make_version, side_by_side
from core.training.recipe import LearnRecipe
from core.training.sources import from_store
from tests.core.feedback.team import Team

RECIPE = LearnRecipe(bf16=False, batch=4, epochs=6, lora_rank=4, learning_rate=5e-3, patience=0)
QUESTIONS = TASKS["vqa"].examples


@pytest.fixture
def team(tmp_path, monkeypatch, tiny_checkpoint):
    """A store in the folder that commands find, and the tiny checkpoint as the default model."""
    monkeypatch.setenv("UNIMED_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("UNIMED_MODEL", str(tiny_checkpoint))
    monkeypatch.delenv("UNIMED_DATABASE", raising=False)
    monkeypatch.delenv("UNIMED_PICTURES", raising=False)
    folder = tmp_path / "data"
    with StudioStore(f"sqlite:///{folder / 'feedback.sqlite'}", folder / "pictures") as store:
        yield Team.of(store)
        assert list(store.verify()) == []


def asked(team, generator, patients=24):
    """Two sampled answers to a question about each patient's picture, as ``feedback run`` would store them."""
    items = []
    for n in range(patients):
        pixels = np.random.default_rng(n).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        picture, ids = Image(PILImage.fromarray(pixels)), []
        for seed in (0, 1):
            answer = run_task(generator, TASKS["vqa"], [picture], QUESTIONS[n % 3], seed, temperature=1.0)
            ref = team.store.add_run(
                team.maintainer, task="vqa", inputs=TASKS["vqa"].build([picture], QUESTIONS[n % 3]), seed=seed,
                outputs=answer.segments, settings={}, model_name=generator.checkpoint.name, key=f"{n} {seed}",
                model_fingerprint=generator.checkpoint.fingerprint, case=("archive", f"patient {n}", ""),
            )  # fmt: skip
            ids += ref.response_ids
        items.append(NewItem(tuple(ids)))
    return items


@pytest.fixture
def snapshot(team, tiny_generator):
    """What two raters made of twelve comparisons: the longer answer is better. Twelve more requests wait unjudged."""
    items, projects = asked(team, tiny_generator)[:12], team.store.projects
    project = projects.make(team.maintainer, "longer", "compare", Rubric((OVERALL,)), Plan(overlap=1), items)
    for rater in team.raters:
        projects.add_member(team.maintainer, project, rater.id)
    projects.change_state(team.maintainer, project, "open")
    half = len(items) // 2
    for n, rater in enumerate(team.raters):
        for _ in range(half if n == 0 else len(items)):
            if (task := team.store.queue.next(rater, project)) is None:
                break
            texts = [one["text"] for one in task.shown.outputs]
            answer = {"choices": {"overall": int(len(texts[1]) > len(texts[0]))}}
            team.submit(rater, task, **answer)
    return team.store.snapshots.make(team.maintainer, Rules((project,), test_share=0.3))


def order_of(team, tmp_path, tiny_checkpoint, sha256, name="v1"):
    source = from_store(team.store, sha256)
    return Order(source, str(tiny_checkpoint), RECIPE, tmp_path / "data" / "versions" / name, compare=12)


def test_from_judgements_to_a_served_version_and_back(team, snapshot, tmp_path, tiny_checkpoint):
    order = order_of(team, tmp_path, tiny_checkpoint, snapshot.sha256)
    version_id, comparison = make_version(order, team.store, team.maintainer)
    told = json.loads((order.out / "progress.json").read_text())
    assert told["phase"] == "done" and comparison.items + comparison.same == 12
    (info,) = team.store.versions.all()
    assert (info.id, info.name, info.state, info.project_id) == (version_id, "v1", "candidate", comparison.project_id)
    assert make_version(order, team.store, team.maintainer) == (version_id, None)  # nothing is made twice

    with pytest.raises(FeedbackError, match=r"0 of \d+ judged"):
        team.store.versions.promote(team.maintainer, version_id, "I like it")
    judge_all_for(team, comparison.project_id, "v1")
    gate = team.store.versions.gate(version_id)
    assert (gate.wins, gate.losses) == (comparison.items, 0)
    team.store.versions.promote(team.maintainer, version_id, "better in the comparison")
    offer = Offer([str(tiny_checkpoint)], team.store.versions, tmp_path / "data" / "versions")
    served = offer.get().version
    assert served.name == "v1" and served.fingerprint == info.fingerprint == load(order.out).fingerprint
    assert team.store.versions.roll_back(team.maintainer, "a clinician complained") is None
    assert team.store.versions.served() is None


def judge_all_for(team, project, name):
    """A rater finds every output of one version better: who is who stands in the store alone."""
    team.store.projects.add_member(team.maintainer, project, team.raters[0].id)
    while (task := team.store.queue.next(team.raters[0], project)) is not None:
        with team.store.database.reading() as session:
            item = session.get(Item, session.get(Assignment, task.id).item_id)
            models = {one.id: version.name for one, _, version, _ in session.execute(with_origins(item.response_ids))}
        better = [models[one] for one in item.response_ids].index(name)
        team.submit(team.raters[0], task, choices={"overall": better})


def test_after_a_withdrawal_a_version_is_learned_again_without_it(team, snapshot, tmp_path, tiny_checkpoint):
    first, _ = make_version(order_of(team, tmp_path, tiny_checkpoint, snapshot.sha256), team.store, team.maintainer)
    gone = team.raters[0]
    team.store.withdraw_person(team.maintainer, gone.id)
    (info,) = team.store.versions.all()
    assert info.tainted
    with pytest.raises(FeedbackError, match="was emptied"):
        from_store(team.store, snapshot.sha256)
    again = team.store.snapshots.again(team.maintainer, snapshot.id)
    assert again.sha256 != snapshot.sha256 and again.replaces == snapshot.id
    order = order_of(team, tmp_path, tiny_checkpoint, again.sha256, "v2")
    second, _ = make_version(order, team.store, team.maintainer)
    states = {one.id: one.tainted for one in team.store.versions.all()}
    assert states == {first: True, second: False}
    assert Lineage.read(order.out).judgements < Lineage.read(order.out.parent / "v1").judgements


def test_a_command_that_is_killed_goes_on(team, snapshot, tmp_path, tiny_checkpoint):
    """At random moments, from the start of the process to the comparison: the same command ends with one version."""
    recipe = tmp_path / "recipe.json"
    keys = dataclasses.asdict(RECIPE) | {"batch": 2}
    recipe.write_text(json.dumps(keys))
    command = [
        sys.executable, "-m", "core", "learn", snapshot.sha256[:12], "--base", str(tiny_checkpoint), "--recipe",
        str(recipe), "--by", team.maintainer.login, "--name", "v1", "--compare", "6",
    ]  # fmt: skip
    environment, moments = os.environ | {"OMP_NUM_THREADS": "1"}, random.Random(1)
    for phase in ("learning", "learning", "evaluating", "comparing"):
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
        limit = time.monotonic() + 120
        while process.poll() is None and told(tmp_path) != (phase, process.pid) and time.monotonic() < limit:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    (info,) = team.store.versions.all()
    assert len(team.store.projects.of(team.maintainer)) == 2  # what was judged, and one comparison
    assert info.project_id is not None and json.loads(done.stdout)["id"] == info.id
    command.insert(5, "epochs=2")
    other = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert other.returncode == 2 and "another version of that name" in other.stderr


def test_a_folder_is_learned_from_without_a_database(team, snapshot, tmp_path, monkeypatch, capsys):
    """On a machine with a GPU; the version is registered where its snapshot was made."""
    write(team.store.snapshots, team.store.blobs, snapshot.sha256, tmp_path / "given")
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps(dataclasses.asdict(RECIPE) | {"epochs": 1}))
    monkeypatch.setenv("UNIMED_DATA", str(tmp_path / "elsewhere"))
    assert main(["learn", str(tmp_path / "given"), "--recipe", str(recipe), "--name", "v1"]) == 0
    out, err = capsys.readouterr()
    made = Path(json.loads(out)["folder"])
    assert f"core versions add {made} --by NAME" in err and not (tmp_path / "elsewhere" / "feedback.sqlite").exists()
    assert main(["learn", snapshot.sha256, "--recipe", str(recipe)]) == 2
    assert "Name one with --by NAME" in capsys.readouterr().err
    monkeypatch.setenv("UNIMED_DATA", str(tmp_path / "data"))
    assert main(["versions", "add", str(made), "--by", team.maintainer.login]) == 0
    assert [one.name for one in team.store.versions.all()] == ["v1"]
    assert main(["versions", "add", str(made), "--by", team.maintainer.login]) == 0
    assert "was registered already (candidate)" in capsys.readouterr().out


def told(tmp_path):
    """The phase of the run, and whose word that is."""
    try:
        said = json.loads((tmp_path / "data" / "versions" / "v1" / "progress.json").read_text())
        return said["phase"], said["pid"]
    except (OSError, ValueError):
        return "", 0


def test_a_task_that_falls_below_its_noise_is_named():
    row = {"task": "vqa", "metric": "exact match", "better": "higher", "model": {"value": 0.8, "low": 0.7, "high": 0.9}}
    low = row | {"model": {"value": 0.65, "low": 0.5, "high": 0.7}}
    distance = {"task": "t", "metric": "FID", "better": "lower", "model": {"value": 5.0, "low": 4.0, "high": 6.0}}
    far = distance | {"model": {"value": 6.5, "low": 6.0, "high": 7.0}}
    assert [one["worse"] for one in side_by_side([row, distance], [low, far])] == [True, True]
    assert [one["worse"] for one in side_by_side([row, distance], [row, distance])] == [False, False]
    alone = row | {"model": {"value": 0.8, "low": 0.8, "high": 0.8}}  # one patient: nobody knows the noise
    assert [one["worse"] for one in side_by_side([alone], [low])] == [False]


def test_another_recipe_needs_another_name(team, snapshot, tmp_path, tiny_checkpoint):
    order = order_of(team, tmp_path, tiny_checkpoint, snapshot.sha256)
    make_version(order, team.store, team.maintainer)
    with pytest.raises(SettingsError, match=r"another version of that name.*--name"):
        make_version(dataclasses.replace(order, recipe=LearnRecipe()), team.store, team.maintainer)
    told = json.loads((order.out / "progress.json").read_text())
    assert told["phase"] == "done", "the one that is there has not failed"


def test_a_name_stands_for_one_base(team, snapshot, tmp_path, tiny_checkpoint):
    """The same order from another version to begin with does not give the version that is there."""
    order = order_of(team, tmp_path, tiny_checkpoint, snapshot.sha256)
    make_version(order, team.store, team.maintainer)
    other = order_of(team, tmp_path, tiny_checkpoint, snapshot.sha256, "v2")
    make_version(dataclasses.replace(other, compare=0), team.store, team.maintainer)
    with pytest.raises(SettingsError, match="another version of that name"):
        make_version(dataclasses.replace(order, base=str(other.out)), team.store, team.maintainer)
