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
        self._lines = _Feed(read_lines(path, shown, problems, blank=True))
        csv.field_size_limit(LINE_BYTES)
        before = problems.count("wrong_encoding")
        first = next((text for text in self._lines if text.strip()), "")
        if not between and (said := _SAID.fullmatch(first)):
            between, first = said[1], next(self._lines, "")
        if problems.count("wrong_encoding") > before:  # the first line that can be read is not the header
            raise BadCollection(f"{shown}: its first line is not UTF-8; save the file as UTF-8", code="text-encoding")
        if not first:
            raise BadCollection(f"{shown}: is empty; it needs a header and rows", code="collection-empty")
        self._between = between or max(_BETWEEN, key=lambda each: (first.count(each), -_BETWEEN.index(each)))
        self._reader = csv.reader(self._lines, delimiter=self._between, strict=True)
        self._lines.again()
        try:
            self.names = [name.strip() for name in next(self._reader)]
        except csv.Error as error:
            raise BadCollection(
                f"{shown}: its first line names no columns: {not_columns(error, self._between)}",
                code="collection-column",
            ) from error

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the number of the line where a row begins and its cells; what has more or fewer than the header is reported."""
        while True:
            self._lines.begin()
            try:
                cells = next(self._reader)
            except StopIteration:
                return
            except csv.Error as error:
                first = self._lines.back_to_second()
                cells = (
                    first.rstrip("\r\n").split(self._between)
                    if self._between == "\t" and "\r" not in first[:-2]
                    else []
                )
                if not cells:
                    self._report(not_columns(error, self._between))
                    continue
            if cells and len(cells) != len(self.names):
                self._report(f"has {len(cells)} columns, and the header has {len(self.names)}")
            elif cells:
                yield self._lines.first, cells

    def _report(self, what: str) -> None:
        self._problems.add("malformed", self._shown, self._lines.first, what)

    def taken(self) -> int:
        """Return the bytes that were read since the last call."""
        return self._lines.taken()

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


class _Feed:
    """Lines for a reader of CSV, which asks for them one by one, and may have asked for too many."""

    def __init__(self, lines: Iterator[tuple[int, str, int]]) -> None:
        self._lines, self._bytes = lines, 0
        self._again: deque[tuple[int, str]] = deque()
        #: Those of the row that is being read.
        self._row: list[tuple[int, str]] = []

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        if self._again:
            self._row.append(self._again.popleft())
        else:
            number, text, amount = next(self._lines)
            self._bytes += amount
            self._row.append((number, text))
        return self._row[-1][1]

    @property
    def first(self) -> int:
        """The number of the line where the row begins."""
        return self._row[0][0]

    def again(self) -> None:
        """The last line is read again."""
        self._again.append(self._row.pop())

    def begin(self) -> None:
        """Another row begins with the next line."""
        self._row = []

    def back_to_second(self) -> str:
        """Return the first line of the row; the others of it are read again."""
        self._again.extendleft(reversed(self._row[1:]))
        del self._row[1:]
        return self._row[0][1]

    def taken(self) -> int:
        """Return the bytes that were read since the last call."""
        taken, self._bytes = self._bytes, 0
        return taken
