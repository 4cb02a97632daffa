"""Text to image: a modality, a caption, and a row of seeds."""

from __future__ import annotations

import gradio as gr

from core.tasks import MODALITIES
from demo.examples import CAPTIONS
from demo.feedback import Feedback
from demo.handlers import DRAW, MOST_SEEDS, Handlers
from demo.pages.common import (
    QUIET,
    Page,
    Settings,
    VersionChoice,
    feedback_bar,
    image_settings,
    result_page,
    seed_setting,
)
from demo.strings import label
from demo.visit import Job


def draw_page(handlers: Handlers, feedback: Feedback) -> Page:
    config = handlers.offer.base.generator.config
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            modality = gr.Radio(list(MODALITIES), value=MODALITIES[0], label=label("modality"))
            caption = gr.Textbox(CAPTIONS[MODALITIES[0]], label=label("caption"), lines=2, info=label("caption info"))
            seeds = gr.Slider(1, MOST_SEEDS, 1, step=1, label=label("seeds"), info=label("seeds info"))
            with gr.Row():
                run = gr.Button(label("draw"), variant="primary")
                stop = gr.Button(label("stop"), interactive=False)
            with gr.Accordion(label("advanced"), open=False):
                limit = config.max_latent_size * config.latent_stride
                settings = Settings(seed_setting() | image_settings(config.image, limit, config.latent_stride))
                version = VersionChoice(handlers)
        with gr.Column(scale=3, min_width=300):
            status = gr.HTML()
            outcome = gr.HTML(elem_classes="result grid")
            page = result_page(DRAW, handlers, (outcome, status, run, stop))
            feedback_bar(page, feedback, correctable=False, most=MOST_SEEDS)

    def start(tab: str, caption: str, seeds: int, version: str, *values: object) -> Job:
        return handlers.draw(tab, caption, seeds, settings.controls(values), version)

    modality.input(CAPTIONS.get, modality, caption, queue=False, **QUIET)
    for trigger in (run.click, caption.submit):
        page.wire(trigger, start, [caption, seeds, version.field, *settings.components])
    page.wire_stop()
    page.versions = [version]
    return page
