"""Runs of ``core learn``: started from the studio, each in a process of its own that goes on when the studio ends.

A run's folder is that of the version it makes. Beside what ``core learn`` writes there, it holds ``run.json`` (what was
asked for, to ask for the same again, and which process does it) and, until it is done, ``log.txt`` (what the process
said). Nothing here loads torch.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

import psutil

from core.config import LEARN_RECIPES as RECIPES
from core.config import ROOT, default_model, records_file
from core.errors import FeedbackError
from core.feedback.people import Person
from core.lineage import checked_name, is_learned
from studio.processes import find, known_by

COMMAND = (sys.executable, "-m", "core", "learn")
RUN, LOG, PROGRESS, METRICS = "run.json", "log.txt", "progress.json", "metrics.jsonl"
ENDED = ("done", "failed", "stopped")
CUT_OFF = "cut off"
"""The process is gone, and has not said why."""
STARTED = "--- started "
"""Begins what one process says in the log; an earlier one's last words are not its own."""
POINTS = 400
"""At most so many steps are drawn."""
_starting = threading.Lock()


@dataclass(frozen=True)
class Order:
    """What a run is to do.

    Attributes:
        name: of the version that it makes.
        snapshot: SHA-256 of what it learns from.
        base: name of the version that it starts from; None is the base checkpoint.
        recipe: name of a file in ``RECIPES``.
        compare: on how many requests that nothing was learned from people then compare it with its base.
    """

    name: str
    snapshot: str
    base: str | None
    recipe: str
    compare: int


@dataclass(frozen=True)
class Run:
    """
    Attributes:
        state: "running", "done", "failed", "stopped" or "cut off".
        phase: what a running one does, as ``core learn`` names it; "starting" before it has said so.
        order: None where it was started elsewhere than in the studio.
        seconds: since it was started, or until it ended; None where that is unknown.
    """

    name: str
    state: str
    phase: str
    done: int
    of: int
    message: str
    seconds: float | None
    order: Order | None


class Runs:
    """
    Args:
        folder: where the versions are, a folder each.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def all(self) -> list[Run]:
        """The newest first; those that ended well are versions now, and not among them."""
        found = []
        for folder in sorted(self._folders(), key=lambda one: (_changed(one), one.name), reverse=True):
            run = self.get(folder.name)
            if run.state != "done":
                found.append(run)
            else:
                with suppress(OSError):
                    (folder / LOG).unlink(missing_ok=True)
        return found

    def _folders(self) -> list[Path]:
        """Those of runs, also of one that was cut off before it had written anything."""
        try:
            folders = [one for one in self._folder.iterdir() if one.is_dir() and not one.name.startswith(".")]
        except FileNotFoundError:
            return []
        return [one for one in folders if (one / PROGRESS).is_file() or (one / RUN).is_file() or not is_learned(one)]

    def get(self, name: str) -> Run:
        """How a run stands now."""
        folder = self._folder / name
        asked, said = _json(folder / RUN), _json(folder / PROGRESS)
        phase, message = str(said.get("phase", "starting")), str(said.get("message") or "")
        if find(said or asked):
            state = "running"
        elif phase in ENDED:
            state = phase
        else:
            message = _complaint(folder / LOG)
            state = "failed" if message else CUT_OFF
        at = datetime.now(UTC) if state == "running" else _moment(said.get("at"))
        began = _moment(asked.get("at"))
        seconds = max(0.0, (at - began).total_seconds()) if at and began else None
        return Run(name, state, phase, _int(said.get("done")), _int(said.get("of")), message, seconds, self.order(name))

    def folder(self, name: str) -> Path:
        """That of a run, and of the version that it makes."""
        return self._folder / name

    def names(self) -> set[str]:
        """Names that are taken by what lies in the folder."""
        return {one.name for one in self._folder.iterdir()} if self._folder.is_dir() else set()

    def order(self, name: str) -> Order | None:
        """What a run was asked for; None where it was started elsewhere than in the studio."""
        asked = _json(self._folder / name / RUN)
        try:
            return Order(**{of.name: asked[of.name] for of in fields(Order)})
        except KeyError:
            return None

    def start(self, by: Person, order: Order, taken: Collection[str]) -> None:
        """
        Args:
            taken: names that versions already have.

        Raises:
            AccessError: only a maintainer may.
            FeedbackError: the name cannot be used, another run is going on, or it cannot be started.
        """
        by.need("maintainer")
        checked_name(order.name)
        with _starting:
            self._need_room()
            if order.name in taken or (self._folder / order.name).exists():
                raise FeedbackError("There is a version or a run of that name", value=order.name, remedy="Take another")
            with _writing():
                (self._folder / order.name).mkdir(parents=True)
            self._begin(by, order)

    def go_on(self, by: Person, name: str) -> None:
        """The same command again, which goes on where it was cut off.

        Raises:
            AccessError: only a maintainer may.
            FeedbackError: it runs, another one does, or what was asked for is not known.
        """
        by.need("maintainer")
        with _starting:
            self._need_room()
            order = self.get(name).order
            if order is None:
                raise FeedbackError("That run was not started here", value=name, remedy="Start its command again")
            self._begin(by, order)

    def stop(self, by: Person, name: str) -> None:
        """Asks a running one to end after its current step; its last save stays.

        Raises:
            AccessError: only a maintainer may.
            FeedbackError: it belongs to somebody else on this machine.
        """
        by.need("maintainer")
        folder = self._folder / name
        process = find(_json(folder / PROGRESS) or _json(folder / RUN))
        try:
            if process is not None:
                process.terminate()
        except psutil.NoSuchProcess:
            pass
        except psutil.AccessDenied as error:
            raise FeedbackError("Another user of this machine has started that run", value=name) from error

    def remove(self, by: Person, name: str) -> None:
        """Throws away what a run has left behind that has made no version.

        Raises:
            AccessError: only a maintainer may.
            FeedbackError: it runs, or there is a version.
        """
        by.need("maintainer")
        with _starting:
            if self.get(name).state == "running" or is_learned(self._folder / name):
                raise FeedbackError("Only a run that has ended without a version can be thrown away", value=name)
            with _writing():
                gone = self._folder / f".{name}.gone"
                shutil.rmtree(gone, ignore_errors=True)  # of a time when it was cut off
                (self._folder / name).rename(gone)
                shutil.rmtree(gone)

    def rewards(self, name: str) -> list[dict]:
        """What the run has measured so far, a row for each step: of long runs every n-th."""
        steps: dict[int, dict] = {}
        for line in _lines(self._folder / name / METRICS):
            try:
                row = json.loads(line)
                steps[int(row["step"])] = row  # one that goes on may measure a step twice
            except (ValueError, TypeError, KeyError):
                continue  # the last line may be half written
        rows = [steps[step] for step in sorted(steps)]
        return rows[:: -(-len(rows) // POINTS) or 1]

    def _need_room(self) -> None:
        for run in self.all():
            if run.state == "running":
                remedy = "Wait for it, or stop it"
                raise FeedbackError("One run at a time: another one is going on", value=run.name, remedy=remedy)

    def _begin(self, by: Person, order: Order) -> None:
        folder = self._folder / order.name
        command = [
            *COMMAND, order.snapshot, "--base", order.base or _here(default_model()),
            "--recipe", str(RECIPES / order.recipe), "--by", by.login, "--name", order.name,
            "--compare", str(order.compare),
        ]  # fmt: skip
        if (records := records_file()) is not None:
            command += ["--records", str(records.expanduser().resolve())]
        paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        now = datetime.now(UTC).isoformat()
        asked = asdict(order) | {"at": now}
        with _writing():
            _write(folder / RUN, asked)  # first: what is started is never without it
            (folder / PROGRESS).unlink(missing_ok=True)
            with (folder / LOG).open("a", encoding="utf-8") as log:
                print(f"{STARTED}{now}", file=log, flush=True)
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                    env=os.environ | {"PYTHONPATH": paths, "UNIMED_DATA": str(self._folder.parent.resolve())},
                )  # fmt: skip
            _write(folder / RUN, asked | known_by(process.pid))
        threading.Thread(target=process.wait, daemon=True).start()  # or it would stay as a zombie


def recipes() -> dict[str, str]:
    """File names of what a run can follow, the default first, and what each says of itself."""
    names = sorted((one.name for one in RECIPES.glob("*.json")), key=lambda one: (one != "default.json", one))
    return {name: str(_json(RECIPES / name).get("about") or "") for name in names}


def recipe_like(recipe: dict) -> str:
    """The file name of the recipe that a version was learned by; empty where none says the same."""
    for name in recipes():
        values = _json(RECIPES / name)
        if values.get("about") and all(recipe.get(key) == value for key, value in values.items()):
            return name
    return ""


def _here(source: str) -> str:
    """A folder by its whole path, a hub id as it is."""
    folder = Path(source).expanduser()
    return str(folder.resolve()) if folder.is_dir() else source


def _complaint(log: Path) -> str:
    """The sentence with which the last process ended that could not do what it should; empty where it has said none.
    Other words of a process are not shown: they may be those of a rater."""
    found = ""
    for line in _lines(log):
        if line.startswith(STARTED):
            found = ""
        elif line.startswith("error: "):
            found = line.removeprefix("error: ").strip()
        elif line.startswith("Traceback ") and not found:
            found = "The program broke down. Its folder has a log."
    return found


def _changed(folder: Path) -> float:
    """When something in it has changed; 0 where somebody has just removed it."""
    try:
        return folder.stat().st_mtime
    except OSError:
        return 0.0


def _write(path: Path, values: dict) -> None:
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    part.replace(path)


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            yield from file
    except OSError:
        return


def _json(path: Path) -> dict:
    """What a file says; nothing where it is missing or damaged."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _moment(said: object) -> datetime | None:
    try:
        moment = datetime.fromisoformat(str(said))
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _int(said: object) -> int:
    return said if isinstance(said, int) else 0


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what = f"The run's folder cannot be written ({error.strerror or error})"
        raise FeedbackError(what, remedy="Make room, or ask who keeps the machine") from error
