"""Runs programs packed: each asks for pieces, and one forward pass answers all of them.

A program is a coroutine that yields a list of pieces and is sent their results, and yields events in between. Programs
may join and leave between any two steps, so a short answer never waits for a long picture beside it.
"""

from __future__ import annotations

from collections.abc import Generator as Coroutine
from collections.abc import Hashable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from core.data.tokenizer import Tokenizer
from core.inference.events import Event
from core.model.unified import Piece, UnifiedModel

Results = list[Tensor | None]
Program = Coroutine[list[Piece] | Event, Results, Any]


@dataclass(frozen=True)
class Ended:
    """A program has come to its end, or failed."""

    error: Exception | None = None


class Driver:
    """The programs that run now, by a key of the caller's choice. Not thread-safe."""

    def __init__(self, model: UnifiedModel, tokenizer: Tokenizer) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._programs: dict[Hashable, Program] = {}
        self._inbox: dict[Hashable, Results | None] = {}

    @property
    def running(self) -> list[Hashable]:
        return list(self._programs)

    def add(self, key: Hashable, program: Program) -> None:
        self._programs[key], self._inbox[key] = program, None

    def close(self, key: Hashable) -> None:
        """Ends a program before its next step; what it has put out stays valid."""
        self._take_out(key).close()

    def fail(self, error: Exception) -> None:
        """Ends all programs with an error, so that each takes its conversation back to where it was."""
        for key in self.running:
            with suppress(Exception):
                self._take_out(key).throw(error)

    def _take_out(self, key: Hashable) -> Program:
        """Forgets a program, and what it was to be sent: a key may hold a request with its pictures."""
        del self._inbox[key]
        return self._programs.pop(key)

    def step(self) -> Iterator[tuple[Hashable, Event | Ended]]:
        """Advances every program to its next request, then answers all requests in one forward pass. A program with
        nothing to compute asks for an empty list.

        A program that fails ends alone. When the forward pass fails, all of them do.
        """
        requests: dict[Hashable, list[Piece]] = {}
        for key in self.running:
            while key in self._programs and key not in requests:
                try:
                    item = self._programs[key].send(self._inbox[key])
                except Exception as error:
                    self._take_out(key)
                    yield key, Ended(None if isinstance(error, StopIteration) else error)
                    break
                self._inbox[key] = None
                if isinstance(item, list):
                    requests[key] = item
                else:
                    yield key, item
        packed = [piece for pieces in requests.values() for piece in pieces]
        if not packed:
            self._inbox.update((key, []) for key in requests)
            return
        try:
            results = iter(self._model.step(packed, self._tokenizer.soi, self._tokenizer.eoi))
        except Exception as error:
            keys = self.running
            self.fail(error)
            yield from ((key, Ended(error)) for key in keys)
            return
        for key, pieces in requests.items():
            self._inbox[key] = [next(results) for _ in pieces]
