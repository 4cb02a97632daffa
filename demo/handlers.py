"""What happens when something is asked for: requests are checked, put into the queue, and followed. No widgets."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image as PILImage

from core.config import ImageSampling
from core.errors import BusyError, PromptError
from core.inference.once import image_sampling
from core.inference.provenance import Provenance
from core.inference.service import Service
from core.inference.session import Session, Turn
from core.inference.versions import Loaded, Offer
from core.sequence import Image, Sequence, Text
from core.tasks import TASKS, Task, get_task
from core.tasks.regions import Region
from demo import render, results
from demo.examples import Example, load_examples
from demo.render import Reply
from demo.visit import RANDOM_SEED, Controls, Job, Part, Visit
from demo.visits import Visits

LONGEST_PROMPT = 2000
MOST_MESSAGES = 100
MOST_SEEDS = 4
PREVIEWS = 8
TEXT_SECONDS = 0.5
"""Between two messages to a program about a text that grows. Each costs as much time as a token of a small model."""
ALIVE_SECONDS = 2.0
"""So often a program that waits is told, at the latest. Only then, and at the start, does Gradio find out that it is
gone."""
BLANK = (128, 128, 128)

WORKBENCH, DRAW, COMPARE = "workbench", "draw", "compare"
ANSWERS = {"text": ("text",), "image": ("image",), "both": ("text", "image")}
SCAN_TASKS = tuple(task for task in TASKS.values() if task.images)


def checked_prompt(text: str | None) -> str:
    """A prompt without blanks around it, of at most ``LONGEST_PROMPT`` characters."""
    text = (text or "").encode("utf-8", "replace").decode().strip()  # halves of surrogate pairs are no text
    if len(text) > LONGEST_PROMPT:
        raise PromptError(
            f"The text has {len(text)} characters", remedy=f"Shorten it to at most {LONGEST_PROMPT} characters"
        )
    return text


@dataclass(frozen=True)
class Side:
    """One side of a comparison: a version and the settings it runs with."""

    version: str
    controls: Controls


class Handlers:
    """Everything that the pages and the API can ask for.

    Args:
        offer: the models to choose from.
        service: the queue in front of them.
        folder: where uploads arrive and generated files wait to be fetched.
    """

    def __init__(self, offer: Offer, service: Service, folder: Path) -> None:
        self.offer, self.service = offer, service
        self.visits = Visits(folder)
        self.examples: list[Example] = load_examples()

    # Requests: checked, then queued

    def chat(self, tab: str, box: dict, answer: str, controls: Controls, task: str = "", version: str = "") -> Job:
        """Sends a message with its images.

        Args:
            box: ``text`` and ``files`` of the message box, whose files were attached before.
            answer: key of ``ANSWERS``.
            task: name of the task that the message is about, or empty for a free one.
            version: which one a new conversation is held with; one that has begun keeps its own.

        Raises:
            UniMedError: nothing was said, too much, or the queue is full; the conversation is as it was.
        """
        visit = self.visits.of(tab)
        text = checked_prompt(box["text"])
        if not text:
            raise PromptError("The message has no text", remedy="Ask a question, or say what to draw")
        with visit.lock:
            if len(visit.messages) >= MOST_MESSAGES:
                raise PromptError(f"The conversation has {len(visit.messages)} messages", remedy="Start a new one")
            images = [(path, visit.attached[path]) for path in box["files"]]
            outputs, named = ANSWERS[answer], TASKS.get(task)
            if named and set(named.outputs) == set(outputs):
                outputs = named.outputs  # in the task's own order
            if visit.messages:
                chosen, session = Loaded(visit.version, visit.version.generator), visit.session
            else:
                chosen, session = self.offer.get(version), Session()
            turn = self._turn(
                chosen, session, [*(image for _, image in images), Text(text)], outputs, controls,
                image=image_sampling(chosen.generator.config, named) if named else None,
                reads_directly="image" not in outputs,
            )  # fmt: skip
            part = self._part("", visit, chosen, turn, task or "chat", text)
            job = Job(
                WORKBENCH,
                [part],
                before=len(session.history),
                box=box,
                messages=[*visit.messages, render.user_message(text, images, visit.say)],
                images=[*visit.images, *images],
                finish=lambda job: self._conclude(visit, job),
            )
            self._begin(visit, job)
            visit.choice, visit.version, visit.session = version, chosen.version, session
            visit.attached, visit.read = dict(images), {}
        return job

    def task(
        self, tab: str, name: str, prompt: str, controls: Controls, region: Region | None = None,
        reference: Image | None = None, coarsen: bool = False, version: str = "",
    ) -> Job:  # fmt: skip
        """Runs a task on the open scan.

        Args:
            region: where to look, for segmentation.
            reference: what the output should be, for scores.
            coarsen: take the fine detail away first, and use the scan itself as the reference.
        """
        visit, task, chosen = self.visits.of(tab), get_task(name), self.offer.get(version)
        shown = self._scan_image(visit)
        if coarsen:
            from core.data.coarse import coarse

            shown, reference = replace(shown, pixels=coarse(shown.pixels)), shown
        seen, box = region.crop(shown) if region else (shown, None)
        part = self._task_part("", visit, chosen, task, [seen], prompt, controls)
        part.shown, part.region, part.box = shown, region, box
        return self._begin(visit, Job(name, [part], reference=reference))

    def dependence(self, tab: str, name: str, prompt: str, controls: Controls, version: str = "") -> Job:
        """Asks the same about the scan, about a blank picture and about another scan."""
        visit, task, chosen = self.visits.of(tab), get_task(name), self.offer.get(version)
        own = self._scan_image(visit)
        others = [e.image for e in self.examples if e.image.modality != own.modality]
        other = random.Random(own.sha256).choice(others)
        pictures = {
            "own": own,
            "blank": replace(own, pixels=PILImage.new("RGB", own.pixels.size, BLANK)),
            "swapped": other,
        }
        controls = replace(controls, seed=controls.drawn_seed())
        parts = []
        for label, image in pictures.items():
            part = self._task_part(label, visit, chosen, task, [image], prompt, controls)
            part.shown = image
            parts.append(part)
        return self._begin(visit, Job(name, parts))

    def draw(self, tab: str, caption: str, seeds: int, controls: Controls, version: str = "") -> Job:
        """Draws a caption with several seeds in a row."""
        visit, task, chosen = self.visits.of(tab), get_task("text_to_image"), self.offer.get(version)
        first = controls.drawn_seed()
        parts = [
            self._task_part(f"{first + i}", visit, chosen, task, [], caption, replace(controls, seed=first + i))
            for i in range(max(1, min(int(seeds), MOST_SEEDS)))
        ]
        return self._begin(visit, Job(DRAW, parts))

    def compare(self, tab: str, name: str, prompt: str, sides: tuple[Side, Side]) -> Job:
        """Runs one request on two versions or settings, in random order.

        Seeds that are to be drawn are the same on both sides, unless nothing else differs.

        Raises:
            PromptError: both sides are the same, so that there is nothing to compare.
        """
        visit, task = self.visits.of(tab), get_task(name)
        images = [self._scan_image(visit)] if task.images else []
        pair = [self.offer.get(side.version) for side in sides]
        decided = [self._decided(chosen, task, side.controls) for chosen, side in zip(pair, sides, strict=True)]
        seeds = [side.controls.drawn_seed() for side in sides]
        if decided[0] != decided[1] and {side.controls.seed for side in sides} <= {None, RANDOM_SEED}:
            seeds[1] = seeds[0]  # so that nothing but the version or the setting differs
        if decided[0] == decided[1] and seeds[0] == seeds[1]:
            raise PromptError("Both sides have the same version, settings and seed", remedy="Change one of them")
        order = random.SystemRandom().sample((0, 1), 2)
        parts = []
        for label, i in zip("AB", order, strict=True):
            controls = replace(sides[i].controls, seed=seeds[i])
            part = self._task_part(label, visit, pair[i], task, images, prompt, controls)
            part.shown = images[0] if images else None
            parts.append(part)
        return self._begin(visit, Job(COMPARE, parts))

    @staticmethod
    def _decided(chosen: Loaded, task: Task, controls: Controls) -> tuple:
        """What shapes an output of the task, but for the seed."""
        config = chosen.generator.config
        image = controls.image(image_sampling(config, task)) if "image" in task.outputs else None
        return chosen.version.name, image, controls.text(config.text) if "text" in task.outputs else None

    @staticmethod
    def _scan_image(visit: Visit) -> Image:
        scan = visit.scan
        if scan is None and visit.evicted:
            raise PromptError("Your scan was closed to make room for others", remedy="Open it again")
        if scan is None:
            raise PromptError("There is no image yet", remedy="Upload one or choose an example")
        return scan.image

    def _task_part(
        self, label: str, visit: Visit, chosen: Loaded, task: Task, images: list[Image], prompt: str, controls: Controls
    ) -> Part:
        turn = self._task_turn(chosen, task, images, prompt, controls)
        return self._part(label, visit, chosen, turn, task.name, prompt)

    def _task_turn(self, chosen: Loaded, task: Task, images: list[Image], prompt: str, controls: Controls) -> Turn:
        inputs = task.build(images, checked_prompt(prompt))
        return self._turn(
            chosen, chosen.generator.session(), inputs, task.outputs, controls,
            image=image_sampling(chosen.generator.config, task), reads_directly=task.reads_directly,
        )  # fmt: skip

    @staticmethod
    def _turn(
        chosen: Loaded, session: Session, inputs: Sequence, outputs: tuple[str, ...], controls: Controls, *,
        reads_directly: bool, image: ImageSampling | None = None,
    ) -> Turn:  # fmt: skip
        config = chosen.generator.config
        sampling = controls.image(image or config.image)
        return Turn(
            session, inputs, outputs, seed=controls.drawn_seed(), image=sampling, text=controls.text(config.text),
            preview_every=max(1, sampling.num_timesteps // PREVIEWS), chained_resize=not reads_directly,
            think=controls.think,
        )  # fmt: skip

    @staticmethod
    def _part(label: str, visit: Visit, chosen: Loaded, turn: Turn, task: str, prompt: str) -> Part:
        about = Provenance.of(chosen.generator.checkpoint, task, turn)
        return Part(label, *chosen, turn, Reply(about, visit.folder, blind=label in ("A", "B")), prompt)

    def _begin(self, visit: Visit, job: Job) -> Job:
        """Queues every part of a job, or none."""
        with visit.lock:
            if (last := visit.jobs.get(job.page)) is not None and not last.done:
                raise PromptError("Your last request here is still under way", remedy="Wait for it, or stop it")
            try:
                for part in job.parts:
                    part.request = self.service.submit(visit.token, part.generator, part.turn)
                    part.generator = None
            except Exception:
                for part in job.parts:
                    if part.request is not None:
                        part.request.cancel()
                raise
            visit.jobs[job.page] = job
        job.run()
        return job

    # What becomes of them

    def follow(self, tab: str, page: str) -> Iterator[Job]:
        """The page's job whenever there is something new to show, and once more when it is done."""
        visit = self.visits.of(tab)
        job = visit.jobs.get(page)
        if job is None:
            return
        for _ in job.follow():
            yield job
            if visit.jobs.get(page) is not job:
                return  # a new conversation has begun
        yield job

    @staticmethod
    def _conclude(visit: Visit, job: Job) -> None:
        """Puts the answer into the conversation, or gives the message back when it has failed."""
        (part,) = job.parts
        with visit.lock:
            if visit.jobs.get(WORKBENCH) is not job:
                return  # a new conversation has begun
            if job.came_to_nothing:
                part.turn.session.rewind(job.before)
                job.messages.pop()
                del job.images[len(job.images) - len(job.box["files"]) :]
            else:
                job.messages.append(part.reply.message(visit.say, results.details(part, job.seconds, visit.say)))
                job.images += [(picture.path, picture.image) for picture in part.reply.pictures]
            visit.messages, visit.images = job.messages, job.images
            outputs = part.turn.session.history[job.before + len(part.turn.inputs) :]
            visit.written.update(segment.text for segment in outputs if isinstance(segment, Text))

    def stop(self, tab: str, page: str) -> None:
        """Takes back a request that waits; a running one ends before the next step of the model."""
        job = self.visits.of(tab).jobs.get(page)
        if job is not None:
            job.cancel()

    def new_conversation(self, tab: str, version: str = "") -> None:
        """Forgets the conversation and its images; a running answer is stopped. The next one is held with the version
        of this name, or with the one that is the default when it begins."""
        visit = self.visits.of(tab)
        self.stop(tab, WORKBENCH)
        with visit.lock:
            visit.jobs.pop(WORKBENCH, None)
            visit.choice, visit.version, visit.session = version, None, Session()
            visit.messages, visit.images, visit.written = [], [], set()
            visit.attached, visit.read, visit.shown = {}, {}, []

    # API: one request without a visit

    def request(
        self, client: str, task: Task, images: list[str], prompt: str, seed: int
    ) -> Iterator[tuple[Reply, dict | None]]:
        """A task on uploaded files; yields the reply as its text grows, and now and then while it does not.

        The record of where the reply comes from is given with the last one.

        Raises:
            UniMedError: a bad file, prompt or seed, or no room in the queue.
        """
        read = [self.visits.uploads.picture(path) for path in images]
        chosen = self.offer.get()
        turn = self._task_turn(chosen, task, read, prompt, Controls(seed=seed))
        turn.preview_every = 0
        about = Provenance.of(chosen.generator.checkpoint, task.name, turn)
        reply, started = Reply(about, self.visits.answers), time.monotonic()
        told, seen = started, ""
        request = self.service.submit(client, chosen.generator, turn)
        del chosen  # the request holds the model until it has ended
        try:
            yield reply, None
            for event in request:
                reply.add(event)
                if time.monotonic() - told >= (ALIVE_SECONDS if reply.text == seen else TEXT_SECONDS):
                    told, seen = time.monotonic(), reply.text
                    yield reply, None
        finally:
            request.cancel()  # does nothing to a request that has ended
        if reply.stopped:
            raise BusyError("The server stopped before this was done", remedy="Send it again in a minute")
        yield reply, reply.provenance.record(time.monotonic() - started)
