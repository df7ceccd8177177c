"""The level of the teacher's scores in each training set, which mse makes the student learn.

A score is delta = true_logit - false_logit. A teacher with one logit (a cross-encoder, most servers) was trained by
differences or by a ranking, so nothing fixes its level: the mean of delta moves from corpus to corpus. The losses over the
documents of a query do not see that, and neither does `centre`, which looks at the mean of a pair's two logits.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Literal

import numpy as np

from inranker_flow.config.sections import DistillConfig
from inranker_flow.distillation.data import Examples
from inranker_flow.labelling.average import Level, logits, scores

log = logging.getLogger(__name__)


def settled(examples: Examples, config: DistillConfig) -> Examples:
    """Return ``examples`` with the labels that `DistillConfig.standardise` asks for; all training sets whole, before replay."""
    sets = examples.set_of[examples.query]
    teacher = settle(examples.teacher, sets, examples.names, config.loss, config.standardise)
    return replace(examples, teacher=teacher)


def settle(
    teacher: np.ndarray, sets: np.ndarray, names: Sequence[str], loss: str, standardise: Literal["none", "dataset"]
) -> np.ndarray:
    """Return the logits to learn from: ``teacher`` as it is, or standardised by training set.

    ``teacher``, float (pairs, 2), are logits [false, true]; ``sets``, int (pairs,), the number of each pair's training set in
    ``names``. Says so in a warning where mse would learn levels that differ.
    """
    if standardise == "dataset":
        return standardised(teacher, sets)
    if loss.partition("+")[0] == "mse" and (told := far_apart(teacher, sets, names)):
        log.warning("%s", told)
    return teacher


def standardised(teacher: np.ndarray, sets: np.ndarray) -> np.ndarray:
    """Return logits whose deltas have mean 0 in every training set, and everywhere the mean of the sets' standard deviations.

    The order within a set stays, and so does the mean of a pair's two logits. A set whose deltas are all equal gets 0.
    """
    deltas, found = scores(teacher), np.zeros(len(teacher))
    levels = _by_set(deltas, sets)
    scale = np.mean([each.deviation for each in levels.values()]) if levels else 0.0
    for number, level in levels.items():
        own = sets == number
        found[own] = level.standardise(deltas[own]) * scale
    result: np.ndarray = (teacher.mean(1, keepdims=True) + logits(found)).astype(teacher.dtype)
    return result


def far_apart(teacher: np.ndarray, sets: np.ndarray, names: Sequence[str]) -> str:
    """Return a line about the two training sets whose mean deltas differ most, in units of their spread; "" if by no more than
    one. The spread is the root of the mean of both variances."""
    levels = _by_set(scores(teacher), sets)

    def distance(pair: tuple[int, int]) -> float:
        one, other = (levels[each] for each in pair)
        spread = float(np.sqrt((one.deviation**2 + other.deviation**2) / 2))
        return abs(one.mean - other.mean) / (spread or 1e-12)

    widest = max(combinations(levels, 2), key=distance, default=None)
    if widest is None or distance(widest) <= 1:
        return ""
    said = " and ".join(
        f"{names[each]} ({levels[each].mean:.2f}, spread {levels[each].deviation:.2f})" for each in widest
    )
    return (
        f"the teacher's scores have other levels in {said}, and loss mse teaches the student that difference, which no ranking "
        "needs: set standardise to dataset, or loss to margin_mse, kl or ranknet"
    )


def _by_set(deltas: np.ndarray, sets: np.ndarray) -> dict[int, Level]:
    return {number: Level.of(deltas[sets == number]) for number in np.unique(sets).tolist()}
