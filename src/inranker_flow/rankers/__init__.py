"""Rankers: one interface, `score(pairs) -> [false_logit, true_logit]`, for teachers, students and champions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from inranker_flow.config import ScoringConfig


class Ranker(Protocol):
    """Scores query-passage pairs."""

    @property
    def parameters(self) -> int:
        """Number of weights."""

    def score(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """Logits [false, true] of each (query, passage), shape (n, 2), float64, in the order of ``pairs``."""


def load_ranker(reference: str, scoring: ScoringConfig, revision: str = "") -> Ranker:
    """The ranker behind a checkpoint reference (`checkpoints.resolve`); :class:`UserError` when it is none."""
    from inranker_flow.rankers.monot5 import MonoT5Ranker

    return MonoT5Ranker(reference, scoring, revision)
