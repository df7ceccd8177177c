"""Rerankers behind one interface: (query, passage) pairs in, the logits of "false" and "true" out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from inranker_flow.config import ScoringConfig
from inranker_flow.progress import Progress


class Job(Protocol):
    """Many pairs over the same texts, tokenised once; see :meth:`Ranker.prepare`."""

    #: Tokens of each pair's prompt, int (n,): what scoring it costs.
    lengths: np.ndarray
    #: Queries that are too long for a prompt and were cut to leave room for the passage.
    cut_queries: int

    def score(self, rows: np.ndarray, progress: Progress | None = None) -> np.ndarray:
        """Logits [false, true] of the pairs ``rows`` (indices, any order), float64 (len(rows), 2), in that order.

        ``progress`` is advanced by the prompts' tokens.
        """
        ...


class Ranker(Protocol):
    """A loaded reranker."""

    #: Number of weights.
    parameters: int

    def score(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """Logits [false, true] of (query, passage) pairs, float64 (n, 2), in the order of ``pairs``."""
        ...

    def prepare(self, queries: Iterable[str], documents: Iterable[str], pairs: np.ndarray) -> Job:
        """Tokenise each text once. ``pairs``: int (n, 2), the positions of query and document of each pair."""
        ...


def load_ranker(reference: str, scoring: ScoringConfig, revision: str = "") -> Ranker:
    """Load the checkpoint ``reference`` (see `checkpoints.locate`) as a ranker.

    Raises :class:`inranker_flow.errors.UserError` for a checkpoint that is not there, is no T5, or has no label tokens.
    """
    from inranker_flow.rankers.monot5 import MonoT5Ranker

    return MonoT5Ranker(reference, scoring, revision)
