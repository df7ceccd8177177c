"""Examples for a prompt from the corpus itself: its own training queries with a relevant document (Promptagator,
arXiv 2209.11755)."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from inranker_flow.artifacts import tables
from inranker_flow.corpora.documents import are_cut
from inranker_flow.corpora.passage import default_text
from inranker_flow.errors import CollectionFault
from inranker_flow.generation.prompts import Template
from inranker_flow.retrieval.judged_documents import ASIDE, as_passages
from inranker_flow.words import beginning

#: An example shows the form of a query, for which the beginning of a document is enough.
_WORDS = 80


def with_examples(template: Template, collection: Path, dataset: str, seed: int) -> Template:
    """Return the template with as many examples as it asks for, drawn by the seed from the train split; test queries are never
    shown.

    Raises :class:`CollectionFault` where the collection has too few training queries.
    """
    if not template.examples:
        return template
    queries = tables.read(tables.QUERIES, collection)
    queries = queries.filter(pc.equal(queries.column("origin"), "supervised"))
    texts = dict(zip(*(queries.column(name).to_pylist() for name in ("query_id", "text")), strict=True))
    qrels = tables.read(tables.QRELS, collection)
    qrels = qrels.filter(pc.greater(qrels.column("relevance"), 0))
    best: dict[str, tuple[int, str]] = {}
    for query_id, doc_id, relevance in zip(
        *(qrels.column(name).to_pylist() for name in tables.QRELS.schema.names), strict=True
    ):
        if query_id in texts:
            best[query_id] = max(best.get(query_id, (0, "")), (relevance, doc_id))
    drawn = sorted(best, key=lambda query_id: blake2b(query_id.encode(), key=str(seed).encode()).digest())
    drawn = drawn[: template.examples]
    if len(drawn) < template.examples:
        raise CollectionFault(
            f"generation.prompt: {template.name} shows {template.examples} of the corpus's own queries, and {dataset} has "
            f"{len(drawn)} judged training queries; lower `examples`, or use a prompt without them, such as inpars-v1",
            code="prompt-examples",
        )
    relevant = {query_id: {best[query_id][1]: "positive"} for query_id in drawn}
    if are_cut(collection):
        relevant = as_passages(collection, relevant, texts)
    shown = {query_id: next(each for each, role in relevant[query_id].items() if role != ASIDE) for query_id in drawn}
    documents = _beginnings(collection, set(shown.values()))
    return template.showing([(documents[shown[query_id]], " ".join(texts[query_id].split())) for query_id in drawn])


def _beginnings(collection: Path, wanted: set[str]) -> dict[str, str]:

    ids, found = pa.array(sorted(wanted), pa.string()), {}
    for batch in tables.read_batches(tables.CORPUS, collection):
        batch = batch.filter(pc.is_in(batch.column("doc_id"), value_set=ids))
        for doc_id, title, text in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            found[doc_id] = " ".join(beginning(default_text(title, text), _WORDS).split())
    return found
