"""One rater of ``benchmarks.studio_raters``, in a process of its own, who speaks to the studio as its board does:
``python -m benchmarks.rater PORT PROJECT NUMBER RATINGS THINK``.

It takes an item, looks at its pictures, saves an answer that grows, submits it, and goes on to the next; the item after
the last rating is saved and left. What is cut off or cannot be kept for now is sent again, unchanged, until it is
through. Every line of its output is an event in JSON: what was acknowledged and after how many milliseconds, what
failed, what came back other than it was.
"""

from __future__ import annotations

import json
import random
import string
import sys
import time
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException

API = "/studio-api"
PASSWORD = "correct horse"
RETRY_SECONDS = (1, 2, 5, 10)
"""As in studio/board/wire.js."""
ANSWER_SECONDS = 60
"""A studio that says nothing for so long counts as gone."""
IDLE_SECONDS = 3
"""The studio closes connections that are idle for longer; a browser opens a new one then."""
RELOADS = 0.1
"""How often somebody reloads the page, of all items."""


def tell(**event: object) -> None:
    print(json.dumps(event), flush=True)


class Refused(Exception):
    """The studio will not have a request, now or later."""


class Studio:
    """The studio, for one person. Every call returns when it is through, or raises ``Refused`` when it never is."""

    def __init__(self, port: int) -> None:
        self._http = HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)
        self._headers = {"content-type": "application/json", "x-unimed-studio": "1"}
        self._used = 0.0

    def call(self, name: str, body: dict) -> dict:
        return json.loads(self._through(name, "POST", f"{API}/{name}", json.dumps(body)))

    def picture(self, address: str) -> bytes:
        return self._through("picture", "GET", f"/{address}", None)

    def _through(self, name: str, method: str, path: str, body: str | None) -> bytes:
        tries = 0
        while True:
            start = time.perf_counter()
            try:
                status, content = self._once(method, path, body)
            except (OSError, HTTPException) as error:
                self._http.close()
                tell(failed=type(error).__name__, call=name)
            else:
                if status == 200:
                    # The time of the attempt that came through: what was cut off, and the wait after it, is not in it.
                    tell(call=name, ms=1000 * (time.perf_counter() - start))
                    return content
                said = f"{status} {content.decode(errors='replace')[:300]}"
                if status < 500:
                    raise Refused(f"{name}: {said}")
                tell(failed=said, call=name)
            time.sleep(RETRY_SECONDS[min(tries, len(RETRY_SECONDS) - 1)])
            tries += 1

    def _once(self, method: str, path: str, body: str | None) -> tuple[int, bytes]:
        if time.monotonic() - self._used > IDLE_SECONDS:
            self._http.close()
        self._http.request(method, path, body, self._headers)
        answer = self._http.getresponse()
        content = answer.read()
        self._used = time.monotonic()
        if cookie := answer.getheader("set-cookie"):
            self._headers["cookie"] = cookie.partition(";")[0]
        return answer.status, content


class Rater:
    def __init__(self, port: int, project: str, number: int, ratings: int, think: float) -> None:
        self._studio, self._of = Studio(port), {"project": project, "purpose": "judge"}
        self._number, self._ratings, self._think = number, ratings, think
        self._random = random.Random(number)

    def work(self) -> None:
        self._studio.call("enter", {"login": f"rater{self._number}", "password": PASSWORD})
        for done in range(self._ratings + 1):
            task = self._studio.call("next", self._of)["task"]
            if task is None:
                tell(wrong="there was nothing to rate")
                return
            self._look(task)
            answer = self._answer(task)
            seconds = self._save(task, answer)
            if self._random.random() < RELOADS:
                self._reload(task, answer)
            if done < self._ratings:
                self._submit(task, answer, seconds)

    def _look(self, task: dict) -> None:
        for segment in (*task["inputs"], *task["outputs"]):
            if "src" in segment and not self._studio.picture(segment["src"]).startswith(b"\x89PNG"):
                tell(wrong=f"no picture of {asked(task)}")

    def _answer(self, task: dict) -> dict:
        scores = {criterion["name"]: self._random.randint(1, 5) for criterion in task["rubric"]["criteria"]}
        nonce = "".join(random.SystemRandom().choices(string.ascii_lowercase, k=20))
        return {"scores": scores, "opened": True, "comment": f"Rater {self._number} of “{asked(task)}” {nonce}"}

    def _save(self, task: dict, answer: dict) -> float:
        """Two or three saves, the last one with all of it. Returns the seconds that it says it took."""
        names, parts = list(answer["scores"]), self._random.randint(2, 3)
        for part in range(1, parts + 1):
            if self._think:
                time.sleep(self._random.expovariate(1 / self._think))
            some = {name: answer["scores"][name] for name in names[: len(names) * part // parts]}
            said = answer if part == parts else {"scores": some, "opened": True}
            self._studio.call("save", {"assignment": task["id"], "answer": said, "seconds": 1.5 * part})
        tell(saved=task["id"], answer=answer)
        return 1.5 * parts

    def _reload(self, task: dict, answer: dict) -> None:
        again = self._studio.call("next", self._of)["task"]
        if again is None or again["id"] != task["id"]:
            tell(wrong=f"{asked(task)} did not come back after a reload")
        elif any(again["answer"].get(name) != value for name, value in answer.items()):
            tell(wrong=f"what was saved of {asked(task)} did not come back after a reload")

    def _submit(self, task: dict, answer: dict, seconds: float) -> None:
        said, nonce = {"assignment": task["id"], "answer": answer}, answer["comment"][-20:]
        tell(sent=said | {"item": asked(task), "nonce": nonce})
        now = datetime.now(UTC).isoformat()
        version = self._studio.call("submit", said | {"seconds": seconds, "said_at": now})["version"]
        if version != 1:
            tell(wrong=f"{asked(task)} was said for the first time, and got version {version}")
        tell(submitted=nonce)


def asked(task: dict) -> str:
    """The words of a request, by which items are told apart."""
    return "\n".join(segment["text"] for segment in task["inputs"] if segment["type"] == "text")


def main() -> int:
    port, project, number, ratings, think = sys.argv[1:]
    try:
        Rater(int(port), project, int(number), int(ratings), float(think)).work()
    except Refused as error:
        tell(wrong=f"refused for good: {error}")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
