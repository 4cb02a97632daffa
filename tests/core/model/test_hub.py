"""A checkpoint by its hub id, downloaded from a local server that speaks the hub's protocol."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from core.config import ROOT

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(params=["ema.safetensors", "model_bf16.safetensors"])
def hub(request, tiny_checkpoint: Path):
    """Serves the tiny checkpoint as ``someone/tiny``, its weights under two names in turn; yields the address."""
    files = {path.name: path.read_bytes() for path in tiny_checkpoint.iterdir()}
    files[request.param] = files.pop("ema.safetensors")

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def _reply(self, status: int, body: bytes, kind: str, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_GET(self):
            path = self.path.partition("?")[0]
            if path.startswith("/api/models/someone/tiny/tree/"):
                tree = [
                    {"type": "file", "path": n, "size": len(b), "oid": hashlib.sha1(b).hexdigest()}
                    for n, b in files.items()
                ]
                self._reply(200, json.dumps(tree).encode(), "application/json", {})
            elif path.startswith("/api/models/someone/tiny"):
                about = {"id": "someone/tiny", "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
                self._reply(200, json.dumps(about).encode(), "application/json", {})
            elif path.startswith(f"/someone/tiny/resolve/{COMMIT}/") and (name := path.rsplit("/", 1)[1]) in files:
                body = files[name]
                headers = {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X-Repo-Commit": COMMIT}
                self._reply(200, body, "application/octet-stream", headers)
            else:
                missing = "EntryNotFound" if path.startswith("/someone/tiny/") else "RepoNotFound"
                self._reply(404, b"{}", "application/json", {"X-Error-Code": missing})

        do_HEAD = do_GET

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def info(hub: str, home: Path, model: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "HF_ENDPOINT": hub, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-m", "core", "info", "--model", model]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_hub_id_is_downloaded_and_loaded(request, hub, tmp_path):
    result = info(hub, tmp_path, "someone/tiny")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["weights"] == request.node.callspec.params["hub"]


def test_unknown_hub_id_is_a_sentence(hub, tmp_path):
    result = info(hub, tmp_path, "someone/else")
    assert result.returncode == 2
    assert "someone/else" in result.stderr and "Traceback" not in result.stderr
