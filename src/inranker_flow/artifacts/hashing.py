"""Hashes in numpy instead of Python objects: ten million ids are 160 MB, and membership is a binary search."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b, sha256

import numpy as np


def hash_rows(*columns: Iterable[str]) -> np.ndarray:
    """Return 128-bit hash of each row of equally long columns, shape (rows, 2) uint64.

    Text that no UTF-8 can hold raises :class:`UnicodeEncodeError`.
    """
    if len(columns) == 1:
        digests = [blake2b(value.encode(), digest_size=16).digest() for value in columns[0]]
    else:
        digests = [blake2b("\x1f".join(row).encode(), digest_size=16).digest() for row in zip(*columns, strict=True)]
    return np.frombuffer(b"".join(digests), dtype="<u8").reshape(-1, 2)


def priorities(seed: int, ids: Iterable[str]) -> np.ndarray:
    """Return a uniform 64-bit number for each id, the same wherever the id stands: the smallest N are a random sample of N."""
    prefix = blake2b(f"{seed}\x1f".encode(), digest_size=8)
    digests = []
    for value in ids:
        state = prefix.copy()
        state.update(value.encode())
        digests.append(state.digest())
    return np.frombuffer(b"".join(digests), dtype="<u8")


def contains(ordered: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return which ``values`` are in the sorted array ``ordered``; boolean, shape of ``values``."""
    if not ordered.size:
        return np.zeros(values.shape, bool)
    return ordered[np.minimum(np.searchsorted(ordered, values), ordered.size - 1)] == values


class HashSet:
    """A growing set of hashes, shape (rows, words), that tells which of a batch are new.

    Sorted runs, merged when they are of similar size, as in a log-structured store: 8 bytes a word.
    """

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []

    def add(self, hashes: np.ndarray) -> np.ndarray:
        """Add a batch; True for each row whose hash was neither here nor earlier in the batch."""
        new = np.ones(len(hashes), bool)
        order = np.lexsort(hashes.T[::-1])  # stable: of equal rows the first stays first
        ordered = hashes[order]
        new[order[1:][(ordered[1:] == ordered[:-1]).all(axis=1)]] = False
        for run in self._runs:
            # Two different keys that share the first 64 bits are beyond what a corpus can hold.
            at = np.minimum(np.searchsorted(run[:, 0], hashes[:, 0]), len(run) - 1)
            new &= ~(run[at] == hashes).all(axis=1)
        self._merge(ordered[new[order]])
        return new

    def first_words(self) -> np.ndarray:
        """Return the first word of every hash, sorted, for :func:`contains`."""
        return np.sort(np.concatenate([run[:, 0] for run in self._runs] or [np.empty(0, np.uint64)]))

    def _merge(self, run: np.ndarray) -> None:
        while self._runs and len(self._runs[-1]) <= 2 * len(run):
            both = np.concatenate([self._runs.pop(), run])
            run = both[np.argsort(both[:, 0], kind="stable")]  # two sorted runs: close to linear
        if len(run):
            # Column-major, so that the search reads 8 bytes a step.
            self._runs.append(np.asfortranarray(run))


class Fingerprint:
    """Digest of a multiset of rows: the same whatever their order and however they are spread over files."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[int, np.ndarray]] = {}

    def add(self, table: str, hashes: np.ndarray) -> None:
        """Count rows of ``table`` given by their 128-bit hashes, shape (rows, 2)."""
        count, total = self._sums.get(table, (0, np.zeros(2, np.uint64)))
        self._sums[table] = count + len(hashes), total + hashes.sum(axis=0, dtype=np.uint64)  # wraps, as it should

    def hexdigest(self) -> str:
        """Return sha256 over the tables' names, row counts and sums of row hashes."""
        digest = sha256()
        for table, (count, total) in sorted(self._sums.items()):
            digest.update(f"{table} {count} {total[0]} {total[1]}\n".encode())
        return digest.hexdigest()
