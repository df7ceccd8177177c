"""Rows of Parquet files. Columns as in :mod:`inranker_flow.artifacts.tables`, BEIR's or the hub's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from inranker_flow.artifacts import tables
from inranker_flow.corpora.fields import ID_NAMES, missing
from inranker_flow.corpora.problems import BadCollection, Problems, Rows
from inranker_flow.corpora.sources.beir import DOC_NAMES, GRADE_NAMES, QUERY_NAMES
from inranker_flow.corpora.sources.lines import BadLine, whole
from inranker_flow.corpora.sources.rows import ROWS, Row, as_columns
from inranker_flow.errors import UserError

_ID = {
    "doc_id": ID_NAMES,
    "query_id": ("query_id", "_id", "query-id", "id"),
}
_JUDGED = {"query_id": QUERY_NAMES, "doc_id": DOC_NAMES, "relevance": GRADE_NAMES}


def count(path: Path, shown: str) -> int:
    """Return rows of a file."""
    import pyarrow.parquet as pq

    with _explained(shown):
        return int(pq.read_metadata(path).num_rows)


def documents(path: Path, shown: str, problems: Problems) -> Iterator[Rows]:
    """Yield columns doc_id, title, text."""
    for rows in _read(path, shown, {"doc_id": _ID["doc_id"], "text": ("text",)}, {"title": ""}, True):
        ids, texts, titles = rows.columns
        yield _texts(Rows(rows.file, rows.lines, (ids, titles, texts), rows.amount), problems)


def queries(path: Path, shown: str, problems: Problems) -> Iterator[Rows]:
    """Yield columns query_id, text."""
    for rows in _read(path, shown, {"query_id": _ID["query_id"], "text": ("text",)}, {}):
        yield _texts(rows, problems)


def origins(path: Path, shown: str) -> dict[str, str]:
    """Return query -> its origin, where the file says that."""
    found: dict[str, str] = {}
    for rows in _read(path, shown, {"query_id": _ID["query_id"]}, {"origin": None}):
        found.update((str(id_), origin) for id_, origin in zip(*rows.columns, strict=True) if origin)
    return found


def judgements(
    path: Path, shown: str, problems: Problems, belongs: Callable[[str, str | None], bool] | None = None
) -> Iterator[Rows]:
    """Yield columns query_id, doc_id, relevance; of the rows alone that ``belongs`` (query, column `split`) says."""
    for rows in _read(path, shown, _JUDGED, {"split": None}):
        lines: list[int] = []
        kept: list[Row] = []
        for line, query_id, doc_id, relevance, where in zip(rows.lines, *rows.columns, strict=True):
            if belongs and not belongs(str(query_id), where):
                continue
            try:
                if query_id is None or doc_id is None:
                    raise BadLine("has no query or no document")
                kept.append((str(query_id), str(doc_id), whole(str(relevance))))
                lines.append(line)
            except BadLine as error:
                problems.add(error.kind, rows.file, line, str(error))
        yield Rows(rows.file, lines, as_columns(kept, len(_JUDGED)), rows.amount)


def run(path: Path, shown: str, problems: Problems) -> Iterator[Rows]:
    """Yield columns query_id, doc_id, score."""
    for rows in _read(path, shown, {"query_id": QUERY_NAMES, "doc_id": DOC_NAMES, "score": ("score",)}, {}):
        lines: list[int] = []
        kept: list[Row] = []
        for line, query_id, doc_id, score in zip(rows.lines, *rows.columns, strict=True):
            number = _score(score)
            if query_id is None or doc_id is None or not math.isfinite(number):
                problems.add("malformed", rows.file, line, "has no query, no document or no score")
                continue
            lines.append(line)
            kept.append((str(query_id), str(doc_id), number))
        yield Rows(rows.file, lines, as_columns(kept, 3), rows.amount)


def _score(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _read(
    path: Path,
    shown: str,
    wanted: dict[str, tuple[str, ...]],
    optional: dict[str, str | None],
    mapped: bool = False,
) -> Iterator[Rows]:
    """Yield columns in the order of ``wanted`` and then ``optional`` (name -> value where there is no such column)."""
    with opened(path, shown) as file:
        schema = file.schema_arrow
        names = [_find(schema, column, spellings, shown, mapped) for column, spellings in wanted.items()]
        extra = [_find(schema, name, (name,), shown) for name in optional if name in schema.names]
        start = 1
        for batch in tables.stream(file, [*names, *extra], ROWS):
            columns = [values(batch, name, shown, start) for name in names]
            for name, default in optional.items():
                filler = [default] * batch.num_rows
                columns.append(values(batch, name, shown, start) if name in extra else filler)
            yield Rows(shown, range(start, start + batch.num_rows), tuple(columns), batch.num_rows)
            start += batch.num_rows


@contextmanager
def opened(path: Path, shown: str) -> Iterator[Any]:
    """Yield a Parquet file; what cannot be read in it is one line."""
    import pyarrow.parquet as pq

    with _explained(shown), pq.ParquetFile(path) as file:
        yield file


@contextmanager
def _explained(shown: str) -> Iterator[None]:
    """Turn whatever Arrow says about a file that it cannot read into one line."""
    import pyarrow as pa

    try:
        yield
    # The last: a date that Python has none for.
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        said = "".join(each if each.isprintable() else " " for each in str(error))
        reason = " ".join(said.split())[:300]
        if isinstance(error, OSError) and error.errno:  # the disk's word, not Arrow's about the content
            raise UserError(
                f"{shown}: cannot be read: {reason}; check the disk and the file's rights", code="disk-unreadable"
            ) from error
        if isinstance(error, pa.ArrowMemoryError):
            raise UserError(f"{shown}: memory does not suffice to read it: {reason}", code="out-of-memory") from error
        raise BadCollection(
            f"{shown}: not a readable Parquet file: {reason}; write or fetch it again", code="collection-damaged"
        ) from error


def _find(schema: Any, column: str, spellings: tuple[str, ...], shown: str, mapped: bool = False) -> str:
    """Return the name of the one column in ``spellings``, if what it holds can be ``column``'s; ``mapped``: `fields` may
    name another."""
    name = next((each for each in spellings if each in schema.names), None)
    if name is None:
        raise missing("" if mapped else None, column, schema.names, shown)
    if schema.names.count(name) > 1:
        raise BadCollection(
            f"{shown}: has {schema.names.count(name)} columns {name}; keep one of them", code="collection-column"
        )
    kind = schema.field(name).type
    if not _fits(
        kind, numbers=column in ("doc_id", "query_id", "relevance", "score"), fractions=column in ("relevance", "score")
    ):
        raise BadCollection(
            f"{shown}: column {name} holds {str(kind)[:100]}, which cannot be its {column}; write it as text",
            code="collection-column",
        )
    return name


def _fits(kind: Any, numbers: bool, fractions: bool) -> bool:
    """Return whether an Arrow type is text, or nothing, or of the ``numbers`` (``fractions`` too: "1.0" counts as 1)."""
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind) or types.is_null(kind)
    fraction = types.is_floating(kind) or types.is_decimal(kind)
    return bool(text or (numbers and types.is_integer(kind)) or (fractions and fraction))


def values(batch: Any, name: str, shown: str, start: int) -> list[Any]:
    """Return a column of ``batch``, whose first row is number ``start`` of its file."""
    column = batch.column(name)
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        for row in range(len(column)):
            try:
                column[row].as_py()
            except UnicodeDecodeError as error:
                raise BadCollection(
                    f"{shown} line {start + row}: {name} is not UTF-8 at byte {error.start + 1}; write the file again",
                    code="text-encoding",
                ) from error
        raise


def _texts(rows: Rows, problems: Problems) -> Rows:
    """Return the rows with an id (whole numbers become text) and with "" for missing text."""
    ids, *texts = rows.columns
    lines, kept = [], []
    for line, id_, *values in zip(rows.lines, ids, *texts, strict=True):
        if id_ is None:
            problems.add("malformed", rows.file, line, "has no id")
            continue
        lines.append(line)
        kept.append((str(id_), *(value or "" for value in values)))
    return Rows(rows.file, lines, as_columns(kept, len(rows.columns)), rows.amount)
