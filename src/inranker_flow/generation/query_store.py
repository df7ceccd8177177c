"""The store of written queries: what a generator wrote for a document, for every run in which that document is the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from inranker_flow.artifacts.hashing import hash_rows
from inranker_flow.environment import variables
from inranker_flow.generation.documents import Document, Texts
from inranker_flow.storage import uris
from inranker_flow.store import sharing
from inranker_flow.store.kept_rows import ContentStore
from inranker_flow.store.sharing import Share

#: One row for a document: what was written for it, as JSON rows of :data:`WRITTEN` without the id.
SCHEMA = pa.schema([pa.field("rows", pa.string(), nullable=False)])
WRITTEN = pa.schema(
    [
        pa.field("doc_id", pa.string()),
        pa.field("number", pa.int64()),
        pa.field("text", pa.string()),
        pa.field("log_probability", pa.float64()),
        pa.field("cut", pa.bool_()),
    ]
)
#: Number of the shard of what was there already.
KNOWN = -1
_ALONE = Share()


class WrittenShards:
    """The ``documents`` in shards of ``size``: first, as one, those that are in the store, then those to write for.

    ``identity``: all that a text depends on besides the document. The store is below ``INRANKER_STORE``, or the folder
    ``aside`` where there is none, until :meth:`done`. Where other pods write for these documents, too, all of them keep to
    the plan of the first, so a shard has one number, and so one seed, whoever writes it; ``share`` says which come first.
    """

    def __init__(
        self, identity: Any, documents: Sequence[Document], size: int, aside: Path, share: Share = _ALONE
    ) -> None:
        root = variables.store_root()
        self._aside, self._share, self._size = aside, share, max(size, 1)
        name = sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
        self._store = ContentStore(f"{root}/queries/{name}" if root else str(aside), SCHEMA)
        # Of id and text: two documents with one text have two queries, also when one of them was there before.
        keys = hash_rows((each.doc_id for each in documents), Texts(documents))
        found, rows = self._store.find(keys)
        #: Where all keep to one plan, it lies here.
        self._plan = sharing.plan(self._store.uri, keys)
        begun = ~sharing.agreed(~found, self._plan) if share.shared and not found.all() else found
        order = np.concatenate([np.flatnonzero(begun), np.flatnonzero(~begun)])
        #: In the order of the shards.
        self.documents = [documents[place] for place in order.tolist()]
        self._keys, self._known = keys[order], int(begun.sum())
        self._rows: list[str | None] = [None] * len(order)
        self._take(np.flatnonzero(found[order]), rows.take(pa.array(_ranks(found, order))))

    def __iter__(self) -> Iterator[tuple[int, slice]]:
        """Yield (number, documents) of every shard.

        Numbers go on where a killed run was: a shard that it had begun has the number, and so the seed, that it had.
        """
        if self._known:
            yield KNOWN, slice(0, self._known)
        total = len(self.documents)
        for number, start in enumerate(range(self._known, total, self._size), self._known // self._size):
            yield number, slice(start, min(start + self._size, total))

    @property
    def known(self) -> int:
        """Documents for which something is there."""
        return sum(row is not None for row in self._rows)

    def to_write(self) -> Iterator[tuple[int, slice]]:
        """Yield (number, documents) of what is not there, one by one as they are asked for: this pod's share, then the rest.

        What another pod has written meanwhile is left out.
        """
        missing = [(number, part) for number, part in self if None in self._rows[part]]
        for number, part in self._share.in_turn(missing):
            if self._share.shared:
                self._look()
            if None in self._rows[part]:
                yield number, part

    def load(self, number: int) -> pa.Table:
        """Return the texts of a shard."""
        part = next(part for each, part in self if each == number)
        rows = [
            {"doc_id": document.doc_id, **row}
            for document, text in zip(self.documents[part], self._rows[part], strict=True)
            for row in json.loads(text or "[]")
        ]
        return pa.Table.from_pylist(rows, schema=WRITTEN)

    def save(self, number: int, table: pa.Table) -> None:
        """Keep a shard: it is safe when this returns."""
        part = next(part for each, part in self if each == number)
        written: dict[str, list[dict[str, Any]]] = {each.doc_id: [] for each in self.documents[part]}
        for row in table.select(WRITTEN.names).to_pylist():
            written[row.pop("doc_id")].append(row)
        rows = [json.dumps(each, ensure_ascii=False) for each in written.values()]
        self._store.put(self._keys[part], pa.table({"rows": rows}, schema=SCHEMA))
        self._rows[part] = rows

    def done(self) -> None:
        """The stage's output is complete."""
        self._store.compact()
        if self._share.shared:
            uris.delete(self._plan)
        shutil.rmtree(self._aside, ignore_errors=True)

    def _look(self) -> None:
        """Take in what other pods have put meanwhile."""
        missing = np.array([place for place, row in enumerate(self._rows) if row is None], np.int64)
        found, rows = self._store.find(self._keys[missing], only_new=True)
        self._take(missing[found], rows)

    def _take(self, places: np.ndarray, rows: pa.Table) -> None:
        for place, row in zip(places.tolist(), rows.column("rows").to_pylist(), strict=True):
            self._rows[place] = row


def _ranks(found: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Return numbers of the rows of what was ``found``, in ``order``."""
    return (np.cumsum(found) - 1)[order[found[order]]]
