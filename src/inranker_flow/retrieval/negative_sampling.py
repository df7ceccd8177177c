"""Random samples that depend on a seed and names alone: not on the order of the work, the process, or what else there is.

Each item of a name has a number of its own, and the smallest are drawn. So an item that comes or goes changes a sample by
itself and no more: a corpus of which a few passages change keeps nearly all its pairs, and their labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise

import numpy as np

from inranker_flow.config.retrieval import RetrieveConfig
from inranker_flow.retrieval.first_stage import Passages


def draw(
    config: RetrieveConfig,
    passages: Passages,
    query_ids: Sequence[str],
    found: Sequence[np.ndarray],
    counts: np.ndarray,
    relevant: np.ndarray,
) -> list[list[str]]:
    """Return a random sample of what each query ``found`` (places) without the relevant ones, in their order; the first hit
    before it where nothing is known to be relevant: most likely that is.

    ``relevant``: places of the passages that are relevant to the queries, ``counts`` for each, in order. Whether a hit is
    drawn depends on seed, query and passage, not on its rank: that moves with every change of the corpus. With
    `RetrieveConfig.bands` the rank says which bands it can be drawn for.
    """
    sizes = np.array([len(places) for places in found])
    which = np.repeat(np.arange(len(sizes)), sizes)
    hits = np.concatenate(found)
    ranks = np.arange(len(hits)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    queries = np.repeat(np.arange(len(sizes)), counts)
    total = len(passages.doc_ids)
    taken = queries * total + relevant
    drawn = [np.empty(0, np.int64)]
    for band in _bands(config):
        inside = np.flatnonzero(
            (ranks >= np.ceil(band.first * sizes)[which]) & (ranks < np.ceil(band.end * sizes)[which])
        )
        mine = which[inside]
        # So many more than wanted that it does not matter how many of them are taken.
        most = band.wanted + np.bincount(taken // total, minlength=len(sizes))
        names = [f"{query_id}{band.name}" for query_id in query_ids]
        inside_sizes = np.bincount(mine, minlength=len(sizes))
        drawn_for, places = random_sample(config.seed, names, passages.marks[hits[inside]], inside_sizes, most)
        at = inside[places]
        keep = ~np.isin(drawn_for * total + hits[at], taken)
        drawn_for, at = drawn_for[keep], at[keep]
        at = at[np.arange(len(at)) - np.searchsorted(drawn_for, drawn_for) < band.wanted]
        drawn.append(at)
        taken = np.concatenate([taken, which[at] * total + hits[at]])
    at = np.sort(np.concatenate(drawn))
    doc_ids = passages.named(hits[at])
    ends = np.searchsorted(which[at], np.arange(len(sizes) + 1)).tolist()
    sampled = [doc_ids[first:last] for first, last in pairwise(ends)]
    for number in np.flatnonzero((counts == 0) & (sizes > 0)).tolist():
        [best] = passages.named(found[number][:1])
        sampled[number] = [best, *(doc_id for doc_id in sampled[number] if doc_id != best)]
    return sampled


@dataclass(frozen=True)
class _Band:
    """Ranks from a share of what a query finds to another, how many negatives are ``wanted`` of them, and the ``name`` that
    makes its draw another one than that of other bands."""

    name: str
    first: float
    end: float
    wanted: int


def _bands(config: RetrieveConfig) -> list[_Band]:
    bands = config.bands
    if not (bands.top or bands.middle or bands.random):
        return [_Band("", 0, 1, config.negatives)]
    return [
        _Band("\x1ftop", 0, bands.top_share, bands.top),
        _Band("\x1fmiddle", bands.top_share, bands.middle_share, bands.middle),
        _Band("\x1frandom", 0, 1, bands.random),
    ]


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
