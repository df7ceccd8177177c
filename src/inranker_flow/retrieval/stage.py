"""The stage `retrieve`: BM25 candidates for the test queries, and for each training query the pairs to label."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from inranker_flow import manifest, schemas, storage
from inranker_flow.config import RetrieveConfig
from inranker_flow.corpora import default_text
from inranker_flow.errors import UserError
from inranker_flow.progress import Progress
from inranker_flow.retrieval.bm25 import BM25, check
from inranker_flow.retrieval.sampling import random_order

log = logging.getLogger(__name__)

#: Queries that are searched, and rows that are held, at a time.
QUERIES = 256


@dataclass(frozen=True)
class RetrieveStats:
    """What was searched and found."""

    documents: int
    train_queries: int
    pairs: int
    #: Pairs by role: passages that queries were written for, judged relevant ones, sampled ones.
    sources: int
    positives: int
    negatives: int
    #: Negatives that could not be sampled, because BM25 found too few other passages.
    negatives_missing: int
    #: Training queries without pairs: nothing judged relevant; published labels instead.
    train_queries_without_positive: int
    train_queries_published: int
    test_queries: int
    #: Test queries for which BM25 found nothing.
    test_queries_without_hits: int
    run_rows: int
    seconds_index: float
    queries_per_second: float


def retrieve(config: RetrieveConfig, collection: Path, queries: Path | None, candidates: Path) -> RetrieveStats:
    """Search ``collection`` and write ``candidates``: queries, pairs, run (Parquet and TREC).

    Training queries are those of ``queries``, without the ones that have published labels; else the collection's own,
    unless it comes with published labels, which stand in for the teacher's then.
    The run holds the best ``test_depth`` passages of each test query; a passage that shares no token with the query is
    no hit. Passages of equal score are ordered by doc_id, also at the cut.

    Raises :class:`UserError` where ``queries`` belongs to another data set or names a passage that is not there.
    """
    dataset = manifest.read_manifest(collection).dataset
    if queries is not None and (other := manifest.read_manifest(queries).dataset) != dataset:
        raise UserError(f"{queries}: holds queries for {other!r}, but the collection is {dataset!r}")
    candidates.mkdir(parents=True, exist_ok=True)
    (candidates / manifest.FILENAME).unlink(missing_ok=True)
    stats = _Retrieval(config, collection, queries, candidates).run()
    manifest.write_manifest(
        candidates, dataset=dataset, stage="retrieve", k1=config.k1, b=config.b, depth=config.depth, seed=config.seed
    )
    return stats


class _Retrieval:
    """One run of the stage."""

    def __init__(self, config: RetrieveConfig, collection: Path, queries: Path | None, candidates: Path) -> None:
        self.config, self.collection, self.queries, self.candidates = config, collection, queries, candidates

    def run(self) -> RetrieveStats:
        """Index, then training queries, then test queries."""
        train, published = self._training_queries()
        test = self._collection_queries("test")
        self.counts = dict.fromkeys(("source", "positive", "negative", "missing", "without_hits", "run"), 0)
        relevant = self._relevant(train)
        has_positive = pa.array([bool(relevant.get(id_)) for id_ in train.column("query_id").to_pylist()], pa.bool_())
        without = train.num_rows
        train = train.filter(has_positive)
        without -= train.num_rows
        start = time.monotonic()
        check(self.config)
        if train.num_rows or test.num_rows:
            self._index()
        seconds_index = time.monotonic() - start
        schemas.write(schemas.QUERIES, self.candidates / schemas.QUERIES.filename, train)
        total = train.num_rows + test.num_rows
        progress = Progress("searching", total, "queries")
        self._write_pairs(train, relevant, progress)
        self._write_run(test, progress)
        speed = progress.finish() if total else 0.0
        roles = {role: self.counts[role] for role in schemas.ROLES}
        if self.counts["missing"]:
            log.warning(
                "%s negatives are missing: BM25 finds too few other passages for some queries", self.counts["missing"]
            )
        return RetrieveStats(
            documents=schemas.count(schemas.CORPUS, self.collection),
            train_queries=train.num_rows,
            pairs=sum(roles.values()),
            sources=roles["source"],
            positives=roles["positive"],
            negatives=roles["negative"],
            negatives_missing=self.counts["missing"],
            train_queries_without_positive=without,
            train_queries_published=published,
            test_queries=test.num_rows,
            test_queries_without_hits=self.counts["without_hits"],
            run_rows=self.counts["run"],
            seconds_index=seconds_index,
            queries_per_second=speed,
        )

    def _collection_queries(self, *origins: str) -> pa.Table:
        table = schemas.read(schemas.QUERIES, self.collection)
        return table.filter(pc.is_in(table.column("origin"), pa.array(origins)))

    def _training_queries(self) -> tuple[pa.Table, int]:
        """Queries to find pairs for, and how many were left out because there are published labels instead."""
        published = (self.collection / schemas.LABELS.filename).is_file()
        if self.queries is None:
            # Published labels replace the teacher: the few queries without one are not worth indexing MS MARCO for.
            table = self._collection_queries("supervised", "synthetic")
            return (table.slice(0, 0), table.num_rows) if published else (table, 0)
        table = schemas.read(schemas.QUERIES, self.queries)
        if not published:
            return table, 0
        labelled: pa.Array = pa.array([], pa.string())
        for batch in schemas.read_batches(schemas.LABELS, self.collection):
            labelled = pc.unique(pa.chunked_array([labelled, batch.column("query_id").unique()]))
        open_ = table.filter(pc.invert(pc.is_in(table.column("query_id"), labelled)))
        return open_, table.num_rows - open_.num_rows

    def _relevant(self, train: pa.Table) -> dict[str, dict[str, str]]:
        """Query -> passage -> role, for the passages that may not be sampled as negatives."""
        found: dict[str, dict[str, str]] = {}
        columns = (train.column("query_id").to_pylist(), train.column("source_doc_id").to_pylist())
        for query_id, doc_id in zip(*columns, strict=True):
            found[query_id] = {doc_id: "source"} if doc_id is not None else {}
        for batch in schemas.read_batches(schemas.QRELS, self.collection):
            judged = batch.filter(pc.greater(batch.column("relevance"), 0))
            ids = (judged.column("query_id").to_pylist(), judged.column("doc_id").to_pylist())
            for query_id, doc_id in zip(*ids, strict=True):
                if query_id in found:
                    found[query_id].setdefault(doc_id, "positive")
        return found

    def _index(self) -> None:
        progress = Progress("indexing", schemas.count(schemas.CORPUS, self.collection), "documents")

        def passages() -> Iterator[tuple[Sequence[str], Iterator[str]]]:
            for batch in schemas.read_batches(schemas.CORPUS, self.collection):
                columns = (batch.column("title").to_pylist(), batch.column("text").to_pylist())
                yield batch.column("doc_id").to_pylist(), map(default_text, *columns)
                progress.advance(batch.num_rows)

        self.bm25 = BM25(passages(), self.config)
        progress.finish()

    def _known(self, relevant: Mapping[str, Mapping[str, str]]) -> None:
        """Passages that queries refer to must be in the collection."""
        missing = {doc_id for roles in relevant.values() for doc_id in roles}.difference(self.bm25.doc_ids)
        if missing:
            first = min(missing)
            query_id = min(query_id for query_id, roles in relevant.items() if first in roles)
            raise UserError(
                f"{self.queries or self.collection}: query {query_id!r} belongs to the passage {first!r}, which "
                f"{self.collection} lacks ({len(missing)} such passages); queries and collection must be from one corpus"
            )

    def _write_pairs(self, train: pa.Table, relevant: Mapping[str, Mapping[str, str]], progress: Progress) -> None:
        if train.num_rows:
            self._known(relevant)
        with schemas.TableWriter(self.candidates / schemas.PAIRS.filename, schemas.PAIRS) as writer:
            for batch in train.to_batches(max_chunksize=QUERIES):
                columns: tuple[list[str], list[str], list[str]] = ([], [], [])
                for query_id, text in zip(
                    batch.column("query_id").to_pylist(), batch.column("text").to_pylist(), strict=True
                ):
                    roles = relevant[query_id]
                    negatives = self._negatives(query_id, text, roles) if self.config.negatives else []
                    pairs = [*roles.items(), *((doc_id, "negative") for doc_id in negatives)]
                    for doc_id, role in pairs:
                        self.counts[role] += 1
                        for column, value in zip(columns, (query_id, doc_id, role), strict=True):
                            column.append(value)
                    self.counts["missing"] += self.config.negatives - len(negatives)
                writer.write(dict(zip(schemas.PAIRS.schema.names, columns, strict=True)))
                progress.advance(batch.num_rows)

    def _negatives(self, query_id: str, text: str, relevant: Mapping[str, str]) -> list[str]:
        """A random sample of the hits without the relevant ones, in their order; it depends on seed and query alone."""
        hits, _ = self.bm25.search(text, self.config.depth)
        # So many more than wanted that it does not matter how many of them are relevant.
        drawn = random_order(self.config.seed, query_id, len(hits))[: self.config.negatives + len(relevant)]
        kept = [rank for rank in drawn.tolist() if hits[rank] not in relevant]
        return [hits[rank] for rank in sorted(kept[: self.config.negatives])]

    def _write_run(self, test: pa.Table, progress: Progress) -> None:
        with ExitStack() as stack:
            writer = stack.enter_context(schemas.TableWriter(self.candidates / schemas.RUN.filename, schemas.RUN))
            trec = stack.enter_context(storage.atomic_write(self.candidates / "run.trec"))
            for batch in test.to_batches(max_chunksize=QUERIES):
                columns: dict[str, list[Any]] = {name: [] for name in schemas.RUN.schema.names}
                for query_id, text in zip(
                    batch.column("query_id").to_pylist(), batch.column("text").to_pylist(), strict=True
                ):
                    hits, scores = self.bm25.search(text, self.config.test_depth)
                    self.counts["without_hits"] += not len(hits)
                    columns["query_id"] += [query_id] * len(hits)
                    columns["doc_id"] += hits.tolist()
                    columns["rank"] += range(1, len(hits) + 1)
                    columns["score"] += scores.astype(np.float64).tolist()
                writer.write(columns)
                rows = zip(*columns.values(), strict=True)
                trec.write(
                    "".join(f"{query} Q0 {doc} {rank} {score:.6f} bm25\n" for query, doc, rank, score in rows).encode()
                )
                self.counts["run"] += len(columns["rank"])
                progress.advance(batch.num_rows)
