"""What the pages have in common: settings, a request from its button to its result, and feedback on it."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import gradio as gr

from core.config import RENORMS, ImageSampling, TextSampling
from core.errors import UniMedError
from demo import render, results
from demo.feedback import Feedback
from demo.handlers import Handlers
from demo.strings import ENGLISH, Words, label, words
from demo.visit import RANDOM_SEED, Controls, Job, Visit

QUIET = {"show_progress": "hidden", "api_visibility": "private"}
"""Events of the pages: the status line tells what goes on, and programs have endpoints of their own."""

IN_SERVICE = ""
"""What stands for the version that answers where nobody has chosen one."""

Component = gr.components.Component


def said(request: gr.Request) -> Words:
    """The language of whoever sent a request."""
    return words(request.headers.get("accept-language"))


@dataclass
class Settings:
    """Fields of ``Controls`` on a page, by name."""

    fields: dict[str, Component] = field(default_factory=dict)

    @property
    def components(self) -> list[Component]:
        return list(self.fields.values())

    def controls(self, values: tuple) -> Controls:
        return Controls(**dict(zip(self.fields, values, strict=True)))


def image_settings(default: ImageSampling, limit: int = 0, stride: int = 1) -> dict[str, Component]:
    """How an image is drawn, with the model's defaults; with ``limit`` the size of the image too."""
    with gr.Row():
        fields = {
            "num_timesteps": gr.Slider(
                2, max(100, default.num_timesteps), default.num_timesteps, step=1, label=label("steps"),
                info=label("steps info"),
            ),
            "timestep_shift": gr.Slider(
                0.5, 10, default.timestep_shift, step=0.1, label=label("shift"), info=label("shift info")
            ),
        }  # fmt: skip
    with gr.Row():
        fields |= {
            "cfg_text_scale": gr.Slider(
                1, 12, default.cfg_text_scale, step=0.1, label=label("text guidance"), info=label("off at 1")
            ),
            "cfg_img_scale": gr.Slider(
                1, 6, default.cfg_img_scale, step=0.1, label=label("image guidance"), info=label("off at 1")
            ),
            "cfg_renorm_type": gr.Dropdown(
                list(RENORMS), value=default.cfg_renorm_type, label=label("renorm"), info=label("renorm info")
            ),
        }
    if limit:
        height, width = default.size
        with gr.Row():
            fields["width"] = gr.Slider(stride, limit, width, step=stride, label=label("width"))
            fields["height"] = gr.Slider(stride, limit, height, step=stride, label=label("height"))
    return fields


def own_settings(settings: Settings, sampling: ImageSampling) -> list:
    """Values of the image fields of a page, in the order of its components, as the model has them for a task."""
    own = dataclasses.asdict(sampling)
    return [own.get(name, gr.skip()) for name in settings.fields]


def text_settings(default: TextSampling) -> dict[str, Component]:
    with gr.Row():
        return {
            "temperature": gr.Slider(
                0, 2, default.temperature, step=0.05, label=label("temperature"), info=label("temperature info")
            ),
            "top_p": gr.Slider(0.05, 1, default.top_p, step=0.05, label=label("top p"), info=label("top p info")),
            "max_new_tokens": gr.Slider(
                1, max(512, default.max_new_tokens), default.max_new_tokens, step=1, label=label("tokens")
            ),
        }


def seed_setting() -> dict[str, Component]:
    return {"seed": gr.Number(RANDOM_SEED, precision=0, label=label("seed"), info=label("seed info"))}


class VersionChoice:
    """Which model version: the one in service, whichever that is when a request is sent, or one by its name.

    What there is to choose from is looked up when the page is loaded and when the field is entered.

    Args:
        first: what a page that is loaded begins with; empty is the version in service.
        always: show it where there is nothing to choose, too.
    """

    def __init__(
        self, handlers: Handlers, first: Callable[[Visit], str] = lambda visit: IN_SERVICE, *, always: bool = False,
        elem_id: str | None = None,
    ) -> None:  # fmt: skip
        self._handlers, self._always, self.first = handlers, always, first
        self.field = gr.Dropdown(label=label("version"), value=IN_SERVICE, elem_id=elem_id, **self._choices(ENGLISH))
        self.field.focus(self._entered, self.field, self.field, queue=False, **QUIET)

    def at_first(self, visit: Visit, say: Words) -> gr.Dropdown:
        """An update for a page that is loaded."""
        chosen, found = self.first(visit), self._choices(say)
        return gr.Dropdown(value=chosen if (chosen, chosen) in found["choices"] else IN_SERVICE, **found)

    def _entered(self, chosen: str, request: gr.Request) -> gr.Dropdown:
        """An update with what there is now. What the visitor chooses meanwhile stays; a version that is offered no
        longer gives way to the one in service."""
        found = self._choices(said(request))
        gone = chosen not in (value for _, value in found["choices"])
        return gr.Dropdown(**found, **({"value": IN_SERVICE} if gone else {}))

    def _choices(self, say: Words) -> dict:
        offer = self._handlers.offer
        names = list(offer.versions())
        choices = [(say("version in service", name=offer.default.name), IN_SERVICE), *((name, name) for name in names)]
        return {"choices": choices, "visible": self._always or len(names) > 1}


def enabled(button: gr.Button, on: bool) -> gr.Button:
    """An update that switches a button on or off; without its text it would lose its translation."""
    return gr.Button(button.value, interactive=on)


@dataclass
class Page:
    """A page's request from the button that begins it to its result.

    Attributes:
        name: key of its job.
        draw: what the page shows of its job: a value for each of ``outputs``.
        versions: its choices of model versions.
    """

    name: str
    handlers: Handlers
    status: gr.HTML
    run: gr.Button | None
    stop: gr.Button
    outputs: list[Component]
    draw: Callable[[Job, Words], tuple]
    versions: list[VersionChoice] = field(default_factory=list)

    @property
    def components(self) -> list[Component]:
        return [*self.outputs, self.status, self.stop, *([self.run] if self.run else [])]

    def nothing(self) -> tuple:
        return tuple(gr.skip() for _ in self.components)

    def failed(self, error: Exception) -> tuple:
        """The page as it is, with what went wrong."""
        return (*(gr.skip() for _ in self.outputs), problem(error), *self.buttons(busy=False))

    def buttons(self, busy: bool) -> tuple:
        chosen = [(self.stop, busy), *([(self.run, not busy)] if self.run else [])]
        return tuple(enabled(button, on) for button, on in chosen)

    def updates(self, job: Job, say: Words) -> tuple:
        return (*self.draw(job, say), status(job, say), *self.buttons(busy=not job.done))

    def as_it_stands(self, job: Job | None, say: Words) -> tuple:
        if job is None:
            return self.nothing()
        job.told = job.done
        return self.updates(job, say)

    def follow(self, request: gr.Request) -> Iterator[tuple]:
        """The updates of the page until its job is done."""
        say, job = said(request), self.handlers.visits.of(request.session_hash).jobs.get(self.name)
        if job is None or job.told:
            yield self.nothing()  # a handler that yields nothing would empty every widget
            return
        for job in self.handlers.follow(request.session_hash, self.name):
            yield self.as_it_stands(job, say)

    def begin(self, request: gr.Request, start: Callable[[], Job]) -> tuple:
        try:
            job = start()
        except UniMedError as error:
            return self.failed(error)
        return self.updates(job, said(request))

    def wire(self, trigger: Callable, start: Callable[..., Job], inputs: list[Component]) -> gr.events.Dependency:
        """Makes a button begin a request; ``start`` gets the connection's key and the values of ``inputs``."""

        def begin(request: gr.Request, *values) -> tuple:
            return self.begin(request, lambda: start(request.session_hash, *values))

        begun = trigger(begin, inputs, self.components, concurrency_limit=None, **QUIET)
        return begun.then(self.follow, None, self.components, concurrency_limit=None, **QUIET)

    def wire_stop(self) -> None:
        def stop(request: gr.Request) -> None:
            self.handlers.stop(request.session_hash, self.name)

        self.stop.click(stop, None, None, queue=False, **QUIET)


def status(job: Job, say: Words) -> str:
    """The line that tells how far a job is."""
    if job.done:
        if job.error is not None:
            return problem(job.error)
        return render.working(say("stopped") if job.stopped else say("done", seconds=job.seconds))
    slowest = min(job.parts, key=lambda part: (part.reply.started, part.reply.step))
    return slowest.reply.status(say)


def problem(error: Exception) -> str:
    """What went wrong, in words for a person."""
    if not isinstance(error, UniMedError):
        name = type(error).__name__
        print(f"The model failed with {name}", file=sys.stderr, flush=True)  # its text could quote a prompt
        error = UniMedError("The model failed", value=name, remedy="Try a smaller image or a new conversation")
    return render.problem(str(error))


def result_page(name: str, handlers: Handlers, widgets: tuple[gr.HTML, gr.HTML, gr.Button, gr.Button]) -> Page:
    """A page whose whole outcome is one piece of HTML."""
    outcome, line, run, stop = widgets
    return Page(name, handlers, line, run, stop, [outcome], lambda job, say: (results.result(job, say),))


def feedback_bar(page: Page, feedback: Feedback, *, correctable: bool, most: int = 1) -> None:
    """Thumbs, a sentence, and a corrected answer where there is text; kept only with the visitor's consent.

    ``most``: outputs that the page may show at once, of which the visitor chooses one.
    """
    with gr.Accordion(label("feedback"), open=False, elem_classes="feedback"):
        which = gr.Radio(list(range(1, most + 1)), value=1, label=label("which"), visible=most > 1)
        thumb = gr.Radio([(label("good"), 1), (label("bad"), -1)], label=label("thumb"))
        comment = gr.Textbox(label=label("comment"), max_length=2000)
        correction = gr.Textbox(label=label("correction"), lines=3, max_length=2000, visible=correctable)
        consent = gr.Checkbox(label=label("consent"), info=label("consent info"))
        send = gr.Button(label("send feedback"))
        told = gr.HTML()

    def give(request: gr.Request, *values) -> tuple:
        say = said(request)
        try:
            sentence = feedback.give(request.session_hash, page.name, *values, say=say)
        except UniMedError as error:
            return render.problem(str(error)), gr.skip(), gr.skip(), gr.skip()
        return render.working(sentence), None, "", ""

    send.click(
        give,
        [which, thumb, comment, correction, consent],
        [told, thumb, comment, correction],
        concurrency_limit=None,
        **QUIET,
    )


def parsed(value: str | None) -> dict:
    """What a custom element has put into its hidden field."""
    try:
        found = json.loads(value or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
