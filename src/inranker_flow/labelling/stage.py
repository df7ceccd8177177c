"""The stage `teacher_label`: plan the pairs into shards, score each once, pass published labels through."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from inranker_flow import earlier, schemas
from inranker_flow.config import TeacherConfig
from inranker_flow.content_store import combine
from inranker_flow.errors import CollectionFault, UserError
from inranker_flow.hashing import hash_rows
from inranker_flow.labelling.filter import keep_relevant
from inranker_flow.labelling.scoring import Scored, passages, places, score_missing, texts
from inranker_flow.labelling.store import LOGITS, Labels, label_identity, open_store
from inranker_flow.manifest import read_manifest, write_manifest
from inranker_flow.prompts import RENDERER_VERSION
from inranker_flow.scratch import scratch_folder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelStats:
    """``pairs`` with the teacher's labels, ``published`` ones passed through.

    ``reused_pairs`` were in the store: of an earlier run, a killed attempt or a process beside this one. The others were
    scored here, and ``tokens`` are those of their prompts; the rates are this process's.
    ``cut_queries``: queries too long for a prompt, which are cut to leave room for the passage.
    """

    queries: int
    documents: int
    pairs: int
    published: int
    tokens: int
    cut_queries: int
    reused_pairs: int
    pairs_per_second: float
    tokens_per_second: float
    #: Synthetic queries that are not among the `keep_queries` whose source document the teacher finds most relevant.
    dropped_queries: int = 0


def teacher_label(config: TeacherConfig, collection: Path, candidates: Path, labels: Path) -> LabelStats:
    """Write the training set ``labels``: queries, the labelled passages and both logits of every pair.

    ``candidates`` holds the pairs to score; published labels in ``collection`` are taken over unchanged. What is in the
    label store is not scored again, and what is scored is put there shard by shard: a killed run, on whatever machine,
    continues after its last one. Where nothing is missing the teacher is never loaded. Raises :class:`UserError` where
    ids do not match, or logits are not finite.
    """
    dataset = _dataset(collection, candidates)
    published = _published(collection)
    pairs = _pairs_to_score(candidates, published)
    if not pairs.num_rows and not published.num_rows:
        raise CollectionFault(
            f"{dataset}: no pairs to label and no published labels, so there is nothing to learn from: a source needs "
            "queries judged in its train split (qrels/train.tsv), a target needs documents to write queries for"
        )
    queries = _queries(collection, candidates, pairs, published)

    shutil.rmtree(labels, ignore_errors=True)
    schemas.write(schemas.QUERIES, labels / schemas.QUERIES.filename, queries)
    wanted = pc.unique(
        pa.chunked_array([*pairs.column("doc_id").chunks, *published.column("doc_id").chunks], pa.string())
    )
    doc_ids = _write_passages(collection, wanted, labels)
    del wanted
    for table, name in ((pairs, schemas.PAIRS), (published, schemas.LABELS)):
        where = str((collection if table is published else candidates) / name.filename)
        schemas.check_references(table, "doc_id", doc_ids, f"{collection}/corpus.parquet", where)

    identity: dict[str, Any] = {}
    scored, known, logits = Scored(), None, np.empty((0, 2))
    if pairs.num_rows:
        identity = label_identity(config)
        digests = [_digests(collection, schemas.CORPUS), _digests(candidates, schemas.QUERIES, schemas.PAIRS)]
        aside = scratch_folder("teacher_label", identity, digests)
        hashes = hash_rows(passages(labels))
        known = Labels(open_store(identity, aside), _content_keys(pairs, queries, doc_ids, hashes))
        log.info("%s of %s pairs are labelled already", f"{known.known_pairs:,}", f"{pairs.num_rows:,}")
        scored = score_missing(config, pairs, queries, doc_ids, labels, known, aside)
        logits = known.logits
    _write_labels(labels, pairs, logits, published)
    dropped = keep_relevant(labels, config.keep_queries)
    made = write_manifest(
        labels,
        dataset=dataset,
        stage="teacher_label",
        teacher=config.checkpoint if pairs.num_rows else "",
        revision=config.revision if pairs.num_rows else "",
        identity=identity,
        renderer=RENDERER_VERSION,
        counts={
            "pairs": pairs.num_rows,
            "published": published.num_rows,
            "queries": queries.num_rows,
            "dropped_queries": dropped,
        },
        **({"error_against_float32": scored.error} if scored.error else {}),
    )
    if known:
        drawn = read_manifest(candidates).details.get("drawn", {})
        earlier.remember(made.content, drawn, queries, pairs, doc_ids, hashes)
        known.store.compact()
        shutil.rmtree(aside, ignore_errors=True)
    return LabelStats(
        queries=queries.num_rows,
        documents=len(doc_ids),
        pairs=pairs.num_rows,
        published=published.num_rows,
        tokens=scored.tokens,
        cut_queries=scored.cut_queries,
        reused_pairs=pairs.num_rows - scored.pairs,
        pairs_per_second=scored.pairs_per_second,
        tokens_per_second=scored.tokens_per_second,
        dropped_queries=dropped,
    )


def _dataset(collection: Path, candidates: Path) -> str:
    names = [read_manifest(each).dataset for each in (collection, candidates)]
    if names[0] != names[1]:
        raise UserError(f"{candidates}: candidates of {names[1]!r} do not belong to the collection {names[0]!r}")
    return names[0]


def _digests(folder: Path, *tables: schemas.Table) -> list[str]:
    """Content digests of the tables in ``folder``; "" for one that is not there."""
    found = read_manifest(folder)
    return [found.files.get(table.filename, "") for table in tables]


def _published(collection: Path) -> pa.Table:
    if not (collection / schemas.LABELS.filename).exists():
        return schemas.LABELS.schema.empty_table()
    return schemas.read(schemas.LABELS, collection)


def _keys(table: pa.Table) -> pa.ChunkedArray:
    """One string for each (query_id, doc_id)."""
    return pc.binary_join_element_wise(table.column("query_id"), table.column("doc_id"), "\x1f")


def _pairs_to_score(candidates: Path, published: pa.Table) -> pa.Table:
    """The candidates' pairs without those that have a published label already."""
    pairs = schemas.read(schemas.PAIRS, candidates)
    if not published.num_rows:
        return pairs
    return pairs.filter(pc.invert(pc.is_in(_keys(pairs), value_set=_keys(published).combine_chunks())))


def _queries(collection: Path, candidates: Path, pairs: pa.Table, published: pa.Table) -> pa.Table:
    """Queries that have a label to come or a published one, each once, sorted by id."""
    ids = pa.array([], pa.string())
    parts: list[pa.Table] = []
    for folder, table, source in ((candidates, schemas.PAIRS, pairs), (collection, schemas.LABELS, published)):
        known = schemas.read(schemas.QUERIES, folder)
        where = f"{folder}/{schemas.QUERIES.filename}"
        schemas.check_references(source, "query_id", known.column("query_id"), where, str(folder / table.filename))
        known = known.filter(pc.is_in(known.column("query_id"), value_set=pc.unique(source.column("query_id"))))
        parts.append(known.filter(pc.invert(pc.is_in(known.column("query_id"), value_set=ids))))
        ids = parts[0].column("query_id").combine_chunks()
    return pa.concat_tables(parts).sort_by("query_id")


def _write_passages(collection: Path, wanted: pa.Array, labels: Path) -> pa.ChunkedArray:
    """Copy the ``wanted`` passages; the corpus streams by. Returns their ids, in the order of the copy."""
    kept: list[pa.Array] = []
    with schemas.TableWriter(labels / schemas.CORPUS.filename, schemas.CORPUS) as writer:
        for batch in schemas.read_batches(schemas.CORPUS, collection):
            batch = batch.filter(pc.is_in(batch.column("doc_id"), value_set=wanted))
            writer.write(batch)
            kept.append(batch.column("doc_id"))
    return pa.chunked_array(kept, pa.string())


def _content_keys(pairs: pa.Table, queries: pa.Table, doc_ids: pa.ChunkedArray, hashes: np.ndarray) -> np.ndarray:
    """Key of each pair: a digest of its two texts, whatever their ids are; uint64 (pairs, 2). ``hashes``: of passages."""
    query, passage = places(pairs, queries, doc_ids).T
    return combine(hash_rows(texts(queries))[query], hashes[passage])


def _write_labels(labels: Path, pairs: pa.Table, logits: np.ndarray, published: pa.Table) -> None:
    """One table sorted by query and document, however it was sharded."""
    columns = {"query_id": pairs.column("query_id"), "doc_id": pairs.column("doc_id")}
    columns |= {name: pa.array(logits[:, column], pa.float64()) for column, name in enumerate(LOGITS)}
    table = pa.concat_tables([pa.table(columns).cast(schemas.LABELS.schema), published])
    table = table.sort_by([("query_id", "ascending"), ("doc_id", "ascending")])
    with schemas.TableWriter(labels / schemas.LABELS.filename, schemas.LABELS) as writer:
        for batch in table.to_batches(schemas.BATCH_ROWS):
            writer.write(batch)
