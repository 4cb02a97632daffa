"""Runs turns and yields typed events.

Each turn is a program that asks for packed steps of the model; the driver gathers the pieces of all turns into one
forward pass. One turn or many, prefill, decoding, or the guidance branches of a denoising step are all the same call.
"""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event as Flag

import torch
from torch import Tensor

from core.config import ImageSampling, ModelConfig, TextSampling
from core.data.transforms import patchify, position_ids, resize, resized_size, to_image, to_tensor, unpatchify
from core.errors import PromptError, SettingsError
from core.inference.driver import Driver, Ended, Program
from core.inference.events import Event, ImagePreview, ImageProgress, SegmentDone, Stopped, TextDelta
from core.inference.session import Contexts, Session, Turn
from core.model.cache import KVCache
from core.model.checkpoint import Checkpoint
from core.model.flow import active_scales, guided, schedule
from core.model.unified import LatentPiece, Piece, TextPiece, ViTPiece
from core.sequence import Image, Segment, Text

THINK_PROMPTS = {
    "text": "You should first think about the reasoning process in the mind and then provide the user with the "
    "answer.\nThe reasoning process is enclosed within <think> </think> tags, i.e. <think> reasoning process here "
    "</think> answer here",
    "image": "You should first think about the planning process in your mind, and then generate the image.\nThe "
    "planning process is enclosed within <think> </think> tags; that is, <think> planning process here </think> "
    "image here.\n",
}


class Generator:
    """Text and images out of a checkpoint. Several threads may use one, each with a driver of its own."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.model, self.tokenizer = checkpoint.model, checkpoint.tokenizer

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    def session(self) -> Session:
        """A new, empty conversation."""
        return Session()

    def stream(self, turn: Turn, stop: Flag | None = None) -> Iterator[Event]:
        """The events of one turn. Ends before the next step of the model once ``stop`` is set."""
        for _, event in self.batch([turn], stop):
            yield event

    def batch(self, turns: list[Turn], stop: Flag | None = None) -> Iterator[tuple[int, Event]]:
        """The events of several turns that run packed, each with the index of its turn."""
        if len({id(turn.session) for turn in turns}) < len(turns):
            raise PromptError("Two turns of one conversation cannot run side by side", remedy="Run them in order")
        return self.drive([self.program(turn) for turn in turns], stop)

    def check(self, turn: Turn) -> None:
        """Refuses a turn that cannot be run, before anything has been."""
        if not turn.outputs or any(output not in ("text", "image") for output in turn.outputs):
            raise PromptError("Outputs must be a list of 'text' and 'image'", value=turn.outputs)
        if not turn.inputs and not turn.session.history and turn.outputs[0] == "text":
            raise PromptError("There is nothing to answer", remedy="Give a text or an image")
        if turn.think and turn.session.history:
            raise PromptError("Thinking must begin with the conversation", remedy="Start a new one, or do not think")
        if not 0 <= turn.seed < 2**63:
            raise SettingsError("The seed must lie between 0 and 2^63 - 1", value=turn.seed)
        if "image" in turn.outputs:
            self.latent_grid(self.image_size(turn))

    def program(self, turn: Turn) -> Program:
        """A turn as what a ``Driver`` runs.

        Raises:
            PromptError, SettingsError: the turn cannot be run; nothing has been.
        """
        self.check(turn)
        return self._program(turn)

    def driver(self) -> Driver:
        return Driver(self.model, self.tokenizer)

    def drive(self, programs: list[Program], stop: Flag | None = None) -> Iterator[tuple[int, Event]]:
        """Runs all programs to their ends; the failure of one is the failure of all."""
        driver = self.driver()
        for index, program in enumerate(programs):
            driver.add(index, program)
        try:
            while driver.running:
                if stop is not None and stop.is_set():
                    yield from ((index, Stopped()) for index in driver.running)
                    return
                for index, event in driver.step():
                    if not isinstance(event, Ended):
                        yield index, event
                    elif event.error is not None:
                        driver.fail(event.error)
                        raise event.error
        finally:
            for index in driver.running:
                driver.close(index)

    def _program(self, turn: Turn) -> Program:
        """Reads the turn's inputs, then writes or draws its outputs one after the other."""
        before = len(turn.session.history)
        try:
            yield from self._outputs(turn)
        except Exception:  # whatever it was, the conversation is as it was before the turn
            turn.session.rewind(before)
            raise

    def _outputs(self, turn: Turn) -> Program:
        random = torch.Generator().manual_seed(turn.seed)
        draws = "image" in turn.outputs
        session = turn.session
        contexts, latents = session.take_contexts(self.model, draws), dict(session.latents)
        system = THINK_PROMPTS["image" if draws else "text"] if turn.think else session.system
        if system and contexts.full.length == 0:
            yield contexts.add_text(self.tokenizer.segment(system))
        for segment in turn.inputs:
            session.append(segment)
        for output in turn.outputs:
            for place in session.take_unread():
                if place in session.thoughts:
                    yield self._think(contexts, session.history[place].text, turn)
                    continue
                tokens = yield from self.read(contexts, session.history[place], turn, random, latents.get(place))
                if tokens is not None:
                    latents[place] = tokens
            if output == "text":
                ids = yield from self.write(contexts.full, turn.text, random)
                segment: Segment = Text(self.text_of(ids))
            else:
                if turn.think:
                    yield from self._reason(contexts, turn, random)
                size = self.image_size(turn)
                tokens = yield from self.draw(contexts, size, turn.image, self.noise(size, random), turn.preview_every)
                segment = self.image_of(tokens, size)
            session.append(segment)
            yield SegmentDone(segment)
        session.contexts, session.latents, session.system = contexts, latents, system

    def _reason(self, contexts: Contexts, turn: Turn, random: torch.Generator) -> Program:
        """Thinking before an image."""
        ids = yield from self.write(contexts.full, turn.text, random)
        reasoning = self.text_of(ids)
        yield self._think(contexts, reasoning, turn)
        turn.session.thoughts.add(len(turn.session.history))
        turn.session.append(Text(reasoning), read=True)
        yield SegmentDone(Text(reasoning))

    def _think(self, contexts: Contexts, reasoning: str, turn: Turn) -> list[Piece]:
        """Reasoning before an image goes into full alone (spec section 10, step 4)."""
        contexts.split_image_free()
        return [TextPiece(contexts.full, self.tokenizer.segment(reasoning, parse_special=turn.parse_special))]

    def read(
        self, contexts: Contexts, segment: Segment, turn: Turn, random: torch.Generator, latents: Tensor | None = None
    ) -> Program:
        """Takes a text or an image into the contexts. Returns the image's latent tokens where they were needed.

        Given ``latents``, those of an earlier reading, they are used again and nothing is drawn.
        """
        if isinstance(segment, Text):
            yield contexts.add_text(self.tokenizer.segment(segment.text, parse_special=turn.parse_special))
            return None
        pixels = resize(segment.pixels, self.config.vae_resize)
        if contexts.sees_latents:
            if latents is None:
                piece = self.latent_piece(contexts.full, pixels, None if turn.posterior_mean else random)
            else:
                grid = self.latent_grid((pixels.height, pixels.width))
                piece = LatentPiece(contexts.full, latents, position_ids(*grid, self.config.max_latent_size))
            latents = piece.tokens
            yield contexts.add_image(piece)
        seen = pixels if turn.chained_resize or contexts.sees_latents else segment.pixels
        rule = self.config.vit_resize if turn.chained_resize or contexts.sees_latents else self.config.chat_resize
        yield contexts.add_image(self.vit_piece(contexts.full, resize(seen, rule)))
        contexts.after_image()
        return latents

    def vit_piece(self, cache: KVCache, pixels) -> ViTPiece:
        """An RGB picture whose sides are multiples of the ViT's patch."""
        vit = self.config.vit
        grid = position_ids(pixels.height // vit.patch_size, pixels.width // vit.patch_size, self.config.vit_table_side)
        return ViTPiece(cache, patchify(to_tensor(pixels), vit.patch_size), grid)

    def latent_piece(self, cache: KVCache, pixels, random: torch.Generator | None) -> LatentPiece:
        """A clean image; with ``random`` its latents are sampled from the posterior, as in the reference."""
        z = self.encode(to_tensor(pixels)[None], random)[0]
        _, height, width = z.shape
        patch = self.config.latent_patch_size
        grid = position_ids(height // patch, width // patch, self.config.max_latent_size)
        return LatentPiece(cache, patchify(z, patch), grid)

    @torch.inference_mode()
    def encode(self, pixels: Tensor, random: torch.Generator | None) -> Tensor:
        """Pixels [B, 3, H, W] to scaled latents [B, z, H/8, W/8]; the noise is drawn on the CPU."""
        vae = self.config.vae
        shape = (len(pixels), vae.z_channels, pixels.shape[2] // vae.downsample, pixels.shape[3] // vae.downsample)
        noise = None if random is None else torch.randn(shape, generator=random).to(self.model.device, self.model.dtype)
        return self.model.vae.encode(pixels.to(self.model.device, self.model.dtype), noise)

    def write(self, cache: KVCache, sampling: TextSampling, random: torch.Generator) -> Program:
        """Writes text after a context and leaves the context as it was. Returns the new ids, without markers."""
        fork = cache.fork()
        ids: list[int] = []
        text = shown = ""
        token = self.tokenizer.bos
        try:
            while len(ids) < sampling.max_new_tokens:
                (logits,) = yield [TextPiece(fork, [token], logits=True)]
                token = self._choose(logits, sampling, random)
                if token == self.tokenizer.eos:
                    break
                ids.append(token)
                text = self.text_of(ids)
                if not text.endswith("\ufffd") and text != shown:  # half of a multi-byte character waits for the rest
                    yield TextDelta(text.removeprefix(shown))
                    shown = text
            if text != shown:
                yield TextDelta(text.removeprefix(shown))
        finally:
            fork.rewind(cache.length)
        return ids

    def _choose(self, logits: Tensor, sampling: TextSampling, random: torch.Generator) -> int:
        logits = logits.float()
        if sampling.suppress_special:
            hidden = [i for i in self.tokenizer.special_ids if i != self.tokenizer.eos]
            logits = logits.index_fill(0, torch.tensor(hidden, device=logits.device), float("-inf"))
        if sampling.temperature == 0:
            return int(logits.argmax())
        probabilities = torch.softmax(logits.cpu() / sampling.temperature, -1)
        if sampling.top_p < 1:
            ordered, index = probabilities.sort(descending=True)
            dropped = ordered.cumsum(-1) - ordered >= sampling.top_p
            probabilities = probabilities.index_fill(0, index[dropped], 0.0)
        return int(torch.multinomial(probabilities, 1, generator=random))

    def text_of(self, ids: list[int]) -> str:
        """The text of written ids. They come without the markers at both ends, which is the reference's rule: what
        lies between the first start marker and the first end marker after it (spec section 8)."""
        return self.tokenizer.decode(ids)

    def draw(
        self, contexts: Contexts, size: tuple[int, int], settings: ImageSampling, noise: Tensor, preview_every: int = 0
    ) -> Program:
        """Draws an image of ``size`` (height, width in pixels) out of ``noise`` [h*w, 64]; returns latent tokens."""
        grid = position_ids(*self.latent_grid(size), self.config.max_latent_size)
        x = noise.to(self.model.device)
        times, steps = schedule(settings.num_timesteps, settings.timestep_shift)
        for j, (t, dt) in enumerate(zip(times.tolist(), steps.tolist(), strict=True), start=1):
            scales = active_scales(t, settings)
            branches = {"full": contexts.full}
            if scales[0] > 1:
                branches["text_free"] = contexts.text_free
            if scales[1] > 1 and not contexts.image_free_is_full:
                branches["image_free"] = contexts.image_free
            results = yield [LatentPiece(cache, x, grid, t) for cache in branches.values()]
            v = {name: result.float() for name, result in zip(branches, results, strict=True)}
            velocity = guided(v["full"], v.get("text_free"), v.get("image_free", v["full"]), scales, settings)
            if preview_every and j % preview_every == 0 and j < len(times):
                yield ImagePreview(self.image_of(x - t * velocity, size), j)
            x = x - dt * velocity
            yield ImageProgress(j, len(times))
        return x

    def latent_grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of latent tokens of an image of ``size`` (height, width in pixels)."""
        height, width = (side // self.config.latent_stride for side in size)
        if not 0 < height <= self.config.max_latent_size or not 0 < width <= self.config.max_latent_size:
            limit = self.config.max_latent_size * self.config.latent_stride
            raise SettingsError(f"Images must measure {self.config.latent_stride} to {limit} pixels", value=size)
        return height, width

    def noise(self, size: tuple[int, int], random: torch.Generator) -> Tensor:
        """Initial noise [h*w, 64] for an image, drawn on the CPU."""
        height, width = self.latent_grid(size)
        return torch.randn(height * width, self.config.latent_dim, generator=random)

    @torch.inference_mode()
    def image_of(self, tokens: Tensor, size: tuple[int, int]) -> Image:
        """The picture of latent tokens [h*w, 64]."""
        height, width = self.latent_grid(size)
        z = unpatchify(tokens, height, width, self.config.latent_patch_size)[None]
        pixels = self.model.vae.decode(z.to(self.model.device, self.model.dtype))
        return Image(to_image(pixels[0]), generated=True)

    def image_size(self, turn: Turn) -> tuple[int, int]:
        """Height and width of what the turn draws (see ``Turn.size``)."""
        if turn.size is not None:
            return turn.size
        images = [s for s in [*turn.session.history, *turn.inputs] if isinstance(s, Image)]
        if not images:
            return turn.image.size
        width, height = resized_size(*images[-1].pixels.size, self.config.vae_resize)
        return height, width
