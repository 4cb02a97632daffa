"""What runs here, what is kept, and how to withdraw it."""

from __future__ import annotations

import gradio as gr

from core.errors import UniMedError
from demo import render
from demo.feedback import Feedback
from demo.handlers import Handlers
from demo.pages.common import QUIET, said
from demo.strings import label


def about_page(handlers: Handlers, feedback: Feedback) -> None:
    gr.HTML(value=label("privacy"), elem_classes="prose")
    with gr.Group():
        code = gr.Textbox(label=label("withdraw code"), placeholder="XXXX-XXXX-XXXX-XXXX", max_length=64)
        withdraw = gr.Button(label("withdraw"), variant="stop")
    told = gr.HTML()

    def take_back(code: str, request: gr.Request) -> str:
        say = said(request)
        try:
            return render.working(say("withdrawn", count=feedback.withdraw(code, say)))
        except UniMedError as error:
            return render.problem(str(error))

    withdraw.click(take_back, code, told, concurrency_limit=None, **QUIET)
    for version in handlers.versions.values():
        with gr.Accordion(f"{version.name}", open=len(handlers.versions) == 1):
            gr.Markdown(version.card or label("no card"), elem_classes="prose")
