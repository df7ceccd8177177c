"""Which pairs are in which optimiser step, and in what parts they are computed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from inranker_flow.distillation.data import Examples
from inranker_flow.rankers.monot5_prompt import Ragged

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
        self._rows = rows
        #: Which of the rows each unit has; None where it is one each.
        self._units: Ragged | None = None
        #: Tokens of the longest prompt of each unit.
        self._lengths = examples.lengths(rows)
        if whole_queries:
            starts = np.concatenate([[0], np.cumsum(examples.sizes(rows))])
            self._units = Ragged(rows, starts)
            self._lengths = np.maximum.reduceat(self._lengths, starts[:-1])
        self._count = len(self._lengths)
        #: Units in one batch: whole queries of about ``batch_pairs`` pairs, or just as many pairs.
        self.batch_units = max(round(batch_pairs * self._count / len(rows)), 1)
        self.steps_per_epoch = -(-self._count // self.batch_units)
        self.mean_pairs = len(rows) / self.steps_per_epoch
        self._grouped = grouped
        self._seed, self._epoch, self._order = seed, -1, np.empty(0, dtype=np.int64)

    def pieces(
        self, step: int, tokens: int = 0, rank: int = 0, ranks: int = 1, pad_to: int = 1
    ) -> list[tuple[np.ndarray, float]]:
        """Return parts of the batch of ``step`` (from 0) for process ``rank`` of ``ranks``: (rows of the pairs, share of the
        batch's mean loss); the shares of all parts of all ranks add up to 1.

        Each part has at most ``tokens`` tokens when padded to its longest prompt and to a multiple of ``pad_to`` (but at
        least one unit; 0: no limit). Units are dealt out by length, so that the ranks have about equally much to do.
        """
        units = self._batch(step)
        own = units[rank::ranks]
        pieces, start = [], 0
        while start < len(own):
            part = own[start:]
            if tokens:
                width = -(-int(self._lengths[part[0]]) // pad_to) * pad_to
                part = part[: max(self._fitting(part, tokens // width), 1)]
            pieces.append((self._rows_of(part), len(part) / len(units)))
            start += len(part)
        return pieces

    def _fitting(self, units: np.ndarray, pairs: int) -> int:
        """Return the number of first ``units`` that have at most ``pairs`` pairs together."""
        if self._units is None:
            return pairs
        return int(np.searchsorted(np.cumsum(self._units.lengths(units)), pairs, side="right"))

    def _rows_of(self, units: np.ndarray) -> np.ndarray:
        if self._units is None:
            return self._rows[units]
        return self._units.first(units, self._units.lengths(units))

    def _batch(self, step: int) -> np.ndarray:
        """Return the units of a batch, longest first."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._shuffled(np.random.default_rng([self._seed, epoch]))
        return self._order[place * self.batch_units : (place + 1) * self.batch_units]

    def _shuffled(self, random: np.random.Generator) -> np.ndarray:
        order = random.permutation(self._count)
        full = self._count - self._count % self.batch_units
        batches = order[:full].reshape(-1, self.batch_units)
        if self._grouped:
            for start in range(0, len(batches), MEGA_BATCH):
                mega = batches[start : start + MEGA_BATCH].reshape(-1)
                mega[:] = self._by_length(mega)
            random.shuffle(batches)
        else:
            batches[:] = self._by_length(batches)
        order[full:] = self._by_length(order[full:])
        return order

    def _by_length(self, units: np.ndarray) -> np.ndarray:
        """Return each row of ``units`` with the longest first."""
        return np.take_along_axis(units, np.argsort(-self._lengths[units], axis=-1, kind="stable"), axis=-1)


def batches_by_length(lengths: np.ndarray, tokens: int) -> Iterator[np.ndarray]:
    """Yield positions in batches of at most ``tokens`` padded tokens (at least one position), longest first."""
    order = np.argsort(-lengths, kind="stable")
    while len(order):
        count = max(tokens // int(lengths[order[0]]), 1)
        yield order[:count]
        order = order[count:]
