"""Token ids of many texts, and other arrays, in files that processes map: ten million passages cost no memory and no start-up."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inranker_flow.rankers.monot5_prompt import Ragged
from inranker_flow.storage.local import disk_errors

#: All ids of a folder, one text after another, so that prompts are gathered from one array; its suffix is their type.
_TOKENS = "tokens"


def save(folder: Path, **arrays: np.ndarray) -> None:
    """``NAME.npy`` in ``folder`` for each of ``arrays``. A full disk is a :class:`UserError`."""
    with disk_errors(folder):
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array)


def mapped(folder: Path, name: str) -> np.ndarray:
    """Return the array that :func:`save` wrote, as a plain array over the map (slices of numpy's own class for maps are slow)."""
    path = folder / f"{name}.npy"
    found: np.ndarray = np.load(path, mmap_mode="r")
    return found.view(np.ndarray)


def save_ragged(folder: Path, **texts: Ragged) -> None:
    """Write the ids of ``texts``, all of one type, as :func:`mapped_ragged` maps them. A full disk is a :class:`UserError`."""
    [kind] = {each.flat.dtype for each in texts.values()}
    for name, rows in texts.items():
        with disk_errors(folder):
            rows.flat.tofile(folder / f"{name}.ids")
        save(folder, **{f"{name}.offsets": rows.offsets})
    join(folder, list(texts), kind)


def mapped_ragged(folder: Path, *names: str) -> list[Ragged]:
    """Return the ids of ``names`` in a folder that :func:`join` has ended, mapped; they share one array."""
    [path] = folder.glob(f"{_TOKENS}.*")
    flat = _mapped_ids(path, np.dtype(path.suffix[1:]))
    found, start = [], 0
    for name in names:
        offsets = mapped(folder, f"{name}.offsets")
        found.append(Ragged(flat, offsets + start))
        start += int(offsets[-1])
    return found


def _mapped_ids(path: Path, kind: Any) -> np.ndarray:
    # An empty file cannot be mapped.
    return (np.memmap(path, kind, mode="r") if path.stat().st_size else np.empty(0, kind)).view(np.ndarray)


class Ids:
    """Collects the ids of texts as they are tokenised: in memory, or below ``folder`` in files that :func:`join` ends."""

    def __init__(self, kind: Any, folder: Path | None = None, name: str = "") -> None:
        self._kind, self._folder, self._name = np.dtype(kind), folder, name
        self._file = (folder / f"{name}.ids").open("wb") if folder else None
        self._parts: list[np.ndarray] = []
        self._lengths: list[np.ndarray] = []

    def add(self, rows: Sequence[Sequence[int]]) -> None:
        """Append the ids of some texts."""
        part = Ragged.of(rows, self._kind)
        self._lengths.append(np.diff(part.offsets))
        if self._file:
            with disk_errors(self._file.name):
                part.flat.tofile(self._file)
        else:
            self._parts.append(part.flat)

    def done(self) -> Ragged:
        """Return all of them, mapped where they are in a file."""
        offsets = np.cumsum(np.concatenate([np.zeros(1, np.int64), *self._lengths]))
        if not (self._folder and self._file):
            return Ragged(np.concatenate([np.empty(0, self._kind), *self._parts]), offsets)
        with disk_errors(self._file.name):
            self._file.close()
        save(self._folder, **{f"{self._name}.offsets": offsets})
        return Ragged(_mapped_ids(self._folder / f"{self._name}.ids", self._kind), offsets)


def join(folder: Path, names: Sequence[str], kind: Any) -> None:
    """Put the ids of all ``names`` into one file, so that prompts are gathered from one array."""
    first, *others = (folder / f"{name}.ids" for name in names)
    with disk_errors(folder):
        with first.open("ab") as file:
            for other in others:
                with other.open("rb") as part:
                    shutil.copyfileobj(part, file, 16 * 2**20)
                other.unlink()
        first.rename(folder / f"{_TOKENS}.{np.dtype(kind).name}")
