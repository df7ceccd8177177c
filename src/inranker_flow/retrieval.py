"""First stage: BM25 candidates for the test queries, and for each training query the pairs that the teacher labels.

BM25 is bm25s' "lucene" variant: its formula, tokens and stop words, and the Snowball stemmer. The index is built here
from flat arrays, in about 20 bytes a posting, where bm25s' own builder needs Python lists of the whole corpus.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain
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

log = logging.getLogger(__name__)

#: Queries that are searched, and rows that are held, at a time.
QUERIES = 256
#: bm25s' tokens: two or more word characters (its ``tokenize`` and scikit-learn's default).
TOKEN = re.compile(r"(?u)\b\w\w+\b")


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
    #: Training queries without pairs: nothing judged relevant; labels published already.
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

    Training queries are those of ``queries``, else the collection's own; those that have published labels get no pairs.
    The run holds the best ``test_depth`` passages of each test query; a passage that shares no token with the query is
    no hit. Passages of equal score are ordered by doc_id, also at the cut.

    Raises :class:`UserError` where ``queries`` belongs to another data set or names a passage that is not there.
    """
    dataset = manifest.read_manifest(collection).dataset
    if queries is not None and (other := manifest.read_manifest(queries).dataset) != dataset:
        raise UserError(f"{queries}: holds queries for {other!r}, but the collection is {dataset!r}")
    candidates.mkdir(parents=True, exist_ok=True)
    (candidates / manifest.FILENAME).unlink(missing_ok=True)
    with storage.disk_errors(candidates):
        stats = _Retrieval(config, collection, queries, candidates).run()
        manifest.write_manifest(
            candidates,
            dataset=dataset,
            stage="retrieve",
            k1=config.k1,
            b=config.b,
            depth=config.depth,
            seed=config.seed,
        )
    return stats


# --- BM25 -------------------------------------------------------------------------------------------------------------


class Analyser:
    """Text to tokens: lower case, words of two or more characters, no stop words, stems."""

    def __init__(self, stopwords: str, stemmer: str) -> None:
        import bm25s
        import Stemmer

        try:
            self._stop = frozenset(bm25s.tokenization._infer_stopwords(stopwords) if stopwords else ())
        except ValueError as error:
            raise UserError(
                f"stopwords: bm25s has no list {stopwords!r}; english, german, ... or empty for none"
            ) from error
        try:
            self._stem: Callable[[str], str] = Stemmer.Stemmer(stemmer).stemWord if stemmer else str
        except KeyError as error:
            known = ", ".join(Stemmer.algorithms())
            raise UserError(f"stemmer: {stemmer!r} is not one of {known} (empty for none)") from error

    def words(self, text: str) -> list[str]:
        """Words before stop words and stemming, so that each distinct one need be looked at only once."""
        return TOKEN.findall(text.lower())

    def term(self, word: str) -> str:
        """The index term of a word; "" for a word that is not indexed."""
        # A stem can be empty, which bm25s would look up out of bounds.
        return "" if word in self._stop else self._stem(word)


class Index:
    """An inverted index of BM25 impacts over ``doc_ids``, which keep the order of the corpus."""

    def __init__(self, texts: Iterable[Iterable[str]], k1: float, b: float, analyser: Analyser) -> None:
        """Index batches of texts. Peak memory is about 20 bytes a posting (a term in a passage)."""
        from bm25s.scoring import _select_idf_scorer, _select_tfc_scorer

        self.analyser = analyser
        self._terms: dict[str, int] = {}
        self._words: dict[str, int] = {}
        lengths, chunks = [], []
        first = 0
        for batch in texts:
            ids, length = self._encode(batch)
            chunks.append(_postings(ids, length, first))
            lengths.append(length)
            first += len(length)
        self.documents = first
        length = np.concatenate(lengths) if lengths else np.empty(0, np.int32)
        frequency = np.zeros(len(self._terms), np.int64)
        for term, _, _ in chunks:
            frequency += np.bincount(term, minlength=len(self._terms))
        self._start = np.concatenate([[0], np.cumsum(frequency)])
        self._docs = np.empty(self._start[-1], np.int32)
        self._impacts = np.empty(self._start[-1], np.float32)
        idf_of, saturation = _select_idf_scorer("lucene"), _select_tfc_scorer("lucene")
        idf = np.array([idf_of(each, N=first) for each in frequency.tolist()], np.float32)
        mean = float(length.mean()) if first else 0.0
        heads = self._start[:-1].copy()
        while chunks:  # each chunk is ordered by term, so its terms go to the next free places of theirs
            term, doc, tf = chunks.pop(0)
            count = np.bincount(term, minlength=len(self._terms))
            begin = np.cumsum(count) - count
            place = np.arange(len(term)) + (heads - begin)[term]
            self._docs[place] = doc
            self._impacts[place] = idf[term] * saturation(tf, l_d=length[doc], l_avg=mean, k1=k1, b=b)
            heads += count

    def _encode(self, texts: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
        """Term ids of all texts, one after the other, and the number of terms of each."""
        words, terms, analyser = self._words, self._terms, self.analyser
        ids: list[list[int]] = []
        for text in texts:
            found = analyser.words(text)
            try:
                encoded = [words[word] for word in found]
            except KeyError:
                for word in found:
                    if word not in words:
                        term = analyser.term(word)
                        words[word] = terms.setdefault(term, len(terms)) if term else -1
                encoded = [words[word] for word in found]
            ids.append([each for each in encoded if each >= 0])
        length = np.fromiter(map(len, ids), np.int32, len(ids))
        return np.fromiter(chain.from_iterable(ids), np.int32, int(length.sum())), length

    def query(self, text: str) -> list[int]:
        """Term ids of a query, repeated terms as often as they occur; terms that no passage has are left out."""
        ids = []
        for word in self.analyser.words(text):
            if (known := self._words.get(word)) is None:  # no passage has this word, perhaps another of its stem
                known = self._terms.get(self.analyser.term(word), -1)
            if known >= 0:
                ids.append(known)
        return ids

    def scores(self, terms: list[int]) -> np.ndarray:
        """BM25 of every passage, shape (documents,) float32."""
        scores = np.zeros(self.documents, np.float32)
        for term in terms:
            span = slice(self._start[term], self._start[term + 1])
            scores[self._docs[span]] += self._impacts[span]  # a passage occurs once in a span
        return scores

    def search(self, text: str, depth: int, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The best ``depth`` hits as (positions, scores), by score and then by ``order`` (smaller first).

        Fewer where fewer passages share a term with the query.
        """
        scores = self.scores(self.query(text))
        hits = np.flatnonzero(scores > 0)  # of booleans: five times as fast as of floats
        values = scores[hits]
        if len(hits) > depth:
            # Everything that ties with the last place is kept until ties are resolved.
            at_least = np.partition(values, -depth)[-depth]
            hits = hits[values >= at_least]
            values = scores[hits]
        best = np.lexsort((order[hits], -values))[:depth]
        return hits[best], values[best]


def _postings(ids: np.ndarray, length: np.ndarray, first: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(term, document, occurrences) of one batch, ordered by term and then document."""
    document = np.repeat(np.arange(len(length), dtype=np.int64), length)
    keys, occurrences = np.unique(ids.astype(np.int64) * max(len(length), 1) + document, return_counts=True)
    term, document = np.divmod(keys, max(len(length), 1))
    return term.astype(np.int32), (document + first).astype(np.int32), occurrences.astype(np.float32)


# --- the stage --------------------------------------------------------------------------------------------------------


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
        self.analyser = Analyser(self.config.stopwords, self.config.stemmer)
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
        """Queries to find pairs for, and how many were left out because their labels are published."""
        if self.queries is None:
            table = self._collection_queries("supervised", "synthetic")
        else:
            table = schemas.read(schemas.QUERIES, self.queries)
        if not (self.collection / schemas.LABELS.filename).is_file():
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
        total = schemas.count(schemas.CORPUS, self.collection)
        progress = Progress("indexing", total, "documents")
        ids = []

        def texts() -> Iterator[Iterator[str]]:
            for batch in schemas.read_batches(schemas.CORPUS, self.collection):
                ids.append(batch.column("doc_id").cast(pa.large_string()))  # 10 million ids may pass 2 GB
                columns = (batch.column("title").to_pylist(), batch.column("text").to_pylist())
                yield map(default_text, *columns)
                progress.advance(batch.num_rows)

        self.index = Index(texts(), self.config.k1, self.config.b, self.analyser)
        self.doc_ids = pa.concat_arrays(ids)
        ascending = pc.sort_indices(self.doc_ids).to_numpy()
        self.order = np.empty(len(ascending), np.int32)
        self.order[ascending] = np.arange(len(ascending), dtype=np.int32)
        progress.finish()

    def _take(self, positions: np.ndarray) -> list[str]:
        return self.doc_ids.take(pa.array(positions)).to_pylist()

    def _known(self, relevant: Mapping[str, Mapping[str, str]]) -> None:
        """Passages that queries refer to must be in the collection."""
        wanted = pa.array({doc_id for roles in relevant.values() for doc_id in roles}, self.doc_ids.type)
        missing = wanted.filter(pc.invert(pc.is_in(wanted, value_set=self.doc_ids)))
        if len(missing):
            first = min(missing.to_pylist())
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
        positions, _ = self.index.search(text, self.config.depth, self.order)
        state = int.from_bytes(blake2b(f"{self.config.seed}\x1f{query_id}".encode(), digest_size=8).digest(), "little")
        drawn = np.argsort(_random(state, len(positions)), kind="stable")
        # So many more than wanted that it does not matter how many of them are relevant.
        drawn = drawn[: self.config.negatives + len(relevant)]
        sample = dict(zip(drawn.tolist(), self._take(positions[drawn]), strict=True))
        kept = [rank for rank, doc_id in sample.items() if doc_id not in relevant]
        return [sample[rank] for rank in sorted(kept[: self.config.negatives])]

    def _write_run(self, test: pa.Table, progress: Progress) -> None:
        with ExitStack() as stack:
            writer = stack.enter_context(schemas.TableWriter(self.candidates / schemas.RUN.filename, schemas.RUN))
            trec = stack.enter_context(storage.atomic_write(self.candidates / "run.trec"))
            for batch in test.to_batches(max_chunksize=QUERIES):
                columns: dict[str, list[Any]] = {name: [] for name in schemas.RUN.schema.names}
                for query_id, text in zip(
                    batch.column("query_id").to_pylist(), batch.column("text").to_pylist(), strict=True
                ):
                    positions, scores = self.index.search(text, self.config.test_depth, self.order)
                    self.counts["without_hits"] += not len(positions)
                    columns["query_id"] += [query_id] * len(positions)
                    columns["doc_id"] += self._take(positions)
                    columns["rank"] += range(1, len(positions) + 1)
                    columns["score"] += scores.astype(np.float64).tolist()
                writer.write(columns)
                rows = zip(*columns.values(), strict=True)
                trec.write(
                    "".join(f"{query} Q0 {doc} {rank} {score:.6f} bm25\n" for query, doc, rank, score in rows).encode()
                )
                self.counts["run"] += len(columns["rank"])
                progress.advance(batch.num_rows)


def _random(state: int, size: int) -> np.ndarray:
    """``size`` pseudo-random 64-bit numbers (SplitMix64), the same with every version of numpy."""
    with np.errstate(over="ignore"):
        z = np.uint64(state) + np.arange(1, size + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))
