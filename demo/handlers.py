"""What happens when a visitor does something. Plain values in, plain values out; no widgets."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
import time
from collections.abc import Generator as Coroutine
from collections.abc import Iterator
from pathlib import Path
from threading import Event as Flag
from threading import Lock

from core.data.images import open_image
from core.errors import ImageError, PromptError, UniMedError
from core.inference.events import Event
from core.inference.generator import Generator
from core.inference.provenance import Provenance
from core.inference.session import Session, Turn
from core.sequence import Image, Sequence, Text
from core.tasks import TASKS, Task, get_task
from demo import render
from demo.render import Picture, Reply
from demo.visit import Attached, Controls, Job, View, Visit

LONGEST_PROMPT = 2000
MOST_IMAGES = 4
PREVIEWS = 8

MODEL = "model"
"""Name of the queue of everything that uses the model: one request at a time, the others wait."""
ANSWERS = {"Text": ("text",), "Image": ("image",), "Text, then image": ("text", "image")}
EDITS = tuple(task for task in TASKS.values() if task.images and "image" in task.outputs)


def checked_prompt(text: str | None) -> str:
    """A prompt without blanks around it, of at most ``LONGEST_PROMPT`` characters."""
    text = (text or "").strip()
    if len(text) > LONGEST_PROMPT:
        raise PromptError(
            f"The text has {len(text)} characters", remedy=f"Shorten it to at most {LONGEST_PROMPT} characters"
        )
    return text


def delete_old_uploads(paths: set[str], seconds: float) -> None:
    """Deletes uploads that nobody came to read, because a page was closed or a request was taken back in the queue."""
    for path in map(Path, list(paths)):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_ctime >= seconds:
                path.unlink()
                path.parent.rmdir()


class Handlers:
    """Everything the pages and the API can ask for.

    Args:
        generator: the model. Requests take turns, one step at a time, so that no two threads are ever in it.
        folder: where uploads arrive and generated files wait to be fetched.
    """

    def __init__(self, generator: Generator, folder: Path) -> None:
        self.generator, self.folder = generator, folder.resolve()
        self._visits: dict[str, Visit] = {}
        self._visits_lock, self._model_lock = Lock(), Lock()

    # Visits

    def visit(self, key: str) -> Visit:
        """The visit of a browser tab, which begins when it is first asked for."""
        with self._visits_lock:
            if key not in self._visits:
                folder = Path(tempfile.mkdtemp(prefix="visit-", dir=self.folder))
                self._visits[key] = Visit(folder, self.generator.session())
            return self._visits[key]

    def leave(self, key: str) -> None:
        """Ends a visit: stops its request and deletes its files."""
        with self._visits_lock:
            visit = self._visits.pop(key, None)
        if visit is not None:
            if (job := visit.job) is not None:
                job.stop.set()
            shutil.rmtree(visit.folder, ignore_errors=True)

    # Uploads

    def read_upload(self, path: str) -> Image:
        """Reads an uploaded file and deletes it, because it may hold patient data in its content and its name.

        Raises:
            ImageError: it is not a picture of a supported kind, or did not come through the upload.
        """
        file = Path(path).resolve()
        if not file.is_relative_to(self.folder):
            raise ImageError("The file did not come through the upload", remedy="Upload it")
        try:
            return open_image(file)
        finally:
            file.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # the upload's folder goes too, unless another file is in it
                file.parent.rmdir()

    def attach(self, key: str, paths: list[str]) -> Attached | None:
        """Replaces the files in the message box by de-identified ones. None when nothing has changed."""
        visit = self.visit(key)
        with visit.lock:
            if paths == visit.shown:
                return None
            kept, problems = [], []
            for path in paths:
                try:
                    kept += self._attached(visit, path)
                except ImageError as error:
                    problems.append(str(error))
            visit.shown = kept
            notes = render.notes([visit.attached[path] for path in kept])
            return Attached(kept, notes, "".join(map(render.problem, problems)))

    def _attached(self, visit: Visit, path: str) -> list[str]:
        """The de-identified file that stands for a path in the message box; none when the file has failed before."""
        if path in visit.attached:
            return [path]
        if not Path(path).exists():  # the browser reports some changes twice
            return [visit.read[path]] if visit.read.get(path) in visit.attached else []
        image = self.read_upload(path)
        visit.read[path] = render.save_input(image, visit.folder)
        visit.attached[visit.read[path]] = image
        return [visit.read[path]]

    def attach_example(self, key: str, image: Image) -> tuple[str, str]:
        """Puts an example into the message box. Returns its path and its notes."""
        visit = self.visit(key)
        path = render.save_input(image, visit.folder)
        visit.attached[path], visit.shown = image, [path]
        return path, render.notes([image])

    def open_scan(self, key: str, source: str | Image) -> tuple[Picture, str]:
        """Puts an upload or an example on the page that edits. Returns the picture and the notes.

        Raises:
            ImageError: the upload is not a picture of a supported kind.
        """
        visit = self.visit(key)
        visit.scan = source if isinstance(source, Image) else self.read_upload(source)
        path = render.save_input(visit.scan, visit.folder)
        return Picture(path, "Before", render.input_alt(visit.scan)), render.notes([visit.scan])

    # Requests: first checked, while others use the model, then run

    def begin_chat(self, key: str, box: dict, answer: str, controls: Controls) -> View:
        """Takes a message with its images."""
        visit = self.visit(key)
        if (attached := self.attach(key, box["files"])) is not None:
            box = {**box, "files": attached.paths}
            if attached.problems:
                return View(status=attached.problems, box=box)
        try:
            text = checked_prompt(box["text"])
            if not text:
                raise PromptError("The message has no text", remedy="Ask a question, or say what to draw")
            if len(box["files"]) > MOST_IMAGES:
                raise PromptError(
                    "Too many images", value=len(box["files"]), remedy=f"Send at most {MOST_IMAGES} in one message"
                )
            images = [(path, visit.attached[path]) for path in box["files"]]
            inputs, outputs = [*(image for _, image in images), Text(text)], ANSWERS[answer]
            turn = self._turn(visit.session, inputs, outputs, controls, reads_directly="image" not in outputs)
            self._begin(visit, "chat", turn, "chat")
        except UniMedError as error:
            return View(status=render.problem(str(error)))
        visit.job.box = box
        visit.messages.append(render.user_message(text, images))
        return View(
            status=render.working("Waiting for the model…"),
            busy=True,
            messages=visit.messages,
            box={"text": "", "files": []},
        )

    def begin_drawing(self, key: str, page: str, task: str, prompt: str, controls: Controls) -> View:
        """Takes a request of the pages that generate and edit."""
        visit = self.visit(key)
        try:
            chosen = get_task(task)
            if chosen.images and visit.scan is None:
                raise PromptError("There is no image yet", remedy="Upload one or choose an example")
            images = [visit.scan] if chosen.images else []
            self._begin(visit, page, self._task_turn(chosen, images, prompt, controls), task)
        except UniMedError as error:
            return View(status=render.problem(str(error)))
        return View(status=render.working("Waiting for the model…"), busy=True, words="")

    def _begin(self, visit: Visit, page: str, turn: Turn, task: str) -> None:
        with visit.lock:
            if visit.job is not None:
                raise PromptError(
                    "Your last request still has the model", remedy="Wait for it, or stop it where it runs"
                )
            about = Provenance.of(self.generator.checkpoint, task, turn)
            visit.job = Job(page, turn, about, len(turn.session.history))

    def _turn(
        self, session: Session, inputs: Sequence, outputs: tuple[str, ...], controls: Controls, *, reads_directly: bool
    ) -> Turn:
        config = self.generator.config
        image = controls.sampling(config.image)
        return Turn(
            session,
            inputs,
            outputs,
            seed=controls.drawn_seed(),
            image=image,
            text=config.text,
            preview_every=max(1, image.num_timesteps // PREVIEWS),
            chained_resize=not reads_directly,
        )

    def _task_turn(self, task: Task, images: list[Image], prompt: str, controls: Controls) -> Turn:
        inputs = task.build(images, checked_prompt(prompt))
        session = self.generator.session()
        return self._turn(session, inputs, task.outputs, controls, reads_directly=task.reads_directly)

    def run(self, key: str, page: str) -> Iterator[View]:
        """Runs the request that the page has begun, if it has."""
        visit = self.visit(key)
        with visit.lock:
            job = visit.job
            runs = job is not None and job.page == page and not job.running
            if runs:
                job.running = True
        if not runs:
            yield View()
            return
        try:
            last = yield from self._run(visit, job)
        finally:
            visit.job = None
        yield last  # whoever sees it may send the next request at once

    def _run(self, visit: Visit, job: Job) -> Coroutine[View, None, View]:
        """Yields what the page shows meanwhile; returns what it shows at the end."""
        reply, started = Reply(job.provenance, visit.folder), time.monotonic()
        try:
            yield View(status=reply.status())
            for event in self._events(job.turn, job.stop):
                reply.add(event)
                yield self._view(visit, job, reply)
        except Exception as error:  # whatever it was, the page must come back to life
            job.turn.session.rewind(job.before)
            return self._failed(visit, job, error)
        return self._last_view(visit, job, reply, time.monotonic() - started)

    def _events(self, turn: Turn, stop: Flag) -> Iterator[Event]:
        """The events of a turn. The model is locked step by step, never while a page is being drawn."""
        events = self.generator.stream(turn, stop)
        try:
            while True:
                with self._model_lock:
                    event = next(events, None)
                if event is None:
                    return
                yield event
        finally:
            events.close()

    def _view(self, visit: Visit, job: Job, reply: Reply) -> View:
        if job.forgotten(visit):
            return View()
        if job.page == "chat":
            return View(status=reply.status(), messages=[*visit.messages, reply.message()])
        return View(status=reply.status(), picture=reply.picture, words=reply.words())

    def _last_view(self, visit: Visit, job: Job, reply: Reply, seconds: float) -> View:
        if job.forgotten(visit):
            return View(status="", busy=False, messages=visit.messages)
        status = render.working("Stopped." if reply.stopped else f"Done in {seconds:.1f} s.")
        if job.page == "chat":
            visit.messages.append(reply.message(seconds))
            return View(status=status, busy=False, messages=visit.messages)
        return View(status=status, busy=False, picture=reply.picture, words=reply.words(seconds))

    def _failed(self, visit: Visit, job: Job, error: Exception) -> View:
        if not isinstance(error, UniMedError):
            name = type(error).__name__
            print(f"The model failed with {name}", file=sys.stderr, flush=True)  # its text could quote a prompt
            error = UniMedError("The model failed", value=name, remedy="Try a smaller image or a new conversation")
        return self._returned(visit, job, render.problem(str(error)))

    def _returned(self, visit: Visit, job: Job, status: str) -> View:
        """Gives a request back to where it came from, so that it can be changed and sent again."""
        if job.page != "chat" or job.forgotten(visit):
            return View(status=status, busy=False)
        visit.messages.pop()
        return View(status=status, busy=False, messages=visit.messages, box=job.box)

    def stop(self, key: str) -> View:
        """Takes back a request that waits; a running one ends before the next step of the model."""
        visit = self.visit(key)
        with visit.lock:
            job = visit.job
            if job is None:
                return View(busy=False)
            if job.running:
                job.stop.set()
                return View()
            visit.job = None
        return self._returned(visit, job, render.working("Stopped."))

    def new_conversation(self, key: str) -> View:
        """Forgets the conversation and its images; a running answer is stopped."""
        visit = self.visit(key)
        if (job := visit.job) is not None and job.page == "chat":
            self.stop(key)
        visit.session, visit.messages = self.generator.session(), []
        visit.attached, visit.read, visit.shown = {}, {}, []
        return View(status="", messages=[], box={"text": "", "files": []})

    # API: one request without a visit

    def request(self, task: Task, images: list[str], prompt: str, seed: int) -> Iterator[tuple[Reply, dict | None]]:
        """A task on uploaded files; yields the reply after every event, so that a client can leave at any time.

        The record of where the reply comes from is given with the last one.

        Raises:
            UniMedError: a bad file, prompt or seed.
        """
        read = [self.read_upload(path) for path in images]
        turn = self._task_turn(task, read, prompt, Controls(seed=seed))
        turn.preview_every = 0
        reply = Reply(Provenance.of(self.generator.checkpoint, task.name, turn), self.folder)
        started = time.monotonic()
        for event in self._events(turn, Flag()):
            reply.add(event)
            yield reply, None
        yield reply, reply.provenance.record(time.monotonic() - started)
