"""Rows of documents in tables whose columns have any names: CSV, TSV, JSON lines, Parquet."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from inranker_flow.artifacts import tables
from inranker_flow.config.values import FieldName
from inranker_flow.corpora import fields
from inranker_flow.corpora.fields import BadValue, Fields, Template
from inranker_flow.corpora.problems import BadCollection, Problems, Rows
from inranker_flow.corpora.sources import parquet
from inranker_flow.corpora.sources.lines import (
    BATCH_CHARACTERS,
    LINE_BYTES,
    BadLine,
    batches,
    json_object,
    read_lines,
)
from inranker_flow.corpora.sources.rows import ROWS, Row, as_columns

#: What may stand between the columns of a CSV; a spreadsheet of a country with decimal commas writes semicolons.
_BETWEEN = ",;\t|"


def delimited(
    path: Path, shown: str, asked: Mapping[FieldName, str], between: str, problems: Problems
) -> Iterator[Rows]:
    """Yield documents of a file with a header and columns between ``between``, quoted as spreadsheets do; "" finds that out."""
    lines = _Feed(read_lines(path, shown, problems, blank=True))
    csv.field_size_limit(LINE_BYTES)
    header = next((text for text in lines if text.strip()), "")
    if not header:
        raise BadCollection(f"{shown}: is empty; it needs a header and rows", code="collection-empty")
    between = between or max(_BETWEEN, key=lambda each: (header.count(each), -_BETWEEN.index(each)))
    names = [name.strip() for row in csv.reader([header.rstrip("\r\n")], delimiter=between) for name in row]
    known = fields.of_table(asked, names, shown)
    reader = csv.reader(lines, delimiter=between, strict=True)
    batch = _Batch(shown, known)
    while True:
        line = lines.number + 1
        try:
            values = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            problems.add("malformed", shown, line, f"not columns between {between!r} ({error})")
            continue
        if not values:
            continue
        if len(values) != len(names):
            problems.add("malformed", shown, line, f"has {len(values)} columns, and the header has {len(names)}")
            continue
        batch.add(line, dict(zip(names, values, strict=True)), problems)
        if batch.full:
            yield batch.rows(lines.taken())
    yield batch.rows(lines.taken())


class _Feed:
    """Lines for a reader of CSV, which asks for them one by one."""

    def __init__(self, lines: Iterator[tuple[int, str, int]]) -> None:
        self._lines, self.number, self._bytes = lines, 0, 0

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        self.number, text, amount = next(self._lines)
        self._bytes += amount
        return text

    def taken(self) -> int:
        """Return the bytes that were read since the last call."""
        taken, self._bytes = self._bytes, 0
        return taken


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
    for name, key in unseen.items():
        raise fields.missing(key, name, there, shown)


def columns(path: Path, shown: str, asked: Mapping[FieldName, str], problems: Problems) -> Iterator[Rows]:
    """Yield documents of a Parquet file."""
    with parquet.opened(path, shown) as file:
        known = fields.of_table(asked, file.schema_arrow.names, shown)
        there = set(file.schema_arrow.names)
        names = list(dict.fromkeys(name if name in there else name.partition(".")[0] for name in known.columns()))
        start = 1
        batch = _Batch(shown, known)
        for each in tables.stream(file, names, ROWS):
            values = [parquet.values(each, name, shown, start) for name in names]
            for line, row in enumerate(zip(*values, strict=True), start):
                batch.add(line, dict(zip(names, row, strict=True)), problems)
            start += each.num_rows
            yield batch.rows(each.num_rows)
