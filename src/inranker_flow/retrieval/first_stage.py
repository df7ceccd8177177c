"""What every first stage is: it finds the best passages of queries. One file of this room holds each kind."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from inranker_flow.artifacts import tables
from inranker_flow.retrieval.index import marks

#: The best passages of one query, best first: their places in `Passages.doc_ids`, and their scores. Equal scores are in the
#: order of the places, also at the cut.
Found = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Passages:
    """What is searched. ``doc_ids`` ascend; ``marks`` (uint64) are a hash of each, by which it is drawn or not."""

    doc_ids: pa.LargeStringArray
    marks: np.ndarray

    def named(self, places: np.ndarray) -> list[str]:
        """Return the doc_ids at ``places``."""
        names: list[str] = self.doc_ids.take(pa.array(places)).to_pylist()
        return names


def passages_of(collection: Path) -> Passages:
    """Return the passages of a collection."""
    column = tables.column(tables.CORPUS, collection, "doc_id").cast(pa.large_string())
    doc_ids = column.combine_chunks() if column.num_chunks else pa.array([], pa.large_string())
    doc_ids = doc_ids.take(pc.sort_indices(doc_ids))
    return Passages(doc_ids, marks(doc_ids))


@dataclass(frozen=True)
class Queries:
    """Queries that are searched together."""

    ids: list[str]
    texts: list[str]


@dataclass(frozen=True)
class Asked:
    """All queries of one kind, and the file or folder that they are of."""

    where: Path
    queries: Queries
    depth: int


class FirstStage(Protocol):
    """A search of one collection. It is a context manager: processes and connections end with it."""

    passages: Passages

    def check(self, asked: Mapping[str, Asked]) -> None:
        """Raise :class:`inranker_flow.errors.UserError` where queries (by kind) cannot be searched for, before any is."""
        ...

    def find(self, batches: Iterable[Queries], depth: int) -> Iterator[list[Found]]:
        """Yield for each batch what each of its queries finds: at most ``depth`` passages."""
        ...

    def forget(self) -> None:
        """Remove the files that a later attempt would have needed."""
        ...

    def __enter__(self) -> FirstStage: ...

    def __exit__(self, *_: object) -> None: ...
