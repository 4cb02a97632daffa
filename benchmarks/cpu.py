"""One answer and one image on a CPU, beside a naive variant of the same code: ``python -m benchmarks.cpu``.

Naive means: no cache (every token and every denoising step reads the whole context again) and the guidance
branches one after the other. Each variant runs in a process of its own, in turn, several times; seconds are
CPU and wall time of the work without loading, memory is the peak of the process. Both must give the same output.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from datetime import date
from pathlib import Path

from pydicom.data import get_testdata_file

from core.config import NANO, ROOT
from core.data.images import open_image
from core.inference.generator import Generator
from core.inference.once import run_task
from core.model.checkpoint import load
from core.model.unified import LatentPiece, Piece, TextPiece, UnifiedModel
from core.tasks import TASKS

RESULTS = Path(__file__).parent / "results"
QUESTION = "What imaging modality is this?"


def naive_step(model: UnifiedModel):
    """A stand-in for ``model.step`` that reads everything a context has seen again at every call, branch by branch.

    Consecutive texts are read in one pass; images are the passes that they always were.
    """
    step = model.step

    def run(pieces: list[Piece], soi: int, eoi: int) -> list:
        results = []
        for piece in pieces:
            past, fresh = vars(piece.cache).get("past", ()), model.new_cache()
            for earlier in past:
                step([replace(earlier, cache=fresh)], soi, eoi)
            results += step([replace(piece, cache=fresh)], soi, eoi)
            if not isinstance(piece, LatentPiece) or piece.clean:
                if isinstance(piece, TextPiece) and past and isinstance(past[-1], TextPiece):
                    piece = replace(piece, ids=[*past[-1].ids, *piece.ids])  # read again in one go
                    past = past[:-1]
                piece.cache.past = (*past, piece)  # a fork takes it along
        return results

    return run


def work(variant: str, task: str, model: str) -> dict:
    """One task in this process, measured."""
    generator = Generator(load(model))
    if variant == "naive":
        generator.model.step = naive_step(generator.model)
    image = open_image(get_testdata_file("CT_small.dcm"))
    arguments = {
        "answer": (TASKS["vqa"], [image], QUESTION),
        "edit": (TASKS["super_resolution"], [image], ""),
        "image": (TASKS["text_to_image"], [], "A chest X-ray."),
    }[task]
    cpu, wall = time.process_time(), time.perf_counter()
    answer = run_task(generator, *arguments, seed=0)
    return {
        "cpu_s": time.process_time() - cpu,
        "wall_s": time.perf_counter() - wall,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "output": answer.text or answer.images[0].pixels.resize((8, 8)).tobytes().hex(),
    }


def _run(variant: str, task: str, model: str) -> dict:
    command = [sys.executable, "-m", "benchmarks.cpu", "--work", variant, task, "--model", model]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=os.environ)
    return json.loads(result.stdout.splitlines()[-1])


def close(a: str, b: str) -> bool:
    """The same text, or thumbnails that differ by at most two levels."""
    if len(a) != len(b) or len(a) < 200:
        return a == b
    return max(abs(x - y) for x, y in zip(bytes.fromhex(a), bytes.fromhex(b), strict=True)) <= 2


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu", description=__doc__)
    parser.add_argument("--model", default=str(NANO))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--work", nargs=2, metavar=("VARIANT", "TASK"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        print(json.dumps(work(*options.work, options.model)))
        return
    command = " ".join(["python -m benchmarks.cpu", *sys.argv[1:]])
    result = {"date": date.today().isoformat(), "command": command, "cores": os.cpu_count()}
    for task in ("answer", "image", "edit"):
        rows: dict[str, list[dict]] = {"ours": [], "naive": []}
        for _ in range(options.runs):
            for variant, runs in rows.items():
                runs.append(_run(variant, task, options.model))
        same = close(rows["ours"][0]["output"], rows["naive"][0]["output"])
        row = {"same_output": same}
        for variant, runs in rows.items():
            row[variant] = {k: round(statistics.median(r[k] for r in runs), 3) for k in ("cpu_s", "wall_s", "peak_mib")}
        ratios = [n["cpu_s"] / o["cpu_s"] for n, o in zip(rows["naive"], rows["ours"], strict=True)]
        row["naive_over_ours_cpu"] = round(statistics.median(ratios), 2)
        result[task] = row
        print(task, row, flush=True)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{result['date']}_cpu.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"written {path}")


if __name__ == "__main__":
    main()
