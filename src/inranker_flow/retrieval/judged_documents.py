"""Training queries whose judgements name documents that were cut: which passage is the relevant one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from inranker_flow.artifacts import tables
from inranker_flow.corpora.documents import documents_of, passages_of
from inranker_flow.corpora.passage import default_text
from inranker_flow.words import terms

#: Of a passage of a relevant document: no pair of it is made, and it is no negative.
ASIDE = "aside"


def as_passages(
    collection: Path, relevant: Mapping[str, Mapping[str, str]], texts: Mapping[str, str]
) -> dict[str, dict[str, str]]:
    """Return ``relevant`` (query -> passage or document -> role) with passages in place of documents.

    The passage with most of the query's words (``texts``) has the document's role, the first of equal ones; the others have
    the role `ASIDE`.
    """
    names = {each for roles in relevant.values() for each in roles}
    # A passage may be called as its document is; then the passage is meant, as in the evaluation.
    parts = passages_of(collection, names - documents_of(collection, names).keys())
    words = _words(collection, {passage for each in parts.values() for passage in each})
    found: dict[str, dict[str, str]] = {}
    for query_id, roles in relevant.items():
        asked = set(terms(texts[query_id]))
        mine: dict[str, str] = {}
        for name, role in roles.items():
            own = parts.get(name, [name])
            best = max(own, key=lambda passage: len(asked & words.get(passage, frozenset())))  # the first of equal ones
            for passage in own:
                if passage == best or passage not in mine:
                    mine[passage] = role if passage == best else ASIDE
        found[query_id] = mine
    return found


def _words(collection: Path, passages: set[str]) -> dict[str, frozenset[str]]:
    wanted, found = pa.array(sorted(passages), pa.string()), {}
    for batch in tables.read_batches(tables.CORPUS, collection) if passages else ():
        batch = batch.filter(pc.is_in(batch.column("doc_id"), value_set=wanted))
        for passage, title, text in zip(*(each.to_pylist() for each in batch.columns), strict=True):
            found[passage] = frozenset(terms(default_text(title, text)))
    return found


def judged_relevant(collection: Path) -> dict[str, set[str]]:
    """Return the judged test queries of a collection, each with what is judged relevant to it, passages or documents."""
    queries = tables.read(tables.QUERIES, collection)
    test = queries.filter(pc.equal(queries.column("origin"), "test")).column("query_id").combine_chunks()
    found: dict[str, set[str]] = {}
    for batch in tables.read_batches(tables.QRELS, collection) if len(test) else ():
        batch = batch.filter(pc.is_in(batch.column("query_id"), value_set=test))
        for query_id, doc_id, grade in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            found.setdefault(query_id, set()).update([doc_id] if grade > 0 else [])
    return found
