"""Random samples that depend on a seed and a name alone: not on the order of the work, the process or numpy's version."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np


def random_order(seed: int, name: str, size: int) -> np.ndarray:
    """A permutation of ``size`` places, shape (size,). Its first N are a random sample, part of any larger sample."""
    state = int.from_bytes(blake2b(f"{seed}\x1f{name}".encode(), digest_size=8).digest(), "little")
    return np.argsort(_split_mix(state, size), kind="stable")


def _split_mix(state: int, size: int) -> np.ndarray:
    """``size`` pseudo-random 64-bit numbers (SplitMix64, doi:10.1145/2660193.2660195)."""
    with np.errstate(over="ignore"):
        z = np.uint64(state) + np.arange(1, size + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))
