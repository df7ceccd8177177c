"""Run files of a collection: what another system found for its queries, in TREC's form or as Parquet."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from inranker_flow.artifacts import tables
from inranker_flow.artifacts.hashing import HashSet, contains, hash_rows
from inranker_flow.config.sections import CorpusConfig
from inranker_flow.corpora.beside import local_file
from inranker_flow.corpora.documents import are_cut
from inranker_flow.corpora.problems import Problems, Rows
from inranker_flow.corpora.sources import lines, parquet

_BLANKS = re.compile(r"[ \t]+")
_ROWS = tables.RUN.schema.remove(tables.RUN.schema.get_field_index("rank"))


def address(corpus: CorpusConfig, name: str) -> str:
    """Return where a run file of the collection lies: below its folder, unless ``name`` is an address itself."""
    return name if "://" in name or name.startswith(("/", "~")) else f"{corpus.uri.rstrip('/')}/{name}"


def write(
    corpus: CorpusConfig,
    collection: Path,
    queries: pa.Table,
    known: np.ndarray,
    documents: np.ndarray,
    problems: Problems,
) -> list[str]:
    """Write the rows of the ``queries`` as the run of ``collection``, whose passages are written.

    ``known`` and ``documents``: first words of the hashes of all queries and documents that there are, sorted. A row about
    another document is a problem, and one about another query is counted. Returns the queries whose rows are all about
    documents that the collection was drawn without: they find nothing.
    """
    if not corpus.runs:
        return []
    ids = queries.column("query_id").to_pylist()
    hashes = _hashes(ids)
    wanted, asked = np.sort(hashes), np.empty(0, np.uint64)
    known = np.union1d(known, wanted)
    kept = np.sort(_hashes(tables.column(tables.CORPUS, collection, "doc_id").to_pylist()))
    whole = kept[:0]
    if are_cut(collection):  # then its passages are what is searched
        whole, documents = np.setdiff1d(documents, kept), kept
    pairs = HashSet()
    parts = [_ROWS.empty_table()]
    for name in corpus.runs:
        for rows in read_rows(address(corpus, name), problems):
            query_ids, doc_ids, _ = rows.columns
            if not query_ids:
                continue
            asking, found = _hashes(query_ids), _hashes(doc_ids)
            mine = contains(wanted, asking)
            problems.add_rows("run_unknown_query", rows, ~contains(known, asking), "no query has the id {0!r}")
            unknown = mine & ~contains(documents, found)
            cut = unknown & contains(whole, found)
            lacks = "query {0!r} found {1!r}, which the collection lacks"
            as_passage = f"{lacks} as a passage: it was cut, so name its passages"
            problems.add_rows("run_unknown_document", rows, cut, as_passage)
            problems.add_rows("run_unknown_document", rows, unknown & ~cut, lacks)
            good = mine & contains(kept, found)
            asked = np.union1d(asked, asking[mine & ~unknown])
            new = np.zeros(len(good), bool)
            new[good] = pairs.add(hash_rows(query_ids, doc_ids)[good])
            what = "query {0!r} found document {1!r} before, in this file or in another"
            problems.add_rows("duplicate_run_row", rows, good & ~new, what)
            parts.append(pa.table(list(rows.columns), schema=_ROWS).filter(pa.array(new)))
    problems.check()
    table = _ranked(pa.concat_tables(parts))
    tables.write(tables.RUN, collection / tables.RUN.filename, table)
    lost = np.setdiff1d(asked, _hashes(table.column("query_id").unique().to_pylist()))
    return [query_id for query_id, is_lost in zip(ids, contains(lost, hashes), strict=True) if is_lost]


def read(uri: str) -> pa.Table:
    """Return a run file as `tables.RUN`. Raises :class:`BadCollection` naming the line that is none, or is there twice."""
    problems = Problems("refuse")
    pairs, parts = HashSet(), [_ROWS.empty_table()]
    for rows in read_rows(uri, problems):
        query_ids, doc_ids, _ = rows.columns
        new = pairs.add(hash_rows(query_ids, doc_ids)) if query_ids else np.empty(0, bool)
        problems.add_rows("duplicate_run_row", rows, ~new, "query {0!r} found document {1!r} before")
        parts.append(pa.table(list(rows.columns), schema=_ROWS))
    problems.check()
    return _ranked(pa.concat_tables(parts))


def _ranked(rows: pa.Table) -> pa.Table:
    """Return the rows with their ranks in each query: by score, and by doc_id where that is the same."""
    rows = rows.sort_by([("query_id", "ascending"), ("score", "descending"), ("doc_id", "ascending")])
    number = np.asarray(pc.rank(rows.column("query_id"), tiebreaker="min")).astype(np.int64)
    return rows.add_column(2, "rank", pa.array(np.arange(1, len(number) + 1) - number + 1, pa.int32()))


def _hashes(ids: list[str]) -> np.ndarray:
    return hash_rows(ids)[:, 0] if ids else np.empty(0, np.uint64)


def read_rows(uri: str, problems: Problems) -> Iterator[Rows]:
    """Yield columns query_id, doc_id, score."""
    path = local_file(uri)
    if path.suffix.lower() == ".parquet":
        return parquet.run(path, uri, problems)
    return lines.batches(path, uri, _line, 3, problems)


def _line(text: str) -> tuple[str, str, float] | None:
    parts = text.split()
    if not parts:
        return None
    if len(parts) != 6:
        parts = _BLANKS.split(text.strip(" \t\r\n"))  # ids may hold blanks of other scripts
    if len(parts) != 6:
        raise lines.BadLine(f"{len(parts)} columns where a run has six: query Q0 document rank score name")
    try:
        score = float(parts[4])
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise lines.BadLine(f"{parts[4]!r} is no score")
    return parts[0], parts[2], score
