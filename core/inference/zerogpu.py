"""Turns on a Space with ZeroGPU, where a GPU is lent to one function call at a time, in a process of its own.

That process is forked from ours: it has the weights, but not our threads, and what goes in and comes out is pickled.
So a turn travels with its conversation, its events come back as they are made, and keys and values stay behind: the
next turn reads the conversation again. It has the weights that were loaded at the start: what our process loads later
never reaches the GPU. Source: the package ``spaces`` 0.51, which such a Space brings.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
from collections.abc import Iterator
from contextvars import Context, copy_context
from dataclasses import dataclass

import torch
from torch import Tensor

from core.errors import BusyError
from core.inference.driver import Program
from core.inference.events import Event
from core.inference.generator import Generator
from core.inference.session import Session, Turn
from core.model.checkpoint import Checkpoint
from core.sequence import Sequence

MOST_SECONDS = 120
"""What a turn may take; the visitor's quota must hold as much for it to begin."""


def is_here() -> bool:
    """Whether this program runs on such a Space."""
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


def prepare() -> None:
    """Before a checkpoint is loaded: only then does torch see the GPU that will be lent."""
    importlib.import_module("spaces")


@dataclass(frozen=True)
class Conversation:
    """A session without its model and its contexts."""

    history: Sequence
    thoughts: set[int]
    latents: dict[int, Tensor]
    system: str

    @classmethod
    def of(cls, session: Session) -> Conversation:
        latents = {place: tokens.cpu() for place, tokens in session.latents.items()}
        return cls(list(session.history), set(session.thoughts), latents, session.system)

    def into(self, session: Session, device: torch.device) -> None:
        session.rewind(0)
        session.history.extend(self.history)
        session.thoughts, session.system = set(self.thoughts), self.system
        session.latents = {place: tokens.to(device) for place, tokens in self.latents.items()}


class ZeroGenerator(Generator):
    """A generator whose turns run where the GPU is lent. One at a time: the others wait in the service's queue."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint)
        lend = importlib.import_module("spaces").GPU
        self._lent = lend(self._run, duration=MOST_SECONDS)

    def program(self, turn: Turn) -> Program:
        self.check(turn)
        return self._follow(turn, copy_context())

    def _follow(self, turn: Turn, context: Context) -> Program:
        """Passes on the events of the other process; an empty list of pieces lets the driver look after the others.

        The GPU is borrowed in the visitor's context, which holds the request whose quota it counts against.
        """
        lent = self._lent(dataclasses.replace(turn, session=None), Conversation.of(turn.session))
        while True:
            try:
                item = context.run(next, lent, None)
            except Exception as error:  # gradio's, with a sentence on the quota or the worker
                raise BusyError(f"The GPU was not lent ({error})", remedy="Try again in a minute") from error
            if item is None:
                return
            if isinstance(item, Conversation):
                item.into(turn.session, self.model.device)
            else:
                yield item
                yield []

    def _run(self, turn: Turn, before: Conversation) -> Iterator[Event | Conversation]:
        """In the process with the GPU: the turn's events, then the conversation after it."""
        session = self.session()
        before.into(session, self.model.device)
        turn = dataclasses.replace(turn, session=session)
        for _, event in self.drive([self._program(turn)]):
            yield event
        yield Conversation.of(session)
