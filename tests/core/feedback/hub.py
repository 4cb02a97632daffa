"""A small Hugging Face hub for repositories of datasets and models, which speaks the endpoints that we use."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0" * 40


class Repo:
    """A repository: the files of every commit, newest last, and its large files by digest."""

    def __init__(self, private: bool) -> None:
        self.private = private
        self.commits: list[dict[str, bytes]] = [{".gitattributes": b"*.png filter=lfs\n"}]
        self.large: dict[str, str] = {}

    @property
    def head(self) -> dict[str, bytes]:
        return self.commits[-1]


class Hub:
    """Serves until it is closed. ``refuses`` is a status to answer every commit with."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.repos: dict[str, Repo] = {}
        self.requests: list[str] = []
        self.refuses = 0
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                path = self.path.partition("?")[0]
                hub.requests.append(f"{self.command} {path}")
                if self.headers.get("Authorization") != f"Bearer {hub.token}":
                    said = {"error": f"Unknown: {self.headers.get('Authorization')}"}
                    status, headers = 401, {}
                else:
                    status, said, headers = hub.handle(self.command, path, body)
                content = said if isinstance(said, bytes) else json.dumps(said).encode()
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", "Content-Length": len(content)}.items():
                    self.send_header(name, str(value))
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_POST = do_HEAD = answer

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def handle(self, method: str, path: str, body: bytes) -> tuple[int, object, dict[str, str]]:
        """(status, JSON or the bytes of a file, headers) of a request that is allowed."""
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}, {}
        if file := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            return self._file(*file.groups())
        name, rest = re.fullmatch(r"/api/(?:datasets|models)/([^/]+/[^/]+)(.*)", path).groups()
        repo = self.repos.get(name)
        if repo is None:
            return 404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}
        if rest in ("", "/revision/main", f"/revision/{COMMIT}"):
            siblings = [{"rfilename": file} for file in repo.head]
            return 200, {"id": name, "sha": COMMIT, "private": repo.private, "siblings": siblings}, {}
        if rest in ("/tree/main", f"/tree/{COMMIT}"):
            return 200, [_entry(path, content) for path, content in repo.head.items()], {}
        if rest == "/preupload/main":
            return 200, {"files": [_mode(file, repo.head) for file in json.loads(body)["files"]]}, {}
        if rest == "/commit/main":
            return self._commit(name, repo, body)
        if rest == "/super-squash/main":
            repo.commits = repo.commits[-1:]
            return 200, {}, {}
        if rest == "/lfs-files" and method == "GET":
            listed = [
                {
                    "fileOid": digest,
                    "filename": file,
                    "oid": digest[::-1],
                    "pushedAt": "2026-01-01T00:00:00Z",
                    "size": 1,
                }
                for digest, file in repo.large.items()
            ]
            return 200, listed, {}
        if rest == "/lfs-files/batch":
            for digest in json.loads(body)["deletions"]["sha"]:
                del repo.large[digest]
            return 200, {}, {}
        return 404, {"error": path}, {}

    def _file(self, name: str, path: str) -> tuple[int, object, dict[str, str]]:
        if name not in self.repos or path not in self.repos[name].head:
            return 404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"}
        content = self.repos[name].head[path]
        return 200, content, {"ETag": f'"{_git_digest(content)}"', "X-Repo-Commit": COMMIT}

    def _create(self, wanted: dict) -> tuple[int, object, dict[str, str]]:
        name = f"{wanted['organization']}/{wanted['name']}"
        assert wanted.get("type", "model") in ("dataset", "model")
        known = name in self.repos
        self.repos.setdefault(name, Repo(wanted.get("visibility") == "private"))
        return 409 if known else 200, {"url": f"{self.url}/datasets/{name}"}, {}

    def _commit(self, name: str, repo: Repo, body: bytes) -> tuple[int, object, dict[str, str]]:
        if self.refuses:
            return self.refuses, {"error": f"Bearer {self.token} may not do that"}, {}
        files = dict(repo.head)
        for line in body.splitlines():
            item = json.loads(line)
            path = item["value"].get("path")
            if item["key"] == "file":
                files[path] = base64.b64decode(item["value"]["content"])
            elif item["key"] == "deletedFile":
                del files[path]
            else:
                assert item["key"] == "header", item
        repo.commits.append(files)
        repo.large |= {hashlib.sha256(c).hexdigest(): path for path, c in files.items() if path.endswith(".png")}
        return 200, {"commitUrl": f"{self.url}/datasets/{name}/commit/{'1' * 40}", "commitOid": "1" * 40}, {}


def _git_digest(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _entry(path: str, content: bytes) -> dict:
    """A file of a tree. The hub keeps pictures as large files, wherever they were sent to."""
    entry = {"type": "file", "path": path, "size": len(content), "oid": _git_digest(content)}
    if path.endswith(".png"):
        digest = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 130}
    return entry


def _mode(file: dict, head: dict[str, bytes]) -> dict:
    known = {"oid": _git_digest(head[file["path"]])} if file["path"] in head else {}
    return {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False, **known}
