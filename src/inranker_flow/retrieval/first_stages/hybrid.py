"""BM25 and a bi-encoder together, by reciprocal rank fusion (Cormack, Clarke and Buettcher, SIGIR 2009)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from itertools import tee
from pathlib import Path

import numpy as np

from inranker_flow.config.retrieval import RetrieveConfig
from inranker_flow.retrieval.first_stage import Asked, Found, Queries
from inranker_flow.retrieval.first_stages.dense import Dense
from inranker_flow.retrieval.first_stages.sparse import Sparse


class Hybrid:
    """Each of the two is asked for as many passages as are wanted; one that both find stands before one that either does."""

    def __init__(self, config: RetrieveConfig, collection: Path, queries: int) -> None:
        self._k = config.rrf_k
        self._parts = Sparse(config, collection, queries), Dense(config, collection, queries)
        self.passages = self._parts[1].passages
        self._open = ExitStack()

    def check(self, asked: Mapping[str, Asked]) -> None:
        """Nothing can be wrong with them: what shares no word with any passage has a vector."""

    def find(self, batches: Iterable[Queries], depth: int) -> Iterator[list[Found]]:
        one, other = tee(batches)
        for words, vectors in zip(self._parts[0].find(one, depth), self._parts[1].find(other, depth), strict=True):
            yield [fused(each, depth, self._k) for each in zip(words, vectors, strict=True)]

    def forget(self) -> None:
        for part in self._parts:
            part.forget()

    def __enter__(self) -> Hybrid:
        for part in self._parts:
            self._open.enter_context(part)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()


def fused(lists: Iterable[Found], depth: int, k: float) -> Found:
    """Return the best ``depth`` passages of several lists: one at rank r of a list counts 1 / (k + r), and all lists add up."""
    found = [places for places, _ in lists]
    places, number = np.unique(np.concatenate(found), return_inverse=True)
    scores = np.zeros(len(places))
    first = 0
    for each in found:
        scores[number[first : first + len(each)]] += 1 / (k + np.arange(1, len(each) + 1))
        first += len(each)
    best = np.lexsort((places, -scores))[:depth]
    return places[best], scores[best]
