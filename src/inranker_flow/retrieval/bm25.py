"""BM25 in the variant that bm25s (arXiv 2407.03618) calls "lucene": its scores bit for bit, and equal scores have an order.

Three things make the search faster than bm25s' compiled one. A passage cannot be among the best N if its score is below the
Nth best of any single term, so few passages are left to put in order. A passage that has only terms which together cannot reach
that score is not looked at. And those that are left are sorted once, as whole numbers that hold score and passage.
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

#: Passages that are scored at a time, so that memory does not grow with the collection: 4 MB of scores, 8 MB of places.
BLOCK = 2**20
#: Looking at a posting takes as long as looking at so many passages in a row, and so does turning to another list.
_POSTING, _LIST = 4, 10_000


class BM25:
    """Searches an index; hits of equal score are in the order of their doc_ids, also at the cut. Not for threads."""

    def __init__(self, index: Index, config: RetrieveConfig, block: int = BLOCK) -> None:
        self._index, self._block = index, block
        self._analyser = Analyser(config, index.terms)
        self.doc_ids, self.marks = index.doc_ids, index.marks
        self._scores = np.empty(min(block, len(self.doc_ids)), np.float32)
        self._places = np.empty(len(self._scores), np.intp)
        # Pieces of a mapped array take as long again to make.
        self._passages, self._impacts = np.asarray(index.passages), np.asarray(index.impacts)
        self._limits: dict[int, tuple[np.ndarray, np.ndarray]] = {}

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
        return np.concatenate([np.empty(0, np.float32), *(scores.copy() for _, scores, _ in self._blocks(terms))])

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
        floors, tops = self._bounds(depth)
        floor = floors[terms].max(initial=0)
        decisive = self._decisive(terms, tops[terms], floor)
        found = [np.empty(0, np.uint64)]
        for first, scores, lists in self._blocks(terms) if len(terms) else ():
            for hits, values in _above(floor, scores, [lists[each] for each in decisive] if lists else []):
                # One number for score and place: positive floats are ordered as their bits are.
                found.append(values.view(np.uint32).astype(np.uint64) << _HALF | (_LAST - hits.view(np.uint64) - first))
        keys = np.concatenate(found)
        if len(keys) > depth:
            keys = np.partition(keys, len(keys) - depth)[len(keys) - depth :]
        keys = np.sort(keys)[::-1]
        return (_LAST - (keys & _LAST)).astype(np.int64), (keys >> _HALF).astype(np.uint32).view(np.float32)

    def _decisive(self, terms: np.ndarray, tops: np.ndarray, floor: float) -> list[int]:
        """Return which of ``terms`` every passage above ``floor`` has one of; none where looking at all passages is faster.

        Terms whose highest scores (``tops``) come to less than the floor cannot make a passage a hit.
        """
        order = np.argsort(tops, kind="stable")
        sums = np.cumsum(tops[order], dtype=np.float64) * (1 + (len(terms) + 1) * _ROUNDING)
        found = order[np.searchsorted(sums, floor) :]
        postings = (self._index.starts[terms[found] + 1] - self._index.starts[terms[found]]).sum()
        return found.tolist() if postings * _POSTING + len(found) * _LIST < len(self.doc_ids) else []

    def _blocks(self, terms: np.ndarray) -> Iterator[tuple[np.uint64, np.ndarray, list[np.ndarray]]]:
        """Yield the first place of each block, its passages' scores, and for each term the places in the block of those that
        have it (none where they are too many to keep). The next block overwrites them."""
        starts, ends = self._index.starts[terms].tolist(), self._index.starts[terms + 1].tolist()
        total = len(self.doc_ids)
        for first in range(0, total, self._block):
            last = min(first + self._block, total)
            scores = self._scores[: last - first]
            scores[:] = 0
            lists: list[np.ndarray] = []
            used = kept = 0
            for which, (start, end) in enumerate(zip(starts, ends, strict=True)):
                passages = self._passages[start:end]
                if last < total:
                    passages = passages[: np.searchsorted(passages, np.int32(last))]  # of one type: else copied
                    starts[which] += len(passages)
                if used + len(passages) > len(self._places):
                    used = 0
                # numpy would convert narrower places by itself, more slowly.
                places = self._places[used : used + len(passages)]
                places[:] = passages
                if first:
                    places -= first
                np.add.at(scores, places, self._impacts[start : start + len(passages)])
                used, kept = used + len(passages), kept + len(passages)
                lists.append(places)
            yield np.uint64(first), scores, lists if kept == used else []

    def _bounds(self, depth: int) -> tuple[np.ndarray, np.ndarray]:
        """Return for each term a score that the best ``depth`` hits of a query with it exceed, and its highest score.

        They are 0 and infinite where it has fewer passages.
        """
        if depth not in self._limits:
            starts = self._index.starts
            floors, tops = np.zeros(len(starts) - 1, np.float32), np.full(len(starts) - 1, np.inf, np.float32)
            for term in np.flatnonzero(np.diff(starts) >= depth).tolist():
                held = self._impacts[starts[term] : starts[term + 1]]
                floors[term] = np.partition(held, len(held) - depth)[len(held) - depth]
                tops[term] = held.max()
            self._limits[depth] = np.nextafter(floors, np.float32(0)), tops
        return self._limits[depth]


def _above(floor: float, scores: np.ndarray, lists: list[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield places with scores above ``floor``, and these scores, each once: of the places in ``lists``, or of all.

    Takes those of ``lists`` out of ``scores``.
    """
    if not lists:
        hits = np.flatnonzero(scores > floor)
        yield hits, scores[hits]
    for places in lists:
        held = scores[places]
        which = np.flatnonzero(held > floor)
        hits = places[which]
        scores[hits] = 0
        yield hits, held[which]


#: Relative error of a float32 sum, for each number in it.
_ROUNDING = 2**-23
_HALF, _LAST = np.uint64(32), np.uint64(2**32 - 1)
