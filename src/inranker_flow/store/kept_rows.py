"""What was computed once for some content, found again by that content: rows under 16-byte keys in files that never change.

A store is a folder or an ``s3://`` prefix of Parquet files, each sorted by key and named by the digest of its bytes. So
writers need neither a server nor a lock: equal files have one name (a conditional put lets one of them through), others lie
beside each other. A reader lets the files stream by and holds what it asked for alone. A file whose bytes are not those
that its name says is never read.
"""

from __future__ import annotations

import io
import itertools
import json
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from inranker_flow.environment import variables
from inranker_flow.errors import UserError
from inranker_flow.storage import uris

log = logging.getLogger(__name__)

#: Name of the column with the keys.
KEY = "key"
#: Files that are fetched at a time, and so the most that are in memory.
_AT_ONCE = 8
#: Files below ``_SMALL`` bytes are put together, once there are so many, into files of about ``_LARGE`` bytes.
COMPACT_FROM, _SMALL, _LARGE = 128, 16 * 2**20, 64 * 2**20
_NAME = re.compile(r"[0-9a-f]{64}\.parquet")


def combine(*parts: np.ndarray) -> np.ndarray:
    """Return one 16-byte key for each row of equally long hashes or keys, uint64 (rows, 2) each and as result."""
    rows = np.ascontiguousarray(np.concatenate(parts, axis=1))
    width = rows.shape[1] * rows.itemsize
    data = rows.tobytes()
    digests = (blake2b(data[at : at + width], digest_size=16).digest() for at in range(0, len(data), width))
    return np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2)


def distinct(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct keys in order: row of the first of each, and for each row the number of its key."""
    order = np.lexsort((keys[:, 1], keys[:, 0]))  # stable
    new = np.ones(len(keys), bool)
    new[1:] = (keys[order[1:]] != keys[order[:-1]]).any(axis=1)
    number = np.empty(len(keys), np.int64)
    number[order] = np.cumsum(new) - 1
    return order[new], number


def open_store(kind: str, identity: dict[str, Any], schema: pa.Schema, aside: Path) -> ContentStore:
    """Return the rows of one ``kind`` that follow from ``identity`` and their keys: below ``INRANKER_STORE``, or in the folder
    ``aside`` where there is none."""
    root = variables.store_root()
    if not root:
        return ContentStore(str(aside), schema)
    text = json.dumps(identity, indent=1, sort_keys=True).encode()
    uri = f"{root}/{kind}/{sha256(text).hexdigest()[:32]}"
    try:
        uris.put_if_absent(text, f"{uri}/identity.json")  # for people
    except OSError as error:
        raise UserError(
            f"INRANKER_STORE: {error.filename}: {error.strerror}; give a folder that can be written, s3://, or off",
            code="store-refused",
        ) from error
    return ContentStore(uri, schema)


class ContentStore:
    """Rows with the columns of ``schema`` (and `KEY`) at ``uri``. Keys are uint64 arrays of shape (rows, 2).

    Where two files hold one key, because two processes computed the same at the same time, every reader takes the smaller
    row: which file is read first does not matter, nor how files were put together since.
    """

    def __init__(self, uri: str, schema: pa.Schema) -> None:
        self.uri = uri.rstrip("/")
        self.schema = pa.schema([pa.field(KEY, pa.binary(16), nullable=False), *schema])
        self._seen: set[str] = set()
        self._damaged: set[str] = set()

    def find(self, keys: np.ndarray, only_new: bool = False) -> tuple[np.ndarray, pa.Table]:
        """Return a mask of the ``keys`` that are there, and their rows in that order, without the keys.

        ``only_new``: look only at files that this object has neither read nor written so far.
        """
        first, number = distinct(keys)
        search = _Search(keys[first], self.schema)
        if len(keys):
            for table in self._tables(only_new):
                search.add(table)
        place = search.places[number]
        found = place >= 0
        return found, search.rows().take(pa.array(place[found]))

    def each(self, keys: np.ndarray) -> Iterator[tuple[np.ndarray, pa.Table]]:
        """Yield for each file which of the distinct ``keys`` it holds (their places), and their rows, without the keys.

        For rows that together are too much to hold. A key that two files hold comes twice: the smaller row counts.
        """
        first, _ = distinct(keys)
        search = _Search(keys[first], self.schema)
        for table in self._tables(only_new=False):
            places, rows = search.match(_as_numbers(table.column(KEY)))
            yield first[places], table.drop_columns([KEY]).take(pa.array(rows))

    def put(self, keys: np.ndarray, values: pa.Table) -> bool:
        """Add rows; returns once they are safe. False where the very same rows were there already.

        Raises :class:`UserError` where they cannot be stored; nothing that is stored is lost then.
        """
        if not len(keys):
            return False
        table = pa.table([_as_binary(keys), *values.columns], schema=self.schema)
        data = self._file(_without_duplicates(table))
        name = f"{sha256(data).hexdigest()}.parquet"
        self._seen.add(name)
        if name in self._damaged:
            uris.put(data, f"{self.uri}/{name}")
            return True
        return uris.put_if_absent(data, f"{self.uri}/{name}")

    def compact(self, least: int = COMPACT_FROM) -> int:
        """Put small files together where there are ``least`` of them; returns how many were replaced.

        Readers and writers go on meanwhile: what replaces files is there, and read back, before they are removed, and who
        misses one looks again. Two that do this at once repeat some work and lose nothing.
        """
        small = sorted(name for name, size in self._files().items() if size < _SMALL)
        if len(small) < least:
            return 0
        replaced = 0
        batch: list[str] = []
        tables: list[pa.Table] = []
        for name, table in self._read(small):
            if table is None:
                continue  # gone, or damaged: not ours to remove
            batch.append(name)
            tables.append(table)
            if sum(each.nbytes for each in tables) >= _LARGE:
                replaced += self._replace(batch, tables)
                batch, tables = [], []
        return replaced + self._replace(batch, tables)

    def _replace(self, batch: Sequence[str], tables: Sequence[pa.Table]) -> int:
        if len(batch) < 2:
            return 0
        data = self._file(_without_duplicates(pa.concat_tables(tables)))
        name = f"{sha256(data).hexdigest()}.parquet"
        uris.put_if_absent(data, f"{self.uri}/{name}")
        if uris.read(f"{self.uri}/{name}") != data:
            log.warning("%s/%s: damaged; remove this file", self.uri, name)
            return 0
        if self._seen.issuperset(batch):
            self._seen.add(name)
        for each in batch:
            if each != name:
                uris.delete(f"{self.uri}/{each}")
        return len(batch)

    def _file(self, table: pa.Table) -> bytes:
        out = io.BytesIO()
        # Keys are random bytes. Numbers that come from float32 compress well once their bytes are side by side.
        numbers = [field.name for field in table.schema if pa.types.is_floating(field.type)]
        encoding = dict.fromkeys(numbers, "BYTE_STREAM_SPLIT") or None
        pq.write_table(table, out, compression="zstd", use_dictionary=False, column_encoding=encoding)
        return out.getvalue()

    def _files(self) -> dict[str, int]:
        return {name: size for name, size in uris.names(self.uri).items() if _NAME.fullmatch(name)}

    def _tables(self, only_new: bool) -> Iterator[pa.Table]:
        """Yield the store's tables, one after another, each file once; those that replaced one in the meantime too."""
        read = set(self._seen) if only_new else set()
        while True:
            waiting = sorted(set(self._files()) - read)
            complete = True
            for name, table in self._read(waiting):
                read.add(name)
                if table is not None:
                    yield table
                elif name not in self._damaged:
                    complete = False  # replaced while we read: by a file that a new look shows
            if complete:
                break
        self._seen |= read

    def _read(self, names: Iterable[str]) -> Iterator[tuple[str, pa.Table | None]]:
        names = iter(names)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            while batch := list(itertools.islice(names, _AT_ONCE)):
                yield from zip(batch, pool.map(self._table, batch), strict=True)

    def _table(self, name: str) -> pa.Table | None:
        """Return the file's rows; None for one that has gone, or that is damaged (a warning says so)."""
        if name in self._damaged:
            return None
        try:
            # Once more before it is given up: what was damaged may be the way.
            for _ in range(2):
                data = uris.read(f"{self.uri}/{name}")
                if sha256(data).hexdigest() == name.removesuffix(".parquet"):
                    return self._parsed(data)
        except FileNotFoundError:
            return None
        except pa.ArrowInvalid as error:
            log.warning("%s/%s: not a file of this store (%s): left out", self.uri, name, error)
        else:
            log.warning(
                "%s/%s: damaged (%s bytes, not those that its name says): left out, and what it held is computed again; "
                "remove this file", self.uri, name, f"{len(data):,}",
            )  # fmt: skip
        self._damaged.add(name)
        return None

    def _parsed(self, data: bytes) -> pa.Table:
        table = pq.read_table(pa.BufferReader(data))
        if not table.schema.equals(self.schema):
            raise pa.ArrowInvalid(f"its columns are {', '.join(table.schema.names)}")
        return table


class _Search:
    """Rows for ``wanted`` keys, sorted and each once, out of tables that stream by."""

    def __init__(self, wanted: np.ndarray, schema: pa.Schema) -> None:
        self._high, self._low = np.ascontiguousarray(wanted[:, 0]), np.ascontiguousarray(wanted[:, 1])
        #: Number of each wanted key's row in :meth:`rows`, -1 where it was not found.
        self.places = np.full(len(wanted), -1, np.int64)
        self._found = [schema.empty_table().drop_columns([KEY])]
        self._count = 0

    def add(self, table: pa.Table) -> None:
        keys = _as_numbers(table.column(KEY))
        at, rows = self.match(keys)
        hits = table.drop_columns([KEY]).take(pa.array(rows))
        twice = np.flatnonzero(self.places[at] >= 0)
        if twice.size:
            known = self.rows().take(pa.array(self.places[at[twice]])).to_pylist()
            again = hits.take(pa.array(twice)).to_pylist()
            worse = [tuple(old.values()) <= tuple(new.values()) for old, new in zip(known, again, strict=True)]
            keep = np.ones(len(at), bool)
            keep[twice[np.array(worse, bool)]] = False
            at, hits = at[keep], hits.filter(pa.array(keep))
        self.places[at] = self._count + np.arange(len(at))
        self._count += len(at)
        self._found.append(hits)

    def rows(self) -> pa.Table:
        return pa.concat_tables(self._found)

    def match(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (place among the wanted keys, row) of each of ``keys`` that is wanted."""
        size = len(self._high)
        high, low = np.ascontiguousarray(keys[:, 0]), np.ascontiguousarray(keys[:, 1])
        at = np.searchsorted(self._high, high)
        rows = np.arange(len(keys))
        matches: list[tuple[np.ndarray, np.ndarray]] = []
        while True:
            near = at < size
            near[near] = self._high[at[near]] == high[rows[near]]
            at, rows = at[near], rows[near]
            if not len(rows):
                break
            same = self._low[at] == low[rows]
            matches.append((at[same], rows[same]))
            at, rows = at[~same] + 1, rows[~same]  # keys that share their first half follow each other
        places, found = ([part[i] for part in matches] for i in (0, 1))
        empty = [np.empty(0, np.int64)]
        return np.concatenate(places or empty), np.concatenate(found or empty)


def _as_binary(keys: np.ndarray) -> pa.Array:
    """Return keys as big-endian bytes, so that the order of the bytes is that of the numbers."""
    data = np.ascontiguousarray(keys.astype(">u8"))
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(keys), [None, pa.py_buffer(data)])


def _as_numbers(column: pa.ChunkedArray) -> np.ndarray:
    chunks = [
        np.frombuffer(chunk.buffers()[1], ">u8", 2 * len(chunk), 16 * chunk.offset).reshape(-1, 2)
        for chunk in column.chunks
        if len(chunk)
    ]
    return np.concatenate(chunks or [np.empty((0, 2), ">u8")]).astype(np.uint64)


def _without_duplicates(table: pa.Table) -> pa.Table:
    """Sorted by key and then by the values, and the first of equal keys."""
    table = table.sort_by([(name, "ascending") for name in table.schema.names]).combine_chunks()
    if table.num_rows < 2:
        return table
    keys = _as_numbers(table.column(KEY))
    new = np.ones(len(keys), bool)
    new[1:] = (keys[1:] != keys[:-1]).any(axis=1)
    return table if new.all() else table.filter(pa.array(new))


def numbers(table: pa.Table) -> np.ndarray:
    """Return columns of numbers as one float64 array of shape (rows, columns)."""
    columns = [pc.cast(column, pa.float64()).to_numpy() for column in table.columns]
    return np.stack(columns, axis=1) if columns else np.empty((table.num_rows, 0))
