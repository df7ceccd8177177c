"""The mean of several teachers' scores, each standardised first: teachers differ in level and in spread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Level:
    """The ``mean`` and the standard ``deviation`` of one teacher's scores (true_logit - false_logit) for a data set's pairs."""

    mean: float
    deviation: float

    @classmethod
    def of(cls, scores: np.ndarray) -> Level:
        return cls(float(scores.mean()), float(scores.std())) if scores.size else cls(0.0, 0.0)

    def standardise(self, scores: np.ndarray) -> np.ndarray:
        """Return ``scores`` with mean 0 and deviation 1; all 0 where the teacher gives every pair the same score."""
        return (scores - self.mean) / self.deviation if self.deviation else np.zeros_like(scores)


def average(scores: Sequence[np.ndarray], levels: Sequence[Level]) -> np.ndarray:
    """Return the mean of the standardised ``scores``, times the mean of the deviations.

    So its spread is about that of one teacher's scores, for which learning rates were chosen, and its mean is 0.
    """
    scale = np.mean([each.deviation for each in levels])
    standardised = [level.standardise(each) for level, each in zip(levels, scores, strict=True)]
    found: np.ndarray = np.mean(standardised, axis=0) * scale
    return found


def logits(scores: np.ndarray) -> np.ndarray:
    """Return the two logits (false, true) of scores: (-s/2, s/2)."""
    return np.stack([-scores / 2, scores / 2], axis=1)


def scores(logits: np.ndarray) -> np.ndarray:
    """Return true_logit - false_logit."""
    found: np.ndarray = logits[:, 1] - logits[:, 0]
    return found
