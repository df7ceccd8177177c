"""Batches of prompts: sorted by length, filled up to a budget of tokens, made smaller where memory does not suffice."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np

from inranker_flow.config.sections import ScoringConfig
from inranker_flow.errors import UserError
from inranker_flow.rankers.devices import free

T = TypeVar("T")

log = logging.getLogger(__name__)

#: Padded tokens in one batch. A CPU is fastest while activations stay in its cache; a GPU wants large products.
BATCH_TOKENS = {"cpu": 2048, "cuda": 32768}

#: Bytes of a number -> the multiple that prompts are padded to: attention on a CPU is up to twice as slow on odd lengths.
PAD_TO = {4: 8, 2: 16}

#: A batch costs as much as the budget's tokens divided by this, besides its tokens: the decoder's weights are read, kernels
#: are launched. (Measured on a CPU with t5-small's shape: 4 ms where 2048 tokens take 430 ms; a GPU's small batches cost more.)
BATCH_COST = 64


class Batches:
    """The budget of one device: ``tokens`` padded tokens, ``pad_to`` the multiple that lengths are padded to, ``section`` the
    settings that a person changes where not even one row fits.

    The budget is halved when a batch does not fit in memory, for the rest of the process.
    """

    def __init__(self, tokens: int, pad_to: int, section: str = "scoring") -> None:
        self.tokens, self.pad_to, self.section = tokens, pad_to, section

    @classmethod
    def of(cls, scoring: ScoringConfig, device: Any, dtype: Any) -> Batches:
        """Return the sizes that ``scoring`` asks for, or those that are fast on ``device`` in ``dtype`` (both torch's)."""
        return cls(scoring.batch_tokens or BATCH_TOKENS[device.type], PAD_TO[dtype.itemsize])

    def split(self, lengths: np.ndarray) -> Iterator[np.ndarray]:
        """Yield positions in ``lengths``, batch by batch, longest first: what does not fit in memory fails at once.

        A batch takes as many rows as cost least each, counting padding and the batch's own cost; at most as many as the
        budget, as it is when the batch is asked for, and at least one.
        """
        order = np.argsort(-lengths, kind="stable")
        widths = -(-lengths[order].astype(np.int64) // self.pad_to) * self.pad_to
        start = 0
        while start < len(order):
            candidates = widths[start : start + max(self.tokens // int(widths[start]), 1)]
            rows = np.arange(1, len(candidates) + 1)
            padding = rows * candidates[0] - np.cumsum(candidates)
            overhead = (padding + self.tokens / BATCH_COST) / rows
            end = start + len(overhead) - int(np.argmin(overhead[::-1]))  # the last of equals
            yield order[start:end]
            start = end

    def width(self, length: int) -> int:
        """Return ``length`` padded."""
        return -(-length // self.pad_to) * self.pad_to

    def run(self, rows: np.ndarray, longest: int, score: Callable[[np.ndarray], T]) -> list[tuple[np.ndarray, T]]:
        """[(part, score(part))] for the parts of ``rows`` that fit in memory: normally for ``rows`` as a whole.

        Raises :class:`UserError` where a single row of ``longest`` tokens does not fit.
        """
        done: list[tuple[np.ndarray, T]] = []
        width = self.width(longest)
        while len(rows):
            part = rows[: max(self.tokens // width, 1)]
            try:
                done.append((part, score(part)))
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
            else:
                rows = rows[len(part) :]
                continue
            # Outside of the handler: there the error would hold the failed attempt's tensors.
            self._halve(len(part), longest, reason)
        return done

    def _halve(self, count: int, longest: int, reason: str) -> None:
        if count == 1:
            raise UserError(
                f"out of memory with a single prompt of {longest} tokens: lower {self.section}.max_length, set "
                f"{self.section}.dtype to bfloat16, or take a device with more memory ({reason})",
                code="out-of-memory",
            )
        free()
        self.tokens = count // 2 * self.width(longest)
        log.warning("out of memory: batches of %s tokens from here on", f"{self.tokens:,}")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether a device, or the CPU's allocator, had no memory left (PyTorch raises RuntimeErrors for both)."""
    text = str(error)
    return isinstance(error, MemoryError) or "out of memory" in text or "DefaultCPUAllocator: can't allocate" in text
