"""Runs of ``core learn``: started from the studio, each in a process of its own that goes on when the studio ends.

A run's folder is that of the version it makes. Beside what ``core learn`` writes there, it holds ``run.json`` (what was
asked for, to ask for the same again) and ``log.txt`` (what the process said). Nothing here loads torch.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

import psutil

from core.config import ROOT, ModelConfig, default_model
from core.errors import CheckpointError, FeedbackError, UniMedError
from core.feedback.people import Person
from core.lineage import Lineage, is_learned
from core.model.fingerprint import fingerprint

COMMAND = (sys.executable, "-m", "core", "learn")
RECIPES = ROOT / "core" / "training" / "recipes" / "learn"
RUN, LOG, PROGRESS, METRICS = "run.json", "log.txt", "progress.json", "metrics.jsonl"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
ENDED = ("done", "failed", "stopped")
CUT_OFF = "cut off"
"""The process is gone, and has not said why."""
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
        compare: on how many held-out requests people then compare it with its base.
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
        try:
            folders = [one for one in self._folder.iterdir() if any((one / of).is_file() for of in (RUN, PROGRESS))]
        except FileNotFoundError:
            return []
        newest = sorted(folders, key=lambda one: (one.stat().st_ctime, one.name), reverse=True)
        return [run for one in newest if (run := self.get(one.name)).state != "done"]

    def get(self, name: str) -> Run:
        """How a run stands now."""
        folder = self._folder / name
        asked, said = _json(folder / RUN), _json(folder / PROGRESS)
        phase, message = str(said.get("phase", "starting")), str(said.get("message") or "")
        if _lives(said or asked):
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
        if not NAME.fullmatch(order.name):
            remedy = "Take up to 80 letters, digits, dots, dashes and underscores, and begin with a letter or a digit"
            raise FeedbackError("A version cannot have that name", value=order.name, remedy=remedy)
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
        """Asks a running one to save and to end.

        Raises:
            AccessError: only a maintainer may.
            FeedbackError: it belongs to somebody else on this machine.
        """
        by.need("maintainer")
        run = _json(self._folder / name / PROGRESS) or _json(self._folder / name / RUN)
        if _lives(run):
            try:
                os.kill(run["pid"], signal.SIGTERM)
            except ProcessLookupError:
                pass
            except PermissionError as error:
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
                shutil.rmtree(self._folder / name)

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
        paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        with _writing(), (folder / LOG).open("wb") as log:
            (folder / PROGRESS).unlink(missing_ok=True)
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                env=os.environ | {"PYTHONPATH": paths, "UNIMED_DATA": str(self._folder.parent.resolve())},
            )  # fmt: skip
            asked = asdict(order) | {"pid": process.pid, "at": datetime.now(UTC).isoformat()}
            part = folder / f"{RUN}.part"
            part.write_text(json.dumps(asked, indent=1) + "\n", encoding="utf-8")
            part.replace(folder / RUN)
        threading.Thread(target=process.wait, daemon=True).start()  # or it would stay as a zombie


@dataclass(frozen=True)
class Base:
    """The checkpoint that is served where no version is promoted.

    Attributes:
        fingerprint: of its weights without an adapter; None where they are not on this machine yet.
    """

    name: str
    fingerprint: str | None


def base() -> Base:
    """What ``default_model`` names, as loading would name it."""
    source = default_model()
    folder = Path(source).expanduser()
    try:
        if is_learned(folder):
            lineage = Lineage.read(folder)
            return Base(lineage.name, lineage.base_fingerprint)
        if folder.is_dir():
            return Base(ModelConfig.from_folder(folder).version or folder.resolve().name, fingerprint(folder))
        folder = _downloaded(source)
        return Base(ModelConfig.from_folder(folder).version or f"{source}@{folder.name[:8]}", fingerprint(folder))
    except (UniMedError, OSError):
        return Base(source, None)


def recipes() -> dict[str, str]:
    """File names of what a run can follow, the default first, and what each says of itself."""
    names = sorted((one.name for one in RECIPES.glob("*.json")), key=lambda one: (one != "default.json", one))
    return {name: str(_json(RECIPES / name).get("about") or "") for name in names}


def _downloaded(source: str) -> Path:
    """
    Raises:
        CheckpointError: it is no hub id, or nobody has downloaded it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(source, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError) as error:
        raise CheckpointError("The checkpoint is not on this machine", value=source) from error


def _here(source: str) -> str:
    """A folder by its whole path, a hub id as it is."""
    folder = Path(source).expanduser()
    return str(folder.resolve()) if folder.is_dir() else source


def _lives(said: dict) -> bool:
    """Whether the process that has written a file is there, and not another one that got its number since."""
    pid, at = said.get("pid"), _moment(said.get("at"))
    if not isinstance(pid, int) or pid <= 0 or at is None:
        return False
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= at.timestamp() + 1
    except psutil.Error:
        return False


def _complaint(log: Path) -> str:
    """The sentence with which a command ends that cannot do what it should; empty where it has said none."""
    lines = [line.strip() for line in _lines(log) if line.strip()]
    if lines and lines[-1].startswith("error: "):
        return lines[-1].removeprefix("error: ")
    if any(line.startswith("Traceback ") for line in lines):
        return f"The program broke down. Its last words: {lines[-1]}"
    return ""


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            yield from file
    except FileNotFoundError:
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
