"""Files in columns whose first line names them: CSV and TSV, quoted as spreadsheets do."""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from inranker_flow.corpora.problems import BadCollection, Problems, Rows
from inranker_flow.corpora.sources.lines import LINE_BYTES, BadLine, not_columns, read_lines
from inranker_flow.corpora.sources.rows import ROWS, Row, as_columns

#: What may stand between the columns of a CSV; a spreadsheet of a country with decimal commas writes semicolons.
_BETWEEN = ",;\t|"
#: A line with which Excel is told.
_SAID = re.compile(r"sep=(.)\r?\n", re.IGNORECASE)


class Delimited:
    """The columns of a file and its rows. Columns stand between ``between``; "" finds that out from the first line.

    A cell that is quoted may hold line ends. A line that is not quoted so is reported by itself, and the lines that its
    quote would have swallowed are read; between tabs, where quotes are often mere characters, it is read as it stands.
    Raises :class:`BadCollection` for a first line that names no columns.
    """

    def __init__(self, path: Path, shown: str, between: str, problems: Problems) -> None:
        self._shown, self._problems = shown, problems
        self._source, self._bytes = read_lines(path, shown, problems, blank=True), 0
        #: Number and text of the lines of the row that is being read, and of those that are read once more.
        self._row: list[tuple[int, str]] = []
        self._again: deque[tuple[int, str]] = deque()
        csv.field_size_limit(LINE_BYTES)
        before = problems.count("wrong_encoding")
        lines = self._lines()
        first = next((text for text in lines if text.strip()), "")
        if not between and (said := _SAID.fullmatch(first)):
            between, first = said[1], next(lines, "")
        if problems.count("wrong_encoding") > before:  # the first line that can be read is not the header
            raise BadCollection(f"{shown}: its first line is not UTF-8; save the file as UTF-8", code="text-encoding")
        if not first:
            raise BadCollection(f"{shown}: is empty; it needs a header and rows", code="collection-empty")
        self._between = between or max(_BETWEEN, key=lambda each: (first.count(each), -_BETWEEN.index(each)))
        self._again.append(self._row[-1])
        try:
            self.names = [name.strip() for name in next(self._reader())]
        except csv.Error as error:
            raise BadCollection(
                f"{shown}: its first line names no columns: {not_columns(error, self._between)}",
                code="collection-column",
            ) from error

    def _lines(self) -> Iterator[str]:
        row, again = self._row, self._again
        while again:
            row.append(again.popleft())
            yield row[-1][1]
        for number, text, amount in self._source:
            self._bytes += amount
            row.append((number, text))
            yield text

    def _reader(self) -> Iterator[list[str]]:
        return csv.reader(self._lines(), delimiter=self._between, strict=True)

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the number of the line where a row begins and its cells; what has more or fewer than the header is reported."""
        reader, row, width = self._reader(), self._row, len(self.names)
        while True:
            row.clear()
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                self._again.extendleft(reversed(row[1:]))
                reader = self._reader()
                cells = self._as_it_stands(row[0][1])
                if not cells:
                    self._report(not_columns(error, self._between))
                    continue
            if len(cells) == width:
                yield row[0][0], cells
            elif cells:
                self._report(f"has {len(cells)} columns, and the header has {width}")

    def _as_it_stands(self, line: str) -> list[str]:
        """Return the cells of a line between tabs, whatever its quotes; none of another one."""
        line = line.rstrip("\r\n")
        return line.split("\t") if self._between == "\t" and "\r" not in line else []

    def _report(self, what: str) -> None:
        self._problems.add("malformed", self._shown, self._row[0][0], what)

    def taken(self) -> int:
        """Return the bytes that were read since the last call."""
        taken, self._bytes = self._bytes, 0
        return taken

    def batches(self, parse: Callable[[Sequence[str]], Row], width: int) -> Iterator[Rows]:
        """Yield rows of ``width`` values. ``parse`` returns them for the cells of a row, or raises :class:`BadLine`."""
        numbers: list[int] = []
        rows: list[Row] = []
        for number, cells in self.rows():
            try:
                rows.append(parse(cells))
                numbers.append(number)
            except BadLine as error:
                self._problems.add(error.kind, self._shown, number, str(error))
            if len(rows) == ROWS:
                yield Rows(self._shown, numbers, as_columns(rows, width), self.taken())
                numbers, rows = [], []
        yield Rows(self._shown, numbers, as_columns(rows, width), self.taken())
