"""Which of the generated queries are kept, and for what reason each of the others is dropped."""

from __future__ import annotations

import heapq
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from inranker_flow import cpus
from inranker_flow.artifacts import tables
from inranker_flow.config.retrieval import RetrieveConfig
from inranker_flow.config.sections import GenerateConfig
from inranker_flow.evaluation.leaks import Finder
from inranker_flow.generation.answers import query_in
from inranker_flow.retrieval.searchers import Searchers
from inranker_flow.retrieval.searching import PARALLEL_FROM, QUERIES, build_index, search
from inranker_flow.words import count, normal, spaced

log = logging.getLogger(__name__)

#: Anserini's.
_RETRIEVAL = RetrieveConfig()
#: Why a query is dropped, in the order in which it is asked. empty: the answer holds no query.
REASONS = ("empty", "too_short", "too_long", "copied", "leaked", "duplicate", "inconsistent", "improbable")
#: A query of fewer words that stands in its document is no copy: people search with such keywords.
_COPIED_WORDS = 4


@dataclass(frozen=True)
class Query:
    """The query ``number`` of a document; ``log_probability``: the mean over its tokens, None where it is not known."""

    doc_id: str
    number: int
    text: str
    log_probability: float | None = None


def first_line(text: str, chat: bool) -> str:
    """Return the query in a generated text (:func:`answers.query_in`); "" where it holds none."""
    return query_in(text, chat)


def keep(
    config: GenerateConfig,
    queries: Iterable[Query],
    documents: Mapping[str, str],
    tests: Sequence[str],
    collection: Path,
    retrieval: RetrieveConfig = _RETRIEVAL,
    others: Iterable[str] = (),
) -> tuple[list[Query], dict[str, int]]:
    """Return the queries to keep, sorted by document and number, and how many were dropped for which reason.

    ``documents``: doc_id -> text; ``tests``: texts of the collection's test queries; ``retrieval``: how a consistent query
    finds its document; ``others``: texts of queries that are kept beside these. Of equal queries the first is kept.
    """
    dropped = dict.fromkeys(REASONS, 0)
    reason = _one_by_one(config, documents, tests, set(map(normal, others)))
    kept = []
    for query in sorted(queries, key=lambda each: (each.doc_id, each.number)):
        why = reason(query)
        if why:
            dropped[why] += 1
        else:
            kept.append(query)
    if config.consistency_depth and kept:
        found = list(_finds_its_document(kept, collection, retrieval, config.consistency_depth))
        dropped["inconsistent"] = found.count(False)
        kept = [query for query, consistent in zip(kept, found, strict=True) if consistent]
    if config.keep_probable:
        best = set(
            heapq.nsmallest(config.keep_probable, range(len(kept)), key=lambda row: (-_probability(kept[row]), row))
        )
        dropped["improbable"] = len(kept) - len(best)
        kept = [query for row, query in enumerate(kept) if row in best]
    return kept, dropped


def keep_logged(logged: pa.Table, tests: Sequence[str], leak_similarity: float) -> tuple[pa.Table, dict[str, int]]:
    """Return the queries of a log (`tables.QUERIES`) to keep, and how many were dropped for which reason.

    Of equal queries the one with the smallest id is kept. Their lengths are as they are: people ask so.
    """
    leaks = Finder(tests, leak_similarity) if tests else None
    dropped = dict.fromkeys(("empty", "leaked", "duplicate"), 0)
    logged = logged.sort_by("query_id")
    seen: set[str] = set()
    kept = []
    for query in logged.column("text").to_pylist():
        text = normal(query)
        why = "" if text else "empty"
        why = why or ("leaked" if leaks and next(leaks.find(query), None) else "duplicate" if text in seen else "")
        seen.add(text)
        kept.append(not why)
        if why:
            dropped[why] += 1
    return logged.filter(pa.array(kept, pa.bool_())), dropped


def _one_by_one(
    config: GenerateConfig, documents: Mapping[str, str], tests: Sequence[str], seen: set[str]
) -> Callable[[Query], str]:
    """Return a function that says why a query is dropped, or ""."""
    leaks = Finder(tests, config.leak_similarity) if tests else None

    def reason(query: Query) -> str:
        text = normal(query.text)
        words = count(query.text)
        if not text:
            return "empty"
        if words < config.min_query_words:
            return "too_short"
        if config.max_query_words and words > config.max_query_words:
            return "too_long"
        if config.drop_copied and words >= _COPIED_WORDS and _holds(documents[query.doc_id], text):
            return "copied"
        if leaks and next(leaks.find(query.text), None):
            return "leaked"
        if text in seen:
            return "duplicate"
        seen.add(text)
        return ""

    return reason


def _probability(query: Query) -> float:
    assert query.log_probability is not None, "the backend was asked for it"
    return query.log_probability


def _holds(document: str, text: str) -> bool:
    """Return whether a document says a normal text word for word."""
    return f" {spaced(text)} " in f" {spaced(normal(document))} "


def _finds_its_document(
    queries: Sequence[Query], collection: Path, retrieval: RetrieveConfig, depth: int
) -> Iterator[bool]:
    """For each query whether BM25 has its document among the best ``depth``. Its index is gone when this ends, however."""

    folder = build_index(retrieval, collection, "generate_queries")
    much = len(queries) * tables.count(tables.CORPUS, collection) >= PARALLEL_FROM
    parts = [queries[first : first + QUERIES] for first in range(0, len(queries), QUERIES)]
    try:
        with Searchers(folder, retrieval, cpus.available() if much else 1) as searchers:
            hits = searchers.map(search, (([each.text for each in part], depth) for part in parts))
            for part, found in zip(parts, hits, strict=True):
                for query, (doc_ids, _) in zip(part, found, strict=True):
                    yield query.doc_id in doc_ids
    finally:
        shutil.rmtree(folder.parent, ignore_errors=True)
