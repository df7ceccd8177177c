"""Pairs of texts, each text once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

#: Queries, documents, and of each pair the places of both in them: int (pairs, 2).
Selected = tuple[Iterable[str], Iterable[str], np.ndarray]


@dataclass(frozen=True)
class Texts:
    """``index``, int (pairs, 2): the places of each pair's texts in ``queries`` and ``documents``."""

    queries: Sequence[str]
    documents: Sequence[str]
    index: np.ndarray

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, str]]) -> Texts:
        """From (query, document) pairs; equal texts are one."""
        queries: dict[str, int] = {}
        documents: dict[str, int] = {}
        flat = [
            place
            for query, document in pairs
            for place in (queries.setdefault(query, len(queries)), documents.setdefault(document, len(documents)))
        ]
        return cls(list(queries), list(documents), np.array(flat, np.int64).reshape(-1, 2))

    def select(self, rows: np.ndarray) -> Selected:
        """Return the texts of the pairs ``rows`` alone, and their places in these."""
        queries, query = np.unique(self.index[rows, 0], return_inverse=True)
        documents, document = np.unique(self.index[rows, 1], return_inverse=True)
        return (
            [self.queries[place] for place in queries.tolist()],
            [self.documents[place] for place in documents.tolist()],
            np.stack([query, document], axis=1),
        )
