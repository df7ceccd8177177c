"""What systems score that read documents by the same passages: the texts of all judged sets, each once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np

from inranker_flow.artifacts.hashing import hash_rows
from inranker_flow.evaluation import serving_cost
from inranker_flow.evaluation.judged_sets import JudgedSet
from inranker_flow.rankers.texts import Texts
from inranker_flow.scoring.logits import pair_keys
from inranker_flow.scoring.prompts import Tokenised


class Candidates:
    """The pairs of ``sets``, and the requests of ``latency_queries`` of their queries, which are timed."""

    def __init__(self, sets: Sequence[JudgedSet], latency_queries: int) -> None:
        self._sets = sets
        self.timed = serving_cost.requests(sets, latency_queries)
        #: Of all sets, one after another.
        self.pairs = [pair for each in sets for pair in each.pairs]

    @cached_property
    def texts(self) -> Texts:
        return Texts.of(self.pairs)

    @cached_property
    def keys(self) -> np.ndarray:
        """Digest of the two texts of each pair, as labels have it, uint64 (pairs, 2)."""
        return pair_keys(self.texts.index, hash_rows(self.texts.queries), hash_rows(self.texts.documents))

    @cached_property
    def tokenised(self) -> Tokenised:
        return Tokenised(self.texts)

    def best(self, scores: np.ndarray) -> np.ndarray:
        """Return the score of each candidate, from those of its passages."""
        found = [each.best(scores[rows]) for each, rows in self._parts()]
        return np.concatenate([np.zeros(0), *found])

    def by_set(self) -> Iterator[tuple[str, slice]]:
        """Yield each data set, and the place of its pairs."""
        for each, rows in self._parts():
            yield each.dataset, rows

    def _parts(self) -> Iterator[tuple[JudgedSet, slice]]:
        offset = 0
        for each in self._sets:
            yield each, slice(offset, offset + len(each.pairs))
            offset += len(each.pairs)
