"""Queries that people asked, in a file of their own: what was typed, and how often."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa

from inranker_flow.artifacts import tables
from inranker_flow.artifacts.hashing import priorities
from inranker_flow.config.sections import CorpusConfig
from inranker_flow.corpora.beside import local_file
from inranker_flow.corpora.fields import BadValue, as_text
from inranker_flow.corpora.problems import BadCollection, Problems, Rows
from inranker_flow.corpora.sources import layout, parquet
from inranker_flow.corpora.sources.delimited import Delimited
from inranker_flow.corpora.sources.lines import BadLine, batches, json_object
from inranker_flow.corpora.sources.rows import ROWS, Row, as_columns
from inranker_flow.words import normal

#: How the columns are called.
QUERY_NAMES = ("query", "text", "search", "search_term", "search_query", "term", "keywords", "q")
COUNT_NAMES = ("count", "frequency", "freq", "searches", "times", "total", "n")


def read(corpus: CorpusConfig, problems: Problems, seed: int) -> pa.Table:
    """Return the queries of `CorpusConfig.log` (`tables.QUERIES`), at most `log_queries` of them.

    Queries that are equal but for case and punctuation are one, and count together. A query that was asked twice as often is
    drawn twice as likely (Efraimidis and Spirakis, doi:10.1016/j.ipl.2005.11.003); whether one is drawn hangs on itself alone.
    Raises :class:`BadCollection` for a file without a query, or without a column of queries.
    """
    counts: dict[str, float] = {}
    texts: dict[str, str] = {}
    for batch in read_rows(corpus.log, problems):
        for line, text, count in zip(batch.lines, *batch.columns, strict=True):
            name = normal(text)
            if any(map(str.isalnum, name)):
                counts[name] = counts.get(name, 0) + count
                texts.setdefault(name, " ".join(text.split()))
            else:
                problems.add("wordless_query", batch.file, line, f"{text.strip()!r} has no letter and no digit")
    problems.check()
    if not counts:
        raise BadCollection(f"{corpus.log}: holds no query; give one query a line, or another file", code="log-empty")
    names = sorted(counts)
    if corpus.log_queries and len(names) > corpus.log_queries:
        chance = (priorities(seed, names).astype(np.float64) + 1) / 2.0**64
        waits = -np.log(chance) / np.array([counts[name] for name in names])
        names = [names[place] for place in np.sort(np.argsort(waits, kind="stable")[: corpus.log_queries])]
    columns = {
        "query_id": [f"log-{blake2b(name.encode(), digest_size=8).hexdigest()}" for name in names],
        "text": [texts[name] for name in names],
        "origin": ["log"] * len(names),
        "source_doc_id": [None] * len(names),
    }
    return pa.table(columns, schema=tables.QUERIES.schema)


def read_rows(uri: str, problems: Problems) -> Iterator[Rows]:
    """Yield columns text, count. Raises :class:`BadCollection` for a file in another form, or without a column of queries."""
    path = local_file(uri)
    suffix = PurePosixPath(layout.unpacked(path.name.lower())).suffix
    if suffix == ".parquet":
        return _columns(path, uri, problems)
    if suffix in (".jsonl", ".ndjson"):
        return batches(path, uri, _object, 2, problems)
    if suffix in (".csv", ".tsv"):
        return _delimited(path, uri, "" if suffix == ".csv" else "\t", problems)
    if suffix == ".txt":
        return batches(path, uri, _line, 2, problems)
    raise BadCollection(
        f"{uri}: not a form of a log that is read; give .txt (one query a line), .csv, .tsv, .jsonl or .parquet",
        code="log-form",
    )


def _line(text: str) -> Row:
    if "\r" in text.rstrip("\r\n"):
        raise BadLine("its lines end with \\r alone; write the file with \\n or \\r\\n")
    return text, 1.0


def _object(text: str) -> Row:
    row = {name.lower(): value for name, value in json_object(text).items()}
    name = next((name for name in QUERY_NAMES if isinstance(row.get(name), str)), None)
    if name is None:
        raise BadLine(f"has no {QUERY_NAMES[0]!r} that is text")
    return row[name], _count(next((row[name] for name in COUNT_NAMES if name in row), None))


def _delimited(path: Path, shown: str, between: str, problems: Problems) -> Iterator[Rows]:
    table = Delimited(path, shown, between, problems)
    query, count = _places([name.lower() for name in table.names], shown)
    return table.batches(lambda cells: (cells[query], 1.0 if count is None else _count(cells[count])), 2)


def _places(names: Sequence[str], shown: str) -> tuple[int, int | None]:
    """Return the places of the columns of queries and of counts."""
    query = next((names.index(name) for name in QUERY_NAMES if name in names), None)
    if query is None:
        there = ", ".join(names)[:200]
        raise BadCollection(
            f"{shown}: its first line names no column `query` (it has: {there}); name the columns query and count",
            code="collection-column",
        )
    return query, next((names.index(name) for name in COUNT_NAMES if name in names), None)


def _columns(path: Path, shown: str, problems: Problems) -> Iterator[Rows]:
    with parquet.opened(path, shown) as file:
        names = list(file.schema_arrow.names)
        query, count = _places([name.lower() for name in names], shown)
        asked = [names[query], *([] if count is None else [names[count]])]
        start = 1
        for batch in tables.stream(file, asked, ROWS):
            texts = parquet.values(batch, asked[0], shown, start)
            counts = parquet.values(batch, asked[1], shown, start) if len(asked) == 2 else [None] * len(texts)
            lines, rows = [], []
            for line, text, each in zip(range(start, start + len(texts)), texts, counts, strict=True):
                try:
                    if isinstance(text, list | tuple):
                        raise BadValue(f"{asked[0]!r} is {str(text)[:40]} and not text")
                    rows.append((as_text(text, asked[0]), _count(each)))
                    lines.append(line)
                except (BadLine, BadValue) as error:
                    problems.add("malformed", shown, line, str(error))
            yield Rows(shown, lines, as_columns(rows, 2), batch.num_rows)
            start += len(texts)


def _count(value: Any) -> float:
    """Return how often a query was asked; one without a number was asked once."""
    if value is None or value == "":
        return 1.0
    try:
        number = float(str(value).replace(",", ""))
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise BadLine(f"count {str(value)[:40]!r} is not a number above 0")
    return number
