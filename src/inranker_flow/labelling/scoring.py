"""Logits of all pairs: planned over all of them, scored here or in several processes, kept shard by shard."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from inranker_flow import schemas
from inranker_flow.config import TeacherConfig
from inranker_flow.errors import UserError
from inranker_flow.progress import Progress
from inranker_flow.shards import Shards

if TYPE_CHECKING:
    from inranker_flow.rankers import Job

log = logging.getLogger(__name__)

LOGITS = ("false_logit", "true_logit")


@dataclass(frozen=True)
class Scored:
    """Logits of the pairs, float64 (n, 2), in their order; what they cost."""

    logits: np.ndarray
    tokens: int = 0
    cut_queries: int = 0
    resumed_pairs: int = 0
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

    def score(self, parts: Mapping[int, slice], progress: Progress) -> Iterator[tuple[int, np.ndarray]]:
        """(number, logits) of each part, as they are done; a part is a piece of ``order``, logits float64 (n, 2)."""
        ...


def score_pairs(
    config: TeacherConfig, pairs: pa.Table, queries: pa.Table, doc_ids: pa.ChunkedArray, labels: Path, shards: Shards
) -> Scored:
    """Logits of ``pairs``, in their order. Shards are cut from all pairs sorted by length, so padding is nearly none.

    The passages stream from ``labels``: a million of them are tokens here, not text.
    """
    index = np.stack(
        [
            pc.index_in(pairs.column(column), value_set=known.combine_chunks()).to_numpy().astype(np.int32)
            for column, known in (("query_id", queries.column("query_id")), ("doc_id", doc_ids))
        ],
        axis=1,
    )
    log.info("reading %s queries and %s passages", f"{queries.num_rows:,}", f"{len(doc_ids):,}")
    with _scorer(config, _texts(queries), _passages(labels), index, shards.folder) as scorer:
        logits = np.empty((len(index), 2), np.float64)
        tokens = int(scorer.lengths.sum(dtype=np.int64))
        progress = Progress("labelling", tokens, "tokens")
        missing: dict[int, slice] = {}
        resumed_pairs = resumed_tokens = 0
        for number, part in shards:
            rows = scorer.order[part]
            found = shards.load(number)
            if found is None or found.num_rows != len(rows):
                missing[number] = part
                continue
            logits[rows] = np.stack([found.column(name).to_numpy() for name in LOGITS], axis=1)
            resumed_pairs += len(rows)
            resumed_tokens += int(scorer.lengths[rows].sum())
        progress.resume(resumed_tokens)
        for number, values in scorer.score(missing, progress):
            rows = scorer.order[missing[number]]
            _check_finite(config, pairs, rows, values)
            logits[rows] = values
            shards.save(number, pa.table({name: values[:, column] for column, name in enumerate(LOGITS)}))
        if resumed_pairs:
            log.info("%s of %s pairs were labelled by an earlier attempt", f"{resumed_pairs:,}", f"{len(index):,}")
        rate = progress.finish()
        fresh = tokens - resumed_tokens
        return Scored(
            logits,
            tokens=tokens,
            cut_queries=scorer.cut_queries,
            resumed_pairs=resumed_pairs,
            pairs_per_second=(len(index) - resumed_pairs) * rate / fresh if fresh else 0.0,
            tokens_per_second=rate,
            error=scorer.error,
        )


def _scorer(
    config: TeacherConfig, queries: Iterator[str], passages: Iterator[str], index: np.ndarray, folder: Path
) -> AbstractContextManager[Scorer]:
    """This process, or several; each text is tokenised once in either case."""
    from inranker_flow.rankers import load_ranker, load_reader
    from inranker_flow.rankers.devices import count_processes

    count = count_processes(config.processes, "teacher.processes")
    teacher = config.checkpoint, config.scoring, config.revision
    ranker = load_ranker(*teacher) if count == 1 or config.scoring.dtype == "int8" else None
    reader = ranker.reader if ranker else load_reader(*teacher)
    prompts = reader.prepare(queries, passages, index)
    error = {}
    if ranker and config.scoring.dtype == "int8":
        from inranker_flow.labelling.precision import measure_error

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

    def score(self, parts: Mapping[int, slice], progress: Progress) -> Iterator[tuple[int, np.ndarray]]:
        for number, part in parts.items():
            yield number, self._job.score(self.order[part], progress)


def _texts(table: pa.Table) -> Iterator[str]:
    for chunk in table.column("text").chunks:
        yield from chunk.to_pylist()


def _passages(labels: Path) -> Iterator[str]:
    """The passages in ``labels`` as models read them."""
    from inranker_flow.corpora import default_text

    for batch in schemas.read_batches(schemas.CORPUS, labels):
        yield from map(default_text, batch.column("title").to_pylist(), batch.column("text").to_pylist())


def _check_finite(config: TeacherConfig, pairs: pa.Table, rows: np.ndarray, logits: np.ndarray) -> None:
    bad = rows[~np.isfinite(logits).all(axis=1)]
    if bad.size:
        query_id, doc_id = (pairs.column(name)[int(bad[0])].as_py() for name in ("query_id", "doc_id"))
        raise UserError(
            f"{config.checkpoint}: {bad.size} of {len(rows)} pairs have logits that are not finite, first ({query_id}, "
            f"{doc_id}); set the teacher's scoring.dtype to float32 or bfloat16, or check the checkpoint's weights"
        )
