"""The saved state of a run: written beside the last one, then renamed, so that a run always has a whole one.

A state holds the trained weights, their moving average and the optimizer (torch.distributed.checkpoint: a file for each
process, read back by any number of them), and the recipe that it belongs to. What is random depends on the step alone
(see ``dataset``), so the number of the step is the data cursor and the state of every generator.
"""

from __future__ import annotations

import fcntl
import json
import pickle
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

from core.errors import CheckpointError, SettingsError

RECIPE = "recipe.json"
warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)  # one process is meant


class RunStates:
    """The folder ``OUT/state``, with a folder ``step-N`` for each save."""

    def __init__(self, out: Path) -> None:
        self.folder = out / "state"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other runs out of the folder while this process lives, and removes what a killed one left half done.

        Raises:
            SettingsError: another run is writing into it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                remedy = "Wait for it or stop it, or train into another folder with out=..."
                raise SettingsError("Another run is writing there", value=str(self.folder), remedy=remedy) from error
            for part in self.folder.glob("part-*"):
                shutil.rmtree(part, ignore_errors=True)
            yield

    def steps(self) -> list[int]:
        """Steps of the whole saves, ascending."""
        whole = [path for path in self.folder.glob("step-*") if (path / RECIPE).is_file()]
        return sorted(int(path.name.partition("-")[2]) for path in whole)

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def last(self) -> int:
        """The step of the last save.

        Raises:
            CheckpointError: there is none.
        """
        if not self.steps():
            raise CheckpointError("The run has no save", value=str(self.folder), remedy="Train it first")
        return self.steps()[-1]

    def recipe(self, step: int) -> dict:
        """What was saved beside the tensors: the recipe's keys and ``trained_tasks``.

        Raises:
            CheckpointError: it cannot be read.
        """
        path = self.path(step) / RECIPE
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path.parent.name} is damaged ({error})", remedy="Remove that folder") from error

    def names(self, step: int) -> set[str]:
        """Names of the trained parameters of a save."""
        try:
            keys = FileSystemReader(self.path(step)).read_metadata().state_dict_metadata
        except (OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
            raise _damaged(step, self.path(step), error) from error
        return {key.removeprefix("ema.") for key in keys if key.startswith("ema.")}

    def check(self, step: int, recipe: dict) -> None:
        """Refuses to go on with another recipe than the state's.

        Raises:
            SettingsError: naming the first key that differs.
            CheckpointError: the state's recipe cannot be read.
        """
        saved = self.recipe(step)
        for key, value in recipe.items():
            if saved.get(key) != value:
                remedy = f"Give the run's own value, or another folder than {self.folder.parent} with out=..."
                was = f"The run that is there was made with {key}={saved.get(key)!r}, not with"
                raise SettingsError(was, value=value, remedy=remedy)

    def clear(self) -> None:
        """Removes all saves: nothing goes on from here."""
        for step in self.steps():
            shutil.rmtree(self.path(step), ignore_errors=True)

    def save(self, step: int, state: dict, recipe: dict, keep: int) -> None:
        """Writes a save and removes all but the last ``keep``. All processes call it.

        Raises:
            CheckpointError: it cannot be written; earlier saves are untouched.
        """
        part, first = self.folder / f"part-{step:08d}", _is_first()
        try:
            if first:
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir(parents=True)
            _barrier()
            dcp.save(state, checkpoint_id=part, no_dist=not dist.is_initialized())
            if first:
                (part / RECIPE).write_text(json.dumps(recipe), encoding="utf-8")
                shutil.rmtree(self.path(step), ignore_errors=True)
                part.rename(self.path(step))
        except (OSError, RuntimeError, CheckpointException) as error:
            if first:
                shutil.rmtree(part, ignore_errors=True)
            before = self.steps()
            remedy = f"The save of step {before[-1]} is whole" if before else "There is no earlier save"
            reason = next((e for e in (error, error.__cause__, error.__context__) if isinstance(e, OSError)), error)
            what = f"The state of step {step} cannot be saved ({str(reason).splitlines()[-1][:200]})"
            remedy += ". Free some space and start the same command again"
            raise CheckpointError(what, value=str(self.folder), remedy=remedy) from error
        if first:
            for old in self.steps()[:-keep]:
                shutil.rmtree(self.path(old), ignore_errors=True)
        _barrier()

    def load(self, step: int, state: dict, *, alone: bool = False) -> None:
        """Reads a save into the tensors of ``state``, whatever number of processes wrote it.

        ``alone``: only this process reads, while others of the run may wait.

        Raises:
            CheckpointError: the save is damaged.
        """
        try:
            dcp.load(state, checkpoint_id=self.path(step), no_dist=alone or not dist.is_initialized())
        except (OSError, RuntimeError, ValueError, KeyError, EOFError, CheckpointException) as error:
            raise _damaged(step, self.path(step), error) from error


def begin_optimizer(module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Gives every parameter its optimizer state, so that a save has the same entries before and after any step.

    Parameters without a gradient, such as the generating expert's where nothing is drawn, would have none else.
    """
    get_optimizer_state_dict(module, optimizer)  # takes a step of length zero
    for state in optimizer.state.values():
        state["step"].zero_()


def _damaged(step: int, path: Path, error: Exception) -> CheckpointError:
    remedy = "Remove that folder: the run goes on from the save before it"
    what = f"The state of step {step} is damaged ({type(error).__name__})"
    return CheckpointError(what, value=str(path), remedy=remedy)


def _is_first() -> bool:
    return not dist.is_initialized() or dist.get_rank() == 0


def _barrier() -> None:
    if dist.is_initialized():
        dist.barrier()
