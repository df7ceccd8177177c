"""The stage `teacher_label`: plan the pairs into shards, score each once, pass published labels through."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
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
from inranker_flow.labelling import average
from inranker_flow.labelling.judged import write_judged
from inranker_flow.labelling.keep_queries import keep_relevant
from inranker_flow.labelling.one_teacher import Labels
from inranker_flow.labelling.texts import Streamed, passages, places, texts
from inranker_flow.rankers.monot5_prompt import RENDERER_VERSION
from inranker_flow.scoring.job import Work
from inranker_flow.scoring.logits import LOGITS, pair_keys
from inranker_flow.store import negatives, sharing
from inranker_flow.store.sharing import Share

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelStats:
    """``pairs`` with the teacher's labels, ``published`` ones passed through.

    ``reused_pairs`` were in the store: of an earlier run, a killed attempt or a process beside this one. The others were
    scored here (of several teachers: by the one that scored most), and ``tokens`` are those of their prompts, or those that a
    server counted; the rates are this process's.
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
    #: Requests that a teacher's server answered.
    requests: int = 0
    #: Synthetic queries that are not among the `keep_queries` whose source document the teacher finds most relevant.
    dropped_queries: int = 0
    #: Largest difference of a logit from float32 on a sample, where a teacher computes in less on a CPU.
    largest_difference: float = 0.0


@dataclass(frozen=True)
class ShareStats:
    """The share of all ``pairs`` that a pod beside the one that writes the artifact scored; the rates are this process's."""

    pairs: int
    tokens: int
    pairs_per_second: float
    tokens_per_second: float


@dataclass(frozen=True)
class _Asked:
    """The pairs to label, with the passages in a folder."""

    dataset: str
    pairs: pa.Table
    published: pa.Table
    queries: pa.Table
    doc_ids: pa.ChunkedArray
    #: Of the passages.
    hashes: np.ndarray
    #: Of each teacher; none where no pair is to be scored.
    labels: tuple[Labels, ...]


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
    scored, most, errors = _score(config, asked, labels, share)
    teachers = [each.describe() for each in asked.labels]
    _write_labels(labels, asked.pairs, _label(asked, teachers), asked.published)
    write_judged(candidates, labels)
    dropped = keep_relevant(labels, config.keep_queries)
    made = write_manifest(
        labels,
        dataset=asked.dataset,
        stage="teacher_label",
        teacher=" + ".join(each["teacher"] for each in teachers),
        revision=" + ".join(filter(None, (each["revision"] for each in teachers))),
        identity=asked.labels[0].identity
        if len(asked.labels) == 1
        else {"average": [e.identity for e in asked.labels]},
        teachers=teachers,
        renderer=RENDERER_VERSION,
        counts={
            "pairs": asked.pairs.num_rows,
            "published": asked.published.num_rows,
            "queries": asked.queries.num_rows,
            "dropped_queries": dropped,
        },
        **errors,
    )
    if asked.labels:
        drawn = read_manifest(candidates).details.get("drawn", {})
        negatives.remember(made.content, drawn, asked.queries, asked.pairs, asked.doc_ids, asked.hashes)
    for each in asked.labels:
        each.known.store.compact()
        each.known.forget(share)
        shutil.rmtree(each.aside, ignore_errors=True)
    return LabelStats(
        queries=asked.queries.num_rows,
        documents=len(asked.doc_ids),
        pairs=asked.pairs.num_rows,
        published=asked.published.num_rows,
        tokens=scored.tokens,
        cut_queries=scored.cut_queries,
        reused_pairs=asked.pairs.num_rows - most,
        pairs_per_second=scored.pairs_per_second,
        tokens_per_second=scored.tokens_per_second,
        requests=scored.requests,
        dropped_queries=dropped,
        largest_difference=scored.error.get("largest_difference", 0.0),
    )


def help_label(config: TeacherConfig, collection: Path, candidates: Path, worker: int) -> ShareStats:
    """Score a share of what `teacher_label` is asked for, as pod ``worker`` (from 1), and then of what is left.

    The labels go into the store, where `teacher_label` finds them; this pod ends when nothing is missing there. Raises
    :class:`UserError` as `teacher_label` does.
    """
    share = sharing.of_this_pod(worker)
    with scratch.aside(scratch.root() / "help_label", folder=True) as folder:
        asked = _read(config, collection, candidates, folder)
        scored, _, _ = _score(config, asked, folder, share)
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
        return _Asked(dataset, pairs, published, queries, doc_ids, np.empty((0, 2), np.uint64), ())

    digests = [_digests(collection, tables.CORPUS), _digests(candidates, tables.QUERIES, tables.PAIRS)]
    hashes = hash_rows(passages(folder))
    keys = pair_keys(places(pairs, queries, doc_ids), hash_rows(texts(queries)), hashes)
    labels = tuple(Labels.open(section, each, pairs, keys, digests) for section, each in config.named.items())
    return _Asked(dataset, pairs, published, queries, doc_ids, hashes, labels)


def _score(
    config: TeacherConfig, asked: _Asked, folder: Path, share: Share
) -> tuple[Work, int, dict[str, dict[str, float]]]:
    """Complete the labels of each teacher; the passages are in ``folder``.

    Returns what it cost, the pairs that one teacher scored at most, and for the manifest each teacher's error in a precision
    below float32.
    """
    source = Streamed(asked.pairs, asked.queries, asked.doc_ids, folder)
    total, most, errors = Work(), 0, {}
    for number, each in enumerate(asked.labels):
        work = each.complete(config, source, share)
        total, most = total + work, max(most, work.pairs)
        if work.error:
            errors[f"error_against_float32{f'_{number}' if number else ''}"] = dict(work.error)
    return total, most, errors


def _label(asked: _Asked, teachers: Sequence[dict[str, Any]]) -> np.ndarray:
    """Return the logits of the label of each pair: a teacher's own, or the average of several."""
    if len(asked.labels) == 1:
        return asked.labels[0].known.values
    if not asked.labels:
        return np.empty((0, 2))
    levels = [average.Level(each["mean"], each["deviation"]) for each in teachers]
    for each, level in zip(teachers, levels, strict=True):
        log.info(
            "%s: %s scores %.3f in the mean, with a standard deviation of %.3f",
            asked.dataset, each["teacher"], level.mean, level.deviation,
        )  # fmt: skip
    return average.logits(average.average([average.scores(each.known.values) for each in asked.labels], levels))


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
