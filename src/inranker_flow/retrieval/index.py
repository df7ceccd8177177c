"""BM25 as an inverted index of finished scores: for each term the passages that hold it and what it adds to each.

Passages are numbered in the order of their doc_ids, so that the number settles ties. The arrays can lie in a folder and
are mapped from there: processes that search the same index share one copy of it, and a killed run finds it again.
While one is built in a folder, words and postings wait in files without a name there: memory holds a chunk of them, and ids and
lengths of all passages.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc

from inranker_flow.artifacts.hashing import priorities
from inranker_flow.config.retrieval import RetrieveConfig
from inranker_flow.errors import UserError
from inranker_flow.retrieval.analyser import Analyser
from inranker_flow.storage.local import atomic_folder

#: Of the files in an index's folder, and of what counts as a word.
VERSION = 3
#: Passages that are inverted at a time: their numbers within a chunk fit two bytes.
_CHUNK = 2**16


@dataclass(frozen=True)
class Index:
    """The arrays: term ``t`` adds ``impacts[i]`` to passage ``passages[i]`` for i in ``starts[t]`` to ``starts[t + 1]``."""

    starts: np.ndarray
    passages: np.ndarray
    impacts: np.ndarray
    #: In ascending order.
    doc_ids: pa.LargeStringArray
    #: A hash of each doc_id, uint64: by it a passage is drawn or not, wherever it ranks.
    marks: np.ndarray
    terms: Sequence[str]


def settings(config: RetrieveConfig) -> dict[str, Any]:
    """Return the settings that decide an index besides its passages."""
    names = ("k1", "b", "stopwords", "stemmer", "lucene_lengths")
    return {"version": VERSION, **{name: getattr(config, name) for name in names}}


def build(passages: Iterable[tuple[Sequence[str], Iterable[str]]], config: RetrieveConfig) -> Index:
    """Index batches of (doc ids, texts) in memory.

    Raises :class:`UserError` for stop words or a stemmer that do not exist.
    """
    return _Builder(passages, config, None).index(_in_memory)


def build_in(folder: Path, passages: Iterable[tuple[Sequence[str], Iterable[str]]], config: RetrieveConfig) -> None:
    """Index batches of (doc ids, texts) into ``folder``, which appears when it is complete.

    Raises :class:`UserError` where there is something already or the disk is full.
    """
    with atomic_folder(folder) as aside:
        builder = _Builder(passages, config, aside)
        index = builder.index(lambda name, size, kind: on_disk(aside / f"{name}.npy", size, kind))
        np.save(aside / "starts.npy", index.starts)
        np.save(aside / "marks.npy", index.marks)
        save_column(aside, "doc_ids", index.doc_ids)
        save_column(aside, "terms", pa.array(index.terms, pa.large_string()))
        (aside / "settings.json").write_text(json.dumps(settings(config)))


def load(folder: Path, config: RetrieveConfig) -> Index:
    """Return the index in ``folder``, mapped and not read. Raises :class:`UserError` where it was built with other settings."""
    if json.loads((folder / "settings.json").read_text()) != settings(config):
        raise UserError(f"{folder}: this index was built with other settings; remove it", code="index-mismatch")

    starts = np.load(folder / "starts.npy")
    # What is empty cannot be mapped.
    passages, impacts = (
        np.load(folder / f"{name}.npy", mmap_mode="r" if starts[-1] else None) for name in ("passages", "impacts")
    )
    doc_ids = column(folder, "doc_ids")
    held = np.load(folder / "marks.npy", mmap_mode="r" if len(doc_ids) else None)
    return Index(starts, passages, impacts, doc_ids, held, column(folder, "terms").to_pylist())


def save_column(folder: Path, name: str, values: pa.Array) -> None:
    """Write NAME.arrow, as :func:`column` maps it."""
    table = pa.table({name: values})
    with pa.ipc.new_file(folder / f"{name}.arrow", table.schema) as out:
        out.write_table(table)


def column(folder: Path, name: str) -> pa.Array:
    """Return the values that :func:`save_column` wrote, mapped and not read."""
    return pa.ipc.open_file(pa.memory_map(str(folder / f"{name}.arrow"))).read_all().column(name).combine_chunks()


def lucene_length(lengths: np.ndarray) -> np.ndarray:
    """Return passage lengths as Lucene's index remembers them, in one byte (`SmallFloat.intToByte4`).

    Up to 24 exactly; beyond, four significant bits of what is above 24.
    """
    above = np.maximum(lengths.astype(np.int64) - 24, 0)
    bits = np.frexp(above.astype(np.float64))[1]
    shift = np.maximum(bits - 4, 0)
    return np.where(lengths < 24, lengths, 24 + ((above >> shift) << shift))


class _Builder:
    """Reads the passages, then inverts them chunk by chunk in the order of their doc_ids."""

    def __init__(
        self, passages: Iterable[tuple[Sequence[str], Iterable[str]]], config: RetrieveConfig, folder: Path | None
    ) -> None:
        self.config, analyser = config, Analyser(config)
        doc_ids = [pa.array([], pa.large_string())]
        words, lengths = _Words(folder), array("q")
        for batch_ids, texts in passages:
            doc_ids.append(pa.array(batch_ids, pa.large_string()))
            flat, counts = analyser(texts)
            words.add(flat)
            lengths.frombytes(counts.tobytes())
        unordered = pa.concat_arrays(doc_ids)
        order = pc.sort_indices(unordered)
        self.doc_ids = unordered.take(order)
        self.terms = analyser.terms
        chunks = _invert(words.all(), _array(lengths, np.int64), np.asarray(order))
        self.chunks: Iterable[_Chunk] = list(chunks) if folder is None else _Spilled(chunks, folder)
        self.lengths = _array(lengths, np.int64)[np.asarray(order)]

    def index(self, allocate: Callable[[str, int, type], np.ndarray]) -> Index:
        """Lay the chunks' postings out term by term, as scores, into arrays that ``allocate`` makes."""
        frequencies = np.zeros(len(self.terms), np.int64)
        for chunk in self.chunks:
            frequencies[chunk.terms] += chunk.counts
        starts = np.zeros(len(self.terms) + 1, np.int64)
        np.cumsum(frequencies, out=starts[1:])
        passages = allocate("passages", int(starts[-1]), np.int32)
        impacts = allocate("impacts", int(starts[-1]), np.float32)
        rarity, norms = self._weights(frequencies)
        following = starts[:-1].copy()
        for number, chunk in enumerate(self.chunks):
            before = np.cumsum(chunk.counts) - chunk.counts
            places = np.arange(len(chunk.passages)) + np.repeat(following[chunk.terms] - before, chunk.counts)
            following[chunk.terms] += chunk.counts
            held = chunk.passages + np.int32(number * _CHUNK)
            passages[places] = held
            # In the types and the order of bm25s, so that every bit is the same.
            saturation = chunk.occurrences / (norms[held] + chunk.occurrences)
            impacts[places] = np.repeat(rarity[chunk.terms], chunk.counts) * saturation
            for each in (passages, impacts):
                _unmap(each)
        return Index(starts, passages, impacts, self.doc_ids, marks(self.doc_ids), self.terms)

    def _weights(self, frequencies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return idf of each term, and for each passage what its length makes of k1."""
        k1, b, lengths, count = self.config.k1, self.config.b, self.lengths, len(self.lengths)
        total = int(lengths.sum())
        if self.config.lucene_lengths:
            count = int(np.count_nonzero(lengths))  # to Lucene, a passage without a term does not have the field
            lengths = lucene_length(lengths)
        mean = total / count if total else 1.0
        idf = [math.log(1 + (count - held + 0.5) / (held + 0.5)) for held in frequencies.tolist()]
        return np.array(idf, np.float32), k1 * ((1 - b) + b * lengths / mean)


def marks(doc_ids: pa.Array) -> np.ndarray:
    """Return a hash of each doc_id, uint64."""
    parts = (doc_ids.slice(first, _CHUNK).to_pylist() for first in range(0, len(doc_ids), _CHUNK))
    return np.concatenate([np.empty(0, np.uint64), *(priorities(0, part) for part in parts)])


@dataclass(frozen=True)
class _Chunk:
    """Postings of some passages, by term and passage: ``counts`` of them for each of the ascending ``terms``."""

    terms: np.ndarray
    counts: np.ndarray
    #: Counted from the chunk's first.
    passages: np.ndarray
    occurrences: np.ndarray


class _Words:
    """The numbers of all words, one after another: in memory, or in a file in ``folder``."""

    def __init__(self, folder: Path | None) -> None:
        self._held = array("i")
        self._file = _nameless(folder) if folder else None

    def add(self, words: np.ndarray) -> None:
        if self._file:
            self._file.write(words.tobytes())
        else:
            self._held.frombytes(words.tobytes())

    def all(self) -> np.ndarray:
        if not self._file:
            return _array(self._held, np.int32)
        self._file.flush()
        return np.memmap(self._file, np.int32, "r") if self._file.tell() else np.empty(0, np.int32)


class _Spilled:
    """Chunks in a file in ``folder``, of which one at a time is read."""

    def __init__(self, chunks: Iterable[_Chunk], folder: Path) -> None:
        self._file, self._count = _nameless(folder), 0
        for chunk in chunks:
            for field in fields(chunk):
                np.save(self._file, getattr(chunk, field.name))
            self._count += 1

    def __iter__(self) -> Iterator[_Chunk]:
        self._file.seek(0)
        for _ in range(self._count):
            yield _Chunk(*(np.load(self._file) for _ in fields(_Chunk)))


def _nameless(folder: Path) -> IO[bytes]:
    """Return a file that is gone with whatever holds it, also where the process is killed."""
    return tempfile.TemporaryFile(dir=folder)


def _unmap(values: np.ndarray) -> None:
    """Take what was read and written of a mapped array out of this process's memory; the file has it."""
    mapped = getattr(values, "_mmap", None)
    if mapped is not None:
        mapped.madvise(mmap.MADV_DONTNEED)


def _invert(words: np.ndarray, lengths: np.ndarray, order: np.ndarray) -> Iterator[_Chunk]:
    """Yield ``words`` of passages of these ``lengths``, taken in ``order``, as chunks of postings."""
    ends = np.cumsum(lengths)
    for first in range(0, len(order), _CHUNK):
        taken = order[first : first + _CHUNK]
        sizes = lengths[taken]
        before = np.cumsum(sizes) - sizes
        places = np.arange(int(sizes.sum())) + np.repeat(ends[taken] - sizes - before, sizes)
        keys = words[places].astype(np.uint64) << np.uint64(16) | np.repeat(
            np.arange(len(taken), dtype=np.uint64), sizes
        )
        keys.sort()
        new = _runs(keys)
        occurrences = np.diff(new, append=len(keys))
        keys = keys[new]
        terms = (keys >> np.uint64(16)).astype(np.int32)
        runs = _runs(terms)
        yield _Chunk(
            terms[runs],
            np.diff(runs, append=len(terms)),
            (keys & np.uint64(0xFFFF)).astype(np.uint16),
            occurrences.astype(np.min_scalar_type(occurrences.max(initial=0))),
        )
        _unmap(words)


def _runs(ordered: np.ndarray) -> np.ndarray:
    """Return the places in an ordered array at which a new value begins."""
    return np.flatnonzero(np.concatenate([np.ones(min(len(ordered), 1), bool), ordered[1:] != ordered[:-1]]))


def _array(values: array[int], kind: type) -> np.ndarray:
    return np.frombuffer(values, kind) if values else np.empty(0, kind)


def _in_memory(name: str, size: int, kind: type) -> np.ndarray:
    return np.empty(size, kind)


def on_disk(path: Path, size: int | tuple[int, ...], kind: type) -> np.ndarray:
    """Return a mapped array whose room on the disk is certain: to write where there is none would kill the process."""
    shape = size if isinstance(size, tuple) else (size,)
    if not math.prod(shape):
        np.save(path, np.empty(shape, kind))
        return np.empty(shape, kind)
    mapped = np.lib.format.open_memmap(path, "w+", kind, shape)
    with open(path, "r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return mapped
