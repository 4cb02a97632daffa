"""The demo under load, beside a bare ``gr.Interface`` around the same model: ``python -m benchmarks.load``.

``--clients`` clients over the API, all but one of which send one request after the other: a question, a report, a mask
or a picture. The last one is greedy and has eight under way, in one session. Every request carries a nonce (its seed),
which must come back in the record and, for pictures, in the file; texts must equal what the model answers alone. Both
servers run after each other on the same cores, with the same requests in the same order.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import httpx
import numpy as np
import psutil
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image as PILImage

from core.config import NANO, ROOT
from core.inference.generator import Generator
from core.inference.once import run_task
from core.model.checkpoint import load
from core.sequence import Image
from core.tasks import TASKS
from demo.examples import load_examples

RESULTS = Path(__file__).parent / "results"
PORT = 7998
MIX = {"vqa": 10, "report": 5, "segmentation": 3, "text_to_image": 2}
"""How often each task is asked for, of 20."""
GREEDY = 8


@dataclass
class Answer:
    client: int
    task: str
    sent: float
    seconds: float
    problem: str = ""


@dataclass
class Load:
    """Requests of many clients over some time, and what came back."""

    url: str
    until: float
    pictures: list[bytes]
    expected: dict[tuple[str, int, str], str]
    greedy: int
    parallel: Client
    parallel_pictures: list[str]
    """What the greedy client sends through: its requests share one session."""
    answers: list[Answer] = field(default_factory=list)

    async def client(self, number: int, lane: int, http: httpx.AsyncClient) -> None:
        """One request after the other; ``lane`` is which of a client's parallel ones."""
        draw = random.Random(1000 * number + lane)
        session = f"client-{number}"
        while time.perf_counter() < self.until:
            task = draw.choices(list(MIX), MIX.values())[0]
            nonce, which = draw.randrange(2**31), draw.randrange(len(self.pictures))
            prompt = draw.choice(TASKS[task].examples) if TASKS[task].prompt_label else ""
            start = time.perf_counter()
            try:
                if number == self.greedy:
                    problem = await asyncio.to_thread(self.ask_in_parallel, task, which, prompt, nonce)
                else:
                    problem = await self.ask(http, session, task, which, prompt, nonce)
            except (httpx.HTTPError, AppError, OSError, ValueError, KeyError) as error:
                problem = f"{type(error).__name__}: {error}"
            self.answers.append(Answer(number, task, start, time.perf_counter() - start, problem))

    async def ask(self, http: httpx.AsyncClient, session: str, task: str, which: int, prompt: str, nonce: int) -> str:
        """Sends one request and checks its answer. Returns what is wrong with it, or nothing."""
        data: list = []
        if TASKS[task].images:
            files = {"files": ("scan.png", self.pictures[which], "image/png")}
            (path,) = (await http.post(f"{self.url}gradio_api/upload", files=files)).raise_for_status().json()
            data.append({"path": path, "meta": {"_type": "gradio.FileData"}})
        if TASKS[task].prompt_label:
            data.append(prompt)
        body = {"data": [*data, nonce], "session_hash": session}
        begun = (await http.post(f"{self.url}gradio_api/call/{task}", json=body)).raise_for_status().json()
        event, last = "", None
        async with http.stream("GET", f"{self.url}gradio_api/call/{task}/{begun['event_id']}") as stream:
            async for line in stream.aiter_lines():
                if line.startswith("event: "):
                    event = line.removeprefix("event: ")
                elif line.startswith("data: ") and event in ("complete", "error"):
                    last = json.loads(line.removeprefix("data: "))
        if event != "complete" or last is None:
            return f"ended with {event}: {last}"
        output, record = last
        if "image" in TASKS[task].outputs:
            output = (await http.get(f"{self.url}gradio_api/file={output['path']}")).raise_for_status().content
        return self.check(task, which, prompt, nonce, output, record)

    def ask_in_parallel(self, task: str, which: int, prompt: str, nonce: int) -> str:
        given = [handle_file(self.parallel_pictures[which])] if TASKS[task].images else []
        given += [prompt] if TASKS[task].prompt_label else []
        output, record = self.parallel.predict(*given, nonce, api_name=f"/{task}")
        if "image" in TASKS[task].outputs:
            output = Path(output).read_bytes()
        return self.check(task, which, prompt, nonce, output, record)

    def check(self, task: str, which: int, prompt: str, nonce: int, output: str | bytes, record: dict) -> str:
        """What is wrong with an answer, or nothing."""
        if record["seed"] != nonce:
            return "carries another nonce"
        if isinstance(output, str):
            return "" if output == self.expected[task, which, prompt] else "another text than the model gives alone"
        with PILImage.open(io.BytesIO(output)) as image:
            return "" if image.info.get("Seed") == str(nonce) else "the picture carries another nonce"


async def run(url: str, seconds: float, clients: int, pictures: list[bytes], expected: dict, folder: str) -> Load:
    files = []
    for which, picture in enumerate(pictures):
        files.append(os.path.join(folder, f"{which}.png"))
        Path(files[-1]).write_bytes(picture)
    parallel = Client(url, verbose=False, download_files=folder)
    load = Load(url, time.perf_counter() + seconds, pictures, expected, clients - 1, parallel, files)
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=600, limits=limits, trust_env=False) as http, asyncio.TaskGroup() as group:
        for number in range(clients):
            for lane in range(GREEDY if number == load.greedy else 1):
                group.create_task(load.client(number, lane, http))
    return load


def bare(port: int) -> None:
    """The simplest demo that one would write: an interface for each task around the same model."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import gradio as gr

    from core.data.images import open_image

    generator = Generator(load(NANO))

    def function(task: str):
        def answer(*values):
            *values, seed = values
            images = [open_image(values[0])] if TASKS[task].images else []
            prompt = values[-1] if TASKS[task].prompt_label else ""
            found = run_task(generator, TASKS[task], images, prompt, int(seed))
            record = found.provenance.record(found.seconds)
            if found.images:
                path = Path(tempfile.mkdtemp(dir=os.environ["GRADIO_TEMP_DIR"])) / "image.png"
                found.provenance.save(found.images[0], path)
                return str(path), record
            return found.text, record

        return answer

    pages = []
    for name in MIX:
        inputs = [*["file"] * TASKS[name].images, *["text"] * bool(TASKS[name].prompt_label), "number"]
        output = gr.Image(type="filepath") if "image" in TASKS[name].outputs else "text"
        pages.append(gr.Interface(function(name), inputs, [output, "json"], api_name=name))
    demo = gr.TabbedInterface(pages, list(MIX))
    print("runs at", flush=True)
    demo.launch(server_port=port, quiet=True)


def serve(what: str, folder: str) -> subprocess.Popen:
    """Starts a server and waits until it answers."""
    script = {
        "ours": [sys.executable, "app.py", "--port", str(PORT), "--no-feedback"],
        "bare": [sys.executable, "-m", "benchmarks.load", "--bare", str(PORT)],
    }[what]
    environment = {**os.environ, "TMPDIR": folder, "GRADIO_TEMP_DIR": folder}
    process = subprocess.Popen(script, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    for _ in range(600):
        try:
            httpx.get(f"http://127.0.0.1:{PORT}/config", trust_env=False).raise_for_status()
            return process
        except httpx.HTTPError:
            time.sleep(0.2)
    process.kill()
    sys.exit(f"error: {what} did not start")


async def memory(process: psutil.Process, until: float, seen: list[tuple[float, float]]) -> None:
    while time.perf_counter() < until:
        seen.append((time.perf_counter(), process.memory_info().rss / 2**20))
        await asyncio.sleep(1)


def measure(what: str, seconds: float, clients: int, pictures: list[bytes], expected: dict) -> dict:
    """Latencies, mistakes, memory and fairness of one server."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        process = serve(what, folder)
        url, seen = f"http://127.0.0.1:{PORT}/", []
        try:
            start = time.perf_counter()

            async def both() -> Load:
                watch = asyncio.create_task(memory(psutil.Process(process.pid), start + seconds, seen))
                found = await run(url, seconds, clients, pictures, expected, folder)
                await watch
                return found

            found = asyncio.run(both())
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
    return summary(found.answers, seen, start, seconds, clients)


def summary(answers: list[Answer], seen: list, start: float, seconds: float, clients: int) -> dict:
    modest = [a for a in answers if a.client < clients - 1]
    greedy = [a for a in answers if a.client == clients - 1]
    counts = [sum(a.client == number for a in modest) for number in range(clients - 1)]
    problems = [a.problem for a in answers if a.problem]

    def percentile(values: list[Answer], q: float) -> float:
        return round(float(np.percentile([a.seconds for a in values], q)), 2)

    minute = min(60.0, seconds / 2)
    first = [rss for at, rss in seen if at - start < minute]
    last = [rss for at, rss in seen if at - start > seconds - minute]
    return {
        "answers": len(answers),
        "wrong_or_lost": len(problems),
        "problems": sorted({re.sub(r"\d+", "N", p)[:200] for p in problems})[:5],
        "answers_per_s": round(len(answers) / seconds, 2),
        "wait_s": {"p50": percentile(modest, 50), "p95": percentile(modest, 95)},
        "by_task": {
            task: {"n": len(of), "p50": percentile(of, 50), "p95": percentile(of, 95)}
            for task in MIX
            if (of := [a for a in modest if a.task == task])
        },
        "answers_of_a_client": {"least": min(counts), "median": float(np.median(counts)), "most": max(counts)},
        "answers_of_the_greedy_client": len(greedy),
        "memory_mib": {"first_minute": round(float(np.mean(first))), "last_minute": round(float(np.mean(last)))},
    }


def inputs() -> tuple[list[bytes], dict]:
    """Pictures to ask about, and every text that the model gives about them alone."""
    generator, pictures, expected = Generator(load(NANO)), [], {}
    for which, example in enumerate(load_examples()):
        file = io.BytesIO()
        example.image.pixels.save(file, format="PNG")
        pictures.append(file.getvalue())
        for task in ("vqa", "report"):
            for prompt in TASKS[task].examples or ("",):
                image = Image(example.image.pixels)
                expected[task, which, prompt] = run_task(generator, TASKS[task], [image], prompt).text
    return pictures, expected


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="how long each server is under load (600)")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--bare", type=int, metavar="PORT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        bare(options.bare)
        return
    pictures, expected = inputs()
    result = {
        "date": date.today().isoformat(),
        "command": " ".join(["python -m benchmarks.load", *sys.argv[1:]]),
        "cores": os.cpu_count(),
        **{what: measure(what, options.seconds, options.clients, pictures, expected) for what in ("ours", "bare")},
    }
    print(json.dumps(result, indent=1))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{result['date']}_load.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
