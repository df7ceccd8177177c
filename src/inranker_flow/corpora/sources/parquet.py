"""Collections in Parquet files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from inranker_flow.corpora.problems import Problems, Rows
from inranker_flow.corpora.sources.lines import BadLine, whole
from inranker_flow.corpora.sources.rows import ROWS, Row, Split, as_columns
from inranker_flow.errors import UserError

_ID = {"doc_id": ("doc_id", "_id", "corpus_id", "corpus-id"), "query_id": ("query_id", "_id", "query-id")}


class ParquetCorpus:
    """A `.parquet` file of documents, or a folder with corpus.parquet and perhaps queries.parquet and qrels.parquet.

    Columns as in :mod:`inranker_flow.schemas` or BEIR's (`_id`, `title`, `text`; `query-id`, `corpus-id`, `score`).
    A judgement belongs to the split that its column ``split`` names, else to its query's ``origin``, else to test.
    """

    unit = "documents"
    labelled_origin = "supervised"

    def __init__(self, path: Path, shown: str) -> None:
        import pyarrow.parquet as pq

        self.path, self.shown = path, shown.rstrip("/")
        with _explained(self._name("corpus")):
            self.total = pq.read_metadata(self._file("corpus")).num_rows

    def _file(self, table: str) -> Path:
        return self.path / f"{table}.parquet" if self.path.is_dir() else self.path

    def _name(self, table: str) -> str:
        return f"{self.shown}/{table}.parquet" if self.path.is_dir() else self.shown

    def _read(self, table: str, wanted: dict[str, tuple[str, ...]], optional: dict[str, str | None]) -> Iterator[Rows]:
        """Columns in the order of ``wanted`` and then ``optional`` (name -> value where there is no such column)."""
        import pyarrow.parquet as pq

        shown = self._name(table)
        with _explained(shown), pq.ParquetFile(self._file(table)) as file:
            schema = file.schema_arrow
            names = [_find(schema, column, spellings, shown) for column, spellings in wanted.items()]
            extra = [_find(schema, name, (name,), shown) for name in optional if name in schema.names]
            start = 1
            for batch in file.iter_batches(ROWS, columns=[*names, *extra]):
                columns = [_values(batch, name, shown, start) for name in names]
                for name, default in optional.items():
                    filler = [default] * batch.num_rows
                    columns.append(_values(batch, name, shown, start) if name in extra else filler)
                yield Rows(shown, range(start, start + batch.num_rows), tuple(columns), batch.num_rows)
                start += batch.num_rows

    def documents(self, problems: Problems) -> Iterator[Rows]:
        for rows in self._read("corpus", {"doc_id": _ID["doc_id"], "text": ("text",)}, {"title": ""}):
            ids, texts, titles = rows.columns
            yield _texts(Rows(rows.file, rows.lines, (ids, titles, texts), rows.amount), problems)

    def queries(self, problems: Problems) -> Iterator[Rows]:
        if self.path.is_dir() and self._file("queries").is_file():
            for rows in self._read("queries", {"query_id": _ID["query_id"], "text": ("text",)}, {}):
                yield _texts(rows, problems)

    def _origins(self) -> dict[str, str]:
        found: dict[str, str] = {}
        if self._file("queries").is_file():
            for rows in self._read("queries", {"query_id": _ID["query_id"]}, {"origin": None}):
                found.update((str(id_), origin) for id_, origin in zip(*rows.columns, strict=True) if origin)
        return found

    def judgements(self, split: Split, problems: Problems) -> Iterator[Rows]:
        if not (self.path.is_dir() and self._file("qrels").is_file()):
            return
        wanted = {
            "query_id": ("query_id", "query-id"),
            "doc_id": ("doc_id", "corpus-id", "corpus_id"),
            "relevance": ("relevance", "score"),
        }
        origins = self._origins()
        for rows in self._read("qrels", wanted, {"split": None}):
            lines: list[int] = []
            kept: list[Row] = []
            for line, query_id, doc_id, relevance, where in zip(rows.lines, *rows.columns, strict=True):
                if where is None:
                    where = "train" if origins.get(str(query_id)) == "supervised" else "test"
                if where != split:
                    continue
                try:
                    if query_id is None or doc_id is None:
                        raise BadLine("has no query or no document")
                    kept.append((str(query_id), str(doc_id), whole(str(relevance))))
                    lines.append(line)
                except BadLine as error:
                    problems.add(error.kind, rows.file, line, str(error))
            yield Rows(rows.file, lines, as_columns(kept, len(wanted)), rows.amount)


@contextmanager
def _explained(shown: str) -> Iterator[None]:
    """Turn whatever Arrow says about a file that it cannot read into one line."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        said = "".join(each if each.isprintable() else " " for each in str(error))
        reason = " ".join(said.split())[:300]
        raise UserError(f"{shown}: not a readable Parquet file: {reason}; write or fetch it again") from error


def _find(schema: Any, column: str, spellings: tuple[str, ...], shown: str) -> str:
    """Name of the one column in ``spellings``, if what it holds can be ``column``'s."""
    name = next((each for each in spellings if each in schema.names), None)
    if name is None:
        there = ", ".join(each if each.isprintable() else repr(each) for each in schema.names)[:300]
        raise UserError(f"{shown}: has no column {column} (it has: {there})")
    if schema.names.count(name) > 1:
        raise UserError(f"{shown}: has {schema.names.count(name)} columns {name}; keep one of them")
    kind = schema.field(name).type
    if not _fits(kind, numbers=column in ("doc_id", "query_id", "relevance"), fractions=column == "relevance"):
        raise UserError(
            f"{shown}: column {name} holds {str(kind)[:100]}, which cannot be its {column}; write it as text"
        )
    return name


def _fits(kind: Any, numbers: bool, fractions: bool) -> bool:
    """Whether an Arrow type is text, or nothing, or of the ``numbers`` (``fractions`` too: "1.0" counts as 1)."""
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind) or types.is_null(kind)
    fraction = types.is_floating(kind) or types.is_decimal(kind)
    return bool(text or (numbers and types.is_integer(kind)) or (fractions and fraction))


def _values(batch: Any, name: str, shown: str, start: int) -> list[Any]:
    """A column of ``batch``, whose first row is number ``start`` of its file."""
    column = batch.column(name)
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        for row in range(len(column)):
            try:
                column[row].as_py()
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{shown} line {start + row}: {name} is not UTF-8 at byte {error.start + 1}; write the file again"
                ) from error
        raise


def _texts(rows: Rows, problems: Problems) -> Rows:
    """The rows with an id (whole numbers become text) and with "" for missing text."""
    ids, *texts = rows.columns
    lines, kept = [], []
    for line, id_, *values in zip(rows.lines, ids, *texts, strict=True):
        if id_ is None:
            problems.add("malformed", rows.file, line, "has no id")
            continue
        lines.append(line)
        kept.append((str(id_), *(value or "" for value in values)))
    return Rows(rows.file, lines, as_columns(kept, len(rows.columns)), rows.amount)
