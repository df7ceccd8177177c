"""A collection's index, and how it is searched by one process or several."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from inranker_flow.artifacts import manifest, tables
from inranker_flow.config.retrieval import RetrieveConfig
from inranker_flow.corpora.passage import default_text
from inranker_flow.errors import UserError
from inranker_flow.progress import Progress
from inranker_flow.retrieval import index
from inranker_flow.retrieval.bm25 import BM25
from inranker_flow.scratch import scratch_folder

log = logging.getLogger(__name__)

#: Queries that are searched, and rows that are held, at a time.
QUERIES = 256
#: Queries times passages from which on it pays to start processes: about five seconds of one CPU.
PARALLEL_FROM = 10**10


def build_index(config: RetrieveConfig, collection: Path, stage: str = "retrieve") -> Path:
    """Yield the index of a collection, in the scratch folder of the ``stage``: built now, or by an attempt before this one.

    The stage removes that folder, the index's parent.
    """
    corpus = manifest.read_manifest(collection).files.get(tables.CORPUS.filename, "")
    folder = scratch_folder(stage, index.settings(config), corpus) / "index"
    if folder.exists():
        log.info("the index is there already")
        return folder
    try:
        index.build_in(folder, texts(collection, "indexing"), config)
    except UserError:
        if not folder.exists():  # else another process has just finished the same
            raise
    return folder


def texts(collection: Path, what: str) -> Iterator[tuple[list[str], list[str]]]:
    """Yield the passages of a collection in batches of (doc ids, texts), and log that ``what`` is being done to them."""
    progress = Progress(what, tables.count(tables.CORPUS, collection), "documents")
    for batch in tables.read_batches(tables.CORPUS, collection):
        columns = (batch.column("title").to_pylist(), batch.column("text").to_pylist())
        yield batch.column("doc_id").to_pylist(), list(map(default_text, *columns))
        progress.advance(batch.num_rows)
    progress.finish()


def search(bm25: BM25, task: tuple[list[str], int]) -> list[tuple[list[str], np.ndarray]]:
    """For each query (text) the doc_ids of its best hits, as many as the task's second, and their scores."""
    queries, depth = task
    found = bm25.find(queries, depth)
    return [(bm25.doc_ids.take(pa.array(places)).to_pylist(), scores) for places, scores in found]
