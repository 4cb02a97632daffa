"""One model, many clients: a queue in front of the generator, and threads that drive it.

- Waiting requests run packed with those that run already, up to ``Limits.running``.
- Fair: a client's next request waits behind the first ones of all others, however many it has sent.
- Cancelling ends a request before the next step of the model.
- Bounded: so many requests wait in all and for each client, so many idle conversations keep their keys and values.
"""

from __future__ import annotations

import time
import weakref
from collections import Counter
from collections.abc import Iterator
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Condition, Thread
from threading import Event as Flag
from weakref import WeakKeyDictionary

from core.errors import BusyError
from core.inference.driver import Driver, Ended
from core.inference.events import Event, Stopped, Waiting
from core.inference.generator import Generator
from core.inference.session import Session, Turn

LOOK_SECONDS = 0.5
"""Between two looks of a waiting request at its place in the queue."""
PACE_SECONDS = 0.05
"""Between two looks of a running request at its events. Who looked at each at once would take Python's lock from the
model for every token."""


@dataclass(frozen=True)
class Limits:
    """How much the service takes on.

    Attributes:
        threads: how many drive the model. One, unless it is so small that a forward pass cannot fill the processor.
        running: requests that share a forward pass.
        waiting: requests that may wait, of all clients.
        client: requests of one client, waiting and running.
        conversations: idle conversations whose keys and values stay in memory; the others are read again when they
            go on, with the same result.
    """

    threads: int = 1
    running: int = 4
    waiting: int = 256
    client: int = 8
    conversations: int = 16


@dataclass(eq=False)
class Request:
    """A turn on its way. Iterate over it for its events; leaving the loop early, or ``cancel``, frees the model."""

    service: Service = field(repr=False)
    client: str
    generator: Generator | None = field(repr=False)
    """None once it has ended."""
    turn: Turn = field(repr=False)
    kind: tuple
    """What takes about the same time: outputs and steps."""
    context: Context = field(default_factory=copy_context, repr=False)
    """Of whoever has submitted it."""
    rank: int = 0
    """The client's requests that were there before it."""
    seconds: float = 0.0
    """The model's time that it has had; a step is shared equally by those that ran in it."""
    cancelled: bool = False
    _events: SimpleQueue = field(default_factory=SimpleQueue, repr=False)
    _ended: Flag = field(default_factory=Flag, repr=False)

    def put(self, event: Event | Ended) -> None:
        if isinstance(event, Ended):
            self.generator = None  # a page may show the request for long, and the model may be let go
        self._events.put(event)
        if isinstance(event, Ended):
            self._ended.set()

    def __iter__(self) -> Iterator[Event]:
        told = None
        try:
            while True:
                if (waiting := self.service.standing(self)) not in (None, told):
                    told = waiting
                    yield waiting
                try:
                    event = self._events.get(timeout=None if waiting is None else LOOK_SECONDS)
                except Empty:
                    continue
                if isinstance(event, Ended):
                    break
                yield event
                if self._events.empty():
                    self._ended.wait(PACE_SECONDS)
        finally:
            self.cancel()  # does nothing to a request that has ended
        if event.error is not None:
            raise event.error

    def cancel(self) -> None:
        self.service.cancel(self)


@dataclass(eq=False)
class _Worker:
    """A thread of the model's, and what runs in it."""

    running: list[Request] = field(default_factory=list)
    drivers: WeakKeyDictionary[Generator, Driver] = field(default_factory=WeakKeyDictionary)
    """By the generators they belong to, as long as somebody else has these."""


class Service:
    """Owns the model's threads. ``submit`` from any thread; ``close`` when the program ends."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._changed = Condition()
        self._waiting: list[Request] = []
        self._workers = [_Worker() for _ in range(self.limits.threads)]
        self._closing = False
        self._seconds: dict[tuple, float] = {}
        self._kept: list[weakref.ref[Session]] = []
        self._threads = [
            Thread(target=self._work, args=[worker], name="model", daemon=True) for worker in self._workers
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, client: str, generator: Generator, turn: Turn) -> Request:
        """Puts a turn into the queue. It is checked first, so that a wrong one does not wait.

        Args:
            client: whoever should have its fair share, such as the key of a browser tab.

        Raises:
            PromptError, SettingsError: the turn cannot be run.
            BusyError: the queue is full, or the client's part of it, or the program is about to end.
        """
        generator.check(turn)
        kind = (turn.outputs, turn.image.num_timesteps if "image" in turn.outputs else turn.text.max_new_tokens)
        request = Request(self, client, generator, turn, kind)
        with self._changed:
            if self._closing:
                raise _closing()
            if len(self._waiting) >= self.limits.waiting:
                raise BusyError(
                    f"{len(self._waiting)} requests wait for the model already", remedy="Try again in a minute"
                )
            if self._of(client) >= self.limits.client:
                raise BusyError(
                    f"You have {self.limits.client} requests under way", remedy="Wait until one of them has ended"
                )
            request.rank = self._of(client)
            self._waiting.append(request)
            self._waiting.sort(key=lambda r: r.rank)  # stable: first come, first served within a rank
            self._changed.notify_all()
        return request

    def cancel(self, request: Request) -> None:
        """Takes a waiting request out of the queue, or ends a running one before its next step."""
        with self._changed:
            request.cancelled = True
            if request in self._waiting:
                self._leave(self._waiting, request)
                request.put(Stopped())
                request.put(Ended())

    def close(self, seconds: float = 30.0) -> None:
        """Lets running requests end, for at most so long, and tells the waiting ones that they will not be run."""
        with self._changed:
            self._closing = True
            for request in self._waiting:
                request.put(Ended(_closing()))
            self._waiting.clear()
            self._changed.notify_all()
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        with self._changed:
            for request in self._running:
                request.cancelled = True
        for thread in self._threads:
            thread.join()  # a step more

    def standing(self, request: Request) -> Waiting | None:
        """Where a request stands in the queue; None once it has left it."""
        with self._changed:
            if request not in self._waiting:
                return None
            place = self._waiting.index(request)
            ahead = sum(max(0.0, self._cost(r) - r.seconds) for r in self._running)
            ahead += sum(self._cost(r) for r in self._waiting[:place])
            return Waiting(place + 1, round(ahead / len(self._workers), 1) if self._seconds else None)

    def load(self) -> tuple[int, int]:
        """How many requests run and wait now."""
        with self._changed:
            return len(self._running), len(self._waiting)

    # The model's threads

    def _work(self, worker: _Worker) -> None:
        while True:
            try:
                with self._changed:
                    self._admit(worker)
                    while not (worker.running or self._closing):
                        self._changed.wait()
                        self._admit(worker)
                    if self._closing and not worker.running:
                        return
                self._step(worker)
            except Exception as error:  # a bug of ours: those that run are told, and the queue goes on
                with self._changed:
                    worker.drivers.clear()
                    for request in list(worker.running):
                        self._end(worker, request, Ended(error))

    def _admit(self, worker: _Worker) -> None:
        """Ends what was cancelled, then lets waiting requests join, unless another thread has less to do."""
        for request in [r for r in worker.running if r.cancelled]:
            worker.drivers[request.generator].close(request)
            request.put(Stopped())
            self._end(worker, request, Ended())
        busy = {id(request.turn.session) for request in self._running}
        for request in list(self._waiting):
            if len(worker.running) >= min(self.limits.running, 1 + min(len(w.running) for w in self._workers)):
                break
            if id(request.turn.session) in busy:
                continue
            self._waiting.remove(request)
            worker.running.append(request)
            busy.add(id(request.turn.session))
            try:
                program = request.context.run(request.generator.program, request.turn)
            except Exception as error:  # its conversation has changed since it was checked
                self._end(worker, request, Ended(error))
                continue
            driver = worker.drivers.get(request.generator) or request.generator.driver()
            worker.drivers[request.generator] = driver
            driver.add(request, program)

    def _step(self, worker: _Worker) -> None:
        """One step of every model that has something to do."""
        for driver in [d for d in list(worker.drivers.values()) if d.running]:
            sharing, start = driver.running, time.perf_counter()
            for request, event in driver.step():
                if isinstance(event, Ended):
                    with self._changed:
                        self._end(worker, request, event)
                else:
                    request.put(event)
            share = (time.perf_counter() - start) / len(sharing)
            for request in sharing:
                request.seconds += share

    def _end(self, worker: _Worker, request: Request, event: Ended) -> None:
        if event.error is None and not request.cancelled:
            known = self._seconds.get(request.kind, request.seconds)
            self._seconds[request.kind] = known + 0.2 * (request.seconds - known)
        self._leave(worker.running, request)
        self._keep(request.turn.session)
        request.put(event)
        self._changed.notify_all()  # its conversation's next request may have waited for it

    def _keep(self, session: Session) -> None:
        """Lets the conversations that were longest idle forget their keys and values."""
        others = [ref for ref in self._kept if ref() is not None and ref() is not session]
        self._kept = [*others, weakref.ref(session)]
        busy = {id(request.turn.session) for request in self._running}
        while len(self._kept) > self.limits.conversations:
            if (idle := self._kept.pop(0)()) is not None and id(idle) not in busy:
                idle.contexts = None

    # The queue; the lock is held

    @property
    def _running(self) -> list[Request]:
        return [request for worker in self._workers for request in worker.running]

    def _of(self, client: str) -> int:
        return Counter(request.client for request in [*self._waiting, *self._running])[client]

    def _leave(self, place: list[Request], request: Request) -> None:
        """Takes a request out; the later ones of its client move up."""
        place.remove(request)
        for other in self._waiting:
            if other.client == request.client and other.rank > request.rank:
                other.rank -= 1
        self._waiting.sort(key=lambda r: r.rank)

    def _cost(self, request: Request) -> float:
        """The model's seconds that a request of this kind takes; the mean of all kinds until one has been seen."""
        if not self._seconds:
            return 0.0
        return self._seconds.get(request.kind, sum(self._seconds.values()) / len(self._seconds))


def _closing() -> BusyError:
    return BusyError("The server is about to stop and takes no more requests", remedy="Send it again in a minute")
