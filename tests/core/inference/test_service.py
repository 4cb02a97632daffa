"""The queue in front of the model: nobody's answer is lost, mixed up or starved."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from threading import Event as Flag
from threading import Thread

import pytest

from core.config import ImageSampling, TextSampling
from core.errors import BusyError, PromptError
from core.inference.events import Event, SegmentDone, Stopped, TextDelta, Waiting
from core.inference.generator import Generator
from core.inference.service import Limits, Request, Service
from core.inference.session import Session, Turn
from core.sequence import Text

SECONDS = 60


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    running = 2 // request.param
    service = Service(Limits(threads=request.param, running=running, waiting=6, client=3, conversations=2))
    yield service
    service.close(SECONDS)


def writing(generator: Generator, words: str = "x", tokens: int = 8, session: Session | None = None) -> Turn:
    sampling = TextSampling(max_new_tokens=tokens, temperature=1.0)
    return Turn(session or generator.session(), [Text(words)], ("text",), seed=3, text=sampling)


def endless(generator: Generator) -> Turn:
    """A turn that no test waits for."""
    image = ImageSampling(num_timesteps=100_000, size=(64, 64))
    return Turn(generator.session(), [Text("A CT.")], ("image",), image=image)


def alone(generator: Generator, turn: Turn) -> list[str]:
    return [e.segment.text for e in generator.stream(turn) if isinstance(e, SegmentDone)]


def texts(events: list[Event]) -> list[str]:
    return [e.segment.text for e in events if isinstance(e, SegmentDone)]


def started(request: Request) -> Iterator[Event]:
    """The events of a request that runs now."""
    events = iter(request)
    assert not isinstance(next(e for e in events if not isinstance(e, Waiting)), Stopped)
    return events


def order_of_ends(waiting: dict[str, Iterator[Event]]) -> list[str]:
    ended: list[str] = []

    def collect(name: str) -> None:
        list(waiting[name])
        ended.append(name)

    threads = [Thread(target=collect, args=[name]) for name in waiting]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    return ended


@pytest.mark.parametrize("threads", [1, 2])
def test_packed_requests_answer_as_alone(tiny_generator: Generator, threads: int) -> None:
    service = Service(Limits(threads=threads, running=3))
    words = ["one", "two words", "and three words", "x" * 40]
    wanted = [alone(tiny_generator, writing(tiny_generator, w, 12)) for w in words]
    requests = [service.submit(w, tiny_generator, writing(tiny_generator, w, 12)) for w in words]
    assert [texts(list(request)) for request in requests] == wanted
    assert service.load() == (0, 0)
    service.close(SECONDS)


def test_a_client_with_many_requests_does_not_hold_up_the_others(tiny_generator: Generator) -> None:
    service = Service(Limits(running=1, client=4))
    first = service.submit("other", tiny_generator, endless(tiny_generator))
    events = started(first)
    clients = {"first": "greedy", "second": "greedy", "third": "greedy", "modest": "modest"}
    waiting = {n: iter(service.submit(c, tiny_generator, writing(tiny_generator))) for n, c in clients.items()}
    assert [next(waiter).position for waiter in waiting.values()] == [1, 3, 4, 2]
    events.close()
    assert order_of_ends(waiting) == ["first", "modest", "second", "third"]
    service.close(SECONDS)


def test_cancelling_frees_the_model_and_the_queue(service: Service, tiny_generator: Generator) -> None:
    running = [service.submit(name, tiny_generator, endless(tiny_generator)) for name in "ab"]
    events = [started(request) for request in running]
    waits = service.submit("c", tiny_generator, writing(tiny_generator))
    goes = service.submit("d", tiny_generator, writing(tiny_generator))
    waits.cancel()
    assert [type(e) for e in waits] == [Stopped]
    running[0].cancel()
    assert isinstance(list(events[0])[-1], Stopped)
    assert texts(list(goes))
    events[1].close()  # whoever leaves the loop cancels too
    assert texts(list(service.submit("e", tiny_generator, writing(tiny_generator))))


def test_a_full_queue_says_so(service: Service, tiny_generator: Generator) -> None:
    events = [started(service.submit(name, tiny_generator, endless(tiny_generator))) for name in "ab"]
    with pytest.raises(BusyError, match="You have 3 requests"):
        for _ in range(3):
            service.submit("a", tiny_generator, writing(tiny_generator))
    with pytest.raises(BusyError, match="6 requests wait"):
        for name in "cdefghi":
            service.submit(name, tiny_generator, writing(tiny_generator))
    for iterator in events:
        iterator.close()


def test_a_wrong_turn_does_not_wait(service: Service, tiny_generator: Generator) -> None:
    with pytest.raises(PromptError):
        service.submit("a", tiny_generator, Turn(tiny_generator.session(), []))
    assert service.load() == (0, 0)


def test_a_failure_reaches_its_owner_alone(service: Service, tiny_generator: Generator) -> None:
    broken = writing(tiny_generator)
    broken.inputs.append(object())  # such as a bug would leave there
    fails = service.submit("a", tiny_generator, broken)
    works = service.submit("b", tiny_generator, writing(tiny_generator))
    with pytest.raises(AttributeError):
        list(fails)
    assert texts(list(works))
    assert broken.session.history == []


def test_nothing_of_a_request_stays(service: Service, tiny_generator: Generator) -> None:
    def ended() -> list[weakref.ref]:
        done, stopped, failed = (writing(tiny_generator, tokens=n) for n in (4, 5000, 4))
        failed.inputs.append(object())
        requests = [service.submit("a", tiny_generator, turn) for turn in (done, stopped, failed)]
        list(requests[0])
        started(requests[1]).close()
        with pytest.raises(AttributeError):
            list(requests[2])
        return [weakref.ref(of) for request in requests for of in (request, request.turn)]

    remains = ended()
    list(service.submit("b", tiny_generator, writing(tiny_generator)))  # a step later
    gc.collect()
    assert [ref() for ref in remains if ref() is not None] == []


def test_an_idle_conversation_goes_on_as_if_it_had_kept_its_memory(service: Service, tiny_generator: Generator) -> None:
    def conversation(run) -> list[list[str]]:
        session = tiny_generator.session()
        first = run(writing(tiny_generator, "first", session=session))
        for name in "abc" if run is through else "":  # more conversations than are kept
            list(service.submit(name, tiny_generator, writing(tiny_generator, name)))
        return [first, run(writing(tiny_generator, "second", session=session))]

    def through(turn: Turn) -> list[str]:
        return texts(list(service.submit("me", tiny_generator, turn)))

    assert conversation(through) == conversation(lambda turn: alone(tiny_generator, turn))


def test_stopping_lets_running_requests_end_and_tells_the_waiting_ones(tiny_generator: Generator) -> None:
    service, entered = Service(Limits(running=1)), Flag()
    runs = service.submit("a", tiny_generator, writing(tiny_generator, tokens=200))
    waits = service.submit("b", tiny_generator, writing(tiny_generator))
    seen: list[Event] = []

    def collect() -> None:
        for event in runs:
            seen.append(event)
            if not isinstance(event, Waiting):
                entered.set()

    thread = Thread(target=collect)
    thread.start()
    assert entered.wait(SECONDS)
    service.close(SECONDS)
    thread.join(SECONDS)
    assert any(isinstance(e, TextDelta) for e in seen) and texts(seen)
    with pytest.raises(BusyError, match="about to stop"):
        list(waits)
    with pytest.raises(BusyError, match="about to stop"):
        service.submit("c", tiny_generator, writing(tiny_generator))
