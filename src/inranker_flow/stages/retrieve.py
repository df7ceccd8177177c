"""The stage `retrieve`: BM25 candidates for the test queries, and for each training query the pairs to label."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from inranker_flow import cpus
from inranker_flow.artifacts import manifest, tables
from inranker_flow.config.sections import RetrieveConfig
from inranker_flow.corpora.documents import are_cut
from inranker_flow.errors import CollectionFault, UserError
from inranker_flow.progress import Progress
from inranker_flow.retrieval import index
from inranker_flow.retrieval.analyser import Analyser, in_language
from inranker_flow.retrieval.bm25 import BM25
from inranker_flow.retrieval.judged_documents import ASIDE, as_passages
from inranker_flow.retrieval.negative_sampling import random_sample
from inranker_flow.retrieval.searchers import Searchers
from inranker_flow.retrieval.searching import PARALLEL_FROM, QUERIES, build_index, search
from inranker_flow.storage.local import atomic_write
from inranker_flow.store.negatives import drawn_by, kept_negatives

log = logging.getLogger(__name__)

#: Generated queries that the report shows.
_SAMPLES = 5
#: A share of queries without a hit that is worth a word.
_MANY = 0.5
#: Characters of a query in a message.
_SHOWN = 80


@dataclass(frozen=True)
class RetrieveStats:
    """Counts of the search."""

    documents: int
    train_queries: int
    pairs: int
    #: Pairs by role: passages that queries were written for, judged relevant ones, sampled ones.
    sources: int
    positives: int
    negatives: int
    #: Negatives that could not be sampled, because BM25 found too few other passages.
    negatives_missing: int
    #: Training queries that keep the negatives of an earlier run.
    queries_kept: int
    #: Training queries that people asked, of which nobody has judged a passage.
    queries_logged: int
    #: Training queries without pairs: nothing judged relevant; published labels instead.
    train_queries_without_positive: int
    train_queries_published: int
    test_queries: int
    #: Test queries for which BM25 found nothing.
    test_queries_without_hits: int
    run_rows: int
    seconds_index: float
    queries_per_second: float


def retrieve(
    config: RetrieveConfig,
    collection: Path,
    queries: Path | None,
    candidates: Path,
    earlier: str = "",
    language: str = "",
) -> RetrieveStats:
    """Search ``collection`` and write ``candidates``: queries, pairs, run (Parquet and TREC).

    Training queries are those of ``queries``, without the ones that have published labels; else the collection's own,
    unless it comes with published labels, which stand in for the teacher's then.
    The run holds the best ``test_depth`` passages of each test query; a passage that shares no token with the query is
    no hit. Passages of equal score are ordered by doc_id, also at the cut.

    ``earlier`` is the content digest of a training set that was made of an earlier state of the collection: queries that
    are as they were keep its negatives (:mod:`inranker_flow.store.negatives`) and are not searched. ``language``: the
    collection's
    (`CorpusConfig.language`), whose words and stems are searched for.

    Raises :class:`UserError` where ``queries`` belongs to another data set or names a passage that is not there, and where
    most of the training or of the test queries find nothing.
    """
    config = in_language(config, language)
    dataset = manifest.read_manifest(collection).dataset
    if queries is not None and (other := manifest.read_manifest(queries).dataset) != dataset:
        raise UserError(
            f"{queries}: holds queries for {other!r}, but the collection is {dataset!r}", code="artifact-mismatch"
        )
    candidates.mkdir(parents=True, exist_ok=True)
    (candidates / manifest.FILENAME).unlink(missing_ok=True)
    work = _Retrieval(config, collection, queries, candidates, earlier)
    stats = work.run()
    manifest.write_manifest(
        candidates,
        dataset=dataset,
        stage="retrieve",
        drawn=drawn_by(config),
        earlier=earlier,
        queries_kept=stats.queries_kept,
        **({"generation": noted(queries)} if queries else {}),
    )
    work.remove_scratch()
    return stats


def noted(queries: Path) -> dict[str, Any]:
    """Return the counts of the synthetic queries for the report, so that later stages need not be handed these."""
    details = manifest.read_manifest(queries).details
    return {
        "generator": details.get("generator", ""),
        "prompt": details.get("prompt", ""),
        "counts": details.get("counts", {}),
        "samples": details.get("samples", [])[:_SAMPLES],
        "tokens_per_second": details.get("tokens_per_second"),
    }


class _Retrieval:
    """One run of the stage."""

    def __init__(
        self, config: RetrieveConfig, collection: Path, queries: Path | None, candidates: Path, earlier: str
    ) -> None:
        self.config, self.collection, self.queries, self.candidates = config, collection, queries, candidates
        self.earlier = earlier

    def run(self) -> RetrieveStats:
        """Index, then training queries, then test queries."""
        train, published = self._training_queries()
        test = self._collection_queries("test")
        self.counts = dict.fromkeys(("source", "positive", "negative", "missing", "without_hits", "run"), 0)
        relevant = self._relevant(train)
        has_positive = pa.array([bool(relevant.get(id_)) for id_ in train.column("query_id").to_pylist()], pa.bool_())
        is_logged = pc.equal(train.column("origin"), "log")
        has_positive = pc.or_(has_positive, is_logged)
        without = train.num_rows
        train = train.filter(has_positive)
        without -= train.num_rows
        start = time.monotonic()
        Analyser(self.config)  # settings that do not exist are said before anything is read
        tables.write(tables.QUERIES, self.candidates / tables.QUERIES.filename, train)
        kept: dict[str, list[str]] = {}
        if self.earlier:
            paired = {
                query: {doc: role for doc, role in own.items() if role != ASIDE} for query, own in relevant.items()
            }
            kept = kept_negatives(self.config, self.earlier, train, paired, self.collection)
            log.info("%s of %s queries keep their negatives", f"{len(kept):,}", f"{train.num_rows:,}")
        total = train.num_rows - len(kept) + test.num_rows
        self.folder = build_index(self.config, self.collection) if total else None
        seconds_index = time.monotonic() - start
        if self.folder:
            self._refuse_in_vain({"training": train, "test": test})
        progress = Progress("searching", total, "queries")
        with ExitStack() as stack:
            searchers = stack.enter_context(self._searchers(total)) if self.folder else None
            self._write_pairs(train, relevant, kept, searchers, progress)
            self._write_run(test, searchers, progress)
        speed = progress.finish() if total else 0.0
        roles = {role: self.counts[role] for role in tables.ROLES}
        if self.counts["missing"]:
            log.warning(
                "%s negatives are missing: BM25 finds too few other passages for some queries", self.counts["missing"]
            )
        return RetrieveStats(
            documents=tables.count(tables.CORPUS, self.collection),
            train_queries=train.num_rows,
            pairs=sum(roles.values()),
            sources=roles["source"],
            positives=roles["positive"],
            negatives=roles["negative"],
            negatives_missing=self.counts["missing"],
            queries_kept=len(kept),
            queries_logged=pc.sum(is_logged).as_py() or 0,
            train_queries_without_positive=without,
            train_queries_published=published,
            test_queries=test.num_rows,
            test_queries_without_hits=self.counts["without_hits"],
            run_rows=self.counts["run"],
            seconds_index=seconds_index,
            queries_per_second=speed,
        )

    def _refuse_in_vain(self, queries: Mapping[str, pa.Table]) -> None:
        """Refuse to search for queries (by kind) of which most share no word with any passage: they would find nothing."""
        assert self.folder
        analyser = Analyser(self.config, index.load(self.folder, self.config).terms)
        for kind, table in queries.items():
            texts = table.column("text").to_pylist()
            vain = np.flatnonzero(analyser(texts)[1] == 0)
            if len(vain) <= min(_MANY, self.config.max_without_hits) * len(texts):
                continue
            stemmer, stopwords = (
                repr(each) if each else "none" for each in (self.config.stemmer, self.config.stopwords)
            )
            where = self.queries if kind == "training" and self.queries else self.collection
            told = (
                f"{where}: {len(vain):,} of {len(texts):,} {kind} queries ({len(vain) / len(texts):.0%}) find nothing, such as "
                f"{_shown(texts[vain[0]])}: no passage holds a word of them (stemmer {stemmer}, stop words {stopwords})"
            )
            if len(vain) > self.config.max_without_hits * len(texts):
                self.remove_scratch()  # another language is another index
                raise CollectionFault(
                    f"{told}; are queries and passages of one language? Then set `language` of the collection to it, or change "
                    "retrieval.stemmer and retrieval.stopwords; retrieval.max_without_hits: 1 goes on all the same",
                    code="queries-find-nothing",
                )
            log.warning("%s", told)

    def _collection_queries(self, *origins: str) -> pa.Table:
        table = tables.read(tables.QUERIES, self.collection)
        return table.filter(pc.is_in(table.column("origin"), pa.array(origins)))

    def _training_queries(self) -> tuple[pa.Table, int]:
        """Return queries to find pairs for, and how many were left out because there are published labels instead."""
        published = (self.collection / tables.LABELS.filename).is_file()
        if self.queries is None:
            # Published labels replace the teacher: the few queries without one are not worth indexing MS MARCO for.
            table = self._collection_queries("supervised", "synthetic")
            return (table.slice(0, 0), table.num_rows) if published else (table, 0)
        table = tables.read(tables.QUERIES, self.queries)
        if not published:
            return table, 0
        labelled: pa.Array = pa.array([], pa.string())
        for batch in tables.read_batches(tables.LABELS, self.collection):
            labelled = pc.unique(pa.chunked_array([labelled, batch.column("query_id").unique()]))
        open_ = table.filter(pc.invert(pc.is_in(table.column("query_id"), labelled)))
        return open_, table.num_rows - open_.num_rows

    def _relevant(self, train: pa.Table) -> dict[str, dict[str, str]]:
        """Return query -> passage -> role, for the passages that may not be sampled as negatives."""
        found: dict[str, dict[str, str]] = {}
        columns = (train.column("query_id").to_pylist(), train.column("source_doc_id").to_pylist())
        for query_id, doc_id in zip(*columns, strict=True):
            found[query_id] = {doc_id: "source"} if doc_id is not None else {}
        for batch in tables.read_batches(tables.QRELS, self.collection):
            judged = batch.filter(pc.greater(batch.column("relevance"), 0))
            ids = (judged.column("query_id").to_pylist(), judged.column("doc_id").to_pylist())
            for query_id, doc_id in zip(*ids, strict=True):
                if query_id in found:
                    found[query_id].setdefault(doc_id, "positive")
        if are_cut(self.collection):
            return as_passages(
                self.collection, found, dict(zip(columns[0], train.column("text").to_pylist(), strict=True))
            )
        return found

    def remove_scratch(self) -> None:
        """Remove the files that a later attempt would have needed."""
        if self.folder:
            shutil.rmtree(self.folder.parent, ignore_errors=True)

    def _searchers(self, queries: int) -> Searchers:
        assert self.folder
        much = queries * tables.count(tables.CORPUS, self.collection) >= PARALLEL_FROM
        return Searchers(self.folder, self.config, cpus.available() if much else 1)

    def _places(self, relevant: Mapping[str, Mapping[str, str]]) -> np.ndarray:
        """Return the places in the index of the passages that queries refer to, in the order of ``relevant``."""
        assert self.folder
        doc_ids = pa.array((doc_id for roles in relevant.values() for doc_id in roles), pa.large_string())
        places = pc.index_in(doc_ids, value_set=index.load(self.folder, self.config).doc_ids)
        missing = set(doc_ids.filter(places.is_null()).to_pylist())
        if missing:
            first = min(missing)
            query_id = min(query_id for query_id, roles in relevant.items() if first in roles)
            raise UserError(
                f"{self.queries or self.collection}: query {query_id!r} belongs to the passage {first!r}, which "
                f"{self.collection} lacks ({len(missing)} such passages); queries and collection must be from one corpus",
                code="reference-lost",
            )
        return places.to_numpy()

    def _write_pairs(
        self,
        train: pa.Table,
        relevant: Mapping[str, Mapping[str, str]],
        kept: Mapping[str, list[str]],
        searchers: Searchers | None,
        progress: Progress,
    ) -> None:
        """Those with the ``kept`` negatives first."""
        is_kept = pa.array([query_id in kept for query_id in train.column("query_id").to_pylist()], pa.bool_())
        with tables.TableWriter(self.candidates / tables.PAIRS.filename, tables.PAIRS) as writer:
            for queries in _batches(train.filter(is_kept)):
                self._write(writer, queries.ids, relevant, [kept[query_id] for query_id in queries.ids])
            batches = _batches(train.filter(pc.invert(is_kept)))
            if not searchers or not batches:
                return
            for queries, found in zip(batches, self._sampled(batches, relevant, searchers), strict=True):
                self._write(writer, queries.ids, relevant, found)
                self.counts["missing"] += sum(max(self.config.negatives - len(each), 0) for each in found)
                progress.advance(len(queries.ids))

    def _write(
        self,
        writer: tables.TableWriter,
        query_ids: Sequence[str],
        relevant: Mapping[str, Mapping[str, str]],
        sampled: Sequence[Sequence[str]],
    ) -> None:
        columns: tuple[list[str], list[str], list[str]] = ([], [], [])
        for query_id, negatives in zip(query_ids, sampled, strict=True):
            own = [(doc_id, role) for doc_id, role in relevant[query_id].items() if role != ASIDE]
            for doc_id, role in [*own, *((doc_id, "negative") for doc_id in negatives)]:
                self.counts[role] += 1
                for column, value in zip(columns, (query_id, doc_id, role), strict=True):
                    column.append(value)
        writer.write(dict(zip(tables.PAIRS.schema.names, columns, strict=True)))

    def _sampled(
        self, batches: Sequence[_Queries], relevant: Mapping[str, Mapping[str, str]], searchers: Searchers
    ) -> Iterator[list[list[str]]]:
        """For each batch the negatives of its queries."""
        places = self._places({query_id: relevant[query_id] for batch in batches for query_id in batch.ids})
        if not self.config.negatives:
            return ([[] for _ in batch.ids] for batch in batches)

        def tasks() -> Iterator[_Sampling]:
            first = 0
            for batch in batches:
                counts = np.array([len(relevant[query_id]) for query_id in batch.ids])
                last = first + int(counts.sum())
                yield _Sampling(self.config, batch, counts, places[first:last])
                first = last

        return searchers.map(_sample, tasks())

    def _write_run(self, test: pa.Table, searchers: Searchers | None, progress: Progress) -> None:
        with ExitStack() as stack:
            writer = stack.enter_context(tables.TableWriter(self.candidates / tables.RUN.filename, tables.RUN))
            trec = stack.enter_context(atomic_write(self.candidates / "run.trec"))
            batches = _batches(test)
            tasks = [(batch.texts, self.config.test_depth) for batch in batches]
            for queries, found in zip(batches, searchers.map(search, tasks) if searchers else (), strict=True):
                columns: dict[str, list[Any]] = {name: [] for name in tables.RUN.schema.names}
                for query_id, (hits, scores) in zip(queries.ids, found, strict=True):
                    self.counts["without_hits"] += not hits
                    columns["query_id"] += [query_id] * len(hits)
                    columns["doc_id"] += hits
                    columns["rank"] += range(1, len(hits) + 1)
                    columns["score"] += scores.astype(np.float64).tolist()
                writer.write(columns)
                rows = zip(*columns.values(), strict=True)
                trec.write(
                    "".join(f"{query} Q0 {doc} {rank} {score:.6f} bm25\n" for query, doc, rank, score in rows).encode()
                )
                self.counts["run"] += len(columns["rank"])
                progress.advance(len(queries.ids))


def _shown(text: str) -> str:
    """Return a text on one line, shortened."""
    line = " ".join(text.split())
    return repr(line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…")


@dataclass(frozen=True)
class _Queries:
    """The queries of one search."""

    ids: list[str]
    texts: list[str]


def _batches(table: pa.Table) -> list[_Queries]:
    """None of them empty."""
    columns = table.column("query_id").to_pylist(), table.column("text").to_pylist()
    starts = range(0, table.num_rows, QUERIES)
    return [_Queries(*(column[first : first + QUERIES] for column in columns)) for first in starts]


@dataclass(frozen=True)
class _Sampling:
    """Queries to sample negatives for, and the places of their relevant passages: ``counts`` for each, in order."""

    config: RetrieveConfig
    queries: _Queries
    counts: np.ndarray
    relevant: np.ndarray


def _sample(bm25: BM25, task: _Sampling) -> list[list[str]]:
    """Return a random sample of each query's hits without the relevant ones, in their order; the first hit before it where
    nothing is known to be relevant: most likely that is.

    Whether a hit is drawn depends on seed, query and passage, not on its rank: that moves with every change of the corpus.
    """
    found = [places for places, _ in bm25.find(task.queries.texts, task.config.depth)]
    sizes = np.array([len(places) for places in found])
    every = np.concatenate(found)
    # So many more than wanted that it does not matter how many of them are relevant.
    most = task.config.negatives + task.counts
    which, ranks = random_sample(task.config.seed, task.queries.ids, bm25.marks[every], sizes, most)
    hits = every[ranks]
    passages = len(bm25.doc_ids)
    queries = np.repeat(np.arange(len(sizes)), task.counts)
    negative = ~np.isin(which * passages + hits, queries * passages + task.relevant)
    which, ranks, hits = which[negative], ranks[negative], hits[negative]
    kept = np.arange(len(which)) - np.searchsorted(which, which) < task.config.negatives
    which, ranks, hits = which[kept], ranks[kept], hits[kept]
    order = np.lexsort((ranks, which))
    doc_ids = bm25.doc_ids.take(pa.array(hits[order])).to_pylist()
    ends = np.searchsorted(which, np.arange(len(sizes) + 1)).tolist()
    sampled = [doc_ids[first:last] for first, last in pairwise(ends)]
    for number in np.flatnonzero((task.counts == 0) & (sizes > 0)).tolist():
        best = bm25.doc_ids[int(found[number][0])].as_py()
        sampled[number] = [best, *(doc_id for doc_id in sampled[number] if doc_id != best)]
    return sampled
