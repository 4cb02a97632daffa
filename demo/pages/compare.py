"""Two answers to one request, blind: a vote first, then who was who."""

from __future__ import annotations

from dataclasses import replace

import gradio as gr

from core.errors import UniMedError
from core.inference.once import image_sampling
from core.tasks import TASKS, get_task
from demo import render, results
from demo.feedback import CHOICES, Feedback
from demo.handlers import COMPARE, Handlers, Side
from demo.pages.common import (
    IN_SERVICE,
    QUIET,
    Page,
    Settings,
    VersionChoice,
    enabled,
    image_settings,
    own_settings,
    said,
    seed_setting,
    text_settings,
)
from demo.strings import Words, label
from demo.visit import Job, Visit

SAMPLED = 0.7
"""Temperature on both sides: at 0 two answers with different seeds would be the same."""


def compare_page(handlers: Handlers, feedback: Feedback) -> Page:
    first = next(iter(TASKS.values()))
    gr.HTML(value=label("compare info"), elem_classes="notes")
    task = gr.Dropdown([(label(f"task {name}"), name) for name in TASKS], value=first.name, label=label("template"))
    prompt = gr.Textbox(
        first.examples[0], label=label("message"), placeholder=label("prompt placeholder"), elem_id="compare-prompt"
    )
    with gr.Accordion(label("advanced"), open=False), gr.Row():
        sides = [side(handlers, number) for number in ("one", "two")]
    with gr.Row():
        run = gr.Button(label("compare"), variant="primary")
        stop = gr.Button(label("stop"), interactive=False)
    status = gr.HTML()
    outcome = gr.HTML(elem_classes="result")
    consent = gr.Checkbox(label=label("consent"), info=label("consent info"))
    with gr.Row():
        votes = {
            choice: gr.Button(label(f"vote {choice}"), interactive=False, size="md", min_width=120)
            for choice in CHOICES
        }
    told = gr.HTML(elem_classes="result")
    ballot = list(votes.values())

    def draw(job: Job, say: Words) -> tuple:
        can_vote = job.done and job.error is None and not job.stopped and not feedback.has_voted(job)
        return (results.result(job, say), *(enabled(button, can_vote) for button in ballot), revealed(job, say))

    def revealed(job: Job, say: Words) -> str:
        return feedback.reveal(job, say) if feedback.has_voted(job) else ""

    page = Page(COMPARE, handlers, status, run, stop, [outcome, *ballot, told], draw)

    def choose(name: str) -> tuple:
        chosen = get_task(name)
        own = image_sampling(handlers.offer.base.generator.config, chosen)
        values = [value for _, settings in sides for value in own_settings(settings, own)]
        example = chosen.examples[0] if chosen.examples else ""
        return gr.Textbox(example, visible=bool(chosen.prompt_label)), *values

    def start(tab: str, task: str, prompt: str, *values: object) -> Job:
        half = len(values) // 2
        given = zip(sides, (values[:half], values[half:]), strict=True)
        pair = tuple(Side(v[0], settings.controls(v[1:])) for (_, settings), v in given)
        return handlers.compare(tab, task, prompt if get_task(task).prompt_label else "", pair)

    def vote(choice: str):
        def cast(consent: bool, request: gr.Request) -> tuple:
            say = said(request)
            try:
                sentence = feedback.vote(request.session_hash, choice, consent, say)
            except UniMedError as error:
                return (*(gr.skip() for _ in ballot), render.problem(str(error)))
            return (*(enabled(button, False) for button in ballot), sentence)

        return cast

    fields = [field for _, settings in sides for field in settings.components]
    task.input(choose, task, [prompt, *fields], queue=False, **QUIET)
    inputs = [task, prompt]
    for version, settings in sides:
        inputs += [version.field, *settings.components]
    page.wire(run.click, start, inputs)
    page.wire_stop()
    for choice, button in votes.items():
        button.click(vote(choice), consent, [*ballot, told], concurrency_limit=None, **QUIET)
    page.versions = [version for version, _ in sides]
    return page


def side(handlers: Handlers, number: str) -> tuple[VersionChoice, Settings]:
    """Version and settings of one candidate."""
    config = handlers.offer.base.generator.config

    def opponent(visit: Visit) -> str:
        """The newest candidate, or else the checkpoint that was named last."""
        return (handlers.offer.newest or list(handlers.offer.named.values())[-1]).name

    with gr.Column(min_width=300):
        gr.HTML(value=label(f"side {number}"), elem_classes="side")
        first = opponent if number == "two" else lambda visit: IN_SERVICE
        version = VersionChoice(handlers, first, always=True, elem_id=f"side-{number}")
        text = replace(config.text, temperature=max(SAMPLED, config.text.temperature))
        fields = seed_setting() | image_settings(config.image) | text_settings(text)
    return version, Settings(fields)
