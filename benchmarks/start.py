"""Seconds from ``make run`` to the page and to the first answer: ``python -m benchmarks.start [--cold]``.

``--cold`` clones the repository into an empty folder first, so that the installation counts too. The question is asked
through the API, about a scan that pydicom carries.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

from gradio_client import Client, handle_file
from pydicom.data import get_testdata_file

from core.config import ROOT

RESULTS = Path(__file__).parent / "results"
PORT = 7999


def measure(folder: Path) -> dict[str, float]:
    """Runs ``make run`` in a checkout, asks one question, and ends it."""
    start = time.perf_counter()
    command = ["make", "run", f"APP=--port {PORT}"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        found = None
        while found is None:
            line = process.stdout.readline()
            if not line:
                sys.exit(f"error: make run ended with status {process.wait()} before it served a page")
            found = re.search(r"runs at (\S+)", line)
        page = time.perf_counter() - start
        client = Client(found[1], verbose=False)
        scan = handle_file(str(get_testdata_file("CT_small.dcm", download=False)))
        client.predict(scan, "What imaging modality is this?", 0, api_name="/vqa")
        return {"page_s": round(page, 1), "first_answer_s": round(time.perf_counter() - start, 1)}
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.start", description=__doc__)
    parser.add_argument("--cold", action="store_true", help="in a fresh clone, with the installation")
    options = parser.parse_args()
    if options.cold:
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(["git", "clone", "-q", str(ROOT), folder], check=True)
            times = measure(Path(folder))
    else:
        times = measure(ROOT)
    command = " ".join(["python -m benchmarks.start", *sys.argv[1:]])
    result = {"date": date.today().isoformat(), "command": command, "cores": os.cpu_count(), **times}
    print(json.dumps(result))
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{result['date']}_start{'_cold' if options.cold else ''}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
