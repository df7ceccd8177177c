"""The vectors of a collection's passages, mapped from a file, and kept by content: only changed passages are embedded again.

What is kept is found by the checkpoint's identity and the text, whichever collection it stood in. The file is laid out in the
order of the doc_ids, filled from the store as its files stream by, and then by the encoder, chunk by chunk: a chunk is kept
when it is done, so a killed run goes on behind the last one. No second copy of the vectors is ever in memory.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from inranker_flow.artifacts import manifest, tables
from inranker_flow.artifacts.hashing import hash_rows
from inranker_flow.errors import UserError
from inranker_flow.progress import Progress
from inranker_flow.retrieval.first_stage import Passages
from inranker_flow.retrieval.index import column, marks, on_disk, save_column
from inranker_flow.retrieval.searching import texts
from inranker_flow.scratch import scratch_folder
from inranker_flow.storage.local import atomic_folder
from inranker_flow.store.kept_rows import ContentStore, distinct, open_store

log = logging.getLogger(__name__)

#: Bytes of vectors that are kept at a time: beyond the size below which the store puts files together.
_CHUNK = 24 * 2**20
#: Texts of such a chunk at least.
_LEAST = 256

#: Texts -> their vectors, float32.
Embed = Callable[[list[str]], np.ndarray]


@dataclass(frozen=True)
class Vectors:
    """``vectors``, float32 (passages, dimensions), of the ``passages`` of a collection, mapped from ``folder``."""

    passages: Passages
    vectors: np.ndarray
    folder: Path


def build(collection: Path, identity: dict[str, Any], dimensions: int, embed: Embed) -> Vectors:
    """Return the vectors of a collection: laid out now, or by an attempt before this one.

    ``identity``: what a vector follows from besides its text. Raises :class:`UserError` where the disk is full.
    """
    corpus = manifest.read_manifest(collection).files.get(tables.CORPUS.filename, "")
    folder = scratch_folder("retrieve", identity, corpus) / "vectors"
    if not folder.exists():
        schema = pa.schema([pa.field("vector", pa.binary(4 * dimensions), nullable=False)])
        store = open_store("vectors", identity, schema, folder.parent / "kept")
        try:
            with atomic_folder(folder) as aside:
                _Layout(collection, store, dimensions, aside).fill(embed)
        except UserError:
            if not folder.exists():  # else another process has just finished the same
                raise
        store.compact()
    doc_ids = column(folder, "doc_ids")
    there = np.load(folder / "vectors.npy", mmap_mode="r" if len(doc_ids) else None)
    return Vectors(Passages(doc_ids, np.load(folder / "marks.npy")), there, folder)


class _Layout:
    """The files of a folder in the making."""

    def __init__(self, collection: Path, store: ContentStore, dimensions: int, folder: Path) -> None:
        self._collection, self._store, self._dimensions = collection, store, dimensions
        doc_ids, keys = [pa.array([], pa.large_string())], [np.empty((0, 2), np.uint64)]
        for ids, passages in texts(collection, "looking for known passages"):
            doc_ids.append(pa.array(ids, pa.large_string()))
            keys.append(hash_rows(passages))
        unordered = pa.concat_arrays(doc_ids)
        self._keys = np.concatenate(keys)
        order = pc.sort_indices(unordered)
        #: Where the passage of each row of the corpus is laid down.
        self._places = np.empty(len(unordered), np.int64)
        self._places[np.asarray(order)] = np.arange(len(unordered))
        ordered = unordered.take(order)
        save_column(folder, "doc_ids", ordered)
        np.save(folder / "marks.npy", marks(ordered))
        self._vectors = on_disk(folder / "vectors.npy", (len(ordered), dimensions), np.float32)

    def fill(self, embed: Embed) -> None:
        """Lay down what is kept, then what is not, then repeated texts."""
        first, number = distinct(self._keys)
        missing = np.zeros(len(self._keys), bool)
        missing[first] = True
        for rows, table in self._store.each(self._keys):
            self._lay(rows, table, missing)
            missing[rows] = False
        wanted = int(missing.sum())
        log.info("%s of %s different texts are to be embedded", f"{wanted:,}", f"{len(first):,}")
        progress = Progress("embedding", wanted, "passages")
        for rows, passages in self._chunks(missing) if wanted else ():
            vectors = embed(passages)
            self._vectors[self._places[rows]] = vectors
            self._store.put(self._keys[rows], pa.table({"vector": _as_binary(vectors)}))
            progress.advance(len(rows))
        if wanted:
            progress.finish()
        again = np.flatnonzero(first[number] != np.arange(len(number)))
        for some in np.array_split(again, len(again) // 2**16 + 1):
            self._vectors[self._places[some]] = self._vectors[self._places[first[number[some]]]]
        if isinstance(self._vectors, np.memmap):
            self._vectors.flush()

    def _lay(self, rows: np.ndarray, table: pa.Table, missing: np.ndarray) -> None:
        vectors = _as_vectors(table.column("vector"), self._dimensions)
        for twice in np.flatnonzero(~missing[rows]).tolist():  # two processes computed the same at the same time
            there = self._vectors[self._places[rows[twice]]]
            vectors[twice] = min(there, vectors[twice], key=lambda each: each.tobytes())
        self._vectors[self._places[rows]] = vectors

    def _chunks(self, missing: np.ndarray) -> Iterator[tuple[np.ndarray, list[str]]]:
        """Yield rows of the corpus that are missing, and their texts."""
        size = max(_CHUNK // (4 * self._dimensions), _LEAST)
        rows: list[int] = []
        held: list[str] = []
        first = 0
        for ids, passages in texts(self._collection, "reading passages"):
            for place in np.flatnonzero(missing[first : first + len(ids)]).tolist():
                rows.append(first + place)
                held.append(passages[place])
                if len(rows) == size:
                    yield np.array(rows), held
                    rows, held = [], []
            first += len(ids)
        if rows:
            yield np.array(rows), held


def _as_binary(vectors: np.ndarray) -> pa.Array:
    data = np.ascontiguousarray(vectors, "<f4")
    width = 4 * vectors.shape[1]
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(data), [None, pa.py_buffer(data)])


def _as_vectors(values: pa.ChunkedArray, dimensions: int) -> np.ndarray:
    """Return a copy of the stored vectors."""
    width = 4 * dimensions
    parts = [
        np.frombuffer(chunk.buffers()[1], "<f4", dimensions * len(chunk), width * chunk.offset)
        for chunk in values.chunks
        if len(chunk)
    ]
    return np.concatenate([np.empty(0, np.float32), *parts]).reshape(-1, dimensions)
