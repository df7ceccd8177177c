"""Arrays in files that several processes map: one copy in memory, whatever their number."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from inranker_flow.rankers.monot5_prompt import Ragged
from inranker_flow.storage.local import disk_errors


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
    """As :func:`save`."""
    for name, rows in texts.items():
        save(folder, **{f"{name}.ids": rows.flat, f"{name}.offsets": rows.offsets})


def mapped_ragged(folder: Path, name: str) -> Ragged:
    """Return the arrays that :func:`save_ragged` wrote, mapped."""
    return Ragged(mapped(folder, f"{name}.ids"), mapped(folder, f"{name}.offsets"))
