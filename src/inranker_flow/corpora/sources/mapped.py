"""Rows of documents in tables whose columns have any names: CSV, TSV, JSON lines, Parquet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from inranker_flow.artifacts import tables
from inranker_flow.config.values import FieldName
from inranker_flow.corpora import fields
from inranker_flow.corpora.fields import BadValue, Fields, Template
from inranker_flow.corpora.problems import Problems, Rows
from inranker_flow.corpora.sources import parquet
from inranker_flow.corpora.sources.delimited import Delimited
from inranker_flow.corpora.sources.lines import BATCH_CHARACTERS, BadLine, batches, json_object
from inranker_flow.corpora.sources.rows import ROWS, Row, as_columns


def delimited(
    path: Path, shown: str, asked: Mapping[FieldName, str], between: str, problems: Problems
) -> Iterator[Rows]:
    """Yield documents of a file with a header and columns between ``between``, quoted as spreadsheets do; "" finds that out."""
    table = Delimited(path, shown, between, problems)
    batch = _Batch(shown, fields.of_table(asked, table.names, shown))
    for line, values in table.rows():
        batch.add(line, dict(zip(table.names, values, strict=True)), problems)
        if batch.full:
            yield batch.rows(table.taken())
    yield batch.rows(table.taken())


class _Batch:
    """Rows of documents until there are enough of them."""

    def __init__(self, shown: str, known: Fields) -> None:
        self._shown, self._known = shown, known
        self._lines: list[int] = []
        self._rows: list[Row] = []
        self._characters = 0

    def add(self, line: int, values: Mapping[str, Any], problems: Problems) -> None:
        try:
            row = self._known.row(values)
        except BadValue as error:
            problems.add("malformed", self._shown, line, str(error))
            return
        self._lines.append(line)
        self._rows.append(row)
        self._characters += sum(map(len, row))

    @property
    def full(self) -> bool:
        return len(self._rows) >= ROWS or self._characters >= BATCH_CHARACTERS

    def rows(self, amount: int) -> Rows:
        """Return what was added, and begin anew."""
        found = Rows(self._shown, self._lines, as_columns(self._rows, self._known.width), amount)
        self._lines, self._rows, self._characters = [], [], 0
        return found


def json_lines(path: Path, shown: str, asked: Mapping[FieldName, str], problems: Problems) -> Iterator[Rows]:
    """Yield documents of a file of JSON objects. A field that no row has is refused."""
    usual = {"text": "text", "title": "title", **asked}
    templates = {key: Template(value) for key, value in usual.items()}
    unseen = {name: key for key, each in templates.items() if key in asked for name in each.names}
    there: dict[str, None] = {}
    by_usual = None if "id" in asked else fields.ID_NAMES

    def parse(text: str) -> Row:
        values = json_object(text)
        if unseen:
            there.update(dict.fromkeys(values))
            for name in [each for each in unseen if fields.lookup(values, each) is not None]:
                del unseen[name]
        if by_usual:
            id_ = next((name for name in by_usual if values.get(name) is not None), by_usual[0])
            templates["id"] = Template(id_)
        try:
            return Fields(**templates).row(values)
        except BadValue as error:
            raise BadLine(str(error)) from error

    for rows in batches(path, shown, parse, 4 if "document" in asked else 3, problems):
        _refuse({name: key for name, key in unseen.items() if key == "id"}, there, shown)
        if {name for name, key in unseen.items() if key == "text"} == set(templates["text"].names):
            _refuse(unseen, there, shown)
        yield rows
    _refuse(unseen, there, shown)


def _refuse(unseen: Mapping[str, str], there: Mapping[str, None], shown: str) -> None:
    """Refuse what no row has; where no row could be read, that is what is wrong."""
    for name, key in unseen.items() if there else ():
        raise fields.missing(key, name, there, shown)


def _check_inner(asked: Mapping[FieldName, str], schema: pa.Schema, shown: str) -> None:
    """Refuse a field b of the object a (a.b) that the column a has not."""
    for key, said in asked.items():
        for name in Template(said).names:
            if name in schema.names:
                continue
            head, *inner = name.split(".")
            kind = schema.field(head).type
            for each in inner:
                if not pa.types.is_struct(kind) or kind.get_field_index(each) < 0:
                    raise fields.missing(key, name, schema.names, shown)
                kind = kind.field(each).type


def columns(path: Path, shown: str, asked: Mapping[FieldName, str], problems: Problems) -> Iterator[Rows]:
    """Yield documents of a Parquet file."""
    with parquet.opened(path, shown) as file:
        known = fields.of_table(asked, file.schema_arrow.names, shown)
        there = set(file.schema_arrow.names)
        _check_inner(asked, file.schema_arrow, shown)
        names = list(dict.fromkeys(name if name in there else name.partition(".")[0] for name in known.columns()))
        start = 1
        batch = _Batch(shown, known)
        for each in tables.stream(file, names, ROWS):
            values = [parquet.values(each, name, shown, start) for name in names]
            for line, row in enumerate(zip(*values, strict=True), start):
                batch.add(line, dict(zip(names, row, strict=True)), problems)
            start += each.num_rows
            yield batch.rows(each.num_rows)
