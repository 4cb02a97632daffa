"""From records to packs: which record, which crop, which tokens.

Everything drawn at random for a pack is a function of (seed, step, process, number of the pack), so a run that was cut
off goes on with the very packs that it would have had, and nothing of the data needs to be saved.
"""

from __future__ import annotations

import random
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from PIL import Image as PILImage
from torch import Tensor

from core.data.packing import DropRates, Item, LatentItem, Pack, TextItem, ViTItem, pack
from core.data.records import Record, open_picture
from core.data.tokenizer import Tokenizer
from core.data.transforms import patchify, resize, to_tensor
from core.errors import RecordError
from core.model.unified import UnifiedModel
from core.training.latents import Crop, Posterior, PosteriorCache
from core.training.recipe import TrainRecipe

MOST_TRIES = 1000
KEPT_PICTURES = 2 << 30
"""Bytes of decoded pictures that stay in memory."""


class Pictures:
    """The pictures of a records file as the model takes them."""

    def __init__(self, model: UnifiedModel, root: Path, cache: PosteriorCache) -> None:
        self.config, self.root, self.cache = model.config, root, cache
        self._kept: OrderedDict[tuple, np.ndarray] = OrderedDict()
        self._bytes = 0

    def vit_item(self, path: str, place: str, crop: Crop, *, direct: bool, droppable: bool) -> ViTItem:
        """``direct``: the ViT sees the picture itself instead of the autoencoder's resize of it."""
        array = self._seen(path, place, crop, direct)
        patch = self.config.vit.patch_size
        grid = (array.shape[0] // patch, array.shape[1] // patch)
        return ViTItem(patchify(to_tensor(array), patch), grid, droppable)

    def latent_item(
        self, path: str, sha256: str, place: str, crop: Crop, noise: torch.Generator, *, loss: bool, droppable: bool
    ) -> LatentItem:
        """A sample of the picture's posterior."""
        mean, std = self.posterior(path, sha256, place, crop)
        z = mean.float() + std.float() * torch.randn(mean.shape, generator=noise)
        patch = self.config.latent_patch_size
        return LatentItem(patchify(z, patch), (z.shape[1] // patch, z.shape[2] // patch), loss, droppable)

    def posterior(self, path: str, sha256: str, place: str, crop: Crop) -> Posterior:
        """Of a crop of the picture, from the cache or into it."""
        return self.cache.posterior(sha256, crop, lambda: self._for_autoencoder(path, place, crop))

    def _for_autoencoder(self, path: str, place: str, crop: Crop) -> PILImage.Image:
        return resize(crop.of(open_picture(self.root, path, place)), self.config.vae_resize)

    def _seen(self, path: str, place: str, crop: Crop, direct: bool) -> np.ndarray:
        """Pixels [H, W, 3] uint8 for the ViT; the last ones used stay in memory."""
        key = (path, crop, direct)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        if direct:
            image = resize(crop.of(open_picture(self.root, path, place)), self.config.chat_resize)
        else:
            image = resize(self._for_autoencoder(path, place, crop), self.config.vit_resize)
        array = np.asarray(image, dtype=np.uint8)
        self._kept[key] = array
        self._bytes += array.nbytes
        while self._bytes > KEPT_PICTURES:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return array


class Sampler:
    """Draws records: the kind by the recipe's mix, the task by its weight, the modality evenly, then any record."""

    def __init__(self, records: list[Record], recipe: TrainRecipe) -> None:
        tree: dict[str, dict[str, dict[str, list[Record]]]] = {}
        for record in records:
            if recipe.mix.get(record.main_task_type) and recipe.task_weights.get(record.sub_task_type, 1):
                task = tree.setdefault(record.main_task_type, {}).setdefault(record.sub_task_type, {})
                task.setdefault(record.modality, []).append(record)
        lacking = [kind for kind, share in recipe.mix.items() if share and kind not in tree]
        if lacking:
            splits = ", ".join(recipe.splits)
            raise RecordError(
                f"The records' {splits} split has none of a kind in the mix", value=lacking[0],
                remedy="Build records of that kind, or take it out of the recipe's mix",
            )  # fmt: skip
        self.tree = tree
        self.kinds = {kind: recipe.mix[kind] for kind in tree}
        self.tasks = {kind: {task: recipe.task_weights.get(task, 1.0) for task in tree[kind]} for kind in tree}

    @property
    def records(self) -> list[Record]:
        """All that can be drawn."""
        groups = [group for tasks in self.tree.values() for task in tasks.values() for group in task.values()]
        return [record for group in groups for record in group]

    def draw(self, rng: random.Random, kind: str | None = None) -> Record:
        """A record, of one kind if it is named."""
        kind = kind or _weighted(rng, self.kinds)
        task = _weighted(rng, self.tasks[kind])
        return rng.choice(rng.choice(list(self.tree[kind][task].values())))


def _weighted(rng: random.Random, weights: dict[str, float]) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]


class PackMaker:
    """Packs of a run."""

    def __init__(
        self, sampler: Sampler, pictures: Pictures, tokenizer: Tokenizer, recipe: TrainRecipe, sides: tuple[int, int]
    ) -> None:
        self.sampler, self.pictures, self.tokenizer, self.recipe, self.sides = (
            sampler, pictures, tokenizer, recipe, sides,
        )  # fmt: skip
        self.rates = DropRates(recipe.drop_text, recipe.drop_vit, recipe.drop_vae)
        drawn = [kind for kind in sampler.kinds if kind in ("generation", "interleaved")]
        self.always = [k for k in ("understanding",) if k in sampler.kinds] + drawn[:1]
        """Kinds that every pack has: all processes must compute gradients of the same parameters."""
        self.too_long: set[str] = set()
        """Ids of records that were left out for their length."""

    def make(self, step: int, process: int, number: int) -> tuple[Pack, Tensor]:
        """A pack and the noise [n, 64] for its latent tokens.

        It closes when it has ``tokens_per_pack`` tokens, or before a sample that would take it an eighth beyond them.
        """
        rng = random.Random(f"{self.recipe.seed}/{step}/{process}/{number}")
        noise = torch.Generator().manual_seed(rng.getrandbits(62))
        samples, tokens, kinds = [], 0, list(self.always)
        most, tries = self.recipe.tokens_per_pack * 9 // 8, 0
        while tokens < self.recipe.tokens_per_pack:
            record = self.sampler.draw(rng, kinds[0] if kinds else None)
            items = self.items(record, rng, noise)
            length = sum(map(item_length, items))
            if length > self.recipe.max_sample_tokens:
                self._leave_out(record, length)
                tries += 1
                if tries == MOST_TRIES:
                    remedy = "Raise max_sample_tokens"
                    raise RecordError(f"{tries} samples in a row are too long", value=length, remedy=remedy)
                continue
            if not kinds and samples and tokens + length > most:
                break
            kinds, tries = kinds[1:], 0
            samples.append(items)
            tokens += length
        normal = lambda: torch.randn((), generator=noise)  # noqa: E731
        packed = pack(samples, self.tokenizer, self.sides, self.rates, rng.random, normal)
        return packed, torch.randn(packed.latents.shape, generator=noise)

    def _leave_out(self, record: Record, length: int) -> None:
        if record.id not in self.too_long:
            self.too_long.add(record.id)
            print(f"{record.place}: left out, its sample has {length} tokens", file=sys.stderr)

    def items(self, record: Record, rng: random.Random, noise: torch.Generator) -> list[Item]:
        """The tokens of a record (spec section 11.4): questions and captions are read, answers and targets learned."""
        direct = record.main_task_type == "understanding"
        variant = rng.randrange(self.recipe.variants)
        crop = Crop.variant(variant, "" if direct else record.modality)  # a mirrored picture may belie its answer
        digests = dict(zip(record.images, record.sha256, strict=True))
        items: list[Item] = []

        def picture(path: str, *, loss: bool) -> LatentItem:
            return self.pictures.latent_item(
                path, digests[path], record.place, crop, noise, loss=loss, droppable=not loss
            )

        def seen(path: str, *, direct: bool) -> ViTItem:
            return self.pictures.vit_item(path, record.place, crop, direct=direct, droppable=not direct)

        for path in record.input_img:
            items += [seen(path, direct=True)] if direct else [picture(path, loss=False), seen(path, direct=False)]
        targets = list(record.output_img)
        for message in record.message:
            text = self.tokenizer.encode(message.value)
            if message.speaker == "human":
                items.append(TextItem(text, droppable=bool(record.output_img)))
                continue
            for path in targets:  # what was drawn is seen again by the text that explains it
                items += [picture(path, loss=True), picture(path, loss=False), seen(path, direct=False)]
            targets = []
            items.append(TextItem(text, loss=True))
        return items + [picture(path, loss=True) for path in targets]


def item_length(item: Item) -> int:
    """Tokens of an item with its two markers."""
    return 2 + (len(item.ids) if isinstance(item, TextItem) else item.grid[0] * item.grid[1])


def crops_of(record: Record, variants: int) -> list[Crop]:
    """The crops that a record may be drawn with."""
    return [Crop.variant(number, record.modality) for number in range(variants)]

