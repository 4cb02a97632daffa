"""A studio in a process of its own, filled with what nano has drawn, and people who use it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from playwright.sync_api import BrowserContext, Page, expect

from benchmarks.studio_raters import start_studio
from core.config import NANO, ImageSampling
from core.feedback.people import Person
from core.feedback.projects import NewItem
from core.feedback.rubric import RUBRICS, Plan
from core.feedback.studio import StudioStore
from core.inference.generator import Generator
from core.inference.once import image_sampling
from core.inference.session import Turn
from core.model.checkpoint import load
from core.sequence import Image, Text
from core.tasks import TASKS
from demo.examples import load_examples
from tests.browser import free_port

PASSWORD = "correct horse"
OUTPUTS = 40
SECONDS = 60


@dataclass
class Studio:
    """The running server and, in this process, the same store."""

    url: str
    data: Path
    process: subprocess.Popen
    store: StudioStore
    people: dict[str, Person]


def open_store(data: Path) -> StudioStore:
    return StudioStore(f"sqlite:///{data / 'feedback.sqlite'}", data / "pictures")


def fill(store: StudioStore, maintainer: Person) -> None:
    """Edits by nano, of the scans that pydicom brings along."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # beside browsers and servers several would wait for each other
    try:
        _draw(store, maintainer)
    finally:
        torch.set_num_threads(threads)


def _draw(store: StudioStore, maintainer: Person) -> None:
    generator, task = Generator(load(NANO)), TASKS["super_resolution"]
    few = ImageSampling(**{**vars(image_sampling(generator.config, task)), "num_timesteps": 3})
    examples = load_examples()
    for seed in range(OUTPUTS):
        example = examples[seed % len(examples)]
        inputs = task.build([example.image], "")
        turn = Turn(generator.session(), inputs, task.outputs, seed=seed, image=few)
        done = [event.segment for event in generator.stream(turn) if type(event).__name__ == "SegmentDone"]
        store.add_run(
            maintainer, task=task.name, inputs=inputs, outputs=done, settings={"num_timesteps": 3}, seed=seed,
            model_name="nano-secret", model_fingerprint="f" * 64, key=str(seed),
            case=("pydicom", f"patient {seed % len(examples)}", "1"),
        )  # fmt: skip


@dataclass
class House:
    """People, and two open projects with the same four items: the raters take part in one of them."""

    people: dict[str, Person]
    project: str
    other: str


def furnish(store: StudioStore) -> House:
    store.people.add(None, "mona", "maintainer", PASSWORD)
    mona = store.people.of_token(store.people.log_in("mona", PASSWORD))
    people = {"mona": mona}
    for name in ("rita", "ralf", "rolf"):
        store.people.add(mona, name, "rater", PASSWORD)
        people[name] = store.people.of_token(store.people.log_in(name, PASSWORD))
    random = np.random.default_rng(0)
    ids = []
    for seed in range(4):
        scan, drawn = (Image(PILImage.fromarray(random.integers(0, 255, (30, 40, 3), np.uint8))) for _ in range(2))
        ref = store.add_run(
            mona, task="super_resolution", inputs=[scan, Text("Sharpen it.")], outputs=[drawn], seed=4711 + seed,
            settings={"timesteps": 9}, model_name="nano-secret", model_fingerprint="f" * 64, key=str(seed),
        )  # fmt: skip
        ids += ref.response_ids
    project = store.projects.make(mona, "Ours", "rate", RUBRICS["edit"], Plan(overlap=1))
    other = store.projects.make(mona, "Theirs", "rate", RUBRICS["edit"], Plan(overlap=1))
    for name in (project, other):
        store.projects.add_items(mona, name, [NewItem((one,)) for one in ids])
        store.projects.change_state(mona, name, "open")
    for name in ("rita", "ralf"):
        store.projects.add_member(mona, project, people[name].id)
    return House(people, project, other)


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    data, port = tmp_path_factory.mktemp("studio"), free_port()
    store = open_store(data)
    store.people.add(None, "mona", "maintainer", PASSWORD)
    mona = store.people.of_token(store.people.log_in("mona", PASSWORD))
    people = {"mona": mona}
    for name, role in (("rita", "rater"), ("ralf", "rater"), ("ada", "adjudicator"), ("rolf", "rater")):
        store.people.add(mona, name, role, PASSWORD)
        people[name] = store.people.of_token(store.people.log_in(name, PASSWORD))
    fill(store, mona)
    process = start_studio(data, port)
    studio = Studio(f"http://127.0.0.1:{port}/", data, process, store, people)
    yield studio
    studio.process.terminate()  # it may be another one by now
    studio.process.wait(SECONDS)
    store.close()


LogIn = Callable[..., Page]


@pytest.fixture
def log_in(studio: Studio, new_context: Callable[..., BrowserContext]) -> Iterator[LogIn]:
    """Opens the studio as somebody, in a browser of their own. No page may say an error."""
    expect.set_options(timeout=20_000)
    errors: list[str] = []

    def open_studio(name: str, width: int = 1280) -> Page:
        height = 900 if width > 600 else 844
        page = new_context(viewport={"width": width, "height": height}, locale="en-US").new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.set_default_timeout(20_000)
        page.goto(studio.url)
        page.get_by_label("Name").fill(name)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_text(f"{name}, ")).to_be_visible()
        return page

    yield open_studio
    assert errors == []
