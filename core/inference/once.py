"""One task, one answer: what the command line and scripts call."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from core.config import ImageSampling, ModelConfig, TextSampling
from core.inference.events import SegmentDone
from core.inference.generator import Generator
from core.inference.provenance import Provenance
from core.inference.session import Turn
from core.sequence import Image, Sequence, Text
from core.tasks import Task


@dataclass(frozen=True)
class Answer:
    """Outputs of a task, in order, with what is needed to have them again."""

    segments: list[Text | Image]
    provenance: Provenance
    seconds: float

    @property
    def text(self) -> str:
        return "\n".join(s.text for s in self.segments if isinstance(s, Text))

    @property
    def images(self) -> list[Image]:
        return [s for s in self.segments if isinstance(s, Image)]


def task_turn(
    generator: Generator, task: Task, images: list[Image], prompt: str, seed: int,
    image: ImageSampling | None = None, text: TextSampling | None = None,
) -> Turn:  # fmt: skip
    """A turn of a new conversation that does the task with the model's own settings where none are given."""
    return turn_of(generator, task, task.build(images, prompt), seed, image, text)


def turn_of(
    generator: Generator, task: Task, inputs: Sequence, seed: int, image: ImageSampling | None = None,
    text: TextSampling | None = None,
) -> Turn:  # fmt: skip
    """The same for inputs that are built already, such as those of a record."""
    config = generator.config
    return Turn(
        generator.session(), inputs, task.outputs, seed=seed, image=image or image_sampling(config, task),
        text=text or config.text, chained_resize=not task.reads_directly,
    )  # fmt: skip


def image_sampling(config: ModelConfig, task: Task) -> ImageSampling:
    """The model's own settings for the images that a task draws."""
    return config.edit if task.images and config.edit is not None else config.image


def run_task(
    generator: Generator, task: Task, images: list[Image], prompt: str = "", seed: int = 0,
    steps: int | None = None, temperature: float | None = None,
) -> Answer:  # fmt: skip
    """Runs a task to its end. ``steps`` and ``temperature`` replace the model's own."""
    config = generator.config
    own = image_sampling(config, task)
    image = own if steps is None else replace(own, num_timesteps=steps)
    text = config.text if temperature is None else replace(config.text, temperature=temperature)
    turn = task_turn(generator, task, images, prompt, seed, image, text)
    start = time.perf_counter()
    segments = [event.segment for event in generator.stream(turn) if isinstance(event, SegmentDone)]
    return Answer(segments, Provenance.of(generator.checkpoint, task.name, turn), time.perf_counter() - start)
