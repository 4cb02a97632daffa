"""Naive baselines: what can be had without a model, from the training records or from the input alone.

A model's number means something only beside these. Pictures are Pillow RGB, out as large as in. Whatever has ``fit``
learns from what it is given: give it the training split. ``root`` is the folder of the records file.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Self

import numpy as np
from PIL import Image as PILImage
from skimage.color import lab2rgb, rgb2lab
from skimage.exposure import match_histograms
from skimage.filters import threshold_otsu

from core.data.records import Record, open_picture
from core.errors import ImageError, RecordError
from core.evaluation.metrics import dice, normalised

THUMBNAIL = (16, 16)
MEAN_SIDE = 256
SAMPLE = (64, 64)
"""Every target of a stain transfer gives this many pixels to the fit, picked without interpolation."""


def _needed(records: Iterable[Record], what: str) -> list[Record]:
    found = list(records)
    if not found:
        raise RecordError(f"No training record has {what}", remedy="Fit the baseline on the split train of its task")
    return found


# Texts ---------------------------------------------------------------------------------------------------------------


class MajorityAnswer:
    """Always the most frequent training answer; of equally frequent ones the first in the file."""

    def fit(self, records: list[Record]) -> Self:
        """Raises:
        RecordError: no record has an answer.
        """
        answers = Counter(r.answer for r in _needed((r for r in records if r.answer), "an answer"))
        self._answer = answers.most_common(1)[0][0]
        return self

    def answer(self, record: Record) -> str:
        return self._answer


class QuestionOnly:
    """Blind to the image: the most frequent training answer to the same question (after ``normalised``), else to
    questions that start with the same two words, else of all.
    """

    def fit(self, records: list[Record]) -> Self:
        """Raises:
        RecordError: no record has an answer.
        """
        self._answers: dict[str, Counter[str]] = defaultdict(Counter)
        for record in _needed((r for r in records if r.answer), "an answer"):
            for key in self._keys(record):
                self._answers[key][record.answer] += 1
        return self

    @staticmethod
    def _keys(record: Record) -> list[str]:
        """From narrow to broad."""
        question = normalised(record.instruction)
        return [f"question {question}", f"start {' '.join(question.split()[:2])}", "all"]

    def answer(self, record: Record) -> str:
        key = next(key for key in self._keys(record) if key in self._answers)
        return self._answers[key].most_common(1)[0][0]


class NearestReport:
    """The report of the training image whose 16 x 16 grey thumbnail, with mean 0 and deviation 1, is nearest."""

    def fit(self, records: list[Record], root: Path) -> Self:
        """Raises:
        RecordError: no record has both an image and an answer, or an image is missing.
        """
        records = _needed((r for r in records if r.input_img and r.answer), "an image with a report")
        self._answers = [record.answer for record in records]
        self._thumbnails = np.stack([self._thumbnail(record, root) for record in records])  # [n, 256]
        return self

    @staticmethod
    def _thumbnail(record: Record, root: Path) -> np.ndarray:
        image = open_picture(root, record.input_img[0], record.place)
        grey = np.asarray(image.convert("L").resize(THUMBNAIL, PILImage.Resampling.BOX), dtype=np.float32).ravel()
        return (grey - grey.mean()) / max(float(grey.std()), 1e-3)

    def answer(self, record: Record, root: Path) -> str:
        distances = ((self._thumbnails - self._thumbnail(record, root)) ** 2).sum(1)
        return self._answers[int(distances.argmin())]


# Pictures from the input alone ---------------------------------------------------------------------------------------


def identity(image: PILImage.Image) -> PILImage.Image:
    """The input as it is: what an editing model has to beat."""
    return image.convert("RGB")


def bicubic(image: PILImage.Image) -> PILImage.Image:
    """Bicubic upsampling. The input of a super-resolution record is already the coarse picture after bicubic
    upsampling to the target's size, so this is the identity.
    """
    return identity(image)


def otsu(image: PILImage.Image, bright: bool = True) -> PILImage.Image:
    """The pixels above Otsu's threshold of the grey picture in white, the others in black; ``bright=False`` swaps."""
    grey = np.asarray(image.convert("L"))
    mask = (grey > threshold_otsu(grey)) == bright
    return PILImage.fromarray(mask.astype(np.uint8) * 255).convert("RGB")


def _as_mask(image: PILImage.Image, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(image.convert("L").resize(size, PILImage.Resampling.NEAREST)) > 127


class OtsuMask:
    """Otsu's threshold with the polarity that did better on the training records of the same structure (mean Dice)."""

    def fit(self, records: list[Record], root: Path) -> Self:
        """Raises:
        RecordError: no record has an image and its mask, or an image is missing.
        """
        gains: dict[tuple[str, ...], float] = defaultdict(float)
        wanted = (r for r in records if r.sub_task_type == "segmentation" and r.input_img and r.output_img)
        for record in _needed(wanted, "an image with its mask"):
            image = open_picture(root, record.input_img[0], record.place)
            truth = _as_mask(open_picture(root, record.output_img[-1], record.place), image.size)
            bright = np.asarray(otsu(image).convert("L")) > 127
            for key in self._keys(record):
                gains[key] += dice(bright, truth) - dice(~bright, truth)
        self._bright = {key: gain >= 0 for key, gain in gains.items()}
        return self

    @staticmethod
    def _keys(record: Record) -> list[tuple[str, ...]]:
        """From narrow to broad: the structure in its modality, the modality, all."""
        return [(record.modality, record.label or normalised(record.instruction)), (record.modality,), ()]

    def mask(self, record: Record, image: PILImage.Image) -> PILImage.Image:
        """White inside, black outside."""
        return otsu(image, next(self._bright[key] for key in self._keys(record) if key in self._bright))


# Pictures that look like training targets ----------------------------------------------------------------------------


def match_histogram(image: PILImage.Image, reference: PILImage.Image) -> PILImage.Image:
    """The image with the histogram of the reference, channel by channel; the sizes may differ."""
    matched = match_histograms(np.asarray(image.convert("RGB")), np.asarray(reference.convert("RGB")), channel_axis=-1)
    return PILImage.fromarray(np.asarray(matched).clip(0, 255).round().astype(np.uint8))


def _sample(images: Iterable[PILImage.Image]) -> np.ndarray:
    """Pixels [n, 3] of the pictures, as many of each."""
    small = [image.convert("RGB").resize(SAMPLE, PILImage.Resampling.NEAREST) for image in images]
    if not small:
        raise ImageError("A stain transfer needs a target", remedy="Fit it on the targets of training records")
    return np.concatenate([np.asarray(image).reshape(-1, 3) for image in small])


class Reinhard:
    """Colour transfer of Reinhard et al. 2001: mean and deviation of each channel of CIELAB become the targets'."""

    def fit(self, images: Iterable[PILImage.Image]) -> Self:
        """Takes training targets in the wanted stain.

        Raises:
            ImageError: there is none.
        """
        lab = rgb2lab(_sample(images))
        self._mean, self._std = lab.mean(0), lab.std(0)
        return self

    def apply(self, image: PILImage.Image) -> PILImage.Image:
        lab = rgb2lab(np.asarray(image.convert("RGB")))
        mean, std = lab.mean((0, 1)), lab.std((0, 1))
        lab = (lab - mean) / np.maximum(std, 1e-3) * self._std + self._mean
        lab[..., 0] = lab[..., 0].clip(0, 100)
        # More yellow than any light: skimage would set XYZ's Z to 0 and warn; this is the same without a warning
        lab[..., 2] = np.minimum(lab[..., 2], 200 * (lab[..., 0] + 16) / 116)
        return PILImage.fromarray((lab2rgb(lab) * 255).round().astype(np.uint8))


class Macenko:
    """Stain transfer of Macenko et al. 2009: the image's two stains get the colours and strengths of the targets'.

    A picture comes back as it is where it, or the targets together, have too little tissue or colour to tell two
    stains.
    """

    def fit(self, images: Iterable[PILImage.Image]) -> Self:
        """Takes training targets in the wanted stain.

        Raises:
            ImageError: there is none.
        """
        self._target = _two_stains(_optical_density(_sample(images)))
        return self

    def apply(self, image: PILImage.Image) -> PILImage.Image:
        pixels = np.asarray(image.convert("RGB"))
        density = _optical_density(pixels.reshape(-1, 3))
        source = _two_stains(density)
        if source is None or self._target is None:
            return identity(image)
        stains, strongest = self._target
        amounts = _amounts(density, source[0]) * strongest / np.maximum(source[1], 1e-3)
        rgb = 255 * np.exp(-amounts @ stains.T)
        return PILImage.fromarray(rgb.clip(0, 255).round().astype(np.uint8).reshape(pixels.shape))


def _optical_density(rgb: np.ndarray) -> np.ndarray:
    """[n, 3] uint8 to -ln(I / 255), where black counts as 1."""
    return -np.log(np.maximum(rgb, 1) / 255)


def _amounts(density: np.ndarray, stains: np.ndarray) -> np.ndarray:
    """Density [n, 3] to the amounts of both stains [n, 2], by least squares."""
    return np.linalg.lstsq(stains, density.T, rcond=None)[0].T.clip(0)


def _two_stains(density: np.ndarray, beta: float = 0.15, alpha: float = 1.0) -> tuple[np.ndarray, np.ndarray] | None:
    """The stains' densities in red, green and blue [3, 2] as unit columns, and the 99th percentile of each amount [2].

    They are the extreme directions in the plane of the first two principal components. ``beta`` is the density below
    which a pixel is background, ``alpha`` the percentile that counts as extreme: values of the paper. The stain with
    more red comes first, as haematoxylin has. None where under 1 % of the pixels are tissue, or all have one hue.
    """
    tissue = density[(density > beta).all(1)]
    if len(tissue) < max(10, len(density) // 100):
        return None
    values, vectors = np.linalg.eigh(np.cov(tissue, rowvar=False))
    if values[1] < 1e-4:
        return None
    plane = vectors[:, [2, 1]]
    plane = plane * np.where(plane.sum(0) < 0, -1, 1)
    first, second = (tissue @ plane).T
    extremes = np.percentile(np.arctan2(second, first), [alpha, 100 - alpha])
    stains = np.abs(plane @ np.stack([np.cos(extremes), np.sin(extremes)]))
    stains = stains[:, np.argsort(-stains[0])]
    return stains, np.percentile(_amounts(density, stains), 99, axis=0)


# Pictures from nothing -----------------------------------------------------------------------------------------------


class MeanImage:
    """The mean of training images, or of such means: what a model draws that has learned nothing but the mean."""

    def fit(self, images: Iterable[PILImage.Image]) -> Self:
        """Raises:
        ImageError: there is none.
        """
        total, count = np.zeros((MEAN_SIDE, MEAN_SIDE, 3)), 0
        for image in images:
            total += np.asarray(image.convert("RGB").resize((MEAN_SIDE, MEAN_SIDE)))
            count += 1
        if not count:
            raise ImageError("A mean needs an image", remedy="Fit it on images of training records")
        self._mean = PILImage.fromarray((total / count).round().astype(np.uint8))
        return self

    def image(self, size: tuple[int, int] = (MEAN_SIDE, MEAN_SIDE)) -> PILImage.Image:
        """The mean at a size of (width, height)."""
        return self._mean.resize(size, PILImage.Resampling.BICUBIC)
