"""The leak check: was a test query, or nearly it, among the queries that the students were trained on?

What leaks is a test query that is a training query (supervised or synthetic, of any training set): equal after
normalisation, or nearly equal by its letters. For each the judged relevant documents that were training pairs of that
very query are counted: with those the answer itself was shown. A judged document alone that is a training passage is no
leak: phase 2 trains on passages of the target corpus by design, with the teacher's labels and other queries. How many
are is in the summary all the same.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from inranker_flow.artifacts import tables
from inranker_flow.artifacts.manifest import read_manifest
from inranker_flow.corpora.passage import default_text
from inranker_flow.words import normal

log = logging.getLogger(__name__)

#: Letters in one shingle. Four tell words of one stem alike and different words apart.
_SHINGLE = 4
_PERMUTATIONS = 128
_MISSES = 1e-6
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class JudgedQuery:
    """A judged test query and its relevant documents."""

    dataset: str
    query_id: str
    text: str
    relevant: tuple[str, ...]


@dataclass(frozen=True)
class Leak:
    """A test query and the training query most like it in the training set ``trained_on``.

    ``judged_pairs``: relevant documents of the test query that the training set pairs with that training query.
    """

    dataset: str
    query_id: str
    text: str
    kind: Literal["exact", "near"]
    similarity: float
    trained_on: str
    origin: str
    training_query_id: str
    training_text: str
    judged_pairs: int = 0


@dataclass(frozen=True)
class Report:
    """``training_queries`` that were looked at; ``passages``: dataset -> relevant documents that are training passages
    of the same corpus (no leak)."""

    training_queries: int
    leaks: tuple[Leak, ...]
    passages: Mapping[str, int] = field(default_factory=dict)


def shingles(text: str) -> set[str]:
    """Return the sequences of four letters in a normal text, with a blank at either end."""
    padded = f" {text} "
    return {padded[i : i + _SHINGLE] for i in range(max(1, len(padded) - _SHINGLE + 1))}


class Finder:
    """Finds the test query most like a given text: equal, or with a Jaccard similarity of the shingles >= a bound.

    MinHash (datasketch) proposes, the exact similarity decides. Numbers must be the same: "iphone 11" is not nearly
    "iphone 12". A bound of 1 finds equal texts alone.
    """

    def __init__(self, texts: Sequence[str], similarity: float) -> None:
        self._similarity = similarity
        self._exact: dict[str, list[int]] = {}
        for number, text in enumerate(texts):
            self._exact.setdefault(normal(text), []).append(number)
        self._near: Any = None
        if similarity >= 1:
            return
        from datasketch import MinHashLSH

        self._shingles = {text: shingles(text) for text in self._exact}
        self._known = set().union(*self._shingles.values())
        self._near = MinHashLSH(num_perm=_PERMUTATIONS, params=_bands(similarity))
        for text, found in self._shingles.items():
            self._near.insert(text, _minhash(found))

    def find(self, text: str) -> Iterator[tuple[int, float]]:
        """Yield (position of the test query, similarity) of each that is like ``text``."""
        text = normal(text)
        for number in self._exact.get(text, ()):
            yield number, 1.0
        if self._near is None:
            return
        own = shingles(text)
        # What shares too few shingles with all test queries together is like none of them; most training queries.
        if len(own & self._known) < self._similarity * len(own):
            return
        numbers = sorted(_NUMBER.findall(text))
        for candidate in self._near.query(_minhash(own)):
            other = self._shingles[candidate]
            shared = len(own & other)
            similarity = shared / (len(own) + len(other) - shared)
            other_text = candidate != text and similarity >= self._similarity
            if other_text and sorted(_NUMBER.findall(candidate)) == numbers:
                yield from ((number, similarity) for number in self._exact[candidate])


def _bands(similarity: float) -> tuple[int, int]:
    """Return (bands, rows of each) for the LSH, with as many rows as miss a pair at the bound less often than `_MISSES`.

    The library's own choice weighs misses against false candidates; here a miss is a leak that nobody sees, and a false
    candidate costs one comparison.
    """
    rows = max(n for n in range(1, 33) if (1 - similarity**n) ** (_PERMUTATIONS // n) <= _MISSES)
    return _PERMUTATIONS // rows, rows


@cache
def _empty() -> Any:
    """Return the sketch of nothing: its permutations are drawn once, not for every query."""
    from datasketch import MinHash

    return MinHash(num_perm=_PERMUTATIONS, seed=1)


def _minhash(found: set[str]) -> Any:
    sketch = _empty().copy()
    sketch.update_batch([shingle.encode() for shingle in found])
    return sketch


def check(
    tests: Sequence[JudgedQuery], collections: Mapping[str, Path], labels: Sequence[Path], similarity: float
) -> Report:
    """Look for ``tests`` in the training sets ``labels``; ``collections``: dataset -> folder with the judged documents.

    One leak for each test query and training set, the most similar. Tables stream by.
    """
    if not tests:
        return Report(0, ())
    finder = Finder([test.text for test in tests], similarity)
    looked_at, leaks, passages = 0, [], {}
    for folder in labels:
        trained_on = read_manifest(folder).dataset
        best: dict[int, Leak] = {}
        for batch in tables.read_batches(tables.QUERIES, folder):
            looked_at += batch.num_rows
            columns = (batch.column(name).to_pylist() for name in ("query_id", "text", "origin"))
            for query_id, text, origin in zip(*columns, strict=True):
                for number, found in finder.find(text):
                    if number not in best or found > best[number].similarity:
                        best[number] = _leak(tests[number], found, trained_on, origin, query_id, text)
        leaks += _with_pairs({tests[number]: leak for number, leak in best.items()}, collections, folder)
        relevant = {doc for test in tests if test.dataset == trained_on for doc in test.relevant}
        if relevant:
            passages[trained_on] = len(relevant & _doc_ids(folder))
    for leak in leaks:
        log.warning("leak: test query %s of %s is in the training set %s", leak.query_id, leak.dataset, leak.trained_on)
    return Report(looked_at, tuple(sorted(leaks, key=lambda leak: (leak.dataset, leak.query_id))), passages)


def _leak(test: JudgedQuery, similarity: float, trained_on: str, origin: str, query_id: str, text: str) -> Leak:
    kind: Literal["exact", "near"] = "exact" if similarity == 1.0 and normal(text) == normal(test.text) else "near"
    return Leak(test.dataset, test.query_id, test.text, kind, similarity, trained_on, origin, query_id, text)


def _doc_ids(folder: Path) -> set[str]:
    found: set[str] = set()
    for batch in tables.read_batches(tables.CORPUS, folder):
        found.update(batch.column("doc_id").to_pylist())
    return found


def _with_pairs(found: Mapping[JudgedQuery, Leak], collections: Mapping[str, Path], folder: Path) -> list[Leak]:
    """Return the leaks with their judged pairs counted: documents are compared by text, ids of two corpora mean nothing."""
    if not found:
        return []
    queries = pa.array([leak.training_query_id for leak in found.values()], pa.string())
    trained: dict[str, set[str]] = {}
    for batch in tables.read_batches(tables.LABELS, folder):
        batch = batch.filter(pc.is_in(batch.column("query_id"), value_set=queries))
        for query_id, doc_id in zip(*(batch.column(c).to_pylist() for c in ("query_id", "doc_id")), strict=True):
            trained.setdefault(query_id, set()).add(doc_id)
    passages = _digests(folder, {doc for docs in trained.values() for doc in docs})
    relevant = {
        dataset: _digests(collection, {doc for test in found if test.dataset == dataset for doc in test.relevant})
        for dataset, collection in collections.items()
        if any(test.dataset == dataset for test in found)
    }
    counted = []
    for test, leak in found.items():
        shown = {passages[doc] for doc in trained.get(leak.training_query_id, ()) if doc in passages}
        judged = {relevant[test.dataset][doc] for doc in test.relevant if doc in relevant[test.dataset]}
        counted.append(replace(leak, judged_pairs=len(shown & judged)))
    return counted


def _digests(folder: Path, wanted: set[str]) -> dict[str, bytes]:
    """Return the document id -> digest of its normal text, for the ``wanted`` documents of a folder's corpus."""

    found: dict[str, bytes] = {}
    ids = pa.array(sorted(wanted), pa.string())
    for batch in tables.read_batches(tables.CORPUS, folder):
        batch = batch.filter(pc.is_in(batch.column("doc_id"), value_set=ids))
        for doc_id, title, text in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            found[doc_id] = blake2b(normal(default_text(title, text)).encode(), digest_size=16).digest()
    return found


def as_data(report: Report, similarity: float, labels: Sequence[Path]) -> dict[str, Any]:
    """Return the report as summary.json holds it; ``queries``: test queries that leaked, each counted once."""
    return {
        "queries": len({(leak.dataset, leak.query_id) for leak in report.leaks}),
        "found": [asdict(leak) for leak in report.leaks],
        "similarity": similarity,
        "training_sets": [read_manifest(folder).dataset for folder in labels],
        "training_queries": report.training_queries,
        "passages": dict(report.passages),
    }
