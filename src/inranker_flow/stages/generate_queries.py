"""The stage `generate_queries`: sample documents, have a language model ask for each, drop what is of no use."""

from __future__ import annotations

import logging
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from inranker_flow.artifacts import tables
from inranker_flow.artifacts.manifest import read_manifest, write_manifest
from inranker_flow.config.parsing import deciding
from inranker_flow.config.retrieval import RetrieveConfig
from inranker_flow.config.sections import CorpusConfig, GenerateConfig
from inranker_flow.corpora.documents import documents_of
from inranker_flow.errors import CollectionFault
from inranker_flow.generation import conflicts, filters, held_out, prompts
from inranker_flow.generation import documents as sampling
from inranker_flow.generation.backends import load_backend
from inranker_flow.generation.examples import with_examples
from inranker_flow.generation.filters import Query
from inranker_flow.generation.query_store import WrittenShards
from inranker_flow.generation.report import markdown
from inranker_flow.generation.useless import queries_of
from inranker_flow.progress import Progress
from inranker_flow.rankers.checkpoints import checkpoint_identity
from inranker_flow.retrieval.analyser import Analyser, in_language
from inranker_flow.scratch import scratch_folder
from inranker_flow.storage.local import atomic_write
from inranker_flow.store import sharing
from inranker_flow.store.sharing import Share
from inranker_flow.words import count as count_words

log = logging.getLogger(__name__)

#: Queries shown in the manifest, and how much of their documents.
_SAMPLES, _SAMPLE_CHARACTERS = 20, 200
#: Longer queries are counted together.
_LONGEST = 40
#: Answers that tell enough of a model to end the stage before the last is written.
_MANY_ANSWERS = 500
#: Settings on which the generated texts do not depend, though the kept ones do: for which documents, and what is kept.
_BESIDE = (
    *("documents", "sampling", "clusters", "min_document_words", "max_document_words", "shard_documents"),
    *("min_query_words", "max_query_words", "drop_copied", "leak_similarity", "consistency_depth", "max_unusable"),
    *("held_out", "held_out_for"),
)


@dataclass(frozen=True)
class GenerateStats:
    """``queries`` to train on, of ``generated`` ones for ``documents``, and how many were dropped for which reason (`filters`).

    ``empty``: answers without a query, such as a refusal or a thought that does not end.
    ``short_documents`` and ``long_documents`` were left out, ``cut_documents`` cut to the prompt's room.
    ``passed_through``: published synthetic queries of the collection. ``logged``: queries that people asked, among ``queries``;
    ``logged_dropped``: those of the log that are near copies of test queries, or repeated. ``held_out``: those kept that are not
    trained on, but measured by. ``resumed_documents``: what was written for them was in the store, of an earlier run or a
    killed attempt; ``tokens`` were generated in this process.
    """

    documents: int
    generated: int
    queries: int
    empty: int = 0
    too_short: int = 0
    too_long: int = 0
    copied: int = 0
    leaked: int = 0
    duplicate: int = 0
    inconsistent: int = 0
    improbable: int = 0
    short_documents: int = 0
    long_documents: int = 0
    cut_documents: int = 0
    passed_through: int = 0
    logged: int = 0
    logged_dropped: int = 0
    held_out: int = 0
    resumed_documents: int = 0
    tokens: int = 0
    tokens_per_second: float = 0.0


@dataclass(frozen=True)
class ShareStats:
    """The counts of a pod beside the one that writes the artifact; ``queries`` are those before filters."""

    documents: int
    queries: int
    tokens: int = 0
    tokens_per_second: float = 0.0


@dataclass(frozen=True)
class _Written:
    """The texts of this process."""

    documents: int
    generated: int
    tokens: int
    seconds: float
    versions: Mapping[str, str]

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class _Raw:
    queries: list[Query]
    cut_documents: int
    written: _Written


#: A collection that asks for nothing of its own.
_PLAIN = CorpusConfig(uri="", name="")
_ANSERINI = RetrieveConfig()


def generate_queries(
    config: GenerateConfig,
    collection: Path,
    queries: Path,
    report: Path | None = None,
    corpus: CorpusConfig = _PLAIN,
    retrieval: RetrieveConfig = _ANSERINI,
) -> GenerateStats:
    """Write the training ``queries`` of a collection: synthetic ones, each with the document that it was written for, those
    that people asked, or both (`CorpusConfig.queries`).

    ``corpus``: how the collection was given; its own prompt and number of documents go before those of ``config``.
    ``retrieval``: how the stage `retrieve` searches, for queries that must find their document.
    ``report``: the same for people, in Markdown. Which documents are drawn depends on ids, texts and seed, not on the order
    of the corpus. A collection that brings published synthetic queries with labels keeps those, and nothing is generated. A
    killed run, on whatever machine, continues after its last finished shard and ends with the same queries; for a document
    that was there before nothing is written again. Where several pods are at this work (`sharing`) this is the one that
    writes the artifact: it waits for nobody, and writes itself what nobody has put in the store. Raises :class:`UserError`
    for settings or a template that cannot work, where most answers are of no use, and where no query is left.
    """
    config = _of_corpus(config, corpus)
    dataset = read_manifest(collection).dataset
    known, published = _known(collection)
    tests = _texts_of(known, "test")
    shutil.rmtree(queries, ignore_errors=True)
    logged, useless = _logged(config, corpus, known, tests)
    asked = {"logged": logged.num_rows, "logged_dropped": sum(useless.values())}
    wanted = config.held_out if config.held_out_for == "all" or not tests else 0
    if published.num_rows or corpus.queries == "log":
        # Published labels are of all queries that came with them, so none of those is held out.
        logged = _split(config, wanted, logged, {}, collection)
        count = published.num_rows + logged.num_rows
        log.info("%s brings %s queries of its own: nothing to generate", dataset, f"{count:,}")
        counts = {"passed_through": published.num_rows, **(asked if corpus.queries != "synthetic" else {})}
        asked["held_out"] = _held_out(logged)
        counts |= {"held_out": asked["held_out"]} if asked["held_out"] else {}
        _write_output(queries, dataset, pa.concat_tables([published, logged]), report, {"counts": counts})
        return GenerateStats(0, 0, count - asked["held_out"], passed_through=published.num_rows, **asked)

    conflicts.check(config)
    if config.consistency_depth:
        Analyser(
            in_language(retrieval, corpus.language)
        )  # settings that do not exist are said before a model is loaded
    template, sample, shards = _plan(config, collection, dataset, sharing.of_this_pod())
    raw = _gathered(config, template, shards, _write(config, template, shards, dataset), dataset)
    # What the prompts could not show cannot have been copied from there.
    texts = sampling.Seen(sample.documents, config.max_document_tokens)
    searched = in_language(retrieval, corpus.language)
    kept, dropped = filters.keep(
        config, raw.queries, texts, tests, collection, searched, logged.column("text").to_pylist()
    )
    if not kept:
        raise CollectionFault(
            f"{config.writer}: none of its {len(raw.queries)} queries for {dataset} can be used ({_sentence(dropped)}); "
            "try another checkpoint or generation.prompt, or milder filters",
            code="queries-useless",
        )
    log.info("%s queries kept of %s (%s)", f"{len(kept):,}", f"{len(raw.queries):,}", _sentence(dropped))
    written = _split(config, wanted, pa.concat_tables([_table(kept), logged]), texts, collection)
    held = _held_out(written)
    stats = GenerateStats(
        documents=len(sample.documents),
        generated=len(raw.queries),
        queries=written.num_rows - held,
        **asked,
        held_out=held,
        short_documents=sample.short,
        long_documents=sample.long,
        cut_documents=raw.cut_documents,
        resumed_documents=len(sample.documents) - raw.written.documents,
        tokens=raw.written.tokens,
        tokens_per_second=raw.written.tokens_per_second,
        **dropped,
    )
    told = {"lengths": _lengths(kept), "samples": _samples(kept, texts)}
    _write_output(queries, dataset, written, report, {**_details(config, template, raw.written, stats), **told})
    shards.done()
    return stats


def _details(
    config: GenerateConfig, template: prompts.Template, written: _Written, stats: GenerateStats
) -> dict[str, Any]:
    """Return what the queries were written by, and how many there were on the way."""
    counted = (
        *("documents", "generated", "queries"),
        *(("held_out",) if stats.held_out else ()),
        *(("logged", "logged_dropped") if stats.logged else ()),
        *filters.REASONS,
        *("short_documents", "long_documents", "cut_documents"),
    )
    return {
        "generator": config.writer,
        "revision": config.revision,
        "backend": config.backend,
        "versions": dict(written.versions),
        "prompt": template.name,
        "prompt_digest": template.digest,
        "sampling": _sampling(config),
        "tokens_per_second": round(stats.tokens_per_second, 1),
        "counts": {name: getattr(stats, name) for name in counted},
    }


def help_generate(config: GenerateConfig, collection: Path, corpus: CorpusConfig, worker: int) -> ShareStats:
    """Write a share of the queries that `generate_queries` is asked for, as pod ``worker`` (from 1), then of what is left.

    They go into the store, where `generate_queries` finds and filters them; this pod ends when nothing is missing there.
    Raises :class:`UserError` as `generate_queries` does.
    """
    share = sharing.of_this_pod(worker)
    config = _of_corpus(config, corpus)
    dataset = read_manifest(collection).dataset
    if _known(collection)[1].num_rows or corpus.queries == "log":
        return ShareStats(0, 0)
    conflicts.check(config)
    template, sample, shards = _plan(config, collection, dataset, share)
    if shards.known == len(sample.documents):
        return ShareStats(0, 0)
    written = _write(config, template, shards, dataset)
    return ShareStats(written.documents, written.generated, written.tokens, written.tokens_per_second)


def _of_corpus(config: GenerateConfig, corpus: CorpusConfig) -> GenerateConfig:
    """With what the collection asks for itself."""
    return replace(config, prompt=corpus.prompt or config.prompt, documents=corpus.documents or config.documents)


def _known(collection: Path) -> tuple[pa.Table, pa.Table]:
    """Return the collection's queries; and the synthetic ones among them, where they were published with labels."""
    known = tables.read(tables.QUERIES, collection)
    labelled = (collection / tables.LABELS.filename).exists()
    return known, known.filter(pc.equal(known.column("origin"), "synthetic")) if labelled else known.slice(0, 0)


def _texts_of(queries: pa.Table, origin: str) -> list[str]:
    return list(queries.filter(pc.equal(queries.column("origin"), origin)).column("text").to_pylist())


def _logged(
    config: GenerateConfig, corpus: CorpusConfig, known: pa.Table, tests: Sequence[str]
) -> tuple[pa.Table, dict[str, int]]:
    """Return the queries that people asked, without near copies of ``tests``, and how many were dropped for which reason."""
    logged = known.filter(pc.equal(known.column("origin"), "log"))
    kept, dropped = filters.keep_logged(logged, tests, config.leak_similarity)
    if logged.num_rows:
        log.info("%s queries of the log kept of %s (%s)", f"{len(kept):,}", f"{len(logged):,}", _sentence(dropped))
    if corpus.queries == "log" and not kept.num_rows:
        raise CollectionFault(
            f"{corpus.name}: queries: log, but none of its {len(logged):,} queries without judgements can be used "
            f"({_sentence(dropped)}); name a file with the setting log, or set queries: synthetic",
            code="queries-useless",
        )
    return kept, dropped


def _split(
    config: GenerateConfig, wanted: int, queries: pa.Table, texts: Mapping[str, str], collection: Path
) -> pa.Table:
    """Hold out ``wanted`` of the queries that were kept."""
    if not wanted or not queries.num_rows:
        return queries
    document_of = documents_of(collection, filter(None, queries.column("source_doc_id").to_pylist()))
    return held_out.split(queries, wanted, texts, document_of, config.leak_similarity)


def _held_out(queries: pa.Table) -> int:
    return int(pc.sum(pc.equal(queries.column("origin"), held_out.ORIGIN)).as_py() or 0)


def _plan(
    config: GenerateConfig, collection: Path, dataset: str, share: Share
) -> tuple[prompts.Template, sampling.Sample, WrittenShards]:
    """Return the prompt, the documents that queries are written for, and what of it is there already."""
    template = prompts.NONE
    if config.backend != "crop":
        template = with_examples(prompts.load(config.prompt), collection, dataset, config.seed)
    sample = sampling.sample(config, collection)
    if not sample.documents:
        raise CollectionFault(_nothing_to_ask(config, collection, dataset, sample), code="nothing-to-ask")
    identity = _identity(config, template)
    aside = scratch_folder("generate_queries", identity, read_manifest(collection).content)
    return template, sample, WrittenShards(identity, sample.documents, config.shard_documents, aside, share)


def _write_output(
    queries: Path, dataset: str, table: pa.Table, report: Path | None, details: Mapping[str, Any]
) -> None:
    """Queries, then what is told of them."""
    tables.write(tables.QUERIES, queries / tables.QUERIES.filename, table)
    if report is not None:
        with atomic_write(report) as out:
            out.write(markdown(dataset, details).encode())
    write_manifest(queries, dataset=dataset, stage="generate_queries", **details)


def _nothing_to_ask(config: GenerateConfig, collection: Path, dataset: str, sample: sampling.Sample) -> str:
    if not sample.short + sample.long:
        return f"{collection}: {dataset} has no documents to write queries for; give a collection with documents"
    least, most = config.min_document_words, config.max_document_words
    told = f"{collection}: no document of {dataset} has {least} words or more ({sample.short} are shorter"
    if most:
        return (
            f"{told}, {sample.long} have more than {most}); change generation.min_document_words or max_document_words"
        )
    return f"{told}); lower generation.min_document_words"


def _identity(config: GenerateConfig, template: prompts.Template) -> list[Any]:
    """Return the identity of the texts for a document, besides the document."""
    if config.backend == "crop":
        return [{name: getattr(config, name) for name in ("backend", "crop", "queries_per_document", "seed")}]
    served = config.backend == "openai"
    identity = config.checkpoint if served else checkpoint_identity(config.checkpoint, config.revision)
    plain = {name: value for name, value in deciding(config).items() if name not in _BESIDE}
    # Whether log-probabilities are asked for is in the texts' table, how many are kept is not.
    plain["keep_probable"] = bool(config.keep_probable)
    del plain["crop"]
    if not config.request_fields:
        del plain["request_fields"]  # what was written before there were any stays known
    return [plain, template.digest, identity]


def _write(config: GenerateConfig, template: prompts.Template, shards: WrittenShards, dataset: str) -> _Written:
    """Generate shard by shard; the seed of a shard depends on its number alone, so an interruption changes nothing."""

    backend = load_backend(config, template)
    progress = Progress("writing queries", len(shards.documents), "documents")
    progress.resume(shards.known)
    documents = generated = tokens = 0
    start = time.monotonic()
    for number, rows in shards.to_write():
        part = shards.documents[rows]
        written = backend.generate(sampling.Texts(part), _seed(config.seed, number), progress.advance)
        table = pa.table(
            {
                "doc_id": [each.doc_id for each, texts in zip(part, written.texts, strict=True) for _ in texts],
                "number": [position for texts in written.texts for position in range(len(texts))],
                "text": [text for texts in written.texts for text in texts],
                "log_probability": pa.array(_flat(written.log_probabilities, written.texts), pa.float64()),
                "cut": [cut for texts, cut in zip(written.texts, written.cut, strict=True) for _ in texts],
            }
        )
        shards.save(number, table)
        documents, generated, tokens = documents + len(part), generated + table.num_rows, tokens + written.tokens
        if table.num_rows >= _MANY_ANSWERS:  # not after the last document of many
            queries_of(config, template, [table], dataset)
    seconds = time.monotonic() - start
    progress.finish()
    return _Written(documents, generated, tokens, seconds if tokens else 0.0, backend.versions)


def _gathered(
    config: GenerateConfig, template: prompts.Template, shards: WrittenShards, written: _Written, dataset: str
) -> _Raw:
    """Return all that was written, by whomever, in the order of the shards."""
    parts = [shards.load(number) for number, _ in shards]
    return _Raw(
        queries=queries_of(config, template, parts, dataset),
        cut_documents=sum(
            pc.count_distinct(table.filter(table.column("cut")).column("doc_id")).as_py() for table in parts
        ),
        written=written,
    )


def _flat(means: list[list[float]] | None, texts: list[list[str]]) -> list[float | None]:
    if means is None:
        return [None for each in texts for _ in each]
    return [mean for each in means for mean in each]


def _seed(seed: int, shard: int) -> int:
    return int.from_bytes(blake2b(f"{seed}/{shard}".encode(), digest_size=4).digest(), "big")


def _table(kept: Sequence[Query]) -> pa.Table:
    rows = {
        "query_id": [f"{each.doc_id}#q{each.number}" for each in kept],
        "text": [each.text for each in kept],
        "origin": ["synthetic"] * len(kept),
        "source_doc_id": [each.doc_id for each in kept],
    }
    return pa.table(rows, schema=tables.QUERIES.schema)


def _sampling(config: GenerateConfig) -> dict[str, Any]:
    """Return the settings by which texts were drawn."""
    names = (
        "temperature",
        "top_p",
        "max_new_tokens",
        "queries_per_document",
        "max_document_tokens",
        "sampling",
        "seed",
    )
    return {name: getattr(config, name) for name in names}


def _lengths(kept: Sequence[Query]) -> dict[str, int]:
    """Return words of a query -> how many have so many."""
    counts = Counter(min(count_words(each.text), _LONGEST) for each in kept)
    return {f"{words}+" if words == _LONGEST else str(words): counts[words] for words in sorted(counts)}


def _samples(kept: Sequence[Query], texts: Mapping[str, str]) -> list[dict[str, str]]:
    """Return a few queries, spread over the whole, beside the beginnings of their documents."""
    step = max(len(kept) // _SAMPLES, 1)
    return [
        {"query": each.text, "doc_id": each.doc_id, "document": texts[each.doc_id][:_SAMPLE_CHARACTERS]}
        for each in kept[::step][:_SAMPLES]
    ]


def _sentence(counts: Mapping[str, int]) -> str:
    told = ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in counts.items() if count)
    return f"{told or 'none'} dropped"
