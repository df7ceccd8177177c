"""A collection's index, and how it is searched by one process or several."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from inranker_flow.artifacts import manifest, tables
from inranker_flow.config.sections import RetrieveConfig
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
    progress = Progress("indexing", tables.count(tables.CORPUS, collection), "documents")

    def passages() -> Iterator[tuple[Sequence[str], Iterator[str]]]:
        for batch in tables.read_batches(tables.CORPUS, collection):
            columns = (batch.column("title").to_pylist(), batch.column("text").to_pylist())
            yield batch.column("doc_id").to_pylist(), map(default_text, *columns)
            progress.advance(batch.num_rows)

    try:
        index.build_in(folder, passages(), config)
    except UserError:
        if not folder.exists():  # else another process has just finished the same
            raise
    progress.finish()
    return folder


def search(bm25: BM25, task: tuple[list[str], int]) -> list[tuple[list[str], np.ndarray]]:
    """For each query (text) the doc_ids of its best hits, as many as the task's second, and their scores."""
    queries, depth = task
    found = bm25.find(queries, depth)
    return [(bm25.doc_ids.take(pa.array(places)).to_pylist(), scores) for places, scores in found]
