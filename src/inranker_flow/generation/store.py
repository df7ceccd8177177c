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

from inranker_flow import content_store
from inranker_flow.content_store import ContentStore
from inranker_flow.generation.documents import Document, Texts
from inranker_flow.hashing import hash_rows

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


class WrittenShards:
    """The ``documents`` in shards of ``size``: first, as one, those that are in the store, then those to write for.

    ``identity``: all that a text depends on besides the document. The store is below ``INRANKER_STORE``, or the folder
    ``aside`` where there is none, until :meth:`done`.
    """

    def __init__(self, identity: Any, documents: Sequence[Document], size: int, aside: Path) -> None:
        root = content_store.root()
        self._aside = aside
        name = sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
        self._store = ContentStore(f"{root}/queries/{name}" if root else str(aside), SCHEMA)
        # Of id and text: two documents with one text have two queries, also when one of them was there before.
        keys = hash_rows((each.doc_id for each in documents), Texts(documents))
        found, rows = self._store.find(keys)
        order = np.concatenate([np.flatnonzero(found), np.flatnonzero(~found)])
        #: In the order of the shards.
        self.documents = [documents[place] for place in order.tolist()]
        self._keys, self._known, self._size = keys[order], int(found.sum()), max(size, 1)
        self._rows: list[str] = rows.column("rows").to_pylist()

    def __iter__(self) -> Iterator[tuple[int, slice]]:
        """(number, documents) of every shard.

        Numbers go on where a killed run was: a shard that it had begun has the number, and so the seed, that it had.
        """
        if self._known:
            yield KNOWN, slice(0, self._known)
        total = len(self.documents)
        for number, start in enumerate(range(self._known, total, self._size), self._known // self._size):
            yield number, slice(start, min(start + self._size, total))

    def load(self, number: int) -> pa.Table | None:
        """What is there already; None for a shard to be written."""
        if number != KNOWN:
            return None
        documents = zip(self.documents, self._rows, strict=False)
        rows = [{"doc_id": each.doc_id, **row} for each, text in documents for row in json.loads(text)]
        return pa.Table.from_pylist(rows, schema=WRITTEN)

    def save(self, number: int, table: pa.Table) -> None:
        """Keep a shard: it is safe when this returns."""
        part = next(part for each, part in self if each == number)
        written: dict[str, list[dict[str, Any]]] = {each.doc_id: [] for each in self.documents[part]}
        for row in table.select(WRITTEN.names).to_pylist():
            written[row.pop("doc_id")].append(row)
        rows = [json.dumps(each, ensure_ascii=False) for each in written.values()]
        self._store.put(self._keys[part], pa.table({"rows": rows}, schema=SCHEMA))

    def done(self) -> None:
        """The stage's output is complete."""
        self._store.compact()
        shutil.rmtree(self._aside, ignore_errors=True)
