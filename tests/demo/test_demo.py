"""The demo as its visitors meet it: through the API, in a browser, and on the command line."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image as PILImage
from playwright.sync_api import Page, expect
from pydicom.data import get_testdata_file

import app
from core.config import NANO
from core.errors import ImageError
from core.inference.generator import Generator
from core.model import checkpoint
from core.tasks import MODALITIES, TASKS, Task
from demo import render
from demo.examples import CAPTIONS, load_examples
from demo.handlers import EDITS, Handlers, delete_old_uploads
from demo.visit import Controls
from tests.demo.conftest import ROOT, Demo, command

CT = str(get_testdata_file("CT_small.dcm", download=False))
SOON = 20_000  # milliseconds

pytestmark = [
    # gradio_client and playwright leave an event loop to the garbage collector
    pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


# Programs -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Client:
    return Client(demo.url, verbose=False, download_files=str(tmp_path_factory.mktemp("downloads")))


def test_the_api_answers_a_question_and_keeps_no_upload(client: Client, demo: Demo) -> None:
    answer, record = client.predict(handle_file(CT), "What imaging modality is this?", 7, api_name="/vqa")
    assert isinstance(answer, str) and answer
    assert (record["model"], record["task"], record["seed"]) == ("tiny", "vqa", 7)
    assert "AI-generated" in record["notice"] and record["parameters"]["device"] == "cpu"
    again, _ = client.predict(handle_file(CT), "What imaging modality is this?", 7, api_name="/vqa")
    assert again == answer
    assert demo.files(".dcm") == []


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_every_task_has_an_endpoint_of_its_name(client: Client, demo: Demo, task: Task) -> None:
    given = [*[handle_file(CT)] * task.images, *task.examples[:1], -1]
    *outputs, record = client.predict(*given, api_name=f"/{task.name}")
    assert len(outputs) == len(task.outputs) and all(outputs)
    assert record["task"] == task.name and record["seed"] >= 0 and "not for diagnosis" in record["notice"]
    assert demo.files(".dcm") == []


def test_the_example_of_the_readme_runs(demo: Demo) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    names: dict = {}
    exec(code.replace("http://127.0.0.1:7860", demo.url).replace('"scan.dcm"', repr(CT)), names)
    assert names["text"] and Path(names["path"]).is_file() and names["record"]["task"] == "segmentation"


def test_the_api_draws_and_says_in_the_file_who_drew(client: Client) -> None:
    path, _ = client.predict("A chest X-ray.", 7, api_name="/text_to_image")
    with PILImage.open(path) as image:
        assert image.size == (64, 64)
        assert image.info["Seed"] == "7" and image.info["Task"] == "text_to_image"
        assert "AI-generated" in image.info["Comment"]
        assert "trainedAlgorithmicMedia" in image.info["XML:com.adobe.xmp"]
        assert json.loads(image.info["Parameters"])["image"]["num_timesteps"] == 6
        assert "chest" not in str(image.info)  # a prompt may speak of a patient


def test_the_api_edits(client: Client, demo: Demo) -> None:
    path, _ = client.predict(handle_file(CT), "vessels", 7, api_name="/segmentation")
    with PILImage.open(path) as image:
        assert image.size == (128, 128) and image.info["Task"] == "segmentation"
    assert demo.files(".dcm") == []


def test_the_api_explains_what_is_wrong(client: Client, demo: Demo) -> None:
    with pytest.raises(AppError, match="needs a prompt"):
        client.predict(handle_file(CT), "", 7, api_name="/segmentation")
    with pytest.raises(AppError, match="not a picture of a supported kind"):
        client.predict(handle_file(str(ROOT / "app.py")), "What is this?", 7, api_name="/vqa")
    with pytest.raises(AppError, match="2001 characters"):
        client.predict("x" * 2001, 7, api_name="/text_to_image")
    with pytest.raises(AppError, match="seed"):
        client.predict("A CT.", -7, api_name="/text_to_image")
    assert demo.files(".py") == []


def test_no_history_of_runs_is_kept(demo: Demo) -> None:
    assert httpx.get(f"{demo.url}gradio_api/runs", trust_env=False).status_code >= 400


# Visitors -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def visitor(page: Page, demo: Demo) -> Iterator[Page]:
    """A page that has met no error and asked no other host when the test ends."""
    troubles = []
    page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on(
        "request", lambda request: troubles.append(request.url) if urlsplit(request.url).hostname not in HOSTS else None
    )
    page.set_default_timeout(SOON)
    expect.set_options(timeout=SOON)
    page.goto(demo.url)
    yield page
    assert troubles == []


HOSTS = ("127.0.0.1", None)  # None: data and blob addresses


def ask(page: Page, text: str) -> None:
    box = page.get_by_placeholder("Ask a question")
    box.fill(text)
    box.press("Enter")


def test_a_visitor_asks_about_a_scan_and_has_it_redrawn(visitor: Page, demo: Demo, tmp_path: Path) -> None:
    chat = visitor.locator("#chat")
    visitor.locator("#message input[type=file]").set_input_files(CT)
    expect(chat.get_by_text("header attributes removed on arrival")).to_be_visible()
    assert demo.files(".dcm") == []
    ask(visitor, "What is this? <img src=x onerror=alert(1)> ![x](http://example.com/x.png)")
    expect(chat.get_by_text("AI-generated text", exact=True)).to_be_visible()
    expect(chat.get_by_text("Done in")).to_be_visible()
    expect(chat.get_by_text("<img src=x onerror=alert(1)> ![x](http://example.com/x.png)")).to_be_visible()
    expect(chat.get_by_alt_text("Uploaded CT image, 128 by 128 pixels")).to_be_visible()
    chat.get_by_label("Text, then image").check()
    ask(visitor, "Say what you see, then segment the bone.")
    expect(chat.get_by_alt_text("AI-generated image, task chat")).to_be_visible()
    expect(chat.get_by_text("AI-generated image", exact=True)).to_be_visible()
    expect(chat.get_by_text("Model tiny · chat · seed")).to_have_count(2)
    visitor.screenshot(path=tmp_path / "chat.png", full_page=True)
    visitor.set_viewport_size({"width": 390, "height": 844})
    for picture in chat.locator("figure img").all():
        width, height, ratio = picture.evaluate("i => [i.width, i.height, i.naturalWidth / i.naturalHeight]")
        assert abs(width / height - ratio) < 0.02, "a picture must keep its aspect ratio on a phone"
    ask(visitor, "x" * 2001)
    expect(chat.get_by_role("alert")).to_contain_text("2001 characters")
    expect(visitor.get_by_placeholder("Ask a question")).to_have_value("x" * 2001)
    expect(chat.get_by_alt_text("AI-generated image, task chat")).to_be_visible()
    chat.get_by_role("button", name="New conversation").click()
    expect(chat.get_by_text("Attach a scan")).to_be_visible()


def test_a_visitor_edits_a_scan(visitor: Page, demo: Demo, tmp_path: Path) -> None:
    visitor.get_by_role("tab", name="Edit").click()
    edit = visitor.locator("#edit")
    edit.get_by_role("button", name="Redraw").click()
    expect(edit.get_by_role("alert")).to_contain_text("no image yet")
    edit.locator("input[type=file]").set_input_files(str(ROOT / "app.py"))
    expect(edit.get_by_role("alert")).to_contain_text("not a picture of a supported kind")
    edit.locator("input[type=file]").set_input_files(CT)
    expect(edit.get_by_alt_text("Uploaded CT image, 128 by 128 pixels")).to_be_visible()
    assert demo.files(".dcm") == []
    edit.get_by_label("Counterfactual").check()
    expect(edit.get_by_label("Other state")).to_be_visible()
    edit.get_by_role("button", name="pneumonia").click()
    expect(edit.get_by_label("Other state")).to_have_value("pneumonia")
    edit.get_by_role("button", name="Redraw").click()
    expect(edit.get_by_text("Done in")).to_be_visible()
    expect(edit.get_by_alt_text("AI-generated image, task counterfactual")).to_be_visible()
    expect(edit.get_by_text("AI-generated text", exact=True)).to_be_visible()
    edit.get_by_label("Super-resolution").check()
    expect(edit.get_by_label("Other state")).to_be_hidden()
    visitor.screenshot(path=tmp_path / "edit.png", full_page=True)


def test_a_visitor_draws_on_a_phone_and_stops(visitor: Page, tmp_path: Path) -> None:
    visitor.set_viewport_size({"width": 390, "height": 844})
    visitor.get_by_role("tab", name="Generate").click()
    page = visitor.locator("#generate")
    page.get_by_label("fundus photograph").check()
    expect(page.get_by_label("Caption")).to_have_value(CAPTIONS["fundus photograph"])
    page.get_by_role("button", name="Draw").click()
    expect(page.get_by_text("Done in")).to_be_visible()
    expect(page.get_by_alt_text("AI-generated image, task text_to_image")).to_be_visible()
    assert visitor.evaluate("document.documentElement.scrollWidth") <= 390
    visitor.screenshot(path=tmp_path / "generate.png", full_page=True)
    page.get_by_role("button", name="Advanced").click()
    page.get_by_label("number input for Timesteps").fill("100")
    page.get_by_label("number input for Width in pixels").fill("256")
    page.get_by_label("number input for Height in pixels").fill("256")
    page.get_by_label("number input for Height in pixels").press("Tab")
    page.get_by_role("button", name="Draw").click()
    expect(page.get_by_role("progressbar")).to_be_visible()
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("Stopped.", exact=True)).to_be_visible()
    expect(page.get_by_role("button", name="Draw")).to_be_enabled()


def visit_files(demo: Demo) -> list[Path]:
    return [path for path in demo.files(".png") if path.parent.name.startswith("visit-")]


def test_leaving_frees_the_model_and_deletes_the_files(visitor: Page, client: Client, demo: Demo) -> None:
    visitor.get_by_text("Simulated OCT").first.click()
    expect(visitor.locator("#message img")).to_be_visible()
    assert visit_files(demo) != []
    visitor.goto("about:blank")
    assert client.predict("A CT.", 7, api_name="/text_to_image")
    for _ in range(50):
        if not visit_files(demo):
            break
        visitor.wait_for_timeout(200)
    assert visit_files(demo) == []


# Parts ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def handlers(tiny_generator: Generator, tmp_path: Path) -> Handlers:
    return Handlers(tiny_generator, tmp_path)


def upload(handlers: Handlers) -> str:
    folder = handlers.folder / "upload"
    folder.mkdir(exist_ok=True)
    return shutil.copy(CT, folder / "DOE^JOHN.dcm")


def test_a_page_that_reports_an_upload_twice_gets_it_once(handlers: Handlers) -> None:
    path = upload(handlers)
    (shown,) = handlers.attach("tab", [path]).paths
    assert not (handlers.folder / "upload").exists()
    assert "DOE" not in shown
    assert handlers.attach("tab", [path]).paths == [shown]
    assert handlers.attach("tab", [shown]) is None
    assert handlers.attach("tab", []).notes == ""


def test_only_uploads_are_read_and_deleted(handlers: Handlers, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = shutil.copy(CT, tmp_path_factory.mktemp("elsewhere"))
    with pytest.raises(ImageError, match="did not come through the upload"):
        handlers.read_upload(elsewhere)
    assert Path(elsewhere).exists()


def test_an_upload_that_nobody_reads_is_deleted(handlers: Handlers) -> None:
    path = upload(handlers)
    delete_old_uploads({path}, seconds=3600)
    assert Path(path).exists()
    delete_old_uploads({path, "gone.dcm"}, seconds=0)
    assert not Path(path).parent.exists()


def test_a_page_comes_back_to_life_after_any_failure(
    handlers: Handlers, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(render.Reply, "_save", lambda *_: [][1])
    handlers.begin_chat("tab", box := {"text": "Jane Doe", "files": []}, "Image", Controls())
    last = list(handlers.run("tab", "chat"))[-1]
    assert "IndexError" in last.status and last.busy is False and last.box == box
    assert handlers.visit("tab").session.history == []
    assert "Doe" not in capsys.readouterr().err
    assert handlers.stop("tab").busy is False


def test_a_second_request_waits_for_the_first(handlers: Handlers) -> None:
    assert handlers.begin_drawing("tab", "generate", "text_to_image", "A CT.", Controls()).busy
    refused = handlers.begin_chat("tab", {"text": "Hello", "files": []}, "Text", Controls())
    assert "still has the model" in refused.status and refused.busy is None
    assert list(handlers.run("tab", "chat"))[-1].status is None
    assert "Done" in list(handlers.run("tab", "generate"))[-1].status
    assert handlers.begin_chat("tab", {"text": "Hello", "files": []}, "Text", Controls()).busy


def test_a_request_that_waits_can_be_taken_back(handlers: Handlers) -> None:
    box = {"text": "Hello", "files": []}
    handlers.begin_chat("tab", box, "Text", Controls())
    stopped = handlers.stop("tab")
    assert "Stopped" in stopped.status and stopped.box == box and stopped.messages == []
    assert list(handlers.run("tab", "chat"))[-1].status is None
    assert handlers.begin_chat("tab", box, "Text", Controls()).busy


def test_a_failed_request_goes_back_into_the_box(handlers: Handlers) -> None:
    box = {"text": "A CT.", "files": []}
    handlers.begin_chat("tab", box, "Image", Controls(width=8192, height=8192))
    last = list(handlers.run("tab", "chat"))[-1]
    assert "pixels" in last.status and last.box == box and last.messages == []
    assert handlers.visit("tab").session.history == []
    handlers.begin_chat("tab", box, "Image", Controls())
    assert len(list(handlers.run("tab", "chat"))[-1].messages) == 2


def test_a_new_conversation_forgets_the_running_answer(handlers: Handlers) -> None:
    handlers.begin_chat("tab", {"text": "Hello", "files": []}, "Text", Controls())
    views = handlers.run("tab", "chat")
    next(views)
    handlers.new_conversation("tab")
    assert [view.messages for view in views][-1] == []
    assert handlers.visit("tab").messages == []


def test_a_closed_page_leaves_no_request_behind(handlers: Handlers) -> None:
    handlers.begin_chat("tab", {"text": "Hello", "files": []}, "Text", Controls())
    views = handlers.run("tab", "chat")
    next(views)
    views.close()
    assert handlers.visit("tab").job is None


def test_text_of_the_model_is_only_text() -> None:
    assert render.plain("<b>\x1f\n![x](http://h/x.png)").count("<") == 1  # the line break
    assert not set("![]()<>*_`$\\").intersection(render.plain("![]()*_`$\\"))


def test_every_modality_has_a_caption_and_the_examples_are_there() -> None:
    assert tuple(CAPTIONS) == MODALITIES
    assert len(load_examples()) == 4
    assert len(EDITS) == 5


@pytest.mark.skipif(not (NANO / "config.json").is_file(), reason="assets/nano is not there")
def test_the_shipped_model_answers(tmp_path: Path) -> None:
    handlers = Handlers(Generator(checkpoint.load(NANO)), tmp_path)
    handlers.attach("tab", [path := upload(handlers)])
    handlers.begin_chat("tab", {"text": "What imaging modality is this?", "files": [path]}, "Text", Controls(seed=1))
    last = list(handlers.run("tab", "chat"))[-1]
    assert "Done" in last.status and "nano" in str(last.messages)


# Command line ---------------------------------------------------------------------------------------------------------


def test_a_port_in_use_is_an_error_in_words() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        arguments = command("--port", taken.getsockname()[1], "--studio")
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2
    assert "studio is not part of this version yet" in done.stderr
    assert "Cannot listen on 127.0.0.1" in done.stderr and "Traceback" not in done.stderr


def test_a_missing_model_is_an_error_in_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["app.py", "--port", "0", "--model", "no-such-model"])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED"):
        monkeypatch.setenv(name, "")  # so that what the app sets is undone
    assert app.main() == 2
    assert "No such checkpoint folder: 'no-such-model'" in capsys.readouterr().err
