"""Prompts of a source's pairs, made once for all models that read alike."""

from __future__ import annotations

import numpy as np

from inranker_flow.rankers.base import Prompts, Reader
from inranker_flow.scoring.job import Source


class Tokenised:
    """Each text of ``source`` is tokenised once for all readers that make the same prompts of it."""

    def __init__(self, source: Source) -> None:
        self._source = source
        #: Reader's identity -> pairs, and their prompts.
        self._made: dict[str, tuple[np.ndarray, Prompts]] = {}

    def prompts(self, reader: Reader, rows: np.ndarray) -> Prompts:
        """Return the prompts of the pairs ``rows``, in that order."""
        made, prompts = self._made.get(reader.identity, (None, None))
        if made is None or prompts is None or not np.isin(rows, made).all():
            prompts = reader.prepare(*self._source.select(rows))
            self._made[reader.identity] = rows, prompts
            return prompts
        if np.array_equal(rows, made):
            return prompts
        order = np.argsort(made)
        return prompts.select(order[np.searchsorted(made, rows, sorter=order)])
