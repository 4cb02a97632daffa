"""A conversation: its history and the three contexts that guidance needs (spec section 10).

- *full* has seen everything;
- *text-free* is full as it was before the last text, or after the last image;
- *image-free* has seen the texts only.

They share what they have in common: text-free is a fork of full, and image-free is full itself until the
first image comes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from core.config import ImageSampling, TextSampling
from core.model.cache import KVCache
from core.model.unified import LatentPiece, Piece, TextPiece, UnifiedModel, ViTPiece
from core.sequence import Segment, Sequence


class Contexts:
    """The caches of one conversation. Methods return the pieces of the next packed step; they run nothing."""

    def __init__(self, model: UnifiedModel, *, sees_latents: bool) -> None:
        self.full = model.new_cache()
        self.text_free = self.full.fork()
        self._image_free: KVCache | None = None
        self.sees_latents = sees_latents
        """Whether images enter as autoencoder latents too, which drawing needs and reading does not."""

    @property
    def image_free(self) -> KVCache:
        return self.full if self._image_free is None else self._image_free

    @property
    def image_free_is_full(self) -> bool:
        """True while no image has come: the velocities of both contexts are the same."""
        return self._image_free is None

    def split_image_free(self) -> None:
        """From here on, what goes into full no longer goes into image-free by itself."""
        if self._image_free is None:
            self._image_free = self.full.fork()

    def add_text(self, ids: list[int]) -> list[Piece]:
        """A text with its markers, into full and image-free; text-free stays before it."""
        self.text_free = self.full.fork()
        caches = [self.full] if self.image_free_is_full else [self.full, self.image_free]
        return [TextPiece(cache, ids) for cache in caches]

    def add_image(self, piece: ViTPiece | LatentPiece) -> list[Piece]:
        """One block of an image, into full alone; call ``after_image`` when its last block has run."""
        self.split_image_free()
        return [piece]

    def after_image(self) -> None:
        self.text_free = self.full.fork()


@dataclass
class Turn:
    """One step of a conversation: what is said, and what is wanted.

    Attributes:
        session: the conversation; outputs and inputs are appended to its history.
        inputs: texts and images, in order.
        outputs: "text" or "image" each, in order; every output is part of the context of the next one.
        seed: decides posterior noise, initial noise and sampled tokens; from 0 to 2^63 - 1.
        size: height and width of drawn images in pixels; None takes the last image's aspect ratio, or
            the size in ``image`` where there is none.
        chained_resize: the ViT sees the picture after the autoencoder's resize, as in the reference's
            interleaved inferencer; otherwise the picture itself, as in its VQA script.
        think: reason in text before the answer or the image; only in the first turn of a conversation, because the
            system prompt opens the contexts and is no part of the history.
        preview_every: denoising steps between two previews; 0 means none.
        posterior_mean: encode input images by the mean of the posterior instead of a sample.
        parse_special: marker strings inside texts become markers, as in the reference.
    """

    session: Session
    inputs: Sequence
    outputs: tuple[str, ...] = ("text",)
    seed: int = 0
    image: ImageSampling = field(default_factory=ImageSampling)
    text: TextSampling = field(default_factory=TextSampling)
    size: tuple[int, int] | None = None
    chained_resize: bool = True
    think: bool = False
    preview_every: int = 0
    posterior_mean: bool = False
    parse_special: bool = False


class Session:
    """The history of a conversation, and its contexts while they fit the next turn.

    A segment enters the contexts only when the next output needs it. A turn that ends early leaves no contexts
    behind; the next one reads the history again, and sees the same: what was drawn at random is kept here. It does not
    hold the model, which may be let go while a conversation is idle.
    """

    def __init__(self) -> None:
        self.history: Sequence = []
        self.contexts: Contexts | None = None
        self.system = ""
        """The text that opened the contexts, where the first turn was one that thinks."""
        self.thoughts: set[int] = set()
        """Places in the history of reasoning before an image, which only *full* sees."""
        self.latents: dict[int, Tensor] = {}
        """Latent tokens of the images in the history, by place: drawn from the posterior once, by the first reader."""
        self._unread: list[int] = []

    def append(self, segment: Segment, *, read: bool = False) -> None:
        """Adds a segment to the history; ``read`` says that the contexts have it already."""
        if not read:
            self._unread.append(len(self.history))
        self.history.append(segment)

    def rewind(self, length: int) -> None:
        """Takes the history back to its first ``length`` segments, as if the rest had never been said."""
        del self.history[length:]
        self.contexts = None
        self.system = self.system if length else ""
        self.thoughts = {place for place in self.thoughts if place < length}
        self.latents = {place: tokens for place, tokens in self.latents.items() if place < length}

    def take_unread(self) -> list[int]:
        """Places in the history of the segments that the contexts have not seen, once."""
        unread, self._unread = self._unread, []
        return unread

    def take_contexts(self, model: UnifiedModel, draws: bool) -> Contexts:
        """The contexts for a turn, which puts them back into ``contexts`` when it has ended well.

        They are built anew when there are none, and when a turn draws although earlier images entered without
        latents; then the whole history is unread again.
        """
        contexts, self.contexts = self.contexts, None
        if contexts is None or (draws and not contexts.sees_latents):
            self._unread = list(range(len(self.history)))
            return Contexts(model, sees_latents=draws)
        return contexts
