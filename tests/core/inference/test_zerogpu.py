"""A lent GPU gives the same answers: what crosses between the processes is pickled, as the package ``spaces`` does."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest

from core.config import ImageSampling, TextSampling
from core.inference.events import Event, SegmentDone, Stopped
from core.inference.generator import Generator
from core.inference.service import Limits, Service
from core.inference.session import Turn
from core.inference.zerogpu import ZeroGenerator
from core.sequence import Text

DRAW = ImageSampling(num_timesteps=4, size=(48, 64))
WRITE = TextSampling(max_new_tokens=6)


@pytest.fixture
def zero(tiny_generator: Generator, monkeypatch: pytest.MonkeyPatch) -> ZeroGenerator:
    """A generator on a stand-in for ``spaces``, which cannot be had here: its decorator pickles both ways."""
    module = ModuleType("spaces")

    def gpu(task: Callable, duration: int) -> Callable:
        def lent(*arguments: object) -> Iterator[object]:
            for item in task(*pickle.loads(pickle.dumps(arguments))):
                yield pickle.loads(pickle.dumps(item))

        return lent

    module.GPU = gpu
    monkeypatch.setitem(sys.modules, "spaces", module)
    return ZeroGenerator(tiny_generator.checkpoint)


def conversation(generator: Generator, run: Callable[[Turn], list[Event]]) -> list[str]:
    """What comes of two turns of which the second sees what the first has drawn."""
    session, found = generator.session(), []
    for words, outputs in (("A CT.", ("image",)), ("What is it?", ("text", "image"))):
        turn = Turn(session, [Text(words)], outputs, seed=5, image=DRAW, text=WRITE)
        segments = [event.segment for event in run(turn) if isinstance(event, SegmentDone)]
        found += [s.text if isinstance(s, Text) else s.sha256 for s in segments]
    assert len(session.history) == 5
    return found


def test_a_conversation_over_a_lent_gpu_is_the_same(tiny_generator: Generator, zero: ZeroGenerator) -> None:
    service = Service(Limits(running=2))
    lent = conversation(zero, lambda turn: list(service.submit("a", zero, turn)))
    assert lent == conversation(tiny_generator, lambda turn: list(tiny_generator.stream(turn)))
    service.close(60)


def test_a_lent_gpu_is_given_back_on_cancelling(zero: ZeroGenerator) -> None:
    service = Service()
    image = ImageSampling(num_timesteps=100_000, size=(64, 64))
    request = service.submit("a", zero, Turn(zero.session(), [Text("A CT.")], ("image",), image=image))
    events = iter(request)
    next(events)
    next(events)
    request.cancel()
    assert isinstance(list(events)[-1], Stopped)
    assert service.load() == (0, 0)
    service.close(60)
