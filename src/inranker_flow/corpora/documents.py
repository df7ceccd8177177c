"""Which document a passage is of, in a collection whose documents were cut (`tables.PASSAGES`)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from inranker_flow.artifacts import tables


def are_cut(collection: Path) -> bool:
    """Return whether the rows of a collection are passages of documents."""
    return (collection / tables.PASSAGES.filename).is_file()


def documents_of(collection: Path, passages: Iterable[str]) -> dict[str, str]:
    """Return passage -> its document, for those of ``passages`` that are in the collection."""
    return dict(_rows(collection, "doc_id", passages))


def passages_of(collection: Path, documents: Iterable[str]) -> dict[str, list[str]]:
    """Return document -> its passages in their order, for those of ``documents`` that were cut."""
    found: dict[str, list[str]] = {}
    for passage, document in _rows(collection, "document_id", documents):
        found.setdefault(document, []).append(passage)
    return found


def _rows(collection: Path, column: str, wanted: Iterable[str]) -> list[tuple[str, str]]:
    if not are_cut(collection):
        return []
    values = pa.array(sorted(set(wanted)), pa.string())
    found: list[tuple[str, str]] = []
    for batch in tables.read_batches(tables.PASSAGES, collection):
        batch = batch.filter(pc.is_in(batch.column(column), value_set=values))
        found += zip(*(each.to_pylist() for each in batch.columns), strict=True)
    return found
