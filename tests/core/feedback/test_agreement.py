"""Statistics of agreement equal published worked examples, and slow implementations straight from their definitions."""

from __future__ import annotations

import math
import time
from functools import partial
from itertools import combinations, permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import root

from core.errors import FeedbackError
from core.feedback.agreement import (
    LEVELS,
    WEIGHTS,
    Agreement,
    bootstrap,
    bootstrapped,
    bradley_terry,
    gwet_ac,
    icc,
    krippendorff_alpha,
    percent_agreement,
    weighted_kappa,
)

GAP = np.nan
CLOSE = partial(pytest.approx, abs=1e-6)

KRIPPENDORFF = np.array([
    [1, 2, 3, 3, 2, 1, 4, 1, 2, GAP, GAP, GAP],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, GAP, GAP],
    [GAP, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, 3],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, GAP],
])  # fmt: skip
"""Four observers and twelve units: Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", part C, as the R
packages irr and irrCAC hold it (cac.raw4raters, Gwet 2014, page 120)."""

CODERS = np.array([
    [GAP, GAP, GAP, GAP, GAP, 3, 4, 1, 2, 1, 1, 3, 3, GAP, 3],
    [1, GAP, 2, 1, 3, 3, 4, 3, GAP, GAP, GAP, GAP, GAP, GAP, GAP],
    [GAP, GAP, 2, 1, 3, 4, 4, GAP, 2, 1, 1, 3, 3, GAP, 4],
])  # fmt: skip
"""Three coders and fifteen units: the example of the English Wikipedia, "Krippendorff's alpha"."""

OBSERVERS = np.array([
    [1, 1, 2, GAP, 0, 0, 1, 1, 2, 2, GAP, 0, 1, 3, 1],
    [1, 1, 3, 0, 0, 0, 0, GAP, 2, 1, 1, 0, 2, 3, 1],
    [2, 0, 3, 0, 0, 0, 2, 2, 2, 1, 0, 0, 2, 2, 1],
    [GAP, 1, 3, GAP, GAP, GAP, GAP, 0, GAP, 1, 0, 0, 2, 2, GAP],
    [2, GAP, GAP, 0, 0, 0, 1, GAP, 2, GAP, GAP, GAP, GAP, 3, 1],
])  # fmt: skip
"""cac.raw5obser of irrCAC (Gwet 2014, page 125)."""

ABSTRACTORS = [[13, 0, 0], [0, 20, 7], [0, 4, 56]]
DIAGNOSES = [[40, 4, 4, 17], [6, 25, 2, 13], [4, 1, 21, 12], [15, 5, 9, 45]]
"""cont3x3abstractors and cont4x4diagnosis of irrCAC (Gwet 2014), one rater in rows and one in columns."""

MAMMOGRAMS = [[34, 10, 2, 0], [6, 8, 8, 2], [2, 5, 4, 12], [0, 1, 2, 14]]
"""Kundel & Polansky 2003, "Measurement of observer agreement", Radiology 228, table A1."""

SHROUT = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float).T
"""Four judges and six targets: Shrout & Fleiss 1979, table 2."""

PUDDINGS = """1 2 19 22 16, 1 3 16 19 12, 2 3 19 19 10, 1 4 18 23 13, 2 4 23 19 9, 3 4 19 20 15, 1 5 13 19 18,
2 5 16 20 12, 3 5 16 15 17, 4 5 17 14 16, 1 6 18 21 12, 2 6 22 20 12, 3 6 13 18 10, 4 6 14 19 18, 5 6 11 21 12"""
"""Chocolate puddings i and j, preferred i, preferred j, neither: Davidson 1970, example 2, by the R package hyper2."""


def listed(table: list[list[int]]) -> np.ndarray:
    """Two raters' ratings, of shape (2, items), from their cross table."""
    cells = [(a, b) for a, row in enumerate(table) for b, times in enumerate(row) for _ in range(times)]
    return np.array(cells, float).T


def with_gaps(seed: int, raters: int = 5, items: int = 30, values: int = 5, gaps: float = 0.3) -> np.ndarray:
    """Ratings 1 to ``values`` that have something to do with one another."""
    random = np.random.default_rng(seed)
    truth = random.integers(1, values + 1, items)
    ratings = np.clip(truth + random.integers(-1, 2, (raters, items)), 1, values).astype(float)
    ratings[random.random(ratings.shape) < gaps] = GAP
    return ratings


def columns(ratings: np.ndarray) -> list[list[float]]:
    """The ratings of each item, without gaps."""
    return [[rating for rating in column if not math.isnan(rating)] for column in ratings.T.tolist()]


def weight(name: str, a: float, b: float, scale: list[float]) -> float:
    if name == "identity":
        return float(a == b)
    if name == "ordinal":
        between = abs(scale.index(a) - scale.index(b)) + 1
        return 1 - math.comb(between, 2) / math.comb(len(scale), 2)
    share = abs(a - b) / (max(scale) - min(scale))
    return 1 - (share if name == "linear" else share**2)


# Published examples --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("level", "value"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_is_krippendorffs(level: str, value: float) -> None:
    """Krippendorff 2011, parts C and D."""
    found = krippendorff_alpha(KRIPPENDORFF, level)
    assert found == Agreement("Krippendorff's alpha", level, pytest.approx(value, abs=5e-4), None, None, 11, 4)


@pytest.mark.parametrize(("level", "value"), [("nominal", 0.691), ("ordinal", 0.807), ("interval", 0.811)])
def test_alpha_is_wikipedias(level: str, value: float) -> None:
    assert krippendorff_alpha(CODERS, level).value == pytest.approx(value, abs=5e-4)


def test_alpha_of_two_raters_is_krippendorffs() -> None:
    """Krippendorff 2011, parts A (binary, Meg and Owen) and B (nominal, Ben and Gerry)."""
    binary = np.array([[0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]])
    assert krippendorff_alpha(binary, "nominal").value == pytest.approx(0.095, abs=5e-4)
    nominal = np.array([[ord(letter) for letter in word] for word in ("aabbdcccedda", "babbbccceddd")])
    assert krippendorff_alpha(nominal, "nominal").value == pytest.approx(0.692, abs=5e-4)


@pytest.mark.parametrize(
    ("weights", "value"),
    [("identity", 0.77544), ("linear", 0.859), ("quadratic", 0.914), ("ordinal", 0.899)],
)
def test_ac_is_gwets(weights: str, value: float) -> None:
    """AC1 as irrCAC's vignette prints it, AC2 as the tests of its Python port do (afergadis/irrCAC, raw/test_gwet)."""
    found = gwet_ac(KRIPPENDORFF, weights)
    assert found.value == pytest.approx(value, abs=6e-4 if weights != "identity" else 5e-6)
    assert (found.name, found.weights, found.items, found.raters) == (
        "Gwet's AC1" if weights == "identity" else "Gwet's AC2", weights, 11, 4,
    )  # fmt: skip


def test_the_vignette_of_irrcac() -> None:
    """Its overview and the tests of its Python port: other data, alpha and percent agreement."""
    assert percent_agreement(KRIPPENDORFF).value == pytest.approx(0.8181818, abs=5e-8)
    assert krippendorff_alpha(KRIPPENDORFF, "nominal").value == pytest.approx(0.74342, abs=5e-6)
    assert gwet_ac(OBSERVERS).value == pytest.approx(0.497, abs=5e-4)
    assert krippendorff_alpha(OBSERVERS, "nominal").value == pytest.approx(0.481, abs=5e-4)
    assert gwet_ac(listed(ABSTRACTORS)).value == pytest.approx(0.8493305, abs=5e-8)
    assert krippendorff_alpha(listed(ABSTRACTORS), "nominal").value == pytest.approx(0.7972585, abs=5e-8)
    assert percent_agreement(listed(ABSTRACTORS)).value == pytest.approx(0.89)


def test_skewed_labels_pull_ac_and_alpha_apart() -> None:
    """95 of 100 items alike, all in one class: AC1 .947 and Fleiss' kappa -.026, of which alpha is a correction for
    small samples, 1 - (1 - kappa)(2 items - 1) / (2 items)."""
    ratings = listed([[95, 3], [2, 0]])
    assert percent_agreement(ratings).value == pytest.approx(0.95)
    assert gwet_ac(ratings).value == pytest.approx(0.947, abs=5e-4)
    alpha = krippendorff_alpha(ratings, "nominal").value
    assert 1 - (1 - alpha) * 200 / 199 == pytest.approx(-0.026, abs=5e-4)


@pytest.mark.parametrize(
    ("table", "weights", "value"),
    [
        (ABSTRACTORS, "identity", 0.796),
        (ABSTRACTORS, "linear", 0.843),
        (ABSTRACTORS, "quadratic", 0.892),
        (ABSTRACTORS, "ordinal", 0.872),
        (DIAGNOSES, "identity", 0.432),
        (DIAGNOSES, "linear", 0.407),
        (DIAGNOSES, "quadratic", 0.383),
        (DIAGNOSES, "ordinal", 0.390),
        (MAMMOGRAMS, "identity", 0.3713),
        (MAMMOGRAMS, "linear", 0.5964),
    ],
)
def test_kappa_is_the_published_one(table: list[list[int]], weights: str, value: float) -> None:
    """Gwet's data as the tests of irrCAC's Python port have it; Kundel & Polansky's as R's vcdExtra prints it."""
    found = weighted_kappa(*listed(table), weights)
    assert found.value == pytest.approx(value, abs=5e-4 if value * 1000 % 1 < 1e-9 else 5e-5)
    assert found.name == ("Cohen's kappa" if weights == "identity" else "Weighted kappa")
    assert (found.weights, found.items, found.raters) == (weights, sum(map(sum, table)), 2)


def test_icc_is_shrouts() -> None:
    """Shrout & Fleiss 1979, table 4."""
    single, mean = icc(SHROUT)
    assert single == Agreement("ICC(2,1)", "absolute agreement", pytest.approx(0.29, abs=5e-3), None, None, 6, 4)
    assert mean == Agreement("ICC(2,k)", "absolute agreement", pytest.approx(0.62, abs=5e-3), None, None, 6, 4)


def puddings() -> tuple[np.ndarray, np.ndarray]:
    wins, ties = np.zeros((6, 6)), np.zeros((6, 6))
    for line in PUDDINGS.split(","):
        i, j, first, second, neither = map(int, line.split())
        wins[i - 1, j - 1], wins[j - 1, i - 1] = first, second
        ties[i - 1, j - 1] = ties[j - 1, i - 1] = neither
    return wins, ties


def test_strengths_are_davidsons() -> None:
    """Davidson 1970, example 2, as the vignette of the R package PlackettLuce gives it: after seven steps, as many as
    he made, which is short of the maximum in the fifth digit."""
    found = bradley_terry(*puddings())
    worth = np.exp(found.values)
    published = [0.1388005, 0.1729985, 0.1617420, 0.1653930, 0.1586805, 0.2023855]
    assert (worth / worth.sum()).tolist() == pytest.approx(published, abs=5e-5)
    assert found.tie == pytest.approx(0.7468, abs=5e-5)
    assert (found.comparisons, found.tie_rate) == (745, pytest.approx(202 / 745))


# Independent implementations -----------------------------------------------------------------------------------------


def alpha_by_pairs(ratings: np.ndarray, level: str) -> float:
    """Krippendorff's alpha by all pairs of ratings, within items and of all items."""
    units = [unit for unit in columns(ratings) if len(unit) > 1]
    pooled = [rating for unit in units for rating in unit]
    scale = sorted(set(pooled))

    def distance(a: float, b: float) -> float:
        if level == "nominal":
            return float(a != b)
        if level == "interval":
            return (a - b) ** 2
        between = scale[min(scale.index(a), scale.index(b)) : max(scale.index(a), scale.index(b)) + 1]
        return (sum(map(pooled.count, between)) - (pooled.count(a) + pooled.count(b)) / 2) ** 2

    observed = sum(sum(distance(a, b) for a, b in permutations(unit, 2)) / (len(unit) - 1) for unit in units)
    expected = sum(distance(a, b) for a, b in permutations(pooled, 2)) / (len(pooled) - 1)
    return 1 - observed / expected


def ac_by_pairs(ratings: np.ndarray, weights: str, scale: list[float]) -> float:
    """Gwet's coefficients by all pairs of raters of an item."""
    units = [unit for unit in columns(ratings) if unit]
    pairs = [list(permutations(unit, 2)) for unit in units if len(unit) > 1]
    observed = np.mean([np.mean([weight(weights, a, b, scale) for a, b in unit]) for unit in pairs])
    shares = [np.mean([unit.count(value) / len(unit) for unit in units]) for value in scale]
    total = sum(weight(weights, a, b, scale) for a, b in product(scale, scale))
    chance = total * sum(p * (1 - p) for p in shares) / (len(scale) * (len(scale) - 1))
    return (observed - chance) / (1 - chance)


def kappa_by_pairs(a: list[float], b: list[float], weights: str) -> float:
    """Disagreement on the same item over disagreement on any two items."""
    scale = sorted({*a, *b})
    observed = np.mean([1 - weight(weights, x, y, scale) for x, y in zip(a, b, strict=True)])
    return 1 - observed / np.mean([1 - weight(weights, x, y, scale) for x, y in product(a, b)])


def icc_by_regression(table: np.ndarray) -> tuple[float, float]:
    """The mean squares as what regressions on indicators of targets and judges leave unexplained."""
    n, k = table.shape
    targets, judges = np.kron(np.eye(n), np.ones((k, 1))), np.kron(np.ones((n, 1)), np.eye(k))

    def left(*indicators: np.ndarray) -> float:
        design = np.hstack(indicators)
        return float(((table.ravel() - design @ np.linalg.lstsq(design, table.ravel())[0]) ** 2).sum())

    error = left(targets, judges)
    bms, jms, ems = (
        (left(judges) - error) / (n - 1), (left(targets) - error) / (k - 1), error / ((n - 1) * (k - 1)),
    )  # fmt: skip
    return (bms - ems) / (bms + (k - 1) * ems + k * (jms - ems) / n), (bms - ems) / (bms + (jms - ems) / n)


def davidson_by_roots(wins: np.ndarray, ties: np.ndarray) -> np.ndarray:
    """Log strengths of mean 0 and log nu that solve Davidson's likelihood equations: the expected scores, a tie being
    half a win, and the expected number of ties are those observed."""
    models = len(wins)

    def missing(theta: np.ndarray) -> list[float]:
        p, nu = np.exp(theta[:-1]), math.exp(theta[-1])
        scores, tied = wins.sum(axis=1) + ties.sum(axis=1) / 2, ties.sum() / 2
        for i, j in combinations(range(models), 2):
            number = wins[i, j] + wins[j, i] + ties[i, j]
            share = number / (p[i] + p[j] + nu * math.sqrt(p[i] * p[j]))
            tie = share * nu * math.sqrt(p[i] * p[j])
            scores[i] -= share * p[i] + tie / 2
            scores[j] -= share * p[j] + tie / 2
            tied -= tie
        return [theta[:-1].sum(), *scores[1:], tied]

    solved = root(missing, np.zeros(models + 1), tol=1e-13)
    assert np.abs(missing(solved.x)).max() < 1e-8
    return solved.x


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("seed", range(8))
def test_alpha_is_the_one_by_pairs(level: str, seed: int) -> None:
    ratings = with_gaps(seed, raters=2 + seed % 4, values=2 + seed % 5, gaps=0.1 * (seed % 6))
    assert krippendorff_alpha(ratings, level).value == CLOSE(alpha_by_pairs(ratings, level))
    uneven = ratings**2 / 3  # values that are not evenly spaced, nor whole
    assert krippendorff_alpha(uneven, level).value == CLOSE(alpha_by_pairs(uneven, level))


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("seed", range(8))
def test_ac_is_the_one_by_pairs(weights: str, seed: int) -> None:
    ratings = with_gaps(seed, raters=2 + seed % 4, values=2 + seed % 5, gaps=0.1 * (seed % 6))
    given = sorted(set(ratings[~np.isnan(ratings)].tolist()))
    assert gwet_ac(ratings, weights).value == CLOSE(ac_by_pairs(ratings, weights, given))
    scale = [0.0, *given, 9.0, 11.5]
    found = gwet_ac(ratings, weights, categories=scale[::-1])
    assert found.value == CLOSE(ac_by_pairs(ratings, weights, scale))
    units = [unit for unit in columns(ratings) if len(unit) > 1]
    shares = [np.mean([a == b for a, b in permutations(unit, 2)]) for unit in units]
    assert percent_agreement(ratings).value == CLOSE(np.mean(shares))


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("seed", range(8))
def test_kappa_is_the_one_by_pairs(weights: str, seed: int) -> None:
    a, b = with_gaps(seed, raters=2, values=2 + seed % 5) ** 1.5
    both = [(x, y) for x, y in zip(a.tolist(), b.tolist(), strict=True) if not math.isnan(x + y)]
    found = weighted_kappa(a, b, weights)
    assert found.value == CLOSE(kappa_by_pairs(*map(list, zip(*both, strict=True)), weights))
    assert found.items == len(both)


@pytest.mark.parametrize("seed", range(8))
def test_icc_is_the_one_by_regression(seed: int) -> None:
    random = np.random.default_rng(seed)
    raters, items = 2 + seed % 4, 8 + seed
    ratings = random.normal(100, 3, items) + random.normal(0, 1 + seed % 3, (raters, items))
    gaps = ratings.copy()
    gaps[random.integers(raters), :3] = GAP
    gaps = np.vstack([gaps, np.full(items, GAP)])  # somebody who has rated nothing
    found = icc(gaps)
    assert [one.value for one in found] == CLOSE(list(icc_by_regression(ratings[:, 3:].T)))
    assert {(one.items, one.raters) for one in found} == {(items - 3, raters)}


@pytest.mark.parametrize("seed", range(8))
def test_strengths_solve_the_likelihood_equations(seed: int) -> None:
    random = np.random.default_rng(seed)
    models = 2 + seed % 5
    wins = random.integers(3, 40, (models, models)) * (1 - np.eye(models))
    ties = np.triu(random.integers(3, 20, (models, models)), 1)
    found = bradley_terry(wins, ties + ties.T)
    assert [*found.values, math.log(found.tie)] == CLOSE(davidson_by_roots(wins, ties + ties.T).tolist())


def test_strengths_without_ties_are_bradleys_and_terrys() -> None:
    """Of two models the odds are those observed."""
    found = bradley_terry([[0, 30], [10, 0]], np.zeros((2, 2)))
    assert found.values == CLOSE((math.log(3) / 2, -math.log(3) / 2))
    assert (found.tie, found.tie_rate, found.comparisons) == (0, 0, 40)


# The bootstrap -------------------------------------------------------------------------------------------------------

RESAMPLED = {
    "percent": percent_agreement,
    "alpha": krippendorff_alpha,
    "ac": partial(gwet_ac, weights="quadratic", categories=(1, 2, 3, 4, 5)),
    "kappa": lambda ratings, **seed: weighted_kappa(ratings[0], ratings[1], **seed),
    "single": lambda ratings, **seed: icc(ratings, **seed)[0],
    "mean": lambda ratings, **seed: icc(ratings, **seed)[1],
}


@pytest.mark.parametrize("name", RESAMPLED)
def test_intervals_are_those_of_resampled_ratings(name: str) -> None:
    statistic = RESAMPLED[name]
    ratings = with_gaps(3, raters=4, items=60, gaps=0.0 if name in ("single", "mean") else 0.2)
    found = statistic(ratings, seed=1)
    assert found.low < found.value < found.high
    assert found == statistic(ratings, seed=1) != statistic(ratings, seed=2)
    random = np.random.default_rng(4)
    values = [statistic(ratings[:, random.integers(60, size=60)]).value for _ in range(1000)]
    low, high = np.quantile(values, (0.025, 0.975))
    width = high - low
    assert found.low == pytest.approx(low, abs=0.15 * width)
    assert found.high == pytest.approx(high, abs=0.15 * width)


def test_the_interval_of_a_mean_is_the_textbooks() -> None:
    random = np.random.default_rng(0)
    items = random.normal(5, 2, (400, 1))
    low, high = bootstrap(lambda rows, times: times @ rows / times.sum(), items, seed=0, n=4000, level=0.9)
    half = 1.6449 * items.std() / 20
    assert (low[0], high[0]) == (
        pytest.approx(items.mean() - half, abs=0.1 * half), pytest.approx(items.mean() + half, abs=0.1 * half),
    )  # fmt: skip


@pytest.mark.parametrize("copies", [1, 10])
def test_a_draw_has_as_many_items_as_there_are(copies: int) -> None:
    items = np.array([[0, 2], [1, 1], [2, 0]]).repeat(copies, axis=0)
    seen = []

    def statistic(rows: np.ndarray, times: np.ndarray) -> np.ndarray:
        seen.append(times)
        assert rows.tolist() == [[0, 2], [1, 1], [2, 0]]  # equal items once
        return np.array([np.nan if times[0] == 0 else times[0], np.nan])

    low, high = bootstrap(statistic, items, seed=0, n=500)
    assert {times.sum() for times in seen} == {3 * copies}
    assert np.mean(seen, axis=0) == pytest.approx(copies, rel=0.1)
    assert np.var(seen, axis=0) == pytest.approx(copies * 2 / 3, rel=0.2)  # of a binomial of 3 copies with 1/3
    assert 1 <= low[0] < high[0]  # draws on which it is not defined are left out
    assert np.isnan([low[1], high[1]]).all()


@pytest.mark.parametrize("wrong", [{"items": np.zeros((0, 2))}, {"n": 0}, {"level": 1.0}, {"level": 0.0}])
def test_a_bootstrap_needs_items_draws_and_a_level(wrong: dict) -> None:
    given = {"items": np.zeros((3, 2)), "seed": 0} | wrong
    with pytest.raises(FeedbackError, match="bootstrap needs"):
        bootstrap(lambda rows, times: times[:1], **given)


def test_intervals_of_strengths() -> None:
    wins, ties = puddings()
    found = bradley_terry(wins, ties, seed=0)
    assert all(low < value < high for low, value, high in zip(found.low, found.values, found.high, strict=True))
    errors = [0.121949, 0.121818, 0.126823, 0.122003, 0.127054, 0.126594]  # as PlackettLuce's vignette gives them
    halves = (np.array(found.high) - found.low) / 2 / 1.96
    assert halves.tolist() == pytest.approx(errors, rel=0.25)
    # the same comparisons, each as an item that two raters judged alike: no more is known than from one of them
    pairs = [(i, j, kind) for i, j in combinations(range(6), 2) for kind in range(3)]
    each = [int((wins[i, j], wins[j, i], ties[i, j])[kind]) for i, j, kind in pairs]
    item_wins, item_ties = np.zeros((2, sum(each), 6, 6))
    kinds = [pair for pair, times in zip(pairs, each, strict=True) for _ in range(times)]
    for item, (i, j, kind) in enumerate(kinds):
        if kind == 2:
            item_ties[item, i, j] = item_ties[item, j, i] = 2
        else:
            item_wins[item, *((i, j) if kind == 0 else (j, i))] = 2
    clustered = bradley_terry(item_wins, item_ties, seed=0)
    assert clustered.values == CLOSE(found.values) and clustered.comparisons == 2 * found.comparisons
    assert ((np.array(clustered.high) - clustered.low) / 2 / 1.96).tolist() == pytest.approx(errors, rel=0.25)


def test_a_table_gets_the_statistics_that_suit_it() -> None:
    ratings = with_gaps(5, raters=3, gaps=0.0)
    names = [(one.name, one.weights) for one in bootstrapped(ratings, ordered=True, categories=(1, 2, 3, 4, 5))]
    assert names == [
        ("Percent agreement", "identity"), ("Krippendorff's alpha", "ordinal"), ("Gwet's AC2", "quadratic"),
        ("ICC(2,1)", "absolute agreement"), ("ICC(2,k)", "absolute agreement"),
    ]  # fmt: skip
    ratings[1] = GAP
    found = bootstrapped(ratings, ordered=False)
    assert [(one.name, one.weights) for one in found] == [
        ("Percent agreement", "identity"), ("Krippendorff's alpha", "nominal"), ("Gwet's AC1", "identity"),
        ("Cohen's kappa", "identity"),
    ]  # fmt: skip
    assert all(one.low < one.value < one.high and (one.items, one.raters) == (30, 2) for one in found)


# What is not defined -------------------------------------------------------------------------------------------------

DEGENERATE = {
    "unanimous": np.full((3, 5), 4.0),
    "unanimous, not whole": np.full((3, 5), 0.1),
    "unanimous with gaps": np.array([[2, GAP, 2], [2, 2, GAP], [GAP, 2, 2]]),
    "one item": np.array([[1.0], [2], [1]]),
    "one item that two have rated": np.array([[1.0, 2, GAP], [2, GAP, 3]]),
    "one rater": np.array([[1.0, 2, 3]]),
    "one active rater": np.array([[1.0, 2, 3], [GAP, GAP, GAP]]),
    "nobody twice": np.array([[1, GAP], [GAP, 2]]),
    "all gaps": np.full((3, 4), GAP),
    "no items": np.zeros((3, 0)),
    "no raters": np.zeros((0, 3)),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_what_is_not_defined_is_none(name: str) -> None:
    ratings = DEGENERATE[name]
    found = [krippendorff_alpha(ratings, level, seed=0) for level in LEVELS]
    found += [gwet_ac(ratings, weights, seed=0) for weights in WEIGHTS]
    if len(ratings) > 1:
        found += [weighted_kappa(ratings[0], ratings[1], weights, seed=0) for weights in WEIGHTS]
    found += icc(ratings, seed=0)
    if "unanimous" not in name:
        found += [percent_agreement(ratings, seed=0)]
    assert {(one.value, one.low, one.high) for one in found} == {(None, None, None)}


def test_unanimous_ratings_agree_where_the_scale_is_known() -> None:
    ratings = DEGENERATE["unanimous"]
    assert percent_agreement(ratings, seed=0).value == 1
    found = gwet_ac(ratings, categories=(1, 2, 3, 4, 5), seed=0)
    assert (found.value, found.low, found.high) == (1, 1, 1)


def test_an_icc_without_variance_to_divide_by_is_none() -> None:
    single, mean = icc(np.array([[1.0, 2], [2, 1]]))
    assert single.value is None and mean.value is None


def test_strengths_that_are_not_defined_are_none() -> None:
    nothing = bradley_terry(np.zeros((3, 3)), np.zeros((3, 3)), seed=0)
    assert (nothing.values, nothing.low, nothing.tie, nothing.tie_rate, nothing.comparisons) == (None,) * 4 + (0,)
    wins = np.zeros((4, 4))
    wins[0, 1] = wins[1, 0] = wins[2, 3] = wins[3, 2] = 5  # two groups that never met
    apart = bradley_terry(wins, np.zeros((4, 4)), seed=0)
    assert (apart.values, apart.tie_rate, apart.comparisons) == (None, 0, 20)
    assert bradley_terry(np.zeros((1, 1)), np.zeros((1, 1)), seed=0).values is None
    assert bradley_terry(np.zeros((0, 3, 3)), np.zeros((0, 3, 3)), seed=0).values is None


def test_a_model_that_always_wins_stays_finite() -> None:
    found = bradley_terry([[0, 10, 10], [0, 0, 5], [0, 5, 0]], np.zeros((3, 3)), seed=0)
    assert 10 < found.values[0] - found.values[1] < 20
    assert found.values[1] == CLOSE(found.values[2])
    assert np.isfinite([*found.low, *found.high]).all()
    tied = bradley_terry(np.zeros((2, 2)), [[0, 5], [5, 0]])
    assert tied.values == CLOSE((0, 0)) and tied.tie > 1e3 and tied.tie_rate == 1


SCORES = st.sampled_from([GAP, 1.0, 2.0, 3.0, 5.0])
TABLES = st.tuples(st.integers(0, 4), st.integers(0, 6)).flatmap(lambda shape: arrays(float, shape, elements=SCORES))


@settings(deadline=None)
@given(TABLES)
def test_no_table_raises_or_gives_nan(ratings: np.ndarray) -> None:
    found = [krippendorff_alpha(ratings, level) for level in LEVELS]
    found += [gwet_ac(ratings, weights) for weights in WEIGHTS]
    found += [percent_agreement(ratings), *icc(ratings)]
    found += [weighted_kappa(a, b, "linear") for a, b in combinations(ratings, 2)]
    for one in found:
        assert one.value is None or (one.value <= 1 + 1e-9 and not math.isnan(one.value)), one


@settings(deadline=None)
@given(st.integers(1, 4).flatmap(lambda n: arrays(int, (2, n, n), elements=st.sampled_from([0, 0, 0, 1, 2, 50]))))
def test_no_comparisons_raise_or_give_nan(tables: np.ndarray) -> None:
    wins, ties = tables * (1 - np.eye(tables.shape[1], dtype=int))
    found = bradley_terry(wins, np.triu(ties) + np.triu(ties).T)
    if found.values is not None:
        assert np.isfinite([*found.values, found.tie]).all()
        assert sum(found.values) == CLOSE(0)
        assert max(map(abs, found.values)) < 60


# What is refused -----------------------------------------------------------------------------------------------------


def test_what_is_no_table_of_ratings_is_refused() -> None:
    for wrong in (np.zeros(3), np.zeros((2, 2, 2)), np.array([[1, np.inf]])):
        for statistic in (percent_agreement, krippendorff_alpha, gwet_ac, icc):
            with pytest.raises(FeedbackError, match="raters by items"):
                statistic(wrong)
    with pytest.raises(FeedbackError, match="same items"):
        weighted_kappa(np.zeros(3), np.zeros(4))
    with pytest.raises(FeedbackError, match="too many different"):
        krippendorff_alpha(np.arange(600.0).reshape(2, 300), "interval")
    with pytest.raises(FeedbackError, match=r"Unknown level.*ratio"):
        krippendorff_alpha(KRIPPENDORFF, "ratio")
    with pytest.raises(FeedbackError, match=r"Unknown weights.*cubic"):
        gwet_ac(KRIPPENDORFF, "cubic")
    with pytest.raises(FeedbackError, match=r"none of the categories: .*5\.0"):
        gwet_ac(KRIPPENDORFF, categories=(1, 2, 3, 4))


def test_what_are_no_comparisons_is_refused() -> None:
    none = np.zeros((2, 2))
    for wins, ties in ((np.zeros(2), np.zeros(2)), (none, np.zeros((3, 3))), (np.zeros((2, 3)), np.zeros((2, 3)))):
        with pytest.raises(FeedbackError, match="square"):
            bradley_terry(wins, ties)
    for wins in ([[0, -1], [0, 0]], [[0, 0.5], [0, 0]], [[1, 0], [0, 0]], [[0, GAP], [0, 0]]):
        with pytest.raises(FeedbackError, match="counts"):
            bradley_terry(wins, none)
    with pytest.raises(FeedbackError, match="above and below"):
        bradley_terry(none, [[0, 1], [0, 0]])


# Speed ---------------------------------------------------------------------------------------------------------------


def test_a_million_ratings_take_less_than_a_second() -> None:
    ratings = with_gaps(0, raters=10, items=100_000, gaps=0.2)
    for statistic in (krippendorff_alpha, partial(gwet_ac, weights="quadratic")):
        start = time.perf_counter()
        assert statistic(ratings).value > 0
        assert time.perf_counter() - start < 1
