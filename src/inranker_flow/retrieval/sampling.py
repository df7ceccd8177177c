"""Random samples that depend on a seed and a name alone: not on the order of the work, the process or numpy's version."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np


def random_order(seed: int, name: str, size: int) -> np.ndarray:
    """A permutation of ``size`` places, shape (size,). Its first N are a random sample, part of any larger sample."""
    return np.argsort(_split_mix(_states(seed, [name]), size)[0], kind="stable")


def random_starts(
    seed: int, names: Sequence[str], sizes: np.ndarray, wanted: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The first ``wanted`` places of each name's :func:`random_order`, all at once, as (which name, place)."""
    columns = np.arange(sizes.max(initial=0))
    numbers = _split_mix(_states(seed, names), len(columns))
    inside = columns < sizes[:, None]
    # The smallest numbers come first. So many lie below the limit, or a few more; where not, all are looked at.
    share = (wanted + 4 * np.sqrt(wanted) + 8) / np.maximum(sizes, 1)
    limit = np.where(share < 1, np.minimum(share, 0.999) * 2.0**64, 0).astype(np.uint64)
    low = inside & (numbers < limit[:, None])
    low[low.sum(axis=1) < wanted] = True
    which, places = np.nonzero(low & inside)
    order = np.lexsort((numbers[which, places], which))  # no number occurs twice in a row
    which, places = which[order], places[order]
    rank = np.arange(len(which)) - np.searchsorted(which, which)
    kept = rank < wanted[which]
    return which[kept], places[kept]


def _states(seed: int, names: Sequence[str]) -> np.ndarray:
    digests = b"".join(blake2b(f"{seed}\x1f{name}".encode(), digest_size=8).digest() for name in names)
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def _split_mix(states: np.ndarray, size: int) -> np.ndarray:
    """``size`` different pseudo-random 64-bit numbers for each state (SplitMix64, doi:10.1145/2660193.2660195)."""
    with np.errstate(over="ignore"):
        z = states[:, None] + np.arange(1, size + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))
