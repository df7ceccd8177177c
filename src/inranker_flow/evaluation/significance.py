"""Is a difference between two systems more than luck? Paired tests and intervals over the same queries.

numpy alone, but for the t-test: the gate asks :func:`randomisation_p` where scipy is not installed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

#: Random sign vectors, and bootstrap samples: a p-value near 0.05 is then known to 0.002.
RESAMPLES = 10_000
SEED = 20_240_106
#: Numbers in one block of sign vectors: 32 MB as float64.
_BLOCK = 4_000_000
#: Differences are rounded to this grid, so that sums of them are exact whatever their order: see `randomisation_p`.
_GRID = 2.0**40


@dataclass(frozen=True)
class Part:
    """Differences (challenger - other) by query of one test set, and the ``weight`` of their mean in the statistic."""

    weight: float
    differences: np.ndarray


@dataclass(frozen=True)
class Comparison:
    """``p``: paired randomisation; ``p_t``: paired t; both two-sided. ``effect``: Cohen's d_z, None for the same
    non-zero difference everywhere. ``interval``: of the difference, 95 %."""

    difference: float
    p: float
    p_t: float
    effect: float | None
    interval: tuple[float, float]


def parts_of(sets: Sequence[np.ndarray]) -> list[Part]:
    """Test sets that are averaged with equal weight; one set is just that set."""
    return [Part(1 / len(sets), np.asarray(each, np.float64)) for each in sets]


def compare(parts: Sequence[Part]) -> Comparison:
    """Return every number about one paired difference."""
    return Comparison(mean(parts), randomisation_p(parts), t_p(parts), effect_size(parts), bootstrap_interval(parts))


def mean(parts: Sequence[Part]) -> float:
    """Return the weighted sum of the parts' means; exact sums, so equal values have equal means in any order."""
    return math.fsum(part.weight * (math.fsum(part.differences) / len(part.differences)) for part in parts)


def randomisation_p(
    parts: Sequence[Part], *, greater: bool = False, resamples: int = RESAMPLES, seed: int = SEED
) -> float:
    """Return p-value of the paired randomisation (sign-flip) test of :func:`mean`: two-sided, or ``greater`` than 0.

    Where two systems are equal, the sign of each query's difference is a coin's. All sign vectors are tried where there
    are at most ``resamples`` of them; else ``resamples`` random ones, and the observed one counts as one of them
    (Phipson and Smyth 2010), so p is never 0 and the test never promises more than it holds.

    The one-sided p never rises when a difference grows: the sign vectors do not depend on the values, a vector counts
    as a hit when the differences that it flips sum to 0 or less, and such a sum can only grow. Rounding to a grid keeps
    this true to the last bit.
    """
    if not parts or not any(part.differences.size for part in parts):
        return 1.0
    scaled = [part.weight / len(part.differences) * part.differences for part in parts if part.differences.size]
    values = np.rint(np.concatenate(scaled) * _GRID)
    total = values.sum()
    hits = tried = 0
    for flips in _sign_vectors(values.size, resamples, seed):
        flipped = flips @ values
        hits += int((flipped <= 0).sum() if greater else (np.abs(total - 2 * flipped) >= abs(total)).sum())
        tried += len(flips)
    return hits / tried if _all_fit(values.size, resamples) else (1 + hits) / (1 + tried)


def _all_fit(size: int, resamples: int) -> bool:
    return size < 64 and 2**size <= resamples


def _sign_vectors(size: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield blocks (rows, ``size``) of 1 where a sign is flipped, else 0; float64, because matrix products are fast in it."""
    if _all_fit(size, resamples):
        yield (np.arange(2**size)[:, None] >> np.arange(size) & 1).astype(np.float64)
        return
    rows = max(1, _BLOCK // size)
    if rows >= resamples:
        yield _one_block(size, resamples, seed)
        return
    random = np.random.default_rng(seed)
    for start in range(0, resamples, rows):
        yield _random_signs(random, min(rows, resamples - start), size)


@lru_cache(maxsize=1)
def _one_block(size: int, resamples: int, seed: int) -> np.ndarray:
    """Kept for the next call: systems and measures are compared on the same queries again and again."""
    return _random_signs(np.random.default_rng(seed), resamples, size)


def _random_signs(random: np.random.Generator, rows: int, size: int) -> np.ndarray:
    packed = random.integers(0, 256, (rows, -(-size // 8)), dtype=np.uint8)
    return np.unpackbits(packed, axis=1, count=size).astype(np.float64)


def t_p(parts: Sequence[Part]) -> float:
    """Return the Two-sided p-value of the paired t-test; over several parts, Welch's (each has a variance of its own).

    1 where nothing differs or a part has fewer than two queries, 0 for the same non-zero difference everywhere.
    """
    from scipy import stats

    if not parts or any(part.differences.size < 2 for part in parts):
        return 1.0
    if all(np.ptp(part.differences) == 0.0 for part in parts):
        return 1.0 if mean(parts) == 0.0 else 0.0
    shares = [(part.weight**2 * np.var(part.differences, ddof=1) / part.differences.size) for part in parts]
    variance = sum(shares)
    freedom = variance**2 / sum(
        share**2 / (part.differences.size - 1) for share, part in zip(shares, parts, strict=True)
    )
    return float(2 * stats.t.sf(abs(mean(parts)) / math.sqrt(variance), freedom))


def effect_size(parts: Sequence[Part]) -> float | None:
    """Return Cohen's d_z: the mean difference in standard deviations of the differences (0.2 small, 0.5 medium, 0.8 large)."""
    difference = mean(parts) if parts else 0.0
    if difference == 0.0:
        return 0.0
    if all(np.ptp(part.differences) == 0.0 for part in parts):
        return None
    variances = (part.weight * float(np.var(part.differences, ddof=1)) for part in parts if part.differences.size > 1)
    return difference / math.sqrt(sum(variances))


def bootstrap_interval(
    parts: Sequence[Part], *, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = SEED
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of :func:`mean`: queries are drawn anew within each part."""
    random = np.random.default_rng(seed)
    means = np.zeros(resamples)
    for part in parts:
        size = part.differences.size
        rows = max(1, _BLOCK // size)
        for start in range(0, resamples, rows):
            drawn = random.integers(0, size, (min(rows, resamples - start), size))
            means[start : start + rows] += part.weight * part.differences[drawn].mean(axis=1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's correction for testing ``len(p_values)`` hypotheses together (Holm 1979, step-down)."""
    adjusted = [0.0] * len(p_values)
    worst = 0.0
    for step, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        worst = max(worst, min(1.0, (len(p_values) - step) * p_values[index]))
        adjusted[index] = worst
    return adjusted
