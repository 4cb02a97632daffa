"""Metrics against values worked out by hand, published examples and independent implementations."""

import numpy as np
import pytest
from scipy.ndimage import binary_erosion, gaussian_filter

from core.errors import ImageError, UniMedError
from core.evaluation.metrics import (
    bleu,
    bootstrap,
    bootstrap_statistic,
    dice,
    exact_match,
    frechet,
    hd95,
    is_closed,
    meteor,
    normalised,
    psnr,
    rouge_l,
    ssim,
    token_recall,
)

# The example of nltk's documentation; its METEOR with WordNet is 0.6944, and no synonym occurs in it.
GUIDE = "It is a guide to action which ensures that the military always obeys the commands of the party"
TRUTH = "It is a guide to action that ensures that the military will forever heed Party commands"


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("The  X-ray, of a Patient.", "x ray of patient"),
        ("1,000 cells; 2.5 cm!", "1000 cells 2.5 cm"),
        ("Crohn's disease", "crohns disease"),
        ("A", "a"),
        ("Überlagerung", "überlagerung"),
        ("...", ""),
    ],
)
def test_normalised(text: str, plain: str) -> None:
    assert normalised(text) == plain


def test_exact_match_and_closed_questions() -> None:
    assert exact_match("Chest X-ray.", "the chest x-ray") == 1
    assert exact_match("A", "the") == 0
    assert exact_match("CT", "MRI") == 0
    assert is_closed("Yes.") and is_closed("no") and not is_closed("No finding")
    assert is_closed("MRI", "What modality is this? Options: MRI, CT.") and not is_closed("CT", "Is it MRI or CT?")


def test_token_recall_is_the_share_of_the_truth() -> None:
    assert token_recall("There is an effusion on the left side", "left pleural effusion") == pytest.approx(2 / 3)
    assert token_recall("", "liver") == 0
    assert token_recall("liver, liver, liver", "the liver") == 1


def test_rouge_l_of_lin_2004() -> None:
    """Section 3.1 of the paper: "police killed the gunman" and its two candidates, LCS 3 and 2 of 4."""
    assert rouge_l("police kill the gunman", "police killed the gunman") == 0.75
    assert rouge_l("the gunman kill police", "police killed the gunman") == 0.5
    assert rouge_l("the lungs", "The lungs are clear.") == pytest.approx(2 / 3)
    assert rouge_l("", "clear") == 0


def test_bleu_by_hand() -> None:
    """Papineni's clipping, then a product of precisions 5/6, 3/5, 1/4 and a smoothed 1/(2*3)."""
    assert bleu("the the the the the the the", "The cat is on the mat", 1) == pytest.approx(2 / 7)
    answer, truth = "the cat sat on the mat", "the cat is on the mat"
    assert bleu(answer, truth, 1) == pytest.approx(5 / 6)
    assert bleu(answer, truth, 4) == pytest.approx((5 / 6 * 3 / 5 * 1 / 4 * 1 / 6) ** 0.25)
    assert bleu("the cat", truth, 1) == pytest.approx(np.exp(1 - 6 / 2))
    assert bleu("Yes.", "yes", 4) == 1
    assert bleu("no", "yes", 4) == 0 and bleu("", "yes", 4) == 0


def test_bleu_equals_sacrebleu() -> None:
    """sacrebleu 2.6.0: BLEU(tokenize="none", lowercase=True, effective_order=True, max_ngram_order=n)."""
    assert 100 * bleu(GUIDE, TRUTH, 4) == pytest.approx(42.08598, abs=1e-4)
    assert 100 * bleu(GUIDE, TRUTH, 2) == pytest.approx(56.01120, abs=1e-4)


def test_meteor() -> None:
    assert meteor(GUIDE, TRUTH) == pytest.approx(0.6944, abs=5e-5)
    assert meteor("non matching words", "this is a cat") == 0 and meteor("", "cat") == 0
    # stems: two matches in one chunk, P = R = 1, penalty 0.5 * (1 / 2)^3
    assert meteor("lesions healed", "lesion heals") == pytest.approx(1 - 0.5 / 8)


def test_psnr_and_its_cap() -> None:
    a = np.zeros((16, 16, 3), np.uint8)
    assert psnr(a, a) == 100
    assert psnr(a, a + 255) == 0
    assert psnr(a + 10, a) == pytest.approx(20 * np.log10(25.5))
    with pytest.raises(ImageError, match=r"\(8, 16, 3\)"):
        psnr(a, a[:8])


def test_ssim_equals_the_formula_of_wang() -> None:
    generator = np.random.default_rng(0)
    a = generator.integers(0, 256, (40, 48, 3)).astype(np.uint8)
    b = np.clip(a.astype(int) + generator.integers(-60, 60, a.shape), 0, 255).astype(np.uint8)

    def mean(x: np.ndarray) -> np.ndarray:
        return gaussian_filter(x, 1.5, truncate=3.5)  # radius 5: a window of 11

    expected = []
    for channel in range(3):
        x, y = a[..., channel].astype(float), b[..., channel].astype(float)
        mx, my = mean(x), mean(y)
        vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
        c1, c2 = 2.55**2, 7.65**2
        full = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
        expected.append(full[5:-5, 5:-5].mean())
    assert ssim(a, b) == pytest.approx(np.mean(expected), abs=1e-6)
    assert ssim(a, a) == pytest.approx(1)
    with pytest.raises(ImageError, match="too small"):
        ssim(a[:10], b[:10])


def test_dice() -> None:
    a, b = np.zeros((8, 8), bool), np.zeros((8, 8), bool)
    assert dice(a, b) == 1
    a[:4], b[2:6] = True, True
    assert dice(a, b) == 0.5
    assert dice(a, np.zeros_like(a)) == 0


def test_hd95_equals_brute_force() -> None:
    generator = np.random.default_rng(1)
    for _ in range(5):
        a, b = (gaussian_filter(generator.normal(size=(40, 30)), 3) > 0.03 for _ in range(2))
        edges = [np.argwhere(mask & ~binary_erosion(mask)) for mask in (a, b)]
        distances = np.linalg.norm(edges[0][:, None] - edges[1][None], axis=2)
        expected = max(np.percentile(distances.min(1), 95), np.percentile(distances.min(0), 95))
        assert hd95(a, b) == pytest.approx(expected)


def test_hd95_of_moved_and_empty_masks() -> None:
    empty, a = np.zeros((30, 40), bool), np.zeros((30, 40), bool)
    a[10:20, 5:15] = True
    assert hd95(a, a) == 0 and hd95(empty, empty) == 0
    assert hd95(a, np.roll(a, 7, axis=1)) == 7
    assert hd95(a, empty) == hd95(empty, a) == 50


def test_frechet_equals_the_closed_form() -> None:
    """Diagonal covariances: |m1 - m2|^2 + sum (s1 - s2)^2. The features are whitened, so that it holds exactly."""
    white = np.random.default_rng(2).normal(size=(400, 5))
    white -= white.mean(0)
    white = white @ np.linalg.inv(np.linalg.cholesky(np.cov(white, rowvar=False))).T
    s1, s2, shift = np.array([1, 2, 3, 4, 5.0]), np.array([2, 2, 1, 0, 9.0]), np.arange(5)
    expected = (shift**2).sum() + ((s1 - s2) ** 2).sum()
    assert frechet(white * s1, white * s2 + shift) == pytest.approx(expected)
    assert frechet(white, white) == pytest.approx(0, abs=1e-9)
    turned = white * s1 @ np.linalg.qr(np.random.default_rng(3).normal(size=(5, 5)))[0]
    assert frechet(turned, white) == pytest.approx(((s1 - 1) ** 2).sum())
    with pytest.raises(UniMedError, match="two sets"):
        frechet(white[:1], white)


def test_frechet_of_fewer_rows_than_columns() -> None:
    a, b = np.random.default_rng(4).normal(size=(2, 6, 50)).astype(np.float32)
    centred = [(x - x.mean(0)) / np.sqrt(5) for x in (a, b)]
    cross = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + sum((x**2).sum() for x in centred) - 2 * cross
    assert frechet(a, b) == pytest.approx(expected, rel=1e-4)


def test_bootstrap_covers_the_mean_like_the_textbook() -> None:
    values = np.random.default_rng(5).normal(3, 1, 400)
    interval = bootstrap(values.tolist(), [str(i) for i in range(400)])
    half = 1.96 * values.std() / 20
    assert interval.value == pytest.approx(values.mean()) and interval.n == 400
    assert interval.low == pytest.approx(values.mean() - half, abs=0.015)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.015)


def test_bootstrap_draws_patients_and_not_samples() -> None:
    """Ten slices of one patient tell as much as one: the interval must not shrink."""
    values = np.random.default_rng(6).normal(size=20)
    once = bootstrap(values.tolist(), [f"p{i}" for i in range(20)], seed=1)
    ten = bootstrap(np.repeat(values, 10).tolist(), [f"p{i // 10}" for i in range(200)], seed=1)
    assert (ten.low, ten.high) == pytest.approx((once.low, once.high)) and ten.n == 200
    assert bootstrap([0.2, 0.4], ["p", "p"]).low == pytest.approx(0.3)
    assert once == bootstrap(values.tolist(), [f"p{i}" for i in range(20)], seed=1)
    with pytest.raises(UniMedError, match="nothing to average"):
        bootstrap([], [])
    with pytest.raises(UniMedError, match="its patient"):
        bootstrap([1.0], ["a", "b"])


def test_bootstrap_statistic_equals_bootstrap_for_a_mean() -> None:
    values = np.random.default_rng(7).normal(size=60)
    patients = [f"p{i // 2}" for i in range(60)]
    plain = bootstrap(values.tolist(), patients)
    interval = bootstrap_statistic(patients, lambda rows: values[rows].mean(), draws=1000)
    assert (interval.value, interval.n) == pytest.approx((plain.value, 60))
    assert (interval.low, interval.high) == pytest.approx((plain.low, plain.high), abs=0.03)


def test_the_interval_of_a_frechet_distance_holds_the_distance() -> None:
    a, b = np.random.default_rng(8).normal(size=(2, 80, 8))
    interval = bootstrap_statistic([str(i) for i in range(80)], lambda rows: frechet(a[rows], b), draws=50)
    assert interval.low < interval.value < interval.high
