"""Collections in Parquet files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

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
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.path, self.shown = path, shown.rstrip("/")
        try:
            self.total = pq.read_metadata(self._file("corpus")).num_rows
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(f"{self._name('corpus')}: not a readable Parquet file: {error}") from error

    def _file(self, table: str) -> Path:
        return self.path / f"{table}.parquet" if self.path.is_dir() else self.path

    def _name(self, table: str) -> str:
        return f"{self.shown}/{table}.parquet" if self.path.is_dir() else self.shown

    def _read(self, table: str, wanted: dict[str, tuple[str, ...]], optional: dict[str, str | None]) -> Iterator[Rows]:
        """Columns in the order of ``wanted`` and then ``optional`` (name -> value where there is no such column)."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        shown = self._name(table)
        try:
            with pq.ParquetFile(self._file(table)) as file:
                there = file.schema_arrow.names
                names: list[str] = []
                for column, spellings in wanted.items():
                    name = next((each for each in spellings if each in there), None)
                    if name is None:
                        raise UserError(f"{shown}: has no column {column} (it has: {', '.join(there)})")
                    names.append(name)
                start = 1
                for batch in file.iter_batches(ROWS, columns=[*names, *(name for name in optional if name in there)]):
                    columns = [batch.column(name).to_pylist() for name in names]
                    for name, default in optional.items():
                        filler = [default] * batch.num_rows
                        columns.append(batch.column(name).to_pylist() if name in there else filler)
                    yield Rows(shown, range(start, start + batch.num_rows), tuple(columns), batch.num_rows)
                    start += batch.num_rows
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(f"{shown}: not a readable Parquet file: {error}") from error

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


def _texts(rows: Rows, problems: Problems) -> Rows:
    """The rows with an id (whole numbers become text) and with "" for missing text; other types are reported."""
    ids, *texts = rows.columns
    lines, kept = [], []
    for line, id_, *values in zip(rows.lines, ids, *texts, strict=True):
        if isinstance(id_, int):
            id_ = str(id_)
        if not isinstance(id_, str) or not all(value is None or isinstance(value, str) for value in values):
            problems.add("malformed", rows.file, line, "has no id, or a column that is not text")
            continue
        lines.append(line)
        kept.append((id_, *(value or "" for value in values)))
    return Rows(rows.file, lines, as_columns(kept, len(rows.columns)), rows.amount)
