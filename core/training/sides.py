"""From signals to packs: a signal becomes one or two training samples, the same request with the chosen and with the
rejected output. What is drawn at random is a function of the pack's seed and the place in it, and the same for both.
"""

from __future__ import annotations

import json
import random
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image as PILImage
from torch import Tensor

from core.data.packing import DropRates, Item, LatentItem, Pack, TextItem, ViTItem, pack
from core.data.tokenizer import Tokenizer
from core.data.transforms import patchify, resize, to_tensor
from core.feedback.masks import rasterised
from core.feedback.signals import PAIR, SFT, UNPAIRED
from core.model.unified import UnifiedModel
from core.tasks import TASKS
from core.training.dataset import item_length
from core.training.latents import PosteriorCache
from core.training.preference import changed, over_grid
from core.training.recipe import LearnRecipe

KEPT = 1 << 30
"""Bytes of encoded pictures that stay in memory. None is written to the disk."""
TEXT, IMAGE = "text", "image"
EXPERTS = {TEXT: "und", IMAGE: "gen"}
"""Which expert computes it."""


@dataclass(frozen=True)
class Side:
    """One sample: its items, the last of which has the loss, and the weights of what is learned of it."""

    items: list[Item]
    weights: Tensor

    @property
    def length(self) -> int:
        return sum(map(item_length, self.items))


@dataclass(frozen=True)
class Example:
    """A signal as samples.

    Attributes:
        place: of the signal in its snapshot.
        kind: sft, pair or unpaired; ``of``: text or image.
        good: the chosen side, or None.
        bad: the rejected side, or None.
        weight: the share of raters who say so.
        imitated: whether the good side is also learned for itself.
    """

    place: int
    kind: str
    of: str
    good: Side | None
    bad: Side | None
    weight: float
    imitated: bool = False

    @property
    def sides(self) -> list[Side]:
        return [side for side in (self.good, self.bad) if side is not None]

    @property
    def length(self) -> int:
        return sum(side.length for side in self.sides)


def kind_of(signal: dict) -> str:
    """Whether it is about texts or images."""
    return (signal["chosen"] or signal["rejected"])["type"]


def is_first(signal: dict) -> bool:
    """Whether its output is the first of its request: what follows another output, as the text after a counterfactual
    picture, would miss that in its context."""
    task, of = TASKS.get(signal["task"]), kind_of(signal)
    return task is None or of not in task.outputs or task.outputs.index(of) == 0


def imitated(signals: list[dict]) -> set[int]:
    """Places of the signals whose chosen side is learned for itself: what is to be imitated, and of pairs what nothing
    was preferred to. The best of several is so in each of its pairs, or those of the others would leave little of it.
    A correction has a signal of its own beside its pair, and counts once."""

    def key(signal: dict, side: str) -> str:
        output = {name: value for name, value in signal[side].items() if name in ("text", "sha256")}
        return json.dumps([signal["task"], signal["inputs"], output], sort_keys=True)

    beaten = {key(one, "rejected") for one in signals if one["kind"] == PAIR}
    said = {key(one, "chosen") for one in signals if one["kind"] == SFT}

    def is_best(pair: dict) -> bool:
        of = key(pair, "chosen")
        return of not in beaten and not (pair["edit"] and of in said)

    return {
        place for place, one in enumerate(signals) if one["kind"] == SFT or (one["kind"] == PAIR and is_best(one))
    }  # fmt: skip


def can_learn(signal: dict, recipe: LearnRecipe, *, imitate: bool) -> bool:
    """Whether the recipe learns anything from a signal; ``imitate``: whether it may imitate its chosen side."""
    anchor = recipe.sft_weight if kind_of(signal) == TEXT else recipe.anchor_weight
    weights = {SFT: 0.0, PAIR: recipe.pair_weight, UNPAIRED: recipe.unpaired_weight}
    return is_first(signal) and (weights[signal["kind"]] > 0 or (imitate and anchor > 0))


class SideMaker:
    """Samples of signals for one model."""

    def __init__(
        self, model: UnifiedModel, tokenizer: Tokenizer, picture: Callable[[str], PILImage.Image], recipe: LearnRecipe
    ) -> None:
        self.config, self.tokenizer, self.picture, self.recipe = model.config, tokenizer, picture, recipe
        self._encoder = PosteriorCache(model, "")
        self._kept: OrderedDict[tuple, Item] = OrderedDict()
        self._bytes = 0

    def example(self, place: int, signal: dict, *, imitate: bool = False, alone: bool = False) -> Example:
        """
        Args:
            imitate: whether its chosen side is also learned for itself; ``alone``: whether for nothing else.

        Raises:
            FeedbackError: a picture is gone.
        """
        context, of = self._context(signal), kind_of(signal)
        both = (signal["chosen"], None if alone else signal["rejected"])
        ids = [self.tokenizer.encode(one["text"]) if one and of == TEXT else None for one in both]
        sides = []
        for number, one in enumerate(both):
            if one is None:
                sides.append(None)
            elif of == TEXT:
                edited = signal["edit"] and None not in ids
                weights = changed(ids[number], ids[1 - number], self.recipe.changed_weight) if edited else None
                own = torch.ones(len(ids[number]) + 1) if weights is None else weights
                sides.append(Side([*context, TextItem(ids[number], loss=True)], own))
            else:
                target = self._latent(one["sha256"], loss=True)
                regions = signal["regions"] if number else []
                sides.append(Side([*context, target], self._marked(one, regions, target.grid)))
        return Example(place, signal["kind"], of, sides[0], sides[1], signal["weight"], imitate)

    def _context(self, signal: dict) -> list[Item]:
        """The request, as the model is given it when it is asked."""
        of, task = kind_of(signal), TASKS.get(signal["task"])
        direct = task.reads_directly if task is not None else of == TEXT
        items: list[Item] = []
        for segment in signal["inputs"]:
            if segment["type"] == TEXT:
                items.append(TextItem(self.tokenizer.encode(segment["text"])))
            elif direct:
                items.append(self._seen(segment["sha256"], direct=True))
            else:
                items += [self._latent(segment["sha256"], loss=False), self._seen(segment["sha256"], direct=False)]
        return items

    def _marked(self, one: dict, regions: list[dict], grid: tuple[int, int]) -> Tensor:
        masks = [rasterised(region, one["width"], one["height"]) for region in regions]
        mask = np.any(masks, axis=0) if masks else np.zeros((1, 1), bool)
        return over_grid(mask, grid, self.recipe.region_weight)

    def _seen(self, sha256: str, *, direct: bool) -> ViTItem:
        def make() -> ViTItem:
            image = self.picture(sha256)
            image = resize(image, self.config.chat_resize) if direct else self._resized(image, self.config.vit_resize)
            patch = self.config.vit.patch_size
            return ViTItem(patchify(to_tensor(image), patch), (image.height // patch, image.width // patch))

        return self._keep(("vit", sha256, direct), make)

    def _resized(self, image: PILImage.Image, rule) -> PILImage.Image:
        return resize(resize(image, self.config.vae_resize), rule)

    def _latent(self, sha256: str, *, loss: bool) -> LatentItem:
        def make() -> LatentItem:
            mean, _ = self._encoder.encode(resize(self.picture(sha256), self.config.vae_resize))
            patch = self.config.latent_patch_size
            return LatentItem(patchify(mean.float(), patch), (mean.shape[1] // patch, mean.shape[2] // patch), loss)

        return self._keep(("latent", sha256, loss), make)

    def _keep(self, key: tuple, make: Callable[[], Item]) -> Item:
        """The last ones used stay in memory."""
        if key not in self._kept:
            self._kept[key] = item = make()
            self._bytes += _bytes(item)
            while self._bytes > KEPT and len(self._kept) > 1:
                self._bytes -= _bytes(self._kept.popitem(last=False)[1])
        self._kept.move_to_end(key)
        return self._kept[key]

    def pack(self, examples: list[Example], seed: str) -> tuple[Pack, Tensor]:
        """A pack of all sides in order, and the noise [n, 64] of its latent tokens. Both sides of an example share the
        time and the noise of the picture that is learned."""
        samples, times, noises = [], [], []
        for number, example in enumerate(examples):
            draw = torch.Generator().manual_seed(random.Random(f"{seed}/{number}").getrandbits(62))
            time, state = torch.randn((), generator=draw), draw.get_state()
            for side in example.sides:
                samples.append(side.items)
                for item in side.items:
                    if isinstance(item, LatentItem) and item.loss:
                        draw.set_state(state)
                        times.append(time)
                        noises.append(torch.randn(item.tokens.shape, generator=draw))
                    elif isinstance(item, LatentItem):
                        noises.append(torch.zeros(item.tokens.shape))
        sides, drawn = (self.config.vit_table_side, self.config.max_latent_size), iter(times)
        packed = pack(samples, self.tokenizer, sides, DropRates(0, 0, 0), lambda: 1.0, lambda: next(drawn))
        return packed, torch.cat(noises) if noises else torch.zeros(packed.latents.shape)


def _bytes(item: ViTItem | LatentItem) -> int:
    tensor = item.patches if isinstance(item, ViTItem) else item.tokens
    return tensor.numel() * tensor.element_size()
