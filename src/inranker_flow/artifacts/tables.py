"""The tables that travel between stages: columns, keys, and the only code that reads and writes them.

Every table is checked by the stage that *writes* it (types, no nulls, unique key, finite numbers), so a broken file
fails where it was made. Ids are strings and the only join key: never a list position.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from inranker_flow import scratch
from inranker_flow.artifacts.hashing import hash_rows
from inranker_flow.errors import UserError
from inranker_flow.storage.local import disk_errors

#: Rows in one row group, and so the most that a reader or writer holds as Arrow memory at a time.
BATCH_ROWS = 65_536
#: Bytes of a batch that is read, about: rows of long texts come in smaller batches.
BATCH_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Table:
    """A named table: ``schema``, primary ``key``, and ``optional`` columns that may hold nulls."""

    name: str
    schema: pa.Schema
    key: tuple[str, ...]
    optional: tuple[str, ...] = ()

    @property
    def filename(self) -> str:
        """Name of the table's file inside an artifact folder."""
        return f"{self.name}.parquet"


def _table(name: str, columns: dict[str, pa.DataType], key: tuple[str, ...], optional: tuple[str, ...] = ()) -> Table:
    fields = [pa.field(column, kind, nullable=column in optional) for column, kind in columns.items()]
    return Table(name, pa.schema(fields, metadata={"table": name, "version": "1"}), key, optional)


_S, _I, _F = pa.string(), pa.int32(), pa.float64()

CORPUS = _table("corpus", {"doc_id": _S, "title": _S, "text": _S}, ("doc_id",))
#: Beside a corpus whose rows are passages of documents: which document each is of.
PASSAGES = _table("passages", {"doc_id": _S, "document_id": _S}, ("doc_id",))
#: ``origin`` is supervised, synthetic, log (asked by people, judged by nobody), test, or held_out (one of the second or third
#: kind, which measures and trains nobody); ``source_doc_id`` is the passage a synthetic query was written for.
QUERIES = _table(
    "queries", {"query_id": _S, "text": _S, "origin": _S, "source_doc_id": _S}, ("query_id",), ("source_doc_id",)
)
QRELS = _table("qrels", {"query_id": _S, "doc_id": _S, "relevance": _I}, ("query_id", "doc_id"))
#: First-stage or reranked run; ``rank`` starts at 1 and is unique in a query.
RUN = _table("run", {"query_id": _S, "doc_id": _S, "rank": _I, "score": _F}, ("query_id", "doc_id"))
#: ``role`` is source (the passage the query was written for), positive (judged relevant) or negative (sampled; of a query
#: that people asked: the best hit too, for nobody judged any).
PAIRS = _table("pairs", {"query_id": _S, "doc_id": _S, "role": _S}, ("query_id", "doc_id"))
#: The teacher's raw logits at the first decoder step, as float64 so that nothing is rounded on the way.
LABELS = _table("labels", {"query_id": _S, "doc_id": _S, "false_logit": _F, "true_logit": _F}, ("query_id", "doc_id"))
#: In a labels/ folder: the pairs that are judged relevant, where the collection has judgements of its training queries.
JUDGED = _table("judged", {"query_id": _S, "doc_id": _S}, ("query_id", "doc_id"))
MEASURES = _table(
    "measures",
    {"dataset": _S, "system": _S, "measure": _S, "query_id": _S, "value": _F},
    ("dataset", "system", "measure", "query_id"),
)
#: Measures without a judgement: see `evaluation/unjudged.py`.
EVIDENCE = _table(
    "evidence",
    {"dataset": _S, "evidence": _S, "system": _S, "measure": _S, "query_id": _S, "value": _F},
    ("dataset", "evidence", "system", "measure", "query_id"),
)
#: Of a judge, 0 to 3; and the measures that follow from its grades, which are never among those of people.
GRADES = _table("grades", {"dataset": _S, "query_id": _S, "doc_id": _S, "grade": _I}, ("dataset", "query_id", "doc_id"))
JUDGED_MEASURES = _table("judged_measures", {field.name: field.type for field in MEASURES.schema}, MEASURES.key)

#: In a candidates/ folder: a folder for each further first stage, with its run; and one with the held-out queries and theirs.
ALSO, HELD_OUT = "also", "held_out"

ROLES = ("source", "positive", "negative")


class TableWriter:
    """Streams batches into one Parquet file: written aside, checked, then renamed into place.

    A failure (bad row, full disk, exception in the ``with`` body) leaves nothing under the final name.
    Raises :class:`UserError` naming table, file and row.
    """

    def __init__(self, path: str | os.PathLike[str], table: Table) -> None:
        self.path, self.table, self.rows = Path(path), table, 0
        self._hashes: list[np.ndarray] = []
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._held = ExitStack()
        self._aside = self._held.enter_context(scratch.aside(self.path))
        self._writer = pq.ParquetWriter(self._aside, table.schema, compression="zstd")

    def write(self, rows: pa.Table | pa.RecordBatch | dict[str, list[object]] | dict[str, np.ndarray]) -> None:
        """Append rows given as Arrow data or as a dict of equally long columns."""
        batch = _as_table(rows, self.table, self.path)
        if batch.num_rows == 0:
            return
        _check_values(batch, self.table, self.path, self.rows)
        self._hashes.append(hash_rows(*(batch.column(name).to_pylist() for name in self.table.key)))
        rows = max(min(BATCH_ROWS, BATCH_BYTES * batch.num_rows // max(batch.nbytes, 1)), 1)
        with disk_errors(self.path):
            self._writer.write_table(batch, row_group_size=rows)
        self.rows += batch.num_rows

    def _check_unique(self) -> None:
        if not self._hashes:
            return
        hashes = np.concatenate(self._hashes)
        order = np.lexsort((hashes[:, 1], hashes[:, 0]))
        ordered = hashes[order]
        same = np.flatnonzero((ordered[1:] == ordered[:-1]).all(axis=1))
        if same.size:
            first, second = sorted((int(order[same[0]]), int(order[same[0] + 1])))
            raise UserError(
                f"{self.path}: table {self.table.name} holds the key ({', '.join(self.table.key)}) of row {first + 1} "
                f"again in row {second + 1}; the stage that wrote it must drop one of them",
                code="table-key-twice",
            )

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with disk_errors(self.path):
                self._writer.close()
            if kind is None:
                self._check_unique()
                with disk_errors(self.path), open(self._aside, "rb") as written:
                    os.fsync(written.fileno())
                self._aside.chmod(0o644)
                self._aside.replace(self.path)
        finally:
            self._held.close()


def _as_table(rows: object, table: Table, path: Path) -> pa.Table:
    try:
        if isinstance(rows, pa.RecordBatch):
            rows = pa.Table.from_batches([rows])
        if isinstance(rows, pa.Table):
            return rows.select(table.schema.names).cast(table.schema)
        return pa.table(rows, schema=table.schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError, KeyError, ValueError) as error:
        raise UserError(
            f"{path}: not a {table.name} table ({', '.join(table.schema.names)}): {error}", code="table-form"
        ) from error


def _check_values(batch: pa.Table, table: Table, path: Path, offset: int) -> None:
    """Raise for the first null, empty key or non-finite number, with its row (1-based)."""
    for field in table.schema:
        column = batch.column(field.name)
        if field.name not in table.optional and column.null_count:
            row = pc.index(pc.is_null(column), True).as_py()
            raise UserError(
                f"{path}: row {offset + row + 1} of table {table.name} has no {field.name}", code="table-value"
            )
        if field.name in table.key and pa.types.is_string(field.type):
            row = pc.index(column, "").as_py()
            if row >= 0:
                raise UserError(
                    f"{path}: row {offset + row + 1} of table {table.name} has an empty {field.name}",
                    code="table-value",
                )
        if pa.types.is_floating(field.type):
            row = pc.index(pc.is_finite(column), False).as_py()
            if row >= 0:
                raise UserError(
                    f"{path}: row {offset + row + 1} of table {table.name} has {field.name} = {column[row].as_py()}; "
                    "only finite numbers may be stored",
                    code="table-value",
                )


def write(table: Table, path: str | os.PathLike[str], rows: pa.Table | dict[str, list[object]]) -> int:
    """Write one whole table atomically; returns the number of rows. For streams use :class:`TableWriter`."""
    with TableWriter(path, table) as writer:
        writer.write(rows)
    return writer.rows


def read(table: Table, path: str | os.PathLike[str]) -> pa.Table:
    """Read a table whole, its columns checked against the schema. ``path`` is the file or its artifact folder."""
    return pa.Table.from_batches(list(read_batches(table, path)), schema=table.schema)


def column(table: Table, path: str | os.PathLike[str], name: str) -> pa.ChunkedArray:
    """Read one column of a table: ids without their texts."""
    field = table.schema.field(name)
    parts = [batch.column(0) for batch in read_batches(table, path, columns=[name])]
    return pa.chunked_array(parts, field.type)


def read_batches(
    table: Table,
    path: str | os.PathLike[str],
    batch_rows: int = BATCH_ROWS,
    columns: Sequence[str] | None = None,
) -> Iterator[pa.RecordBatch]:
    """Stream a table, or some ``columns`` of it, in batches of at most ``batch_rows`` rows.

    Raises :class:`UserError` where it is not one.
    """
    schema = pa.schema([table.schema.field(name) for name in columns or table.schema.names])
    file = _file(table, path)
    try:
        with pq.ParquetFile(file) as source:
            missing = [name for name in table.schema.names if name not in source.schema_arrow.names]
            if missing:
                raise UserError(f"{file}: not a {table.name} table: column {missing[0]} is missing", code="table-form")
            for batch in stream(source, schema.names, batch_rows):
                yield batch.cast(schema)
    except FileNotFoundError as error:
        raise UserError(f"{file}: no such file; expected a {table.name} table", code="artifact-missing") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{file}: not a readable Parquet file: {error}", code="artifact-damaged") from error


def stream(
    source: pq.ParquetFile, columns: Sequence[str] | None = None, batch_rows: int = BATCH_ROWS
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of an open file in batches of at most ``batch_rows`` rows and about BATCH_BYTES."""
    metadata = source.metadata
    rows, size = metadata.num_rows, sum(_sizes(metadata))
    batch_rows = max(min(batch_rows, BATCH_BYTES * rows // max(size, 1)), 1) if rows else batch_rows
    for groups in _groups(metadata):
        for batch in source.iter_batches(batch_size=batch_rows, row_groups=groups, columns=columns):
            # Texts that are there again and again take less in the file than here.
            step = max(batch.num_rows * BATCH_BYTES // max(batch.nbytes, 1), 1)
            for start in range(0, batch.num_rows, step):
                yield batch.slice(start, step)


def _sizes(metadata: pq.FileMetaData) -> list[int]:
    """Return bytes of each row group before compression."""
    return [metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups)]


def _groups(metadata: pq.FileMetaData) -> Iterator[list[int]]:
    """Yield the row groups to read together: Arrow keeps the bytes of all that it was asked for until the last is read."""
    together: list[int] = []
    held = 0
    for number, size in enumerate(_sizes(metadata)):
        if together and held + size > BATCH_BYTES:
            yield together
            together, held = [], 0
        together.append(number)
        held += size
    if together:
        yield together


def count(table: Table, path: str | os.PathLike[str]) -> int:
    """Return rows of a table, from its footer alone."""
    return int(pq.read_metadata(_file(table, path)).num_rows)


def joined_keys(table: pa.Table) -> pa.ChunkedArray:
    """Return one string for each (query_id, doc_id)."""
    return pc.binary_join_element_wise(table.column("query_id"), table.column("doc_id"), "\x1f")


def check_references(
    child: pa.Table, column: str, known: pa.Array | pa.ChunkedArray | Iterable[str], what: str, path: str
) -> None:
    """Foreign key: every value of ``child[column]`` must be in ``known``; raises naming the first that is not."""
    values = known if isinstance(known, pa.Array | pa.ChunkedArray) else pa.array(list(known), _S)
    found = pc.is_in(child.column(column), value_set=values)
    row = pc.index(found, False).as_py()
    if row >= 0:
        raise UserError(
            f"{path}: row {row + 1} has {column} {child.column(column)[row].as_py()!r}, which {what} lacks",
            code="reference-lost",
        )


def _file(table: Table, path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    return path / table.filename if path.is_dir() else path
