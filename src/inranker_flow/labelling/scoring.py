"""Logits of all pairs: planned over all of them, scored here or in several processes, kept shard by shard."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import chain, compress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from inranker_flow.artifacts import tables
from inranker_flow.config.sections import TeacherConfig
from inranker_flow.errors import CollectionFault
from inranker_flow.labelling.label_store import Labels
from inranker_flow.progress import Progress
from inranker_flow.store.sharing import Share

if TYPE_CHECKING:
    from inranker_flow.rankers import Job

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scored:
    """What it cost to score ``pairs`` here."""

    pairs: int = 0
    tokens: int = 0
    cut_queries: int = 0
    pairs_per_second: float = 0.0
    tokens_per_second: float = 0.0
    #: How far the logits are from float32's, where 8 bits were asked for (`precision.measure_error`).
    error: dict[str, float] = field(default_factory=dict)


class Scorer(Protocol):
    """Scores the pieces of a plan."""

    #: The pairs, longest prompts first.
    order: np.ndarray
    #: Tokens that are computed for each pair.
    lengths: np.ndarray
    cut_queries: int
    error: dict[str, float]

    def score(self, parts: Iterable[tuple[int, slice]], progress: Progress) -> Iterator[tuple[int, np.ndarray]]:
        """(number, logits) of each part, as they are done; a part is a piece of ``order``, logits float64 (n, 2).

        ``parts`` are asked for one by one, as there is room for another.
        """
        ...


def score_missing(
    config: TeacherConfig,
    pairs: pa.Table,
    queries: pa.Table,
    doc_ids: pa.ChunkedArray,
    labels: Path,
    known: Labels,
    folder: Path,
    share: Share,
) -> Scored:
    """Complete ``known``: this pod's ``share`` first, then what nobody has done by then.

    Shards are cut from the missing pairs sorted by length, so padding is nearly none.

    The passages stream from ``labels``: a million of them are tokens here, not text. ``folder`` is for files that
    processes share.
    """
    missing = known.to_score(share)
    if not missing.size:
        return Scored()
    left = pairs.take(pa.array(known.pair[missing]))
    queries = queries.filter(pc.is_in(queries.column("query_id"), value_set=pc.unique(left.column("query_id"))))
    wanted = pc.is_in(doc_ids, value_set=pc.unique(left.column("doc_id")))
    log.info("reading %s queries and %s passages", f"{queries.num_rows:,}", f"{pc.sum(wanted).as_py():,}")
    read = compress(passages(labels), chain.from_iterable(chunk.to_pylist() for chunk in wanted.chunks))
    index = places(left, queries, doc_ids.filter(wanted))
    with _scorer(config, texts(queries), read, index, folder) as scorer:
        order, lengths = scorer.order, scorer.lengths
        progress = Progress("labelling", int(lengths.sum(dtype=np.int64)), "tokens")
        shards = known.shards(
            missing[order], config.shard_pairs, share, lambda part: progress.resume(_sum(lengths, order[part]))
        )
        given: dict[int, slice] = {}
        count = tokens = 0
        for number, values in scorer.score(_noted(shards, given), progress):
            rows = order[given.pop(number)]
            _check_finite(config, left, rows, values)
            known.keep(missing[rows], values)
            count, tokens = count + len(rows), tokens + _sum(lengths, rows)
        rate = progress.finish()
        return Scored(
            pairs=count,
            tokens=tokens,
            cut_queries=scorer.cut_queries,
            pairs_per_second=count * rate / tokens if tokens else 0.0,
            tokens_per_second=rate,
            error=scorer.error,
        )


def _noted(shards: Iterable[tuple[int, slice]], given: dict[int, slice]) -> Iterator[tuple[int, slice]]:
    for number, part in shards:
        given[number] = part
        yield number, part


def _sum(lengths: np.ndarray, rows: np.ndarray) -> int:
    return int(lengths[rows].sum(dtype=np.int64))


def places(pairs: pa.Table, queries: pa.Table, doc_ids: pa.ChunkedArray) -> np.ndarray:
    """Positions of each pair's query and passage, int32 (pairs, 2)."""
    found = [
        pc.index_in(pairs.column(column), value_set=known.combine_chunks()).to_numpy().astype(np.int32)
        for column, known in (("query_id", queries.column("query_id")), ("doc_id", doc_ids))
    ]
    return np.stack(found, axis=1)


def _scorer(
    config: TeacherConfig, asked: Iterator[str], read: Iterator[str], index: np.ndarray, folder: Path
) -> AbstractContextManager[Scorer]:
    """This process, or several; each text is tokenised once in either case."""
    from inranker_flow.rankers import load_ranker, load_reader
    from inranker_flow.rankers.devices import count_processes

    count = count_processes(config.processes, "teacher.processes")
    teacher = config.checkpoint, config.scoring, config.revision
    ranker = load_ranker(*teacher) if count == 1 or config.scoring.dtype == "int8" else None
    reader = ranker.reader if ranker else load_reader(*teacher)
    prompts = reader.prepare(asked, read, index)
    error = {}
    if ranker and config.scoring.dtype == "int8":
        from inranker_flow.labelling.int8_error import measure_error

        error = measure_error(config, prompts, ranker)
    if ranker and count == 1:
        return nullcontext(_Alone(ranker.job(prompts), error))
    del ranker, reader
    from inranker_flow.labelling.workers import Workers

    return Workers(config, prompts, count, folder, error)


class _Alone:
    """This process scores part after part."""

    def __init__(self, job: Job, error: dict[str, float]) -> None:
        self._job, self.error = job, error
        self.lengths, self.cut_queries = job.lengths, job.cut_queries
        self.order = np.argsort(-job.lengths, kind="stable")

    def score(self, parts: Iterable[tuple[int, slice]], progress: Progress) -> Iterator[tuple[int, np.ndarray]]:
        for number, part in parts:
            yield number, self._job.score(self.order[part], progress)


def texts(table: pa.Table) -> Iterator[str]:
    """The texts of a table, one after another."""
    for chunk in table.column("text").chunks:
        yield from chunk.to_pylist()


def passages(labels: Path) -> Iterator[str]:
    """The passages in ``labels`` as models read them."""
    from inranker_flow.corpora.passage import default_text

    for batch in tables.read_batches(tables.CORPUS, labels):
        yield from map(default_text, batch.column("title").to_pylist(), batch.column("text").to_pylist())


def _check_finite(config: TeacherConfig, pairs: pa.Table, rows: np.ndarray, logits: np.ndarray) -> None:
    bad = rows[~np.isfinite(logits).all(axis=1)]
    if bad.size:
        query_id, doc_id = (pairs.column(name)[int(bad[0])].as_py() for name in ("query_id", "doc_id"))
        raise CollectionFault(
            f"{config.checkpoint}: {bad.size} of {len(rows)} pairs have logits that are not finite, first ({query_id}, "
            f"{doc_id}); set the teacher's scoring.dtype to float32 or bfloat16, or check the checkpoint's weights"
        )
