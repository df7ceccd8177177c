"""The texts of labelled pairs as the teacher reads them: queries and passages stream by, out of an artifact's tables."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, compress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from inranker_flow.artifacts import tables
from inranker_flow.corpora.passage import default_text
from inranker_flow.rankers.texts import Selected

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Streamed:
    """Pairs whose passages lie in ``folder``: a million of them are tokens here, not text (`scoring.job.Source`).

    ``doc_ids``: of all passages there, in their order.
    """

    pairs: pa.Table
    queries: pa.Table
    doc_ids: pa.ChunkedArray
    folder: Path

    def select(self, rows: np.ndarray) -> Selected:
        """Return the texts of the pairs ``rows`` alone, and their places in these."""
        left = self.pairs.take(pa.array(rows))
        queries = self.queries.filter(
            pc.is_in(self.queries.column("query_id"), value_set=pc.unique(left.column("query_id")))
        )
        wanted = pc.is_in(self.doc_ids, value_set=pc.unique(left.column("doc_id")))
        log.info("reading %s queries and %s passages", f"{queries.num_rows:,}", f"{pc.sum(wanted).as_py():,}")
        read = compress(passages(self.folder), chain.from_iterable(chunk.to_pylist() for chunk in wanted.chunks))
        return texts(queries), read, places(left, queries, self.doc_ids.filter(wanted))


def places(pairs: pa.Table, queries: pa.Table, doc_ids: pa.ChunkedArray) -> np.ndarray:
    """Return positions of each pair's query and passage, int32 (pairs, 2)."""
    found = [
        pc.index_in(pairs.column(column), value_set=known.combine_chunks()).to_numpy().astype(np.int32)
        for column, known in (("query_id", queries.column("query_id")), ("doc_id", doc_ids))
    ]
    return np.stack(found, axis=1)


def texts(table: pa.Table) -> Iterator[str]:
    """Yield the texts of a table, one after another."""
    for chunk in table.column("text").chunks:
        yield from chunk.to_pylist()


def passages(labels: Path) -> Iterator[str]:
    """Yield the passages in ``labels`` as models read them."""
    for batch in tables.read_batches(tables.CORPUS, labels):
        yield from map(default_text, batch.column("title").to_pylist(), batch.column("text").to_pylist())
