"""The stage `teacher_label`: plan the pairs into shards, score each once, pass published labels through."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from inranker_flow import schemas
from inranker_flow.config import TeacherConfig, as_dict
from inranker_flow.errors import UserError
from inranker_flow.labelling.filter import keep_relevant
from inranker_flow.manifest import read_manifest, write_manifest
from inranker_flow.progress import Progress
from inranker_flow.prompts import RENDERER_VERSION
from inranker_flow.scratch import scratch_folder
from inranker_flow.shards import Shards

log = logging.getLogger(__name__)

_LOGITS = ("false_logit", "true_logit")


@dataclass(frozen=True)
class LabelStats:
    """``pairs`` scored by the teacher, ``published`` ones passed through; ``tokens`` of the scored prompts.

    ``cut_queries``: queries too long for a prompt, which are cut to leave room for the passage. The rates are those of this
    process: what an earlier attempt had finished (``resumed_pairs``) is not in them.
    """

    queries: int
    documents: int
    pairs: int
    published: int
    tokens: int
    cut_queries: int
    resumed_pairs: int
    pairs_per_second: float
    tokens_per_second: float
    #: Synthetic queries that are not among the `keep_queries` whose source document the teacher finds most relevant.
    dropped_queries: int = 0


@dataclass(frozen=True)
class _Scored:
    logits: np.ndarray
    tokens: int = 0
    cut_queries: int = 0
    resumed_pairs: int = 0
    pairs_per_second: float = 0.0
    tokens_per_second: float = 0.0


def teacher_label(config: TeacherConfig, collection: Path, candidates: Path, labels: Path) -> LabelStats:
    """Write the training set ``labels``: queries, the labelled passages and both logits of every pair.

    ``candidates`` holds the pairs to score; published labels in ``collection`` are taken over unchanged, and where they
    cover everything the teacher is never loaded. A killed run continues after its last finished shard. Raises
    :class:`UserError` where ids do not match, or logits are not finite.
    """
    dataset = _dataset(collection, candidates)
    published = _published(collection)
    pairs = _pairs_to_score(candidates, published)
    if not pairs.num_rows and not published.num_rows:
        raise UserError(
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
    scored, shards = _Scored(np.empty((0, 2))), None
    if pairs.num_rows:
        from inranker_flow.rankers.checkpoints import checkpoint_identity

        identity = {
            "checkpoint": checkpoint_identity(config.checkpoint, config.revision),
            "renderer": RENDERER_VERSION,
            "scoring": as_dict(config.scoring),
        }
        digests = [_digests(collection, schemas.CORPUS), _digests(candidates, schemas.QUERIES, schemas.PAIRS)]
        digests.append(_digests(collection, schemas.LABELS))  # what is published is not in the plan
        folder = scratch_folder("teacher_label", identity, config.shard_pairs, digests)
        shards = Shards(folder, pairs.num_rows, config.shard_pairs)
        scored = _score(config, pairs, queries, doc_ids, labels, shards)
    _write_labels(labels, pairs, scored.logits, published)
    dropped = keep_relevant(labels, config.keep_queries)
    write_manifest(
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
    )
    if shards:
        shards.remove()
    return LabelStats(
        queries=queries.num_rows,
        documents=len(doc_ids),
        pairs=pairs.num_rows,
        published=published.num_rows,
        tokens=scored.tokens,
        cut_queries=scored.cut_queries,
        resumed_pairs=scored.resumed_pairs,
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


def _score(
    config: TeacherConfig, pairs: pa.Table, queries: pa.Table, doc_ids: pa.ChunkedArray, labels: Path, shards: Shards
) -> _Scored:
    """Logits of ``pairs``, in their order. Shards are cut from all pairs sorted by length, so padding is nearly none.

    The passages stream from ``labels``: a million of them are tokens here, not text.
    """
    from inranker_flow.rankers import load_ranker

    ranker = load_ranker(config.checkpoint, config.scoring, config.revision)
    index = np.stack(
        [
            pc.index_in(pairs.column(column), value_set=known.combine_chunks()).to_numpy().astype(np.int32)
            for column, known in (("query_id", queries.column("query_id")), ("doc_id", doc_ids))
        ],
        axis=1,
    )
    log.info("reading %s queries and %s passages", f"{queries.num_rows:,}", f"{len(doc_ids):,}")
    job = ranker.prepare(_texts(queries), _passages(labels), index)
    order = np.argsort(-job.lengths, kind="stable")
    logits = np.empty((len(order), 2), np.float64)
    tokens = int(job.lengths.sum())
    progress = Progress("labelling", tokens, "tokens")
    resumed_pairs = resumed_tokens = 0
    for number, part in shards:
        rows = order[part]
        found = shards.load(number)
        if found is not None and found.num_rows == len(rows):
            logits[rows] = np.stack([found.column(name).to_numpy() for name in _LOGITS], axis=1)
            resumed_pairs += len(rows)
            resumed_tokens += int(job.lengths[rows].sum())
            progress.resume(int(job.lengths[rows].sum()))
            continue
        logits[rows] = job.score(rows, progress)
        _check_finite(config, pairs, rows, logits)
        shards.save(number, pa.table({name: logits[rows, column] for column, name in enumerate(_LOGITS)}))
    if resumed_pairs:
        log.info("%s of %s pairs were labelled by an earlier attempt", f"{resumed_pairs:,}", f"{len(order):,}")
    rate = progress.finish()
    fresh = tokens - resumed_tokens
    return _Scored(
        logits,
        tokens=tokens,
        cut_queries=job.cut_queries,
        resumed_pairs=resumed_pairs,
        pairs_per_second=(len(order) - resumed_pairs) * rate / fresh if fresh else 0.0,
        tokens_per_second=rate,
    )


def _texts(table: pa.Table) -> Iterator[str]:
    for chunk in table.column("text").chunks:
        yield from chunk.to_pylist()


def _passages(labels: Path) -> Iterator[str]:
    """The passages in ``labels`` as models read them."""
    from inranker_flow.corpora import default_text

    for batch in schemas.read_batches(schemas.CORPUS, labels):
        yield from map(default_text, batch.column("title").to_pylist(), batch.column("text").to_pylist())


def _check_finite(config: TeacherConfig, pairs: pa.Table, rows: np.ndarray, logits: np.ndarray) -> None:
    bad = rows[~np.isfinite(logits[rows]).all(axis=1)]
    if bad.size:
        query_id, doc_id = (pairs.column(name)[int(bad[0])].as_py() for name in ("query_id", "doc_id"))
        raise UserError(
            f"{config.checkpoint}: {bad.size} of {len(rows)} pairs have logits that are not finite, first ({query_id}, "
            f"{doc_id}); set the teacher's scoring.dtype to float32 or bfloat16, or check the checkpoint's weights"
        )


def _write_labels(labels: Path, pairs: pa.Table, logits: np.ndarray, published: pa.Table) -> None:
    """One table sorted by query and document, however it was sharded."""
    columns = {"query_id": pairs.column("query_id"), "doc_id": pairs.column("doc_id")}
    columns |= {name: pa.array(logits[:, column], pa.float64()) for column, name in enumerate(_LOGITS)}
    table = pa.concat_tables([pa.table(columns).cast(schemas.LABELS.schema), published])
    table = table.sort_by([("query_id", "ascending"), ("doc_id", "ascending")])
    with schemas.TableWriter(labels / schemas.LABELS.filename, schemas.LABELS) as writer:
        for batch in table.to_batches(schemas.BATCH_ROWS):
            writer.write(batch)
