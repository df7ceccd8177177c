"""Token ids of many texts on disk, read through a memory map: ten million passages cost no memory and no start-up."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inranker_flow.rankers.monot5_prompt import Ragged

JOINED = "tokens.ids"


class RaggedWriter:
    """Appends rows to the two files of a :class:`Ragged`: ``NAME.ids``, all ids one after another, and ``NAME.ends.npy``.

    ``kind`` is the type of an id (uint16 for vocabularies of at most 65,536 tokens, else uint32).
    """

    def __init__(self, folder: Path, name: str, kind: Any) -> None:
        self._ends = folder / f"{name}.ends.npy"
        self._ids = (folder / f"{name}.ids").open("wb")
        self._kind = np.dtype(kind)
        self._lengths: list[np.ndarray] = []

    def add(self, rows: Sequence[Sequence[int]]) -> None:
        part = Ragged.of(rows, self._kind)
        part.flat.tofile(self._ids)
        self._lengths.append(np.diff(part.offsets))

    def close(self) -> None:
        """Write the ends of the rows; before that the files cannot be opened."""
        self._ids.close()
        np.save(self._ends, np.cumsum(np.concatenate([np.zeros(1, np.int64), *self._lengths])))


def id_kind(vocabulary: int) -> Any:
    """Return the smallest type of ids below ``vocabulary``."""
    return np.uint16 if vocabulary <= np.iinfo(np.uint16).max + 1 else np.uint32


def join(folder: Path, names: Sequence[str]) -> None:
    """Put the ids of all ``names`` into one file, so that prompts are gathered from one array."""
    first, *others = (folder / f"{name}.ids" for name in names)
    with first.open("ab") as file:
        for other in others:
            with other.open("rb") as part:
                shutil.copyfileobj(part, file, 16 * 2**20)
            other.unlink()
    first.rename(folder / JOINED)


def open_joined(folder: Path, names: Sequence[str], kind: Any) -> list[Ragged]:
    """Open the arrays ``names`` that :class:`RaggedWriter` wrote and :func:`join` joined: mapped, not read."""
    path = folder / JOINED
    # An empty file cannot be mapped. A plain array over the map: slices of numpy's own class are ten times slower.
    flat = (np.memmap(path, kind, mode="r") if path.stat().st_size else np.empty(0, kind)).view(np.ndarray)
    rows, start = [], 0
    for name in names:
        ends = open_array(folder / f"{name}.ends.npy")
        rows.append(Ragged(flat, ends + start))
        start += int(ends[-1])
    return rows


def open_array(path: Path) -> np.ndarray:
    """Return a ``.npy`` file, mapped, as a plain array."""
    mapped: np.ndarray = np.load(path, mmap_mode="r").view(np.ndarray)
    return mapped
