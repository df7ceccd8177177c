"""BM25 in the variant that bm25s (arXiv 2407.03618) calls "lucene": its scores bit for bit, and equal scores have an order.

Two things make the search faster than bm25s' compiled one. A passage cannot be among the best N if its score is below the
Nth best of any single term, so few passages are left to put in order. And these are sorted once, as whole numbers that
hold score and passage.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from inranker_flow.config.retrieval import RetrieveConfig
from inranker_flow.retrieval import index as indexes
from inranker_flow.retrieval.analyser import Analyser
from inranker_flow.retrieval.index import Index

#: Passages that are scored at a time, so that memory does not grow with the collection: 4 MB of scores.
BLOCK = 2**20
#: For a query with many postings: 1 MB of scores stays in a core's own cache. With few, the blocks' fixed costs decide.
_CACHED, _MANY = 2**18, 2**17


class BM25:
    """Searches an index; hits of equal score are in the order of their doc_ids, also at the cut. Not for threads."""

    def __init__(self, index: Index, config: RetrieveConfig, block: int = BLOCK) -> None:
        self._index, self._block = index, block
        self._analyser = Analyser(config, index.terms)
        self.doc_ids, self.marks = index.doc_ids, index.marks
        self._scores = np.empty(min(block, len(self.doc_ids)), np.float32)
        self._floors: dict[int, np.ndarray] = {}

    @classmethod
    def build(cls, passages: Iterable[tuple[Sequence[str], Iterable[str]]], config: RetrieveConfig) -> BM25:
        """Of batches of (doc ids, texts), in memory; raises :class:`UserError` as :func:`index.build`."""
        return cls(indexes.build(passages, config), config)

    @classmethod
    def load(cls, folder: Path, config: RetrieveConfig) -> BM25:
        """Of what :func:`index.build_in` wrote; raises :class:`UserError` where that was of other settings."""
        return cls(indexes.load(folder, config), config)

    def scores(self, query: str) -> np.ndarray:
        """BM25 of every passage, float32 in the order of ``doc_ids``; repeated words count as often as they occur."""
        terms, _ = self._analyser([query])
        return np.concatenate([np.empty(0, np.float32), *(scores.copy() for _, scores in self._blocks(terms))])

    def search(self, query: str, depth: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the best ``depth`` hits as (doc ids, scores); fewer where fewer passages share a word with the query."""
        [(numbers, scores)] = self.find([query], depth)
        return self.doc_ids.take(pa.array(numbers)).to_numpy(zero_copy_only=False), scores

    def find(self, queries: Sequence[str], depth: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each query the best ``depth`` hits as (places in ``doc_ids``, scores)."""
        flat, counts = self._analyser(queries)
        ends = np.cumsum(counts)
        return [self._best(flat[end - count : end], depth) for end, count in zip(ends, counts, strict=True)]

    def _best(self, terms: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
        floor = self._floor(depth)[terms].max(initial=0)
        found = [np.empty(0, np.uint64)]
        if len(terms):
            for first, scores in self._blocks(terms):
                hits = np.flatnonzero(scores > floor)
                # One number for score and place: positive floats are ordered as their bits are.
                found.append(
                    scores[hits].view(np.uint32).astype(np.uint64) << _HALF | (_LAST - hits.view(np.uint64) - first)
                )
        keys = np.concatenate(found)
        if len(keys) > depth:
            keys = np.partition(keys, len(keys) - depth)[len(keys) - depth :]
        keys = np.sort(keys)[::-1]
        return (_LAST - (keys & _LAST)).astype(np.int64), (keys >> _HALF).astype(np.uint32).view(np.float32)

    def _blocks(self, terms: np.ndarray) -> Iterator[tuple[np.uint64, np.ndarray]]:
        """Yield the first place of each block and its passages' scores, which the next block overwrites."""
        starts, ends = self._index.starts[terms].tolist(), self._index.starts[terms + 1].tolist()
        total = len(self.doc_ids)
        block = min(self._block, _CACHED) if sum(ends) - sum(starts) > _MANY else self._block
        for first in range(0, total, block):
            last = min(first + block, total)
            scores = self._scores[: last - first]
            scores[:] = 0
            for which, (start, end) in enumerate(zip(starts, ends, strict=True)):
                passages = self._index.passages[start:end]
                if last < total:
                    passages = passages[: np.searchsorted(passages, np.int32(last))]  # of one type: else copied
                    starts[which] += len(passages)
                impacts = self._index.impacts[start : start + len(passages)]
                # numpy would convert narrower places by itself, more slowly.
                np.add.at(scores, np.subtract(passages, first, dtype=np.intp), impacts)
            yield np.uint64(first), scores

    def _floor(self, depth: int) -> np.ndarray:
        """For each term a score that the best ``depth`` hits of a query with it exceed; 0 where it has fewer passages."""
        if depth not in self._floors:
            starts, impacts = self._index.starts, self._index.impacts
            floors = np.zeros(len(starts) - 1, np.float32)
            for term in np.flatnonzero(np.diff(starts) >= depth).tolist():
                held = impacts[starts[term] : starts[term + 1]]
                floors[term] = np.partition(held, len(held) - depth)[len(held) - depth]
            self._floors[depth] = np.nextafter(floors, np.float32(0))
        return self._floors[depth]


_HALF, _LAST = np.uint64(32), np.uint64(2**32 - 1)
