"""Text files, read line by line: bytes into lines, lines into rows, and the values that a line may hold."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from inranker_flow.corpora.problems import BadCollection, Problems, Rows
from inranker_flow.corpora.sources.rows import ROWS, Row, as_columns
from inranker_flow.errors import UserError

#: A longer line is no document but a file of another kind, such as one large JSON array; none is held in memory whole.
LINE_BYTES = 64 * 2**20
#: Characters in one batch, from which on it is not filled up to its number of rows.
BATCH_CHARACTERS = 2**26


class BadLine(Exception):
    """A line that cannot be read; ``kind`` as in :mod:`inranker_flow.corpora.problems`."""

    def __init__(self, what: str, kind: str = "malformed") -> None:
        super().__init__(what)
        self.kind = kind


#: What a file begins with that is something else than its name says, whole or packed once more.
_OTHERS = {
    b"PK\x03\x04": "a ZIP archive: unpack it",
    b"PAR1": "a Parquet file: give it the suffix .parquet",
    b"BZh": "compressed with bzip2: unpack it, or use gzip or zstd",
    b"\xfd7zXZ\x00": "compressed with xz: unpack it, or use gzip or zstd",
    b"SQLite format 3": "a database: write one row a line",
}
#: Byte order marks; UTF-16's is the beginning of UTF-32's, so that comes first.
_MARKS = {b"\xff\xfe\x00\x00": "utf-32", b"\x00\x00\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
#: Characters of a text in another encoding that are made UTF-8 at a time.
_BLOCK = 2**20


@contextmanager
def opened(path: Path, shown: str) -> Iterator[tuple[io.BufferedIOBase, io.BufferedReader]]:
    """Yield the content of a file, unpacked if it is packed with gzip or zstd, and the file as it is stored.

    What goes wrong while the content is read is one line: a file of another kind, one that is cut off, the disk.
    """
    try:
        with path.open("rb") as raw:
            file = _unpacked(raw, path)
            beginning = file.peek(16)[:16] if isinstance(file, io.BufferedReader | gzip.GzipFile) else b""
            for mark, what in _OTHERS.items():
                if beginning.startswith(mark):
                    known = mark == b"PAR1" and path.suffix.lower() == ".parquet"
                    what = "a Parquet file where lines of text are due: write it as .jsonl" if known else what
                    raise BadCollection(f"{shown}: is {what}", code="collection-file")
            yield file, raw
    except (gzip.BadGzipFile, EOFError, zlib.error, _Damaged) as error:
        kind = "zstd" if isinstance(error, _Damaged) else "gzip"
        raise BadCollection(
            f"{shown}: not a whole {kind} file ({error}); fetch it again", code="collection-damaged"
        ) from error
    except UnicodeDecodeError as error:
        raise BadCollection(
            f"{shown}: not {error.encoding} throughout ({error.reason}); write it as UTF-8", code="text-encoding"
        ) from error
    except OSError as error:
        raise UserError(
            f"{shown}: cannot be read: {error.strerror or error}; check the disk and the file's rights",
            code="disk-unreadable",
        ) from error


def _unpacked(raw: io.BufferedReader, path: Path) -> io.BufferedIOBase:
    beginning, suffix = raw.peek(4)[:4], path.suffix.lower()
    if suffix == ".gz" or beginning[:2] == _GZIP:
        # gzip.open returns a binary reader too, but its type says it may be text.
        return gzip.GzipFile(fileobj=raw)
    if suffix == ".zst" or beginning == _ZSTD:
        return io.BufferedReader(_Zstd(raw), 2**18)
    return raw


class _Damaged(Exception):
    """A file that is not what it was packed as."""


class _Zstd(io.RawIOBase):
    """The content of a file that is packed with zstd."""

    def __init__(self, raw: io.BufferedReader) -> None:
        import pyarrow as pa

        self._stream = pa.CompressedInputStream(raw, "zstd")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._stream.read(len(buffer))
        except OSError as error:  # of Arrow's; the disk's has a number
            if error.errno:
                raise
            raise _Damaged(" ".join(str(error).split())[:200]) from error
        buffer[: len(data)] = data
        return len(data)


def read_lines(path: Path, shown: str, problems: Problems, blank: bool = False) -> Iterator[tuple[int, str, int]]:
    """Yield the line number, text and bytes read since the line before; lines that are not UTF-8 are reported and left out,
    and so are those without text unless ``blank``.

    Only a line feed ends a line: MS MARCO's text holds U+0085, at which ``str.splitlines`` would cut. A file with the byte
    order mark of UTF-16 or UTF-32 is read as that.
    """
    with opened(path, shown) as (file, raw):
        beginning = file.peek(4)[:4] if isinstance(file, io.BufferedReader | gzip.GzipFile) else b""
        encoding = encoding_of(beginning)
        if not encoding and b"\0" in beginning:
            raise BadCollection(
                f"{shown}: begins with NUL bytes, so it is no text in UTF-8 (or UTF-16 without its mark); save it as UTF-8",
                code="text-encoding",
            )
        if encoding:
            file = io.BufferedReader(_Recoded(file, encoding))
        position = 0
        for number, line in enumerate(_raw_lines(file), 1):
            if len(line) > LINE_BYTES:
                problems.add("malformed", shown, number, f"longer than {LINE_BYTES:,} bytes, so not one row of many")
                continue
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                problems.add("wrong_encoding", shown, number, f"not UTF-8 at byte {error.start + 1} of the line")
                continue
            if file is raw:
                amount = len(line)
            elif number % 1000 == 0:
                amount, position = raw.tell() - position, raw.tell()
            else:
                amount = 0
            if blank or (text and not text.isspace()):
                yield number, text, amount


def encoding_of(beginning: bytes) -> str:
    """Return the encoding that a byte order mark names; "" for UTF-8 and where there is none."""
    return next((name for mark, name in _MARKS.items() if beginning.startswith(mark)), "")


class _Recoded(io.RawIOBase):
    """A text file in ``encoding`` as bytes in UTF-8."""

    def __init__(self, file: io.BufferedIOBase, encoding: str) -> None:
        self._text = io.TextIOWrapper(cast("io.BufferedReader", file), encoding=encoding, newline="")
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._left:
            self._left = self._text.read(_BLOCK).encode("utf-8")
        size = min(len(buffer), len(self._left))
        buffer[:size], self._left = self._left[:size], self._left[size:]
        return size


def _raw_lines(file: io.BufferedIOBase) -> Iterator[bytes]:
    """Yield the lines of a file; of one that is longer than `LINE_BYTES` a byte more than that."""
    while line := file.readline(LINE_BYTES + 1):
        yield line
        while len(line) > LINE_BYTES and not line.endswith(b"\n"):
            line = file.readline(LINE_BYTES + 1)


def batches(
    path: Path, shown: str, parse: Callable[[str], Row | None], width: int, problems: Problems
) -> Iterator[Rows]:
    """Parse a file line by line. ``parse`` returns the row, None to skip the line, or raises :class:`BadLine`."""
    for chunk in _chunks(read_lines(path, shown, problems)):
        numbers: list[int] = []
        rows: list[Row] = []
        for number, text, _ in chunk:
            try:
                row = parse(text)
            except BadLine as error:
                problems.add(error.kind, shown, number, str(error))
                continue
            if row is not None:
                numbers.append(number)
                rows.append(row)
        yield Rows(shown, numbers, as_columns(rows, width), sum(amount for _, _, amount in chunk))


def _chunks(lines: Iterator[tuple[int, str, int]]) -> Iterator[list[tuple[int, str, int]]]:
    """`ROWS` lines at a time; fewer where they are long."""
    chunk: list[tuple[int, str, int]] = []
    characters = 0
    for line in lines:
        chunk.append(line)
        characters += len(line[1])
        if len(chunk) == ROWS or characters >= BATCH_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def cells(text: str, between: str) -> list[str]:
    """Return the columns of a line between ``between``, quoted as spreadsheets do."""
    try:
        return [cell for row in csv.reader([text.rstrip("\r\n")], delimiter=between) for cell in row]
    except csv.Error as error:
        raise BadLine(not_columns(error, between)) from error


def not_columns(error: csv.Error, between: str) -> str:
    """Return what is wrong with a line that the reader of CSV does not take."""
    said = str(error)
    if "new-line character" in said:
        return "its lines end with \\r alone; write the file with \\n or \\r\\n"
    if "unexpected end" in said:
        said = "a quote is opened in it and never closed"
    return f"not columns between {between!r} ({said})"


_decode = json.JSONDecoder().decode


def json_object(text: str) -> dict[str, Any]:
    """Return the JSON object that a line holds."""
    try:
        row = _decode(text)
    except ValueError as error:
        raise BadLine(f"not JSON ({error})") from error
    except RecursionError as error:
        raise BadLine("not a flat JSON object") from error
    if not isinstance(row, dict):
        raise BadLine("not a JSON object")
    if "\\ud" in text or "\\uD" in text:  # half of a surrogate pair, which UTF-8 cannot hold
        try:
            json.dumps(row, ensure_ascii=False).encode()  # wherever in it
        except RecursionError as error:
            raise BadLine("not a flat JSON object") from error
        except UnicodeEncodeError as error:
            raise BadLine("holds half of a surrogate pair (\\ud800 to \\udfff)", "wrong_encoding") from error
    return row


def string(row: dict[str, Any], key: str, default: str | None = None) -> str:
    """Return the text under ``key``; an `_id` may be a whole number. Without ``default`` the key must be there."""
    value = row.get(key, default)
    if value is None and key == "_id":
        value = row.get("id")
    if value is None:
        if default is None:
            raise BadLine(f"has no {key!r}")
        return default
    if isinstance(value, str):
        return value
    if key == "_id" and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise BadLine(f"{key!r} is {_shown(value)} and not text")


def _shown(value: Any) -> str:
    try:
        return json.dumps(value)[:40]
    except RecursionError:
        return "nested deeply"


def whole(value: str) -> int:
    """Return the integer that ``value`` spells; "1.0" counts as 1."""
    try:
        number = math.nan if "_" in value else float(value)
    except ValueError:
        number = math.nan
    if not number.is_integer() or abs(number) >= 2**31:
        raise BadLine(f"relevance {value[:40]!r} is not a whole number", "bad_relevance")
    return int(number)
