"""The stage `generate_queries`: sample documents, have a language model ask for each, drop what is of no use."""

from __future__ import annotations

import heapq
import logging
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from inranker_flow import schemas
from inranker_flow.config import GenerateConfig, as_dict
from inranker_flow.errors import UserError
from inranker_flow.generation import prompts
from inranker_flow.manifest import read_manifest, write_manifest
from inranker_flow.progress import Progress
from inranker_flow.scratch import scratch_folder
from inranker_flow.shards import Shards

log = logging.getLogger(__name__)

#: Queries shown in the manifest, and how much of their documents.
_SAMPLES, _SAMPLE_CHARACTERS = 20, 200


@dataclass(frozen=True)
class GenerateStats:
    """``queries`` kept of ``generated`` ones, and why the others were dropped.

    ``leaked``: equal to a test query. ``short_documents`` have fewer than ``min_document_words`` words.
    ``passed_through``: published synthetic queries of the collection. ``tokens`` were generated in this process.
    """

    documents: int
    generated: int
    queries: int
    empty: int = 0
    duplicate: int = 0
    leaked: int = 0
    short_documents: int = 0
    passed_through: int = 0
    resumed_documents: int = 0
    tokens: int = 0
    tokens_per_second: float = 0.0


@dataclass(frozen=True)
class _Document:
    doc_id: str
    text: str


@dataclass(frozen=True)
class _Raw:
    """``texts``: (doc_id, number of the query for this document, text as generated)."""

    texts: list[tuple[str, int, str]]
    resumed_documents: int
    tokens: int
    seconds: float


def generate_queries(config: GenerateConfig, collection: Path, queries: Path) -> GenerateStats:
    """Write the synthetic ``queries`` of a collection, each with the document that it was written for.

    Documents are drawn uniformly; which ones depends on ids and seed, not on the order of the corpus. A collection that
    brings published synthetic queries with labels keeps those, and nothing is generated. A killed run continues after
    its last finished shard and ends with the same queries. Raises :class:`UserError` for settings or a template that
    cannot work, and where no query is left.
    """
    dataset = read_manifest(collection).dataset
    known = schemas.read(schemas.QUERIES, collection)
    published = known.filter(pc.equal(known.column("origin"), "synthetic"))
    shutil.rmtree(queries, ignore_errors=True)
    if published.num_rows and (collection / schemas.LABELS.filename).exists():
        log.info("%s brings %s published synthetic queries: nothing to generate", dataset, f"{published.num_rows:,}")
        schemas.write(schemas.QUERIES, queries / schemas.QUERIES.filename, published)
        write_manifest(
            queries, dataset=dataset, stage="generate_queries", counts={"passed_through": published.num_rows}
        )
        return GenerateStats(0, 0, published.num_rows, passed_through=published.num_rows)

    _check(config)
    template = prompts.load(config.prompt)
    documents, short = _sample(config, collection)
    if not documents:
        raise UserError(
            f"{collection}: no document of {dataset} has {config.min_document_words} words or more "
            f"({short} are shorter); lower generation.min_document_words"
        )
    shards = Shards(_scratch(config, template, collection), len(documents), config.shard_documents)
    raw = _write(config, template, documents, shards)
    tests = known.filter(pc.equal(known.column("origin"), "test")).column("text").to_pylist()
    kept, dropped = _clean(raw.texts, {_normal(text) for text in tests})
    if not kept:
        raise UserError(
            f"{config.checkpoint}: none of its {len(raw.texts)} queries for {dataset} can be used ({_sentence(dropped)}); "
            "try another checkpoint or generation.prompt"
        )
    log.info("%s queries kept of %s (%s)", f"{len(kept):,}", f"{len(raw.texts):,}", _sentence(dropped))
    rows = {
        "query_id": [f"{doc_id}#q{number}" for doc_id, number, _ in kept],
        "text": [text for _, _, text in kept],
        "origin": ["synthetic"] * len(kept),
        "source_doc_id": [doc_id for doc_id, _, _ in kept],
    }
    schemas.write(schemas.QUERIES, queries / schemas.QUERIES.filename, pa.table(rows, schema=schemas.QUERIES.schema))
    write_manifest(
        queries,
        dataset=dataset,
        stage="generate_queries",
        generator=config.checkpoint,
        revision=config.revision,
        prompt=config.prompt,
        prompt_digest=template.digest,
        counts={
            "documents": len(documents),
            "generated": len(raw.texts),
            "queries": len(kept),
            "short_documents": short,
            **dropped,
        },
        samples=_samples(kept, documents),
    )
    shards.remove()
    return GenerateStats(
        documents=len(documents),
        generated=len(raw.texts),
        queries=len(kept),
        short_documents=short,
        resumed_documents=raw.resumed_documents,
        tokens=raw.tokens,
        tokens_per_second=raw.tokens / raw.seconds if raw.seconds else 0.0,
        **dropped,
    )


def _check(config: GenerateConfig) -> None:
    """Settings that cannot work, before a model is loaded."""
    if config.queries_per_document > 1 and not config.temperature:
        raise UserError(
            f"generation.temperature: 0 writes the same query each time, but queries_per_document is "
            f"{config.queries_per_document}; set a temperature such as 0.7"
        )
    for name in ("documents", "queries_per_document", "max_document_tokens", "max_new_tokens", "batch_size"):
        if getattr(config, name) < 1:
            raise UserError(f"generation.{name}: {getattr(config, name)} must be 1 or more")
    if config.temperature < 0 or not 0 < config.top_p <= 1:
        raise UserError("generation: temperature must be 0 or more, and top_p above 0 and at most 1")


def _sample(config: GenerateConfig, collection: Path) -> tuple[list[_Document], int]:
    """The ``config.documents`` documents with the smallest keyed hashes of their ids, in that order; short ones counted.

    One pass over the corpus, and no more texts in memory than are sampled.
    """
    from inranker_flow.corpora import default_text

    words, short = config.min_document_words, 0
    heap: list[tuple[int, str, str]] = []  # of the negated hashes: the first is the next to leave
    for batch in schemas.read_batches(schemas.CORPUS, collection):
        for doc_id, title, body in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            text = " ".join(default_text(title, body).split())
            if not text or len(text.split(" ", words)) < words:
                short += 1
                continue
            item = (-_hash(config.seed, doc_id), doc_id, text)
            if len(heap) < config.documents:
                heapq.heappush(heap, item)
            elif item > heap[0]:
                heapq.heapreplace(heap, item)
    return [_Document(doc_id, text) for _, doc_id, text in sorted(heap, reverse=True)], short


def _hash(seed: int, doc_id: str) -> int:
    return int.from_bytes(blake2b(doc_id.encode(), digest_size=8, key=str(seed).encode()).digest(), "big")


def _scratch(config: GenerateConfig, template: prompts.Template, collection: Path) -> Path:
    from inranker_flow.rankers.checkpoints import checkpoint_identity

    corpus = read_manifest(collection).files.get(schemas.CORPUS.filename, "")
    identity = checkpoint_identity(config.checkpoint, config.revision)
    return scratch_folder("generate_queries", as_dict(config), template.digest, identity, corpus)


def _write(config: GenerateConfig, template: prompts.Template, documents: list[_Document], shards: Shards) -> _Raw:
    """Generate shard by shard; the seed of a shard depends on its number alone, so an interruption changes nothing."""
    from inranker_flow.generation.backends import load_backend

    found = {number: table for number, _ in shards if (table := shards.load(number)) is not None}
    todo = [(number, rows) for number, rows in shards if number not in found]
    resumed = len(documents) - sum(rows.stop - rows.start for _, rows in todo)
    backend = load_backend(config)
    progress = Progress("writing queries", len(documents), "documents")
    progress.resume(resumed)
    tokens, start = 0, time.monotonic()
    for number, rows in todo:
        part = documents[rows]
        cut = backend.cut([each.text for each in part], config.max_document_tokens)
        written = backend.generate([template.fill(text) for text in cut], _seed(config.seed, number), progress.advance)
        tokens += written.tokens
        found[number] = pa.table(
            {
                "doc_id": [each.doc_id for each, texts in zip(part, written.texts, strict=True) for _ in texts],
                "number": [position for texts in written.texts for position in range(len(texts))],
                "text": [text for texts in written.texts for text in texts],
            }
        )
        shards.save(number, found[number])
    seconds = time.monotonic() - start
    progress.finish()
    texts = [row for number, _ in shards for row in _rows(found[number])]
    return _Raw(texts, resumed, tokens, seconds if tokens else 0.0)


def _rows(table: pa.Table) -> Iterator[tuple[str, int, str]]:
    yield from zip(*(table.column(name).to_pylist() for name in ("doc_id", "number", "text")), strict=True)


def _seed(seed: int, shard: int) -> int:
    return int.from_bytes(blake2b(f"{seed}/{shard}".encode(), digest_size=4).digest(), "big")


def _normal(text: str) -> str:
    """Two queries with the same normal form are the same query."""
    return " ".join(text.split()).casefold()


def _clean(raw: list[tuple[str, int, str]], tests: set[str]) -> tuple[list[tuple[str, int, str]], dict[str, int]]:
    """Queries to keep, sorted by document and number, and the count of each reason to drop one.

    Of equal queries the first is kept; one that equals a test query would leak the test set into training.
    """
    dropped = {"empty": 0, "duplicate": 0, "leaked": 0}
    kept, seen = [], set()
    for doc_id, number, text in sorted(raw):
        query = " ".join(text.partition("\n")[0].split())
        normal = _normal(query)
        reason = "empty" if not normal else "leaked" if normal in tests else "duplicate" if normal in seen else ""
        if reason:
            dropped[reason] += 1
            continue
        seen.add(normal)
        kept.append((doc_id, number, query))
    return kept, dropped


def _samples(kept: list[tuple[str, int, str]], documents: list[_Document]) -> list[dict[str, str]]:
    """A few queries, spread over the whole, beside the beginnings of their documents."""
    texts = {each.doc_id: each.text for each in documents}
    step = max(len(kept) // _SAMPLES, 1)
    return [
        {"query": query, "doc_id": doc_id, "document": texts[doc_id][:_SAMPLE_CHARACTERS]}
        for doc_id, _, query in kept[::step][:_SAMPLES]
    ]


def _sentence(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.items()) + " dropped"
