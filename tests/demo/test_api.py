"""The demo as programs meet it: gradio_client, plain HTTP, MCP, and a password; and how it is started."""

from __future__ import annotations

import base64
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import anyio
import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, ListToolsResult
from PIL import Image as PILImage
from playwright.sync_api import BrowserContext, expect

import app
from core.errors import SettingsError
from core.tasks import TASKS, Task
from demo.uploads import delete_copies
from tests.browser import ROOT
from tests.demo.conftest import Demo, command, running
from tests.demo.steps import CT

MINUTE = timedelta(minutes=1)

pytestmark = [
    # gradio_client and playwright leave an event loop to the garbage collector
    pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def dicoms(demo: Demo) -> list[Path]:
    """The files of the demo that hold a DICOM header, whatever their names."""
    return [path for path in demo.files() if path.read_bytes()[128:132] == b"DICM"]


def aside(do: Callable, *values: object) -> object:
    """Does something in a thread of its own, where no event loop runs as that of a browser's tests does."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(do, *values).result()


# gradio_client --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Client:
    return Client(demo.url, verbose=False, download_files=str(tmp_path_factory.mktemp("downloads")))


def test_a_question_is_answered_and_no_upload_kept(client: Client, demo: Demo) -> None:
    answer, record = client.predict(handle_file(CT), "What imaging modality is this?", 7, api_name="/vqa")
    assert isinstance(answer, str) and answer
    assert (record["model"], record["task"], record["seed"]) == ("tiny", "vqa", 7)
    assert "AI-generated" in record["notice"] and record["parameters"]["device"] == "cpu"
    again, _ = client.predict(handle_file(CT), "What imaging modality is this?", 7, api_name="/vqa")
    assert again == answer
    assert dicoms(demo) == []


def test_every_task_is_described(client: Client) -> None:
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert list(endpoints) == [f"/{name}" for name in TASKS]
    types = {"image": "filepath", "prompt": "str", "seed": "int"}
    for name, task in TASKS.items():
        about = endpoints[f"/{name}"]
        given = {p["parameter_name"]: p["python_type"]["type"] for p in about["parameters"]}
        wanted = [*["image"] * task.images, *["prompt"] * bool(task.prompt_label), "seed"]
        assert given == {key: types[key] for key in wanted}
        assert about["parameters"][-1]["parameter_default"] == -1
        assert about["description"].startswith(task.description) and "not for diagnosis" in about["description"]
        assert [r["label"] for r in about["returns"]] == [*(kind.title() for kind in task.outputs), "Record"]


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_every_task_has_an_endpoint_of_its_name(client: Client, demo: Demo, task: Task) -> None:
    given = [*[handle_file(CT)] * task.images, *task.examples[:1]]
    *outputs, record = client.predict(*given, api_name=f"/{task.name}")
    assert len(outputs) == len(task.outputs) and all(outputs)
    assert record["task"] == task.name and record["seed"] >= 0 and "not for diagnosis" in record["notice"]
    assert dicoms(demo) == []


def test_an_answer_comes_as_it_is_written(client: Client) -> None:
    job = client.submit(handle_file(CT), "What imaging modality is this?", 7, api_name="/vqa")
    updates = list(job)
    assert updates[-1][1]["task"] == "vqa" and all(record is None for _, record in updates[:-1])
    assert all(updates[-1][0].startswith(text) for text, _ in updates[:-1])


def test_the_examples_of_the_readme_run(demo: Demo) -> None:
    programs = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    names: dict = {}
    for code in programs:
        code = code.replace("http://127.0.0.1:7860/", demo.url).replace("http://127.0.0.1:7860", demo.url)
        aside(exec, code.replace('"scan.dcm"', repr(CT)), names)
    assert names["answer"] and names["record"]["task"] == "counterfactual"
    assert Path(names["mask"]).is_file() and Path(names["drawn"]).is_file()
    assert names["names"] == list(TASKS) and names["content"]


def test_a_drawn_file_says_who_drew_it(client: Client) -> None:
    path, _ = client.predict("A chest X-ray.", 7, api_name="/text_to_image")
    with PILImage.open(path) as image:
        assert image.size == (64, 64)
        assert image.info["Seed"] == "7" and image.info["Task"] == "text_to_image"
        assert "AI-generated" in image.info["Comment"]
        assert "trainedAlgorithmicMedia" in image.info["XML:com.adobe.xmp"]
        assert json.loads(image.info["Parameters"])["image"]["num_timesteps"] == 6
        assert "chest" not in str(image.info)  # a prompt may speak of a patient


def test_what_is_wrong_is_said_in_a_sentence(client: Client, demo: Demo) -> None:
    with pytest.raises(AppError, match="needs a prompt"):
        client.predict(handle_file(CT), "", 7, api_name="/segmentation")
    with pytest.raises(AppError, match="not a picture of a supported kind"):
        client.predict(handle_file(str(ROOT / "app.py")), "What is this?", 7, api_name="/vqa")
    with pytest.raises(AppError, match="2001 characters"):
        client.predict("x" * 2001, 7, api_name="/text_to_image")
    with pytest.raises(AppError, match="seed"):
        client.predict("A CT.", -7, api_name="/text_to_image")
    assert demo.files(".py") == [] and dicoms(demo) == []


def test_clients_with_the_same_file_all_get_their_answers(demo: Demo, tmp_path: Path) -> None:
    """Gradio names an upload by its content, and the first one to read it deletes it."""
    clients = [Client(demo.url, verbose=False, download_files=str(tmp_path)) for _ in range(2)]

    def ask(number: int) -> str:
        answer, _ = clients[number % 2].predict(handle_file(CT), "Which organ is shown?", 3, api_name="/vqa")
        return answer

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(8)))
    assert len(set(answers)) == 1 and answers[0]
    assert dicoms(demo) == []


# Plain HTTP -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def http(demo: Demo) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{demo.url}gradio_api/", trust_env=False, timeout=60) as http:
        yield http


def call(http: httpx.Client, task: str, *values: object) -> tuple[str, object]:
    """Calls an endpoint as curl would. Returns the last event and its data."""
    asked = http.post(f"call/{task}", json={"data": values}).raise_for_status().json()["event_id"]
    lines = http.get(f"call/{task}/{asked}").raise_for_status().text.strip().splitlines()
    event, data = [line for line in lines if line][-2:]
    return event.removeprefix("event: "), json.loads(data.removeprefix("data: "))


def test_plain_http_is_enough(http: httpx.Client, demo: Demo) -> None:
    with open(CT, "rb") as file:
        (path,) = http.post("upload", files={"files": ("DOE^JOHN.dcm", file)}).raise_for_status().json()
    upload = {"path": path, "meta": {"_type": "gradio.FileData"}}
    event, (answer, record) = call(http, "vqa", upload, "What imaging modality is this?", 7)
    assert event == "complete" and answer and record["task"] == "vqa"
    assert dicoms(demo) == []
    event, (drawn, record) = call(http, "text_to_image", "A CT.", 7)
    assert event == "complete" and httpx.get(drawn["url"], trust_env=False).content.startswith(b"\x89PNG")
    event, data = call(http, "text_to_image", "", 7)
    assert event == "error" and "needs a prompt" in str(data)


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
def test_the_curl_lines_of_the_readme_work(demo: Demo) -> None:
    (block,) = re.findall(r"```sh\n(curl .*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    begin, _, follow = block.replace("http://127.0.0.1:7860/", demo.url).rpartition("\ncurl")
    asked = subprocess.run(["sh", "-c", begin], capture_output=True, text=True, check=True).stdout
    follow = f"curl -s{follow}".replace("EVENT_ID", json.loads(asked)["event_id"])
    told = subprocess.run(["sh", "-c", follow], capture_output=True, text=True, check=True, timeout=60).stdout
    assert "event: complete" in told


def test_what_nobody_should_call_is_not_there(http: httpx.Client) -> None:
    assert http.get("runs").status_code >= 400  # no history of what others have asked
    endpoints = http.get("info").json()
    assert set(endpoints["named_endpoints"]) == {f"/{name}" for name in TASKS}
    assert endpoints["unnamed_endpoints"] == {}


# MCP ------------------------------------------------------------------------------------------------------------------


def through_mcp(demo: Demo, *calls: tuple[str, dict]) -> tuple[ListToolsResult, list[CallToolResult]]:
    """Lists the tools and calls some at once, as an assistant does."""

    async def progress(*_: object) -> None:
        """Gradio sends pictures as such only to those who ask for progress."""

    async def session() -> tuple[ListToolsResult, list[CallToolResult]]:
        results = [None] * len(calls)

        async def call(place: int, name: str, given: dict) -> None:
            results[place] = await mcp.call_tool(name, given, progress_callback=progress)

        async with (
            httpx.AsyncClient(trust_env=False, timeout=60) as http,
            streamable_http_client(f"{demo.url}gradio_api/mcp/", http_client=http) as (read, write, _),
            ClientSession(read, write, read_timeout_seconds=MINUTE) as mcp,
        ):
            await mcp.initialize()
            async with anyio.create_task_group() as group:
                for place, (name, given) in enumerate(calls):
                    group.start_soon(call, place, name, given)
            return await mcp.list_tools(), results

    return aside(anyio.run, session)


def test_an_assistant_finds_a_tool_for_every_task(demo: Demo) -> None:
    listed, _ = through_mcp(demo)
    assert [tool.name for tool in listed.tools] == list(TASKS)
    for tool in listed.tools:
        task = TASKS[tool.name]
        assert tool.description.startswith(task.description) and "not for diagnosis" in tool.description
        fields = tool.inputSchema["properties"]
        assert set(fields) == {*["image"] * task.images, *["prompt"] * bool(task.prompt_label), "seed"}
        assert all(field["description"] for field in fields.values())
        assert "seed" not in tool.inputSchema["required"]


def test_an_assistant_asks_and_draws(demo: Demo) -> None:
    scan = "data:application/dicom;base64," + base64.b64encode(Path(CT).read_bytes()).decode()
    _, (answer, mask, drawn, wrong) = through_mcp(
        demo,
        ("vqa", {"image": scan, "prompt": "What imaging modality is this?", "seed": 7}),
        ("segmentation", {"image": scan, "prompt": "spine"}),
        ("text_to_image", {"prompt": "A chest X-ray.", "seed": 7}),
        ("vqa", {"image": scan, "prompt": ""}),
    )
    assert not answer.isError and answer.content[0].text and "'task': 'vqa'" in answer.content[-1].text
    for result in (mask, drawn):
        assert not result.isError and result.content[0].mimeType == "image/png"
        assert base64.b64decode(result.content[0].data).startswith(b"\x89PNG")
    assert wrong.isError and "needs a prompt" in wrong.content[0].text
    copies = dicoms(demo)  # which Gradio has made, and which the program deletes soon
    delete_copies(copies[0].parents[1] if copies else demo.folder, set(), seconds=0)
    assert dicoms(demo) == []


# A password, and how it is started ------------------------------------------------------------------------------------


def test_a_password_is_asked_for(tiny_checkpoint: Path, tmp_path: Path, new_context: type[BrowserContext]) -> None:
    with running(tmp_path, "--model", tiny_checkpoint, "--auth", "jane:a secret") as demo:
        with httpx.Client(base_url=demo.url, trust_env=False) as http:
            assert http.get("config").status_code == 401
            assert http.post("gradio_api/call/text_to_image", json={"data": ["A CT.", 7]}).status_code == 401
            start = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}}
            assert http.post("gradio_api/mcp/", json=start).status_code in (401, 404, 405)
        page = new_context(locale="en-US").new_page()
        page.goto(demo.url)
        page.get_by_label("username").fill("jane")
        page.get_by_label("password").fill("another")
        page.get_by_role("button", name="Login").click()
        expect(page.get_by_text("Incorrect Credentials")).to_be_visible()
        page.get_by_label("username").fill("jane")
        page.get_by_label("password").fill("a secret")
        page.get_by_role("button", name="Login").click()
        expect(page.get_by_role("tab", name="Workbench")).to_be_visible()
        page.locator("#message textarea").fill("Hello")
        page.locator("#message textarea").press("Enter")
        expect(page.get_by_text("AI-generated text", exact=True)).to_be_visible()
        page.close()
        client = Client(demo.url, auth=("jane", "a secret"), verbose=False, download_files=False)
        assert client.predict("A CT.", 7, api_name="/text_to_image")


@pytest.mark.parametrize("given", ["jane", "jane:", ":secret"])
def test_a_password_must_have_both_parts(given: str) -> None:
    with pytest.raises(SettingsError, match="USER:PASSWORD") as caught:
        app.credentials(given)
    assert "secret" not in str(caught.value)
    assert app.credentials(None) is None and app.credentials("a:b:c") == ("a", "b:c")


def test_a_port_in_use_is_an_error_in_words() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        arguments = command("--port", taken.getsockname()[1])
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2
    assert "Cannot listen on 127.0.0.1" in done.stderr and "Traceback" not in done.stderr


def test_a_missing_model_is_an_error_in_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["app.py", "--port", "0", "--model", "no-such-model", "--no-feedback"])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED", "NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "")  # so that what the app sets is undone
    assert app.main() == 2
    assert "No such checkpoint folder: 'no-such-model'" in capsys.readouterr().err
