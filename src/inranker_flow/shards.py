"""Finished parts of a long stage, one Parquet file each, so that a killed stage repeats one shard at most."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from inranker_flow.storage import atomic_write

log = logging.getLogger(__name__)


class Shards:
    """``total`` rows in shards of ``size``, kept in ``folder`` (see `scratch.scratch_folder`) until :meth:`remove`.

    The folder's identity must hold everything that the plan depends on: shard ``i`` is rows ``[i*size, (i+1)*size)`` of
    a plan that is the same in every attempt.
    """

    def __init__(self, folder: Path, total: int, size: int) -> None:
        self.folder, self.total, self.size = folder, total, max(size, 1)

    def __iter__(self) -> Iterator[tuple[int, slice]]:
        """(number, rows) of every shard, in order."""
        for number, start in enumerate(range(0, self.total, self.size)):
            yield number, slice(start, min(start + self.size, self.total))

    def load(self, number: int) -> pa.Table | None:
        """The finished shard, or None when it has to be made (a file that cannot be read is made again)."""
        path = self._path(number)
        if not path.exists():
            return None
        try:
            return pq.read_table(path)
        except (pa.ArrowInvalid, OSError) as error:
            log.warning("%s: not readable, so this shard is made again (%s)", path, error)
            return None

    def save(self, number: int, table: pa.Table) -> None:
        """Store a finished shard, whole or not at all."""
        with atomic_write(self._path(number)) as out:
            pq.write_table(table, out)

    def remove(self) -> None:
        """Drop everything: the stage's output is complete."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.parquet"
