"""The demo: its pages put together, and what a tab gets back after a reload."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gradio as gr

from core.feedback.store import FeedbackStore
from core.inference.service import Service
from core.inference.versions import Offer
from demo import render
from demo.api import api
from demo.feedback import Feedback
from demo.handlers import Handlers
from demo.pages.about import ServedCard, about_page
from demo.pages.common import QUIET, Page, said
from demo.pages.compare import compare_page
from demo.pages.draw import draw_page
from demo.pages.scan import Viewer, scan_page
from demo.pages.workbench import workbench_page
from demo.strings import label

HERE = Path(__file__).parent
ELEMENTS = HERE.parent / "core" / "elements"
STYLES = [HERE / "style.css", ELEMENTS / "elements.css"]
TINY_WIDTH = 512
"""Up to this hidden size a model is for trying the program, and the page says so."""
SYSTEM_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
FIXED_FONTS = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")

# What a tab keeps over a reload: the token of its visit, as long as the tab is open.
KEPT = "() => sessionStorage.getItem('unimed-visit') || ''"
KEEP = "(visit) => { sessionStorage.setItem('unimed-visit', visit); }"
# A page whose server was restarted would go on as if its conversation were still there; loaded anew, it says that it is
# gone. Gradio notices only while a request is under way.
NOTICE_RESTARTS = """<script>
  const noticeRestart = async () => {
    const own = window.gradio_config?.app_id, answer = await fetch("/gradio_api/app_id").catch(() => null);
    if (own && answer?.ok && (await answer.json()).app_id !== own) location.reload();
  };
  setInterval(noticeRestart, 15000);
  addEventListener("focus", noticeRestart);
</script>"""


def theme() -> gr.themes.Base:
    """Quiet colours and the fonts of the visitor's system, so that nothing is fetched from elsewhere."""
    return gr.themes.Default(
        primary_hue="teal",
        secondary_hue="slate",
        neutral_hue="slate",
        radius_size="sm",
        font=SYSTEM_FONTS,
        font_mono=FIXED_FONTS,
    ).set(
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_800",
        button_primary_text_color="white",
        button_cancel_background_fill="#b91c1c",
        button_cancel_background_fill_hover="#991b1b",
        button_cancel_background_fill_dark="#b91c1c",
        button_cancel_background_fill_hover_dark="#991b1b",
        color_accent="*primary_600",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_label_text_color="*neutral_600",
        block_label_text_color_dark="*neutral_300",
        block_title_text_color="*neutral_700",
        block_title_text_color_dark="*neutral_200",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        layout_gap="10px",
    )


def head() -> str:
    """The custom elements, as files that the server gives to everyone, and a look-out for restarts."""
    gr.set_static_paths([ELEMENTS])
    return f'<script type="module" src="{render.file_url(str(ELEMENTS / "index.js"))}"></script>{NOTICE_RESTARTS}'


def build(
    offer: Offer,
    service: Service,
    folder: Path,
    store: FeedbackStore | None,
    withdrawn: Callable[[], object] | None = None,
) -> gr.Blocks:
    """The whole demo.

    Args:
        offer: the models to choose from.
        service: the queue in front of them.
        folder: where Gradio puts uploads and serves files from.
        store: where feedback is kept; None keeps none.
        withdrawn: called after a visitor has withdrawn what was kept.
    """
    handlers = Handlers(offer, service, folder)
    feedback = Feedback(handlers.visits, store, withdrawn)

    def leave(request: gr.Request) -> None:
        handlers.visits.leave(request.session_hash)

    with gr.Blocks(title="UniMed Studio", analytics_enabled=False, delete_cache=(600, 4 * 3600)) as demo:
        gr.HTML("<h1>UniMed Studio</h1>", elem_id="title")
        gr.HTML(label("subtitle"), elem_id="subtitle")
        gr.HTML(label("notice"), elem_id="notice")
        if all(version.generator.config.llm.hidden_size <= TINY_WIDTH for version in offer.named.values()):
            gr.HTML(label("small model"), elem_classes="notes")
        told = gr.HTML()
        with gr.Tabs(elem_id="rooms"):
            with gr.Tab(label("tab workbench"), elem_id="workbench"):
                pages = [workbench_page(handlers, feedback)]
            with gr.Tab(label("tab scan"), elem_id="scan"):
                viewer, tasks = scan_page(handlers, feedback)
            with gr.Tab(label("tab draw"), elem_id="draw"):
                pages.append(draw_page(handlers, feedback))
            with gr.Tab(label("tab compare"), elem_id="compare"):
                pages.append(compare_page(handlers, feedback))
            with gr.Tab(label("tab about"), elem_id="about"):
                served = about_page(handlers, feedback)
        api(handlers)
        restore(demo, handlers, (viewer, served), [*pages, *tasks], told)
        demo.unload(leave)
    demo.handlers = handlers
    return demo.queue(max_size=512)


def restore(
    demo: gr.Blocks, handlers: Handlers, rooms: tuple[Viewer, ServedCard], pages: list[Page], told: gr.HTML
) -> None:
    """After a reload the tab gets its conversation, its scan and its running requests back, and the versions that are
    on offer now."""
    viewer, served = rooms
    choices = [choice for page in pages for choice in page.versions]
    looked_up = [*viewer.outputs, *served.outputs, *(choice.field for choice in choices)]
    token = gr.Textbox(visible="hidden")
    outputs = [component for page in pages for component in page.components]

    def arrive(token: str, request: gr.Request) -> tuple:
        say = said(request)
        visit, back = handlers.visits.arrive(request.session_hash, token)
        visit.say = say
        sentence = render.working(say("restored" if back else "not restored")) if token else ""
        updates = []
        for page in pages:
            updates += page.as_it_stands(visit.jobs.get(page.name), say)
        found = [choice.at_first(visit, say) for choice in choices]
        return (visit.token, sentence, *viewer.shown(request), *served.shown(request), *found, *updates)

    def follow(request: gr.Request):
        for i, page in enumerate(pages):
            before = [u for other in pages[:i] for u in other.nothing()]
            after = [u for other in pages[i + 1 :] for u in other.nothing()]
            for updates in page.follow(request):
                yield (*before, *updates, *after)

    arrived = demo.load(arrive, token, [token, told, *looked_up, *outputs], js=KEPT, **QUIET)
    arrived.then(None, token, None, js=KEEP, **QUIET)
    arrived.then(follow, None, outputs, concurrency_limit=None, **QUIET)
