"""The stage `teacher_label`: plan the pairs into shards, score each once, pass published labels through."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from inranker_flow import scratch
from inranker_flow.artifacts import tables
from inranker_flow.artifacts.hashing import hash_rows
from inranker_flow.artifacts.manifest import read_manifest, write_manifest
from inranker_flow.config.sections import TeacherConfig
from inranker_flow.errors import CollectionFault, UserError
from inranker_flow.labelling.int8_error import measure_error
from inranker_flow.labelling.judged import write_judged
from inranker_flow.labelling.keep_queries import keep_relevant
from inranker_flow.labelling.label_store import label_identity, open_store
from inranker_flow.labelling.texts import Streamed, passages, places, texts
from inranker_flow.rankers.base import Prompts, Ranker
from inranker_flow.rankers.loading import load_ranker
from inranker_flow.rankers.monot5_prompt import RENDERER_VERSION
from inranker_flow.scoring import engine
from inranker_flow.scoring.job import Checkpoint, Processes, ScoringJob, Work
from inranker_flow.scoring.logits import LOGITS, Logits, pair_keys
from inranker_flow.scratch import scratch_folder
from inranker_flow.store import negatives, sharing
from inranker_flow.store.sharing import Share

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


@dataclass(frozen=True)
class ShareStats:
    """The share of all ``pairs`` that a pod beside the one that writes the artifact scored; the rates are this process's."""

    pairs: int
    tokens: int
    pairs_per_second: float
    tokens_per_second: float


@dataclass(frozen=True)
class _Asked:
    """The pairs to label, with the passages in a folder; ``known`` is None where no pair is to be scored."""

    dataset: str
    pairs: pa.Table
    published: pa.Table
    queries: pa.Table
    doc_ids: pa.ChunkedArray
    identity: dict[str, Any]
    #: Of the passages.
    hashes: np.ndarray
    known: Logits | None
    #: Folder of unfinished work.
    aside: Path


def teacher_label(config: TeacherConfig, collection: Path, candidates: Path, labels: Path) -> LabelStats:
    """Write the training set ``labels``: queries, the labelled passages and both logits of every pair.

    ``candidates`` holds the pairs to score; published labels in ``collection`` are taken over unchanged. What is in the
    label store is not scored again, and what is scored is put there shard by shard: a killed run, on whatever machine,
    continues after its last one. Where nothing is missing the teacher is never loaded. Where several pods are at this work
    (`sharing`) this is the one that writes the artifact: it waits for nobody, and scores itself what nobody has put in the
    store. Raises :class:`UserError` where ids do not match, or logits are not finite.
    """
    share = sharing.of_this_pod()
    shutil.rmtree(labels, ignore_errors=True)
    asked = _read(config, collection, candidates, labels)
    scored, error = _score(config, asked, labels, share)
    logits = asked.known.values if asked.known else np.empty((0, 2))
    _write_labels(labels, asked.pairs, logits, asked.published)
    write_judged(candidates, labels)
    dropped = keep_relevant(labels, config.keep_queries)
    made = write_manifest(
        labels,
        dataset=asked.dataset,
        stage="teacher_label",
        teacher=config.checkpoint if asked.pairs.num_rows else "",
        revision=config.revision if asked.pairs.num_rows else "",
        identity=asked.identity,
        renderer=RENDERER_VERSION,
        counts={
            "pairs": asked.pairs.num_rows,
            "published": asked.published.num_rows,
            "queries": asked.queries.num_rows,
            "dropped_queries": dropped,
        },
        **({"error_against_float32": error} if error else {}),
    )
    if asked.known:
        drawn = read_manifest(candidates).details.get("drawn", {})
        negatives.remember(made.content, drawn, asked.queries, asked.pairs, asked.doc_ids, asked.hashes)
        asked.known.store.compact()
        asked.known.forget(share)
        shutil.rmtree(asked.aside, ignore_errors=True)
    return LabelStats(
        queries=asked.queries.num_rows,
        documents=len(asked.doc_ids),
        pairs=asked.pairs.num_rows,
        published=asked.published.num_rows,
        tokens=scored.tokens,
        cut_queries=scored.cut_queries,
        reused_pairs=asked.pairs.num_rows - scored.pairs,
        pairs_per_second=scored.pairs_per_second,
        tokens_per_second=scored.tokens_per_second,
        dropped_queries=dropped,
    )


def help_label(config: TeacherConfig, collection: Path, candidates: Path, worker: int) -> ShareStats:
    """Score a share of what `teacher_label` is asked for, as pod ``worker`` (from 1), and then of what is left.

    The labels go into the store, where `teacher_label` finds them; this pod ends when nothing is missing there. Raises
    :class:`UserError` as `teacher_label` does.
    """
    share = sharing.of_this_pod(worker)
    with scratch.aside(scratch.root() / "help_label", folder=True) as folder:
        asked = _read(config, collection, candidates, folder)
        scored, _ = _score(config, asked, folder, share)
    return ShareStats(scored.pairs, scored.tokens, scored.pairs_per_second, scored.tokens_per_second)


def _read(config: TeacherConfig, collection: Path, candidates: Path, folder: Path) -> _Asked:
    """Read what is asked for, check that ids match, and write queries and passages to ``folder``."""
    dataset = _dataset(collection, candidates)
    published = _published(collection)
    pairs = _pairs_to_score(candidates, published)
    if not pairs.num_rows and not published.num_rows:
        raise CollectionFault(
            f"{dataset}: no pairs to label and no published labels, so there is nothing to learn from: a source needs "
            "queries judged in its train split (qrels/train.tsv), a target needs documents to write queries for",
            code="nothing-to-label",
        )
    queries = _queries(collection, candidates, pairs, published)

    tables.write(tables.QUERIES, folder / tables.QUERIES.filename, queries)
    wanted = pc.unique(
        pa.chunked_array([*pairs.column("doc_id").chunks, *published.column("doc_id").chunks], pa.string())
    )
    doc_ids = _write_passages(collection, wanted, folder)
    del wanted
    for table, name in ((pairs, tables.PAIRS), (published, tables.LABELS)):
        where = str((collection if table is published else candidates) / name.filename)
        tables.check_references(table, "doc_id", doc_ids, f"{collection}/corpus.parquet", where)
    if not pairs.num_rows:
        return _Asked(dataset, pairs, published, queries, doc_ids, {}, np.empty((0, 2), np.uint64), None, folder)

    identity = label_identity(_teacher(config))
    digests = [_digests(collection, tables.CORPUS), _digests(candidates, tables.QUERIES, tables.PAIRS)]
    aside = scratch_folder("teacher_label", identity, digests)
    hashes = hash_rows(passages(folder))
    keys = pair_keys(places(pairs, queries, doc_ids), hash_rows(texts(queries)), hashes)
    known = Logits(open_store(identity, aside), keys)
    return _Asked(dataset, pairs, published, queries, doc_ids, identity, hashes, known, aside)


def _score(config: TeacherConfig, asked: _Asked, folder: Path, share: Share) -> tuple[Work, dict[str, float]]:
    """Complete what is known; the passages are in ``folder``. Returns what it cost, and what is known of 8 bits' error."""
    if asked.known is None:
        return Work(), {}
    log.info("%s of %s pairs are labelled already", f"{asked.known.known_pairs:,}", f"{asked.pairs.num_rows:,}")
    error: dict[str, float] = {}

    def measure(ranker: Ranker, prompts: Prompts) -> None:
        error.update(measure_error(config, prompts, ranker))

    job = ScoringJob(
        what="labelling",
        checkpoint=_teacher(config),
        source=Streamed(asked.pairs, asked.queries, asked.doc_ids, folder),
        known=asked.known,
        shard_pairs=config.shard_pairs,
        processes=Processes(config.processes, "teacher.processes"),
        folder=asked.aside,
        check=partial(_check_finite, config, asked.pairs),
        share=share,
        first=measure if config.scoring.dtype == "int8" else None,
    )
    return engine.score(job, partial(load_ranker, config.checkpoint, config.scoring, config.revision)), error


def _teacher(config: TeacherConfig) -> Checkpoint:
    return Checkpoint(config.checkpoint, config.revision, config.scoring)


def _check_finite(config: TeacherConfig, pairs: pa.Table, rows: np.ndarray, logits: np.ndarray) -> None:
    bad = rows[~np.isfinite(logits).all(axis=1)]
    if bad.size:
        query_id, doc_id = (pairs.column(name)[int(bad[0])].as_py() for name in ("query_id", "doc_id"))
        raise CollectionFault(
            f"{config.checkpoint}: {bad.size} of {len(rows)} pairs have logits that are not finite, first ({query_id}, "
            f"{doc_id}); set the teacher's scoring.dtype to float32 or bfloat16, or check the checkpoint's weights",
            code="logits-not-finite",
        )


def _dataset(collection: Path, candidates: Path) -> str:
    names = [read_manifest(each).dataset for each in (collection, candidates)]
    if names[0] != names[1]:
        raise UserError(
            f"{candidates}: candidates of {names[1]!r} do not belong to the collection {names[0]!r}",
            code="artifact-mismatch",
        )
    return names[0]


def _digests(folder: Path, *wanted: tables.Table) -> list[str]:
    """Return the content digests of the tables in ``folder``; "" for one that is not there."""
    found = read_manifest(folder)
    return [found.files.get(table.filename, "") for table in wanted]


def _published(collection: Path) -> pa.Table:
    if not (collection / tables.LABELS.filename).exists():
        return tables.LABELS.schema.empty_table()
    return tables.read(tables.LABELS, collection)


def _pairs_to_score(candidates: Path, published: pa.Table) -> pa.Table:
    """Return the candidates' pairs without those that have a published label already."""
    pairs = tables.read(tables.PAIRS, candidates)
    if not published.num_rows:
        return pairs
    return pairs.filter(
        pc.invert(pc.is_in(tables.joined_keys(pairs), value_set=tables.joined_keys(published).combine_chunks()))
    )


def _queries(collection: Path, candidates: Path, pairs: pa.Table, published: pa.Table) -> pa.Table:
    """Return queries that have a label to come or a published one, each once, sorted by id."""
    ids = pa.array([], pa.string())
    parts: list[pa.Table] = []
    for folder, table, source in ((candidates, tables.PAIRS, pairs), (collection, tables.LABELS, published)):
        known = tables.read(tables.QUERIES, folder)
        where = f"{folder}/{tables.QUERIES.filename}"
        tables.check_references(source, "query_id", known.column("query_id"), where, str(folder / table.filename))
        known = known.filter(pc.is_in(known.column("query_id"), value_set=pc.unique(source.column("query_id"))))
        parts.append(known.filter(pc.invert(pc.is_in(known.column("query_id"), value_set=ids))))
        ids = parts[0].column("query_id").combine_chunks()
    return pa.concat_tables(parts).sort_by("query_id")


def _write_passages(collection: Path, wanted: pa.Array, labels: Path) -> pa.ChunkedArray:
    """Copy the ``wanted`` passages; the corpus streams by. Returns their ids, in the order of the copy."""
    kept: list[pa.Array] = []
    with tables.TableWriter(labels / tables.CORPUS.filename, tables.CORPUS) as writer:
        for batch in tables.read_batches(tables.CORPUS, collection):
            batch = batch.filter(pc.is_in(batch.column("doc_id"), value_set=wanted))
            writer.write(batch)
            kept.append(batch.column("doc_id"))
    return pa.chunked_array(kept, pa.string())


def _write_labels(labels: Path, pairs: pa.Table, logits: np.ndarray, published: pa.Table) -> None:
    """One table sorted by query and document, however it was sharded."""
    columns = {"query_id": pairs.column("query_id"), "doc_id": pairs.column("doc_id")}
    columns |= {name: pa.array(logits[:, column], pa.float64()) for column, name in enumerate(LOGITS)}
    table = pa.concat_tables([pa.table(columns).cast(tables.LABELS.schema), published])
    table = table.sort_by([("query_id", "ascending"), ("doc_id", "ascending")])
    with tables.TableWriter(labels / tables.LABELS.filename, tables.LABELS) as writer:
        for batch in table.to_batches(tables.BATCH_ROWS):
            writer.write(batch)
