"""What a user relies on: same seed same output, packed equals alone, stop stops, and outputs re-enter."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from core.config import ImageSampling, TextSampling
from core.data.transforms import resize, resized_size
from core.errors import PromptError, SettingsError
from core.inference.events import ImagePreview, ImageProgress, SegmentDone, Stopped, TextDelta
from core.inference.session import Turn
from core.sequence import Image, Text

DRAW = ImageSampling(num_timesteps=5, size=(48, 64), cfg_interval=(0.0, 1.0))
WRITE = TextSampling(max_new_tokens=6)


def picture(width=96, height=64, seed=0) -> Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image(PILImage.fromarray(pixels))


def turn(generator, inputs, outputs, **changes) -> Turn:
    session = changes.pop("session", None) or generator.session()
    return Turn(session, inputs, outputs, **{"image": DRAW, "text": WRITE, **changes})


def done(events) -> list:
    return [e.segment for e in events if isinstance(e, SegmentDone)]


def same(a, b) -> bool:
    return a.text == b.text if isinstance(a, Text) else a.sha256 == b.sha256


def test_events_tell_the_whole_story(tiny_generator):
    request = turn(tiny_generator, [picture(), Text("Segment the vessels.")], ("text", "image"), preview_every=2)
    events = list(tiny_generator.stream(request))
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == done(events)[0].text
    assert [e.step for e in events if isinstance(e, ImageProgress)] == [1, 2, 3, 4]
    assert [e.step for e in events if isinstance(e, ImagePreview)] == [2]
    assert done(events)[1].generated and [type(s) for s in done(events)] == [Text, Image]


@pytest.mark.parametrize("sampling", [WRITE, replace(WRITE, temperature=0.9, top_p=0.8)])
def test_same_seed_same_output(tiny_generator, sampling):
    def once(seed):
        inputs = [picture(), Text("Is there an abnormality?")]
        request = turn(tiny_generator, inputs, ("text", "image"), seed=seed, text=sampling)
        return done(tiny_generator.stream(request))

    first, again, other = once(3), once(3), once(4)
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    assert not same(first[1], other[1])


def test_batch_equals_one_by_one(tiny_generator):
    def requests():
        return [
            turn(tiny_generator, [picture(seed=1), Text("Which organ is shown?")], ("text",), seed=1),
            turn(tiny_generator, [Text("A chest X-ray.")], ("image",), seed=2),
            turn(tiny_generator, [picture(64, 96, 2), Text("Segment the vessels.")], ("image", "text"), seed=3),
            turn(tiny_generator, [Text("What")], ("text",), seed=4, text=replace(WRITE, temperature=1.0)),
        ]

    packed: dict[int, list] = {}
    for index, event in tiny_generator.batch(requests()):
        packed.setdefault(index, []).append(event)
    for index, request in enumerate(requests()):
        alone = done(tiny_generator.stream(request))
        for a, b in zip(alone, done(packed[index]), strict=True):
            if isinstance(a, Text):
                assert a.text == b.text
            else:
                off = np.abs(np.asarray(a.pixels, int) - np.asarray(b.pixels, int))
                assert off.max() <= 1


def test_guidance_branches_run_as_one_call(tiny_generator, monkeypatch):
    sizes = []
    step = tiny_generator.model.step
    monkeypatch.setattr(tiny_generator.model, "step", lambda pieces, *a: sizes.append(len(pieces)) or step(pieces, *a))
    list(tiny_generator.stream(turn(tiny_generator, [picture(), Text("Segment the vessels.")], ("image",))))
    assert sizes[-4:] == [3, 3, 3, 3]
    sizes.clear()
    list(tiny_generator.stream(turn(tiny_generator, [Text("A chest X-ray.")], ("image",))))
    assert sizes[-4:] == [2, 2, 2, 2], "without an image the image-free branch is the full one and is not run twice"


def test_stop_ends_before_the_next_step(tiny_generator):
    stop, steps = threading.Event(), []
    request = turn(tiny_generator, [Text("A chest X-ray.")], ("image",), image=replace(DRAW, num_timesteps=50))
    for event in tiny_generator.stream(request, stop):
        if isinstance(event, ImageProgress):
            steps.append(event.step)
            if event.step == 2:
                stop.set()
    assert steps == [1, 2] and isinstance(event, Stopped)
    assert request.session.contexts is None
    again = turn(tiny_generator, [Text("Go on.")], ("text",), session=request.session)
    assert len(done(tiny_generator.stream(again))) == 1, "the session survives"


def test_a_generated_image_re_enters_the_context(tiny_generator):
    """What follows a drawn image has seen it: its clean latents, then its ViT tokens, lie in the cache."""
    session = tiny_generator.session()
    first = turn(tiny_generator, [Text("Draw, then explain.")], ("image", "text"), session=session)
    image, answer = done(tiny_generator.stream(first))
    list(tiny_generator.stream(turn(tiny_generator, [Text("Why?")], ("text",), session=session)))
    texts = ["Draw, then explain.", answer.text, "Why?"]
    text_tokens = sum(len(tiny_generator.tokenizer.segment(text)) for text in texts)
    rows, columns = tiny_generator.latent_grid((48, 64))
    seen = resize(image.pixels, tiny_generator.config.vit_resize)
    image_tokens = rows * columns + 2 + (seen.width // 14) * (seen.height // 14) + 2
    assert session.contexts.full.length == text_tokens + image_tokens

    given = tiny_generator.session()
    replay = [Text(texts[0]), image, answer, Text("Why?")]
    list(tiny_generator.stream(turn(tiny_generator, replay, ("image",), session=given, posterior_mean=True)))
    other = tiny_generator.session()
    replay[1] = picture(64, 48)
    list(tiny_generator.stream(turn(tiny_generator, replay, ("image",), session=other, posterior_mean=True)))
    after = len(tiny_generator.tokenizer.segment(texts[0])) + image_tokens
    one, two = (s.contexts.full.values[:, after:] for s in (given, other))
    assert one.shape == two.shape and not torch.allclose(one, two, atol=1e-3)


def test_interleaved_turn_text_image_text(tiny_generator):
    request = turn(tiny_generator, [picture(), Text("Tell, show, tell.")], ("text", "image", "text"))
    assert [type(s) for s in done(tiny_generator.stream(request))] == [Text, Image, Text]
    assert len(request.session.history) == 5


def test_contexts_of_later_turns_equal_a_fresh_replay(tiny_generator):
    """Two turns in one session leave the same cache as reading the whole history at once."""
    session = tiny_generator.session()
    one = turn(tiny_generator, [Text("What is this?")], ("text",), session=session)
    list(tiny_generator.stream(one))
    list(tiny_generator.stream(turn(tiny_generator, [Text("And this?")], ("text",), session=session)))
    fresh = tiny_generator.session()
    list(tiny_generator.stream(turn(tiny_generator, list(session.history[:3]), ("text",), session=fresh)))
    assert torch.allclose(session.contexts.full.keys, fresh.contexts.full.keys, atol=1e-5)


def test_drawing_after_reading_shows_the_old_image_to_the_autoencoder(tiny_generator):
    session = tiny_generator.session()
    list(tiny_generator.stream(turn(tiny_generator, [picture(), Text("Which organ?")], ("text",), session=session)))
    assert not session.contexts.sees_latents
    list(tiny_generator.stream(turn(tiny_generator, [Text("Segment it.")], ("image",), session=session)))
    assert session.contexts.sees_latents and not session.contexts.image_free_is_full


@pytest.mark.parametrize("size", [(96, 64), (64, 96), (200, 50)])
def test_images_keep_their_aspect_ratio(tiny_generator, size):
    request = turn(tiny_generator, [picture(*size), Text("Sharpen this image.")], ("image",))
    (image,) = done(tiny_generator.stream(request))
    assert image.pixels.size == resized_size(*size, tiny_generator.config.vae_resize)


def test_markers_typed_by_a_user_stay_text(tiny_generator):
    tokenizer = tiny_generator.tokenizer
    assert tokenizer.eos not in tokenizer.encode("x<|im_end|>y")
    assert tokenizer.eos in tokenizer.encode("x<|im_end|>y", parse_special=True)
    assert tokenizer.decode(tokenizer.encode("x<|im_end|>y")) == "x<|im_end|>y"


def test_requests_that_cannot_be_run_are_refused(tiny_generator):
    with pytest.raises(PromptError, match="nothing to answer"):
        list(tiny_generator.stream(turn(tiny_generator, [], ("text",))))
    with pytest.raises(PromptError, match="Outputs"):
        list(tiny_generator.stream(turn(tiny_generator, [Text("x")], ("video",))))
    session = tiny_generator.session()
    with pytest.raises(PromptError, match="side by side"):
        list(tiny_generator.batch([turn(tiny_generator, [Text("x")], ("text",), session=session) for _ in range(2)]))
    session.append(Text("x"))
    with pytest.raises(PromptError, match="Thinking must begin"):
        list(tiny_generator.stream(turn(tiny_generator, [Text("x")], ("text",), session=session, think=True)))
    with pytest.raises(SettingsError, match="16 to 256 pixels"):
        list(tiny_generator.stream(turn(tiny_generator, [Text("x")], ("image",), size=(8, 4096))))
    for wrong in ({"cfg_renorm_type": "local"}, {"num_timesteps": 1}, {"timestep_shift": 0}):
        with pytest.raises(SettingsError):
            ImageSampling(**wrong)


def test_top_p_keeps_only_the_head(tiny_generator):
    logits = torch.full((304,), -20.0)
    logits[[40, 41]] = torch.tensor([5.0, 1.0])
    sampling = TextSampling(temperature=1.0, top_p=0.5)
    drawn = {tiny_generator._choose(logits, sampling, torch.Generator().manual_seed(s)) for s in range(30)}
    assert drawn == {40}


def test_writing_gives_its_room_back(tiny_generator):
    """An answer is scratch: reading it afterwards goes on in place instead of copying the context."""
    session = tiny_generator.session()
    list(tiny_generator.stream(turn(tiny_generator, [Text("What is this?")], ("text",), session=session)))
    before = session.contexts.full.fork()
    list(tiny_generator.stream(turn(tiny_generator, [Text("And this?")], ("text",), session=session)))
    assert session.contexts.full.shares_storage_with(before)


def test_a_failing_model_leaves_the_conversation_as_it_was(tiny_generator, monkeypatch):
    session = tiny_generator.session()
    list(tiny_generator.stream(turn(tiny_generator, [Text("What is this?")], ("text",), session=session)))
    history = list(session.history)

    def fail(*_):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as broken:
        broken.setattr(tiny_generator.model, "step", fail)
        with pytest.raises(RuntimeError):
            list(tiny_generator.stream(turn(tiny_generator, [Text("And this?")], ("text",), session=session)))
    assert session.history == history
    again = turn(tiny_generator, [Text("And this?")], ("text",), session=session)
    assert len(done(tiny_generator.stream(again))) == 1


@pytest.mark.parametrize("think", [False, True])
def test_a_stopped_turn_changes_nothing_for_the_next(tiny_generator, think):
    """The same history and seed give the same image, whether the contexts were kept or had to be read again."""

    def second_image(stop_between: bool):
        session = tiny_generator.session()
        first = [picture(), Text("Segment the vessels.")]
        list(tiny_generator.stream(turn(tiny_generator, first, ("image",), session=session, seed=1, think=think)))
        if stop_between:
            events = tiny_generator.stream(turn(tiny_generator, [], ("image",), session=session, seed=2))
            next(e for e in events if isinstance(e, ImageProgress))
            events.close()
            assert session.contexts is None
        return done(tiny_generator.stream(turn(tiny_generator, [], ("image",), session=session, seed=2)))[0]

    kept, again = (np.asarray(second_image(stop).pixels, int) for stop in (False, True))
    assert np.abs(kept - again).max() <= 1


def test_a_failure_of_one_turn_takes_every_conversation_back(tiny_generator, monkeypatch):
    turns = [turn(tiny_generator, [Text("What?")], (kind,)) for kind in ("image", "text")]
    monkeypatch.setattr(tiny_generator, "image_of", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(tiny_generator.batch([turns[0], replace(turns[1], text=replace(WRITE, max_new_tokens=99))]))
    assert [t.session.history for t in turns] == [[], []]


def test_marker_strings_written_as_plain_text_are_shown_as_they_are(tiny_generator):
    ids = tiny_generator.tokenizer.encode("a<|im_end|>b")
    assert tiny_generator.text_of(ids) == "a<|im_end|>b"
