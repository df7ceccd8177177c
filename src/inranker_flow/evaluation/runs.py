"""Runs: rows (query, document, score) in a rank order that is unique and the same on every machine."""

from __future__ import annotations

import os
import re

import numpy as np
import pyarrow as pa

from inranker_flow.artifacts import tables
from inranker_flow.storage.local import atomic_write

_BLANK = re.compile(r"\s")


def rank(query_ids: pa.ChunkedArray, doc_ids: pa.ChunkedArray, scores: np.ndarray) -> pa.Table:
    """Return a `tables.RUN` table from equally long columns: best score first, equal scores by document id.

    Tables of 32-bit ranks and 64-bit scores, sorted by query id, then rank.
    """
    # Adding 0.0 turns -0.0 into 0.0, which sorts and ties as the same number.
    table = pa.table({"query_id": query_ids, "doc_id": doc_ids, "score": scores.astype(np.float64) + 0.0})
    return number(table.sort_by([("query_id", "ascending"), ("score", "descending"), ("doc_id", "ascending")]))


def number(ordered: pa.Table) -> pa.Table:
    """Give the rows of ``ordered`` (grouped by query, best first) ranks from 1 in each query."""
    starts = query_starts(ordered)
    sizes = np.diff(np.append(starts, ordered.num_rows))
    ranks = np.arange(ordered.num_rows) - np.repeat(starts, sizes) + 1
    columns = {name: ordered.column(name) for name in ("query_id", "doc_id", "score")}
    return pa.table({**columns, "rank": pa.array(ranks, pa.int32())}).select(tables.RUN.schema.names)


def query_starts(run: pa.Table) -> np.ndarray:
    """Return the row where each query begins, int64."""
    if run.num_rows == 0:
        return np.zeros(0, np.int64)
    codes = run.column("query_id").combine_chunks().dictionary_encode().indices.to_numpy()
    return np.flatnonzero(np.append(True, codes[1:] != codes[:-1]))


def tie_rate(run: pa.Table) -> float:
    """Return the share of the rows, in [0, 1], whose score another row of the same query has too.

    Their order says nothing about the model: evaluation tools that break ties in other ways may differ by that much.
    """
    if run.num_rows < 2:
        return 0.0
    scores = run.column("score").to_numpy()
    same = scores[1:] == scores[:-1]
    same[query_starts(run)[1:] - 1] = False
    return float(np.mean(np.append(same, False) | np.append(False, same)))


def write_trec(path: str | os.PathLike[str], run: pa.Table, tag: str) -> None:
    """Write ``qid Q0 docid rank score tag`` lines, scores with all their digits.

    The format separates by blanks, so a blank inside an id or tag is written as its percent code.
    """
    columns = [run.column(name).to_pylist() for name in ("query_id", "doc_id", "rank", "score")]
    with atomic_write(path) as out:
        for query_id, doc_id, position, score in zip(*columns, strict=True):
            line = f"{word(query_id)} Q0 {word(doc_id)} {position} {score!r} {word(tag)}\n"
            out.write(line.encode())


def word(text: str) -> str:
    """Return an id as it stands in a TREC run."""
    return _BLANK.sub(lambda blank: "".join(f"%{byte:02X}" for byte in blank[0].encode()), text)
