"""The exact nearest vectors, by blocks: the same ones with the same scores whatever the device, its threads and the blocks.

A matrix product rounds as its blocks fall. So it only says who can be among the best: all whose score lies within its error of
the last of them. These few are scored again one by one, each in the same order of its numbers.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from inranker_flow import cpus
from inranker_flow.rankers import kernels
from inranker_flow.retrieval.first_stage import Found

#: Vectors that are scored at a time, by device: a CPU's product of 256 queries with so many takes 4 MB, which its cache holds.
BLOCK = {"cpu": 2**12, "cuda": 2**17}
#: The first time it is this many times the depth, so that few of the passages behind them come into question.
_FIRST = 16
#: Candidates in memory, of each query, before only the best are kept: as many times the depth.
_HELD = 2


class Nearest:
    """Searches ``vectors``, float32 (passages, dimensions) and perhaps mapped, by the inner product.

    On a GPU they are copied there where they take less than half of its free memory.
    """

    def __init__(self, vectors: np.ndarray, device: Any, block: int = 0) -> None:
        self._vectors, self._device = vectors.view(np.ndarray), device  # slices of numpy's own class for maps are slow
        self._block = block or BLOCK[device.type]
        longest = (float(np.einsum("nd,nd->n", part, part).max()) for part in self._parts(0))
        self._longest = max(longest, default=0.0) ** 0.5
        self._there = self._on_device()

    def find(self, queries: np.ndarray, depth: int) -> list[Found]:
        """Return the best ``depth`` passages of each query's vector, float32 (queries, dimensions)."""
        if not (len(queries) and len(self._vectors)):
            return [(np.empty(0, np.int64), np.empty(0, np.float32))] * len(queries)
        candidates = self._candidates(queries, depth)
        with ThreadPoolExecutor(cpus.available()) as pool:
            return list(pool.map(self._exact, queries, candidates, [depth] * len(queries)))

    def _parts(self, size: int) -> Iterator[np.ndarray]:
        """Yield all vectors; the first part has ``size``, or the block's where that is more."""
        first, end = 0, max(size, self._block)
        while first < len(self._vectors):
            yield self._vectors[first:end]
            first, end = end, end + self._block

    def _on_device(self) -> Any:
        if self._device.type == "cpu" or self._vectors.nbytes > torch.cuda.mem_get_info()[0] / 2:
            return None
        return torch.cat([_tensor(part).to(self._device) for part in self._parts(0)])

    def _candidates(self, queries: np.ndarray, depth: int) -> list[np.ndarray]:
        """Return for each query the places of all passages that can be among its best ``depth``."""
        held = _Held(queries, depth, self._longest)
        product = kernels.packed(_tensor(queries).to(self._device))
        first = 0
        for part in self._parts(_FIRST * depth):
            end = first + len(part)
            there = _tensor(part) if self._there is None else self._there[first:end]
            with torch.inference_mode():
                scores = product(there.to(self._device))
            if first == 0:
                held.begin(scores)
            held.add(first, scores)
            first = end
        return held.places()

    def _exact(self, query: np.ndarray, places: np.ndarray, depth: int) -> Found:
        rows = np.take(
            self._vectors, places, axis=0, mode="clip"
        )  # none is out of range, and the look for it costs a third
        scores = np.einsum("nd,d->n", rows, query)  # row by row, whatever other rows there are
        best = np.lexsort((places, -scores))[:depth]
        return places[best], scores[best]


class _Held:
    """Candidates of all queries; a score below the ``_limits`` of its query cannot be among the best."""

    def __init__(self, queries: np.ndarray, depth: int, longest: float) -> None:
        self._count, self._depth = len(queries), depth
        # A sum of n products is wrong by at most n * 2^-24 of the lengths' product, whatever its order: so are the score that
        # is looked at here, the one that it is held against, and the two that they become in the end.
        error = queries.shape[1] * 2.0**-24 * np.linalg.norm(queries.astype(np.float64), axis=1) * longest
        self._slack = (4 * error).astype(np.float32) + np.float32(1e-30)
        self._limits = np.full(self._count, -np.inf, np.float32)
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._size = 0

    def begin(self, scores: Any) -> None:
        """Take the limits of the first block's scores."""
        if len(scores) > self._depth:
            last = torch.topk(scores.T.contiguous(), self._depth, dim=1, sorted=False).values.amin(1)
            self._limits = last.cpu().numpy() - self._slack

    def add(self, first: int, scores: Any) -> None:
        """Add a block's scores, (passages from ``first`` on, queries)."""
        which, places, values = _above(scores, self._limits)
        self._parts.append((which, places + first, values))
        self._size += len(which)
        if self._size > _HELD * self._count * self._depth:
            self._keep_best()

    def places(self) -> list[np.ndarray]:
        """Return them for each query, in order."""
        self._keep_best()
        [(which, places, _)] = self._parts
        return np.split(places, np.searchsorted(which, np.arange(1, self._count)))

    def _keep_best(self) -> None:
        which, places, values = (np.concatenate(each) for each in zip(*self._parts, strict=True))
        order = np.argsort(which, kind="stable")
        which, places, values = which[order], places[order], values[order]
        ends = np.searchsorted(which, np.arange(self._count + 1)).tolist()
        for query in range(self._count):
            mine = values[ends[query] : ends[query + 1]]
            if len(mine) > self._depth:
                last = np.partition(mine, len(mine) - self._depth)[len(mine) - self._depth]
                self._limits[query] = last - self._slack[query]
        keep = values >= self._limits[which]
        self._parts = [(which[keep], places[keep], values[keep])]
        self._size = int(keep.sum())


def _above(scores: Any, limits: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return query, place and score of each of ``scores`` that is not below its query's limit, in the order of the places."""
    if scores.device.type != "cpu":
        there = torch.nonzero(scores >= torch.tensor(limits, device=scores.device), as_tuple=True)
        place, query, value = (each.cpu().numpy() for each in (*there, scores[there]))
        return query.astype(np.int16), place, value
    plain = scores.numpy()
    flat = np.flatnonzero(plain >= limits)
    places, which = np.divmod(flat, len(limits))
    return which.astype(np.int16), places, plain.ravel()[flat]


def _tensor(array: np.ndarray) -> Any:
    """Return a tensor over an array that nobody writes to."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of arrays that are mapped to be read alone
        return torch.from_numpy(array)
