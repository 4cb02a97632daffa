"""The field's metrics on one answer, one picture or one mask, and intervals over patients. Nothing here loads torch.

A metric takes the model's output first and the truth second. Metrics of text and masks lie in 0 to 1.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from nltk.translate.meteor_score import single_meteor_score
from scipy.linalg import eigh, eigvalsh
from scipy.ndimage import binary_erosion, distance_transform_edt
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from core.errors import ImageError, UniMedError

ARTICLES = {"a", "an", "the"}
MAX_PSNR = 100.0
SSIM_WINDOW = 11
"""Pixels a side of the Gaussian window (sigma 1.5) of Wang et al. 2004; smaller pictures have no SSIM."""

# Texts ---------------------------------------------------------------------------------------------------------------


def normalised(text: str) -> str:
    """The text as VQA compares it (Antol et al. 2015): lower case, no punctuation, no articles, single spaces.

    Decimal points stay, commas inside numbers go, apostrophes vanish without a gap. An answer that is nothing but
    articles keeps them, so that the choice "A" of a list is still an answer.
    """
    text = re.sub(r"(?<=\d),(?=\d)|['’]", "", text.lower())
    words = re.findall(r"\d+\.\d+|[^\W_]+", text)
    return " ".join([word for word in words if word not in ARTICLES] or words)


def exact_match(answer: str, truth: str) -> float:
    """1 where both are the same after ``normalised``, else 0."""
    return float(normalised(answer) == normalised(truth))


def token_recall(answer: str, truth: str) -> float:
    """Share of the truth's tokens that the answer holds: recall of open questions as in LLaVA-Med (2306.00890)."""
    wanted, given = normalised(truth).split(), set(normalised(answer).split())
    return sum(token in given for token in wanted) / len(wanted) if wanted else float(not given)


def is_closed(truth: str, question: str = "") -> bool:
    """The answer is yes or no, or the question lists "Options:" to choose from."""
    return normalised(truth) in ("yes", "no") or "options:" in question.lower()


def _tokens(text: str) -> list[str]:
    """Words and numbers in lower case, as rouge-score cuts them, but in any script."""
    return re.findall(r"[^\W_]+", text.lower())


def rouge_l(answer: str, truth: str) -> float:
    """ROUGE-L (Lin 2004): F1 of the longest common subsequence of tokens."""
    given, wanted = _tokens(answer), _tokens(truth)
    if not given or not wanted:
        return float(given == wanted)
    row = [0] * (len(wanted) + 1)  # row[j]: longest common subsequence of what was read of `given` and wanted[:j]
    for token in given:
        diagonal = 0
        for j, other in enumerate(wanted, 1):
            diagonal, row[j] = row[j], diagonal + 1 if token == other else max(row[j], row[j - 1])
    return 2 * row[-1] / (len(given) + len(wanted))


def bleu(answer: str, truth: str, n: int) -> float:
    """Sentence BLEU-n (Papineni et al. 2002) with brevity penalty.

    Orders without a match are smoothed as in NIST's mteval (method 3 of Chen and Cherry 2014), and orders that a
    short answer cannot have are left out: both as sacrebleu does for single sentences.
    """
    given, wanted = _tokens(answer), _tokens(truth)
    if not given or not wanted:
        return float(given == wanted)
    order = min(n, len(given))
    weights = (1 / order,) * order
    return float(sentence_bleu([wanted], given, weights, smoothing_function=SmoothingFunction().method3))


class _NoSynonyms:
    """Stands for WordNet, whose data is a download of its own: no word has a synonym."""

    def synsets(self, word: str) -> list:
        return []


def meteor(answer: str, truth: str) -> float:
    """METEOR (Lavie and Agarwal 2007) with exact and stem matches only, without WordNet's synonyms.

    It is therefore at most what papers report with synonyms; name it "METEOR (exact, stem)". As published, the
    fragmentation penalty also falls on a perfect answer: 0.5 for one word, 1 - 0.5 / n^3 for n.
    """
    return float(single_meteor_score(_tokens(truth), _tokens(answer), wordnet=_NoSynonyms()))


# Pictures and masks --------------------------------------------------------------------------------------------------


def _check_shapes(a: np.ndarray, b: np.ndarray, ndim: int) -> None:
    if a.shape != b.shape or a.ndim != ndim:
        remedy = "Resize the output to the truth's size first"
        raise ImageError("Two pictures of one size are needed", value=(a.shape, b.shape), remedy=remedy)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of uint8 RGB [H, W, 3]; 100 at most, which is what identical pictures get.

    Raises:
        ImageError: the sizes differ.
    """
    _check_shapes(a, b, 3)
    if np.array_equal(a, b):
        return MAX_PSNR
    return min(MAX_PSNR, float(peak_signal_noise_ratio(b, a, data_range=255)))


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Structural similarity (Wang et al. 2004: Gaussian window of 11 pixels) of uint8 RGB [H, W, 3], mean of channels.

    Raises:
        ImageError: the sizes differ, or a side is shorter than the window.
    """
    _check_shapes(a, b, 3)
    if min(a.shape[:2]) < SSIM_WINDOW:
        raise ImageError("The picture is too small for SSIM", value=a.shape, remedy=f"Use {SSIM_WINDOW} pixels or more")
    value = structural_similarity(
        a, b, channel_axis=2, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    return float(value)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Dice coefficient of bool masks [H, W]; 1 where both are empty.

    Raises:
        ImageError: the sizes differ.
    """
    _check_shapes(a, b, 2)
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else 1.0


def hd95(a: np.ndarray, b: np.ndarray) -> float:
    """95th percentile of the Hausdorff distance of bool masks [H, W], in pixels.

    The larger of the two directed percentiles over the pixels of the contours, as in MONAI and DeepMind's
    surface-distance. 0 where both are empty; the picture's diagonal where one is.

    Raises:
        ImageError: the sizes differ.
    """
    _check_shapes(a, b, 2)
    if not a.any() or not b.any():
        return float(np.hypot(*a.shape)) if a.any() != b.any() else 0.0
    contours = [mask & ~binary_erosion(mask) for mask in (a, b)]
    to_a, to_b = (distance_transform_edt(~contour) for contour in contours)
    return float(max(np.percentile(to_b[contours[0]], 95), np.percentile(to_a[contours[1]], 95)))


# Distributions -------------------------------------------------------------------------------------------------------


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Frechet distance of two sets of features [n, d], as in FID (Heusel et al. 2017); never negative.

    The fewer pictures, the larger it comes out: only compare numbers from the same counts.

    Raises:
        UniMedError: fewer than two rows, or widths that differ.
    """
    if min(len(a), len(b)) < 2 or a.ndim != 2 or a.shape[1:] != b.shape[1:]:
        remedy = "Give two or more pictures on each side, through the same network"
        raise UniMedError("A Frechet distance needs two sets of features", value=(a.shape, b.shape), remedy=remedy)
    a, b = a.astype(np.float64), b.astype(np.float64)
    cov_a, cov_b = np.atleast_2d(np.cov(a, rowvar=False)), np.atleast_2d(np.cov(b, rowvar=False))
    values, vectors = eigh(cov_a)
    root_a = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    # tr sqrt(A B) = tr sqrt(sqrt(A) B sqrt(A)), whose argument is symmetric: no complex square roots
    cross = np.sqrt(eigvalsh(root_a @ cov_b @ root_a).clip(0)).sum()
    distance = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * cross
    return max(0.0, float(distance))


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval over patients; ``n`` is the number of samples behind it, not of patients.

    With a single patient there is nothing to resample, and the interval has no width.
    """

    value: float
    low: float
    high: float
    n: int


def _rows_of(patients: list[str]) -> list[np.ndarray]:
    """The rows of every patient, in order of appearance.

    Raises:
        UniMedError: there are none.
    """
    if not patients:
        raise UniMedError("There is nothing to average", remedy="Evaluate at least one record")
    groups: dict[str, list[int]] = {}
    for row, patient in enumerate(patients):
        groups.setdefault(patient, []).append(row)
    return [np.array(rows) for rows in groups.values()]


def bootstrap(values: list[float], patients: list[str], draws: int = 1000, seed: int = 0) -> Interval:
    """Mean of the values with the percentile interval of a bootstrap that draws whole patients.

    Args:
        values: one a sample.
        patients: whose sample it is; samples of one patient are not independent.

    Raises:
        UniMedError: no values, or not one patient for each.
    """
    if len(values) != len(patients):
        raise UniMedError("Every value needs its patient", value=(len(values), len(patients)))
    rows, array = _rows_of(patients), np.asarray(values, dtype=np.float64)
    sums, counts = np.array([array[r].sum() for r in rows]), np.array([len(r) for r in rows])
    drawn = np.random.default_rng(seed).integers(len(rows), size=(draws, len(rows)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(array.mean()), float(low), float(high), len(values))


def bootstrap_statistic(patients: list[str], statistic: Callable[[np.ndarray], float], draws: int = 200,
                        seed: int = 0) -> Interval:  # fmt: skip
    """A statistic of all samples, such as FID, with a bootstrap interval over patients.

    A draw repeats patients, so a distance of distributions comes out larger on every draw than on the data. The
    percentile interval is therefore moved by that bias (median of the draws minus the value), and holds the value.

    Args:
        patients: of every sample.
        statistic: from the indices of samples [n] to a number.

    Raises:
        UniMedError: no samples.
    """
    rows, generator = _rows_of(patients), np.random.default_rng(seed)
    value = float(statistic(np.arange(len(patients))))
    drawn = (generator.integers(len(rows), size=len(rows)) for _ in range(draws))
    results = [statistic(np.concatenate([rows[i] for i in draw])) for draw in drawn]
    low, middle, high = np.percentile(results, [2.5, 50, 97.5])
    return Interval(value, float(value + low - middle), float(value + high - middle), len(patients))
