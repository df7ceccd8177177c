"""Random samples that depend on a seed and names alone: not on the order of the work, the process, or what else there is.

Each item of a name has a number of its own, and the smallest are drawn. So an item that comes or goes changes a sample by
itself and no more: a corpus of which a few passages change keeps nearly all its pairs, and their labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np


def random_sample(
    seed: int, names: Sequence[str], items: np.ndarray, sizes: np.ndarray, wanted: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return a random sample of ``wanted[i]`` of the ``sizes[i]`` items of name ``i``, as (which name, place among all items).

    ``items``: uint64 hashes, those of one name after those of the name before. A sample is in random order, so its
    beginning is a smaller sample.
    """
    which = np.repeat(np.arange(len(sizes)), sizes)
    numbers = _mixed(np.repeat(_states(seed, names), sizes) ^ items)
    # So many lie below the limit, or a few more; where not, all are looked at.
    share = (wanted + 4 * np.sqrt(wanted) + 8) / np.maximum(sizes, 1)
    limit = np.where(share < 1, np.minimum(share, 0.999) * 2.0**64, 0).astype(np.uint64)
    low = numbers < limit[which]
    few = np.bincount(which[low], minlength=len(sizes)) < wanted
    places = np.flatnonzero(low | few[which])
    places = places[np.lexsort((numbers[places], which[places]))]
    which = which[places]
    kept = np.arange(len(which)) - np.searchsorted(which, which) < wanted[which]
    return which[kept], places[kept]


def _states(seed: int, names: Sequence[str]) -> np.ndarray:
    digests = b"".join(blake2b(f"{seed}\x1f{name}".encode(), digest_size=8).digest() for name in names)
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def _mixed(z: np.ndarray) -> np.ndarray:
    """Return a pseudo-random 64-bit number for each, different for different ones (SplitMix64, doi:10.1145/2660193.2660195)."""
    with np.errstate(over="ignore"):
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))
