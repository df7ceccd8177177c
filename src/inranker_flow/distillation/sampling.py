"""Which pairs are in which optimiser step, and in what parts they are computed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from inranker_flow.distillation.data import Examples
from inranker_flow.prompts import Ragged

#: Batches whose pairs are sorted together in grouped batching (the Hugging Face Trainer's number).
MEGA_BATCH = 50


class Sampler:
    """Shuffled batches of units, each unit once in an epoch; a unit is one pair, or the pairs of one query.

    The batch of a step depends on the seed and the step alone, so a resumed training sees what it would have seen.
    ``grouped``: units are shuffled, sorted by length within every :data:`MEGA_BATCH` batches, cut into batches, and the
    batches are shuffled; only the last batch of an epoch, where it is short, is a random one.
    """

    def __init__(
        self,
        examples: Examples,
        rows: np.ndarray,
        whole_queries: bool,
        batch_pairs: int,
        seed: int,
        grouped: bool = False,
    ) -> None:
        sizes = examples.sizes(rows) if whole_queries else np.ones(len(rows), dtype=np.int64)
        starts = np.concatenate([[0], np.cumsum(sizes)])
        self._units = Ragged(rows, starts)
        #: Tokens of the longest prompt of each unit.
        self._lengths = np.maximum.reduceat(examples.lengths(rows), starts[:-1])
        self._count = len(sizes)
        #: Units in one batch: whole queries of about ``batch_pairs`` pairs, or just as many pairs.
        self.batch_units = max(round(batch_pairs * self._count / len(rows)), 1)
        self.steps_per_epoch = -(-self._count // self.batch_units)
        self.mean_pairs = len(rows) / self.steps_per_epoch
        self._grouped = grouped
        self._seed, self._epoch, self._order = seed, -1, np.empty(0, dtype=np.int64)

    def pieces(
        self, step: int, tokens: int = 0, rank: int = 0, ranks: int = 1, pad_to: int = 1
    ) -> list[tuple[np.ndarray, float]]:
        """Parts of the batch of ``step`` (from 0) for process ``rank`` of ``ranks``: (rows of the pairs, share of the
        batch's mean loss); the shares of all parts of all ranks add up to 1.

        Each part has at most ``tokens`` tokens when padded to its longest prompt and to a multiple of ``pad_to`` (but at
        least one unit; 0: no limit). Units are dealt out by length, so that the ranks have about equally much to do.
        """
        units = self._batch(step)
        own = units[np.argsort(-self._lengths[units], kind="stable")][rank::ranks]
        pieces, start = [], 0
        while start < len(own):
            width = -(-int(self._lengths[own[start]]) // pad_to) * pad_to
            pairs = np.cumsum(self._units.lengths(own[start:]))
            fitting = int(np.searchsorted(pairs, tokens // width, side="right")) if tokens else len(pairs)
            part = own[start : start + max(fitting, 1)]
            pieces.append((self._units.first(part, self._units.lengths(part)), len(part) / len(units)))
            start += len(part)
        return pieces

    def _batch(self, step: int) -> np.ndarray:
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._shuffled(np.random.default_rng([self._seed, epoch]))
        return self._order[place * self.batch_units : (place + 1) * self.batch_units]

    def _shuffled(self, random: np.random.Generator) -> np.ndarray:
        order = random.permutation(self._count)
        if self._grouped:
            full = self._count - self._count % self.batch_units
            for start in range(0, full, MEGA_BATCH * self.batch_units):
                mega = order[start : min(start + MEGA_BATCH * self.batch_units, full)]
                mega[:] = mega[np.argsort(self._lengths[mega], kind="stable")]
            random.shuffle(order[:full].reshape(-1, self.batch_units))
        return order


def batches_by_length(lengths: np.ndarray, tokens: int) -> Iterator[np.ndarray]:
    """Positions in batches of at most ``tokens`` padded tokens (at least one position), longest first."""
    order = np.argsort(-lengths, kind="stable")
    while len(order):
        count = max(tokens // int(lengths[order[0]]), 1)
        yield order[:count]
        order = order[count:]
