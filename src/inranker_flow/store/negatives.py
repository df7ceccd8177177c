"""Which negatives an earlier run labelled: a query whose texts are what they were keeps them, and so their labels.

A changed passage would else cost twice: where its new queries are labelled, and wherever it is drawn as a negative. Every
training set leaves a record below ``INRANKER_STORE``, found by its content digest, which is a tag of each model version that
was trained on it. The record knows texts by their hashes alone: ids may change, and no text outlives its corpus.
"""

from __future__ import annotations

import io
import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from inranker_flow.artifacts import manifest, tables
from inranker_flow.artifacts.hashing import contains, hash_rows
from inranker_flow.config.retrieval import RetrieveConfig
from inranker_flow.corpora.passage import default_text
from inranker_flow.environment import variables
from inranker_flow.errors import UserError
from inranker_flow.storage import uris

log = logging.getLogger(__name__)

#: A row for each labelled negative: key of its query (:func:`_query_key`), hash of its text. Sorted by the first.
RECORD = pa.schema([pa.field(name, pa.binary(16), nullable=False) for name in ("query", "passage")])
#: In its metadata: what they were drawn by.
_DRAWN = b"drawn"


def known(digest: str) -> str:
    """Return ``digest`` where the store has a record of the training set with this content, else ""."""
    return digest if digest and variables.store_root() and uris.exists(_uri(digest)) else ""


def drawn_by(config: RetrieveConfig, collection: Path) -> dict[str, Any]:
    """Return what negatives are drawn by: a draw is not kept under other settings, nor under another run of a collection."""
    run = manifest.read_manifest(collection).files.get(tables.RUN.filename)
    return {**config.drawing, **({"run": run} if run else {})}


def remember(
    digest: str,
    drawn: Mapping[str, Any],
    queries: pa.Table,
    pairs: pa.Table,
    doc_ids: pa.ChunkedArray,
    passages: np.ndarray,
) -> None:
    """Record the negatives among ``pairs`` under the ``digest`` of the training set that they became.

    ``drawn``: the settings that they were drawn by (:func:`drawn_by`). ``passages``: hashes of the texts of ``doc_ids``,
    uint64 (passages, 2). Where nothing can be stored a warning says so: the next run draws all its negatives then, most of
    which are labelled.
    """
    if not variables.store_root():
        return
    text_of = dict(zip(doc_ids.to_pylist(), _as_bytes(passages), strict=True))
    relevant: dict[str, list[bytes]] = {}
    negatives: dict[str, list[bytes]] = {}
    for query_id, doc_id, role in zip(*(column.to_pylist() for column in pairs.columns), strict=True):
        (negatives if role == "negative" else relevant).setdefault(query_id, []).append(text_of[doc_id])
    rows = sorted(
        (_query_key(text, relevant.get(query_id, ())), passage)
        for query_id, text in zip(
            queries.column("query_id").to_pylist(), queries.column("text").to_pylist(), strict=True
        )
        for passage in negatives.get(query_id, ())
    )
    settings = {_DRAWN: json.dumps(drawn, sort_keys=True).encode()}
    columns = [[query for query, _ in rows], [passage for _, passage in rows]]
    table = pa.table(columns, schema=RECORD.with_metadata(settings))
    data = io.BytesIO()
    pq.write_table(table, data, compression="zstd")
    try:
        uris.put_if_absent(data.getvalue(), _uri(digest))
    except (UserError, OSError) as error:
        log.warning("which negatives were labelled is not kept for the next run: %s", error)


def kept_negatives(
    config: RetrieveConfig,
    digest: str,
    queries: pa.Table,
    relevant: Mapping[str, Mapping[str, str]],
    collection: Path,
) -> dict[str, list[str]]:
    """Return query -> the doc_ids of its negatives in the training set ``digest`` that are still in ``collection``.

    Holds the queries alone that were in that training set with the same text and the same relevant passages (by text), and
    that have at least ``config.keep_share`` of their negatives left; none where they were drawn by other settings.
    ``relevant``: query -> its relevant passages.
    """
    record = _read(digest)
    if record is None:
        return {}
    if json.loads(record.schema.metadata[_DRAWN]) != drawn_by(config, collection):
        log.info("negatives were drawn by other settings before, so they are drawn anew for all queries")
        return {}
    wanted = {doc_id for passages in relevant.values() for doc_id in passages}
    text_of, place_of = _passages(collection, wanted, _words(record.column("passage")))
    left: dict[bytes, set[str]] = {}
    for key, passage in zip(*(column.to_pylist() for column in record.columns), strict=True):
        if passage in place_of:
            left.setdefault(key, set()).add(place_of[passage])
    least = max(1, math.ceil(config.keep_share * config.wanted))
    kept: dict[str, list[str]] = {}
    for query_id, text in zip(queries.column("query_id").to_pylist(), queries.column("text").to_pylist(), strict=True):
        own = relevant[query_id]
        if not own.keys() <= text_of.keys():
            continue  # who draws says what is wrong with it
        key = _query_key(text, (text_of[doc_id] for doc_id in own))
        found = left.get(key, set()) - own.keys()
        if least <= len(found) <= config.wanted:
            kept[query_id] = sorted(found)
    return kept


def _uri(digest: str) -> str:
    return f"{variables.store_root()}/pairs/{digest}.parquet"


def _read(digest: str) -> pa.Table | None:
    """Return the record of a training set; None, with a warning, where it is gone or damaged."""
    try:
        table = pq.read_table(io.BytesIO(uris.read(_uri(digest))))
        if table.schema != RECORD or _DRAWN not in (table.schema.metadata or {}):
            raise ValueError("not a record of negatives")
        json.loads(table.schema.metadata[_DRAWN])
        return table
    except (OSError, pa.ArrowException, ValueError) as error:  # Arrow says OSError of a damaged file, too
        log.warning("%s cannot be used (%s): negatives are drawn anew for all queries", _uri(digest), error)
        return None


def _query_key(text: str, relevant: Iterable[bytes]) -> bytes:
    """Of a query's text and the texts of its relevant passages (their hashes), in whatever order."""
    return blake2b(b"\x1f".join([text.encode(), *sorted(relevant)]), digest_size=16).digest()


def _passages(
    collection: Path, doc_ids: set[str], first_words: np.ndarray
) -> tuple[dict[str, bytes], dict[bytes, str]]:
    """Return the hash of the text of each of ``doc_ids``, and doc_id of each text whose hash begins with one of
    ``first_words``.

    The corpus streams by; of equal texts the first doc_id counts.
    """
    text_of: dict[str, bytes] = {}
    place_of: dict[bytes, str] = {}
    for batch in tables.read_batches(tables.CORPUS, collection):
        ids, titles, texts = (column.to_pylist() for column in batch.columns)
        hashes = hash_rows(map(default_text, titles, texts))
        asked = contains(first_words, hashes[:, 0])
        for doc_id, text, found in zip(ids, _as_bytes(hashes), asked.tolist(), strict=True):
            if doc_id in doc_ids:
                text_of[doc_id] = text
            if found:
                place_of[text] = min(doc_id, place_of.get(text, doc_id))
    return text_of, place_of


def _as_bytes(hashes: np.ndarray) -> Sequence[bytes]:
    """Return 16 bytes for each row."""
    data = hashes.astype("<u8").tobytes()
    return [data[at : at + 16] for at in range(0, len(data), 16)]


def _words(column: pa.ChunkedArray) -> np.ndarray:
    """Return the first 8 bytes of each value, sorted, each once."""
    values = np.frombuffer(b"".join(column.to_pylist()), "<u8").reshape(-1, 2)
    return np.unique(values[:, 0])
