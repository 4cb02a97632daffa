"""What runs here, what is kept, and how to withdraw it."""

from __future__ import annotations

import gradio as gr

from core.errors import UniMedError
from demo import render, results
from demo.feedback import Feedback
from demo.handlers import Handlers
from demo.pages.common import QUIET, said
from demo.strings import label


class ServedCard:
    """The model card of the version in service, where that is a learned one."""

    def __init__(self, handlers: Handlers) -> None:
        self._handlers = handlers
        with gr.Accordion(visible=False) as self._fold:
            self._text = gr.Markdown(elem_classes="prose")

    @property
    def outputs(self) -> list:
        return [self._fold, self._text]

    def shown(self, request: gr.Request) -> tuple:
        say, version = said(request), self._handlers.offer.default
        if version.name in self._handlers.offer.named:
            return gr.Accordion(visible=False), ""
        name = say("version in service", name=version.name)
        card = version.card or say("learned card", name=version.name, lineage=results.learned(version.lineage, say))
        return gr.Accordion(label=name, visible=True), card


def about_page(handlers: Handlers, feedback: Feedback) -> ServedCard:
    """Returns what is filled in when the page is loaded."""
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
    served, named = ServedCard(handlers), handlers.offer.named
    for version in named.values():
        with gr.Accordion(version.name, open=len(named) == 1):
            gr.Markdown(version.card or label("no card"), elem_classes="prose")
    return served
