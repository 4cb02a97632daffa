"""How far raters agree, with intervals over items. Nothing here loads torch.

Ratings are float of shape (raters, items), NaN where a rater has not judged an item. What the data does not define is
None: fewer than two items or raters, nothing but gaps, or the same rating throughout, where chance alone would agree.

A statistic is computed from one row an item (how often each value was given, say) and from how often each row counts.
The bootstrap draws these numbers, and never touches the ratings again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.sparse.csgraph import connected_components
from scipy.special import softmax

from core.errors import FeedbackError

LEVELS = ("nominal", "ordinal", "interval")
WEIGHTS = ("identity", "linear", "quadratic", "ordinal")
MOST_VALUES = 256
"""Different values that a table may hold; statistics of categories need their square in memory."""
PRIOR = 1e-6
"""Precision of the normal prior, of mean 0, on log strengths and on the log of the tie parameter. It keeps a model
that has won every comparison finite (about 15 above the others), and moves ordinary fits by less than 1e-6."""

Statistic = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From rows (rows, columns) and how often each counts (rows,) to numbers (k,), NaN where they are not defined."""


@dataclass(frozen=True)
class Agreement:
    """
    Attributes:
        weights: how far apart two different values lie: the level of measurement, or the name of the weights.
        value: None where the data does not define it.
        low: lower end of the interval; None without a seed or a value.
        high: upper end of it.
        items: with two or more ratings; of an ICC, those that every rater has rated.
        raters: with one or more ratings.
    """

    name: str
    weights: str
    value: float | None
    low: float | None
    high: float | None
    items: int
    raters: int


@dataclass(frozen=True)
class Strengths:
    """
    Attributes:
        values: log strength of each model, of mean 0; None where the comparisons do not connect all models.
        low: lower ends of their intervals; None without a seed or values.
        high: upper ends of them.
        tie: Davidson's nu: two models of equal strength tie with probability nu / (2 + nu).
        tie_rate: share of ties among all comparisons.
        comparisons: how many there are.
    """

    values: tuple[float, ...] | None
    low: tuple[float, ...] | None
    high: tuple[float, ...] | None
    tie: float | None
    tie_rate: float | None
    comparisons: int


def bootstrap(
    statistic: Statistic, items: np.ndarray, seed: int, n: int = 1000, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval over items (Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13).

    Equal items are drawn together, as their number in a draw is multinomial: 1,000 draws of 100,000 items cost what
    1,000 draws of their few hundred different rows do.

    Args:
        statistic: what the interval is for: of all rows or only the different ones, and how often each was drawn.
            Draws on which it is NaN are left out.
        items: one row an item, of shape (items, columns).

    Returns:
        Lower and upper ends, each of shape (k,); NaN where every draw was.

    Raises:
        FeedbackError: no items, no draws, or a level outside of 0 to 1.
    """
    if not len(items) or n < 1 or not 0 < level < 1:
        raise FeedbackError("A bootstrap needs items, draws and a level between 0 and 1", value=(len(items), n, level))
    number, generator = len(items), np.random.default_rng(seed)
    rows, times = np.unique(items, axis=0, return_counts=True)
    if 4 * len(rows) < number:
        draws = (generator.multinomial(number, times / number) for _ in range(n))
    else:  # with few equals it is faster to draw items one by one
        rows, draws = items, (np.bincount(generator.integers(number, size=number), minlength=number) for _ in range(n))
    values = np.array([statistic(rows, draw) for draw in draws])
    defined = [column[~np.isnan(column)] for column in values.T]
    ends = ((1 - level) / 2, (1 + level) / 2)
    low, high = np.transpose([np.quantile(column, ends) if len(column) else (np.nan, np.nan) for column in defined])
    return low, high


def bootstrapped(
    ratings: np.ndarray, ordered: bool, categories: Sequence[float] | None = None, seed: int = 0
) -> list[Agreement]:
    """The statistics that suit a table, side by side because skewed ratings pull them apart, each with its interval.

    Args:
        ratings: of shape (raters, items).
        ordered: True for scores, False for choices.
        categories: every value that could have been given; without them, those that were.

    Raises:
        FeedbackError: as the single statistics do.
    """
    level, weights = ("ordinal", "quadratic") if ordered else ("nominal", "identity")
    found = [
        percent_agreement(ratings, seed=seed),
        krippendorff_alpha(ratings, level, seed=seed),
        gwet_ac(ratings, weights, categories, seed=seed),
    ]
    active = ratings[~np.isnan(ratings).all(axis=1)]
    if len(active) == 2:
        found.append(weighted_kappa(*active, weights, seed=seed))
    return [*found, *icc(ratings, seed=seed)] if ordered else found


# Many raters, categories ---------------------------------------------------------------------------------------------


def percent_agreement(ratings: np.ndarray, *, seed: int | None = None) -> Agreement:
    """Share of pairs of ratings of an item that are equal, mean of items (Gwet 2014, chapter 4).

    Unlike the others it is defined where all ratings are the same: it is 1.

    Args:
        ratings: of shape (raters, items).
        seed: of the bootstrap; without one there is no interval.

    Raises:
        FeedbackError: not a table of finite numbers, or more than ``MOST_VALUES`` different ones.
    """
    values, counts = _counts(ratings)
    pairable = counts[counts.sum(axis=1) > 1]
    statistic = partial(_percent, weights=_weights("identity", values))
    raters = _raters(ratings)
    return _estimated(("Percent agreement",), "identity", statistic, pairable, len(pairable), raters, seed)[0]


def _percent(counts: np.ndarray, times: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.array([times @ _agreeing(counts, weights) / times.sum()])


def _agreeing(counts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean weight of the pairs of ratings of each item, of shape (items,); 0 where there is no pair."""
    number = counts.sum(axis=1)
    together = (counts * (counts @ weights - 1)).sum(axis=1)
    return together / np.maximum(number * (number - 1), 1)


def krippendorff_alpha(ratings: np.ndarray, level: str = "ordinal", *, seed: int | None = None) -> Agreement:
    """Krippendorff's alpha, for any number of raters and gaps (Krippendorff 2011, "Computing Krippendorff's
    Alpha-Reliability", parts C and D).

    Args:
        ratings: of shape (raters, items).
        level: ``nominal``, ``ordinal`` or ``interval``.
        seed: of the bootstrap; without one there is no interval.

    Raises:
        FeedbackError: an unknown level, not a table of finite numbers, or more than ``MOST_VALUES`` different ones.
    """
    _one_of("level of measurement", level, LEVELS)
    values, counts = _counts(ratings)
    pairable = counts[counts.sum(axis=1) > 1]
    statistic = partial(_alpha, values=values, level=level)
    raters = _raters(ratings)
    return _estimated(("Krippendorff's alpha",), level, statistic, pairable, len(pairable), raters, seed)[0]


def _alpha(counts: np.ndarray, times: np.ndarray, values: np.ndarray, level: str) -> np.ndarray:
    coincidences = counts.T @ (counts * (times / (counts.sum(axis=1) - 1))[:, None])  # right off the diagonal
    frequencies = times @ counts
    if level == "nominal":
        distances = 1 - np.eye(len(values))
    else:
        # the ordinal metric counts the ratings from one value to the other, half of both ends: it compares mid-ranks
        places = values if level == "interval" else np.cumsum(frequencies) - frequencies / 2
        distances = (places[:, None] - places) ** 2
    expected = frequencies @ distances @ frequencies
    if not expected > 0:
        return np.array([np.nan])
    return np.array([1 - (frequencies.sum() - 1) * (coincidences * distances).sum() / expected])


def gwet_ac(
    ratings: np.ndarray,
    weights: str = "identity",
    categories: Sequence[float] | None = None,
    *,
    seed: int | None = None,
) -> Agreement:
    """Gwet's AC1 (identity weights) or AC2 (others), for any number of raters and gaps: Gwet 2008, "Computing
    inter-rater reliability and its variance in the presence of high agreement"; with weights and gaps Gwet 2014,
    "Handbook of Inter-Rater Reliability", 4th edition, chapters 3 and 4, as in the author's R package irrCAC.

    Args:
        ratings: of shape (raters, items).
        weights: ``identity``, ``linear``, ``quadratic`` or ``ordinal``.
        categories: every value that could have been given. Chance is shared out among them, so a scale that was not
            used in full gives another result; without them, those that were given.
        seed: of the bootstrap; without one there is no interval.

    Raises:
        FeedbackError: unknown weights, a rating outside of the categories, not a table of finite numbers, or more than
            ``MOST_VALUES`` different ones.
    """
    values, counts = _counts(ratings, categories)
    rated = counts[counts.any(axis=1)]
    name = "Gwet's AC1" if weights == "identity" else "Gwet's AC2"
    statistic = partial(_gwet, weights=_weights(weights, values))
    items = int((counts.sum(axis=1) > 1).sum())
    return _estimated((name,), weights, statistic, rated, items, _raters(ratings), seed)[0]


def _gwet(counts: np.ndarray, times: np.ndarray, weights: np.ndarray) -> np.ndarray:
    number, categories = counts.sum(axis=1), len(weights)
    pairable = times @ (number > 1)
    if categories < 2 or not pairable:
        return np.array([np.nan])
    observed = times @ _agreeing(counts, weights) / pairable
    shares = times @ (counts / number[:, None]) / times.sum()
    chance = weights.sum() / (categories * (categories - 1)) * (shares * (1 - shares)).sum()
    return np.array([(observed - chance) / (1 - chance)])


# Two raters ----------------------------------------------------------------------------------------------------------


def weighted_kappa(a: np.ndarray, b: np.ndarray, weights: str = "quadratic", *, seed: int | None = None) -> Agreement:
    """Cohen's kappa of two raters (Cohen 1960; with weights Cohen 1968, "Weighted kappa"). Linear weights
    are those of Cicchetti & Allison 1971, quadratic ones those of Fleiss & Cohen 1973.

    Args:
        a: of shape (items,), NaN for a gap.
        b: as a; items with a gap in either are left out.
        weights: ``identity``, ``linear``, ``quadratic`` or ``ordinal``.
        seed: of the bootstrap; without one there is no interval.

    Raises:
        FeedbackError: unknown weights, different lengths, numbers that are not finite, or more than ``MOST_VALUES``
            different ones.
    """
    if np.shape(a) != np.shape(b):
        raise FeedbackError("Two raters must have rated the same items", value=(np.shape(a), np.shape(b)))
    ratings = _checked(np.stack([a, b]))
    both = ratings[:, ~np.isnan(ratings).any(axis=0)]
    values = _values(both)
    pairs = np.searchsorted(values, both).T
    name = "Cohen's kappa" if weights == "identity" else "Weighted kappa"
    statistic = partial(_kappa, weights=_weights(weights, values))
    return _estimated((name,), weights, statistic, pairs, len(pairs), _raters(ratings), seed)[0]


def _kappa(pairs: np.ndarray, times: np.ndarray, weights: np.ndarray) -> np.ndarray:
    table = np.zeros(weights.shape)
    np.add.at(table, (pairs[:, 0], pairs[:, 1]), times)
    disagreement = 1 - weights
    expected = table.sum(axis=1) @ disagreement @ table.sum(axis=0)
    if not expected > 0:
        return np.array([np.nan])
    return np.array([1 - table.sum() * (table * disagreement).sum() / expected])


# Numbers -------------------------------------------------------------------------------------------------------------


def icc(ratings: np.ndarray, *, seed: int | None = None) -> tuple[Agreement, Agreement]:
    """ICC(2,1) of a single rating and ICC(2,k) of the mean of all k raters: raters are a random sample and their
    differences in level count as disagreement (Shrout & Fleiss 1979, "Intraclass correlations", case 2).

    None also where the estimated variance that they divide by is not positive.

    Args:
        ratings: of shape (raters, items). Raters with no rating at all are left out, and then items with a gap.
        seed: of the bootstrap; without one there is no interval.

    Raises:
        FeedbackError: not a table of finite numbers.
    """
    known = _checked(ratings)
    known = known[~np.isnan(known).all(axis=1)]
    complete = known[:, ~np.isnan(known).any(axis=0)].T
    items = len(complete) if complete.size else 0
    if items:
        complete = complete - complete[0, 0]  # equal ratings become exact zeros
        complete = complete - complete.mean()
    rows = np.column_stack([complete, complete.sum(axis=1) ** 2, (complete**2).sum(axis=1)])
    names = ("ICC(2,1)", "ICC(2,k)")
    single, mean = _estimated(names, "absolute agreement", _icc, rows, items, len(known), seed)
    return single, mean


def _icc(rows: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Of rows (items, k + 2): the ratings of an item, the square of their sum, and the sum of their squares."""
    n, k = times.sum(), rows.shape[1] - 2
    *sums, squared_sums, squares = np.einsum("i,ij->j", times, rows)  # @ starts threads, and is slower
    judges = np.array(sums) / n
    mean = judges.mean()
    targets_left = squared_sums / k - n * k * mean**2  # sums of squares of the analysis of variance
    judges_left = n * ((judges - mean) ** 2).sum()
    error_left = max(squares - n * k * mean**2 - targets_left - judges_left, 0.0)
    bms, jms, ems = targets_left / (n - 1), judges_left / (k - 1), error_left / ((n - 1) * (k - 1))
    totals = (bms + (k - 1) * ems + k * (jms - ems) / n, bms + (jms - ems) / n)
    least = 1e-12 * squares / n
    return np.array([(bms - ems) / total if total > least else np.nan for total in totals])


# Comparisons ---------------------------------------------------------------------------------------------------------


def bradley_terry(wins: np.ndarray, ties: np.ndarray, *, seed: int | None = None) -> Strengths:
    """Strengths of models from comparisons with ties: Bradley & Terry 1952 as extended by Davidson 1970, "On extending
    the Bradley-Terry model to accommodate ties in paired comparison experiments".

    Of models with strengths p and q, the first wins in proportion to p, the second to q, and they tie in proportion to
    nu sqrt(p q). Maximum likelihood, with the ``PRIOR`` against models that win or lose every comparison.

    Args:
        wins: how often the model of the row has beaten that of the column, of shape (models, models), or
            (items, models, models) where several raters have judged an item: the bootstrap then draws whole items, and
            else single comparisons.
        ties: how often the two have tied, as wins; the same above and below the diagonal.
        seed: of the bootstrap; without one there is no interval.

    Raises:
        FeedbackError: shapes that differ or are not square, counts that are negative or not whole, something on a
            diagonal, or ties that are not symmetric.
    """
    wins, ties = np.asarray(wins, dtype=float), np.asarray(ties, dtype=float)
    models = wins.shape[-1] if wins.ndim else 0
    if wins.shape != ties.shape or wins.ndim not in (2, 3) or wins.shape[-2] != models:
        raise FeedbackError("Wins and ties need one square table each", value=(wins.shape, ties.shape))
    both = np.stack([wins, ties])
    if not np.isfinite(both).all() or (both < 0).any() or (both % 1).any() or both.diagonal(0, -2, -1).any():
        raise FeedbackError("Wins and ties are counts of comparisons of two different models")
    if (ties != ties.swapaxes(-2, -1)).any():
        raise FeedbackError("Ties must be the same above and below the diagonal", remedy="Count each of them in both")
    a, b = np.triu_indices(models, 1)
    outcomes = np.stack([wins[..., a, b], wins[..., b, a], ties[..., a, b]], axis=-1)
    cells = outcomes.reshape(*wins.shape[:-2], 3 * len(a))
    if wins.ndim == 2:
        items = np.repeat(np.eye(cells.size, dtype=np.uint8), cells.astype(int), axis=0)
    else:
        items = cells[cells.any(axis=1)]
    comparisons, tied = int(cells.sum()), int(ties.sum()) // 2
    statistic = partial(_davidson, models=models)
    found = statistic(items, np.ones(len(items)))
    rate = tied / comparisons if comparisons else None
    if np.isnan(found).any():
        return Strengths(None, None, None, None, rate, comparisons)
    low = high = None
    if seed is not None:
        low, high = (tuple(ends[:-1].tolist()) for ends in bootstrap(statistic, items, seed))
    return Strengths(tuple(found[:-1].tolist()), low, high, float(found[-1]), rate, comparisons)


def _davidson(items: np.ndarray, times: np.ndarray, models: int) -> np.ndarray:
    """Log strengths and nu, of shape (models + 1,), by Newton's method; NaN where a model is compared with none of the
    others, by itself or in a group."""
    a, b = np.triu_indices(models, 1)
    counts = (times @ items).reshape(len(a), 3)
    compared = np.zeros((models, models))
    compared[a, b] = counts.sum(axis=1)
    if models < 2 or connected_components(compared, directed=False, return_labels=False) > 1:
        return np.full(models + 1, np.nan)
    # log odds of an outcome (first wins, second wins, tie) are linear in the log strengths and log nu
    design, pair = np.zeros((len(a), 3, models + 1)), np.arange(len(a))
    design[pair, 0, a] = design[pair, 1, b] = design[:, 2, -1] = 1
    design[pair, 2, a] = design[pair, 2, b] = 0.5
    tied = counts[:, 2].any()
    if not tied:  # nu is 0
        design, counts = design[:, :2, :-1], counts[:, :2]
    number = counts.sum(axis=1, keepdims=True)
    theta = np.zeros(design.shape[-1])
    for _ in range(100):
        chance = softmax(design @ theta, axis=1)
        mean = np.einsum("po,pof->pf", chance, design)
        gradient = np.einsum("po,pof->f", counts - number * chance, design) - PRIOR * theta
        square = np.einsum("po,pof,pog->fg", number * chance, design, design) - (number * mean).T @ mean
        step = np.linalg.solve(square + PRIOR * np.eye(len(theta)), gradient)
        longest = np.abs(step).max()
        theta += step / max(1.0, longest)  # far from the maximum a full step may overshoot
        if longest < 1e-9:
            break
    strengths = theta[:models] - theta[:models].mean()
    return np.append(strengths, np.exp(theta[-1]) if tied else 0.0)


# Shared --------------------------------------------------------------------------------------------------------------


def _estimated(
    names: tuple[str, ...],
    weights: str,
    statistic: Statistic,
    rows: np.ndarray,
    items: int,
    raters: int,
    seed: int | None,
) -> list[Agreement]:
    values = low = high = np.full(len(names), np.nan)
    if items > 1 and raters > 1:
        values = statistic(rows, np.ones(len(rows)))
        if seed is not None and not np.isnan(values).all():
            low, high = bootstrap(statistic, rows, seed)
    low, high = np.where(np.isnan(values), np.nan, [low, high])
    numbers = [[None if np.isnan(number) else float(number) for number in ends] for ends in (values, low, high)]
    return [Agreement(name, weights, *found, items, raters) for name, *found in zip(names, *numbers, strict=True)]


def _checked(ratings: np.ndarray) -> np.ndarray:
    ratings = np.asarray(ratings, dtype=float)
    if ratings.ndim != 2 or np.isinf(ratings).any():
        raise FeedbackError("Ratings are a table of finite numbers, raters by items", value=ratings.shape)
    return ratings


def _raters(ratings: np.ndarray) -> int:
    return int((~np.isnan(ratings)).any(axis=1).sum())


def _values(ratings: np.ndarray) -> np.ndarray:
    values = np.unique(ratings[~np.isnan(ratings)])
    if len(values) > MOST_VALUES:
        remedy = f"Round them to at most {MOST_VALUES}, or use an ICC"
        raise FeedbackError("There are too many different ratings", value=len(values), remedy=remedy)
    return values


def _counts(ratings: np.ndarray, categories: Sequence[float] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The values in order, of shape (values,), and how often each item was given each, of shape (items, values)."""
    ratings = _checked(ratings)
    values = _values(ratings) if categories is None else np.unique(np.asarray(categories, dtype=float))
    known = ~np.isnan(ratings)
    given, items = ratings[known], np.nonzero(known)[1]
    places = np.searchsorted(values, given)
    if categories is not None and not np.isin(given, values).all():
        raise FeedbackError("A rating is none of the categories", value=given[~np.isin(given, values)][0])
    counts = np.bincount(items * len(values) + places, minlength=ratings.shape[1] * len(values))
    return values, counts.reshape(ratings.shape[1], len(values)).astype(float)


def _weights(name: str, values: np.ndarray) -> np.ndarray:
    """Weights of agreement (values, values), 1 on the diagonal (Gwet 2014, chapter 3): linear and quadratic ones by
    the distance of the values, ordinal ones by the pairs of categories from one to the other."""
    _one_of("weights", name, WEIGHTS)
    if name == "identity" or len(values) < 2:
        return np.eye(len(values))
    if name == "ordinal":
        number = np.abs(np.subtract.outer(np.arange(len(values)), np.arange(len(values)))) + 1
        apart = number * (number - 1) / 2
    else:
        apart = np.abs(values[:, None] - values) ** (1 if name == "linear" else 2)
    return 1 - apart / apart.max()


def _one_of(what: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        raise FeedbackError(f"Unknown {what}", value=name, remedy=f"Use one of {', '.join(known)}")
