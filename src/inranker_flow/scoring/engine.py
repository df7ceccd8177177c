"""Complete the logits of a job: what is missing is cut into shards, scored here or in several processes, and kept."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import numpy as np

from inranker_flow.progress import Progress
from inranker_flow.rankers.base import Job, Prompts, Ranker
from inranker_flow.rankers.devices import count_processes, rounds_on_cpu
from inranker_flow.rankers.loading import load_reader
from inranker_flow.scoring import precision
from inranker_flow.scoring.job import ScoringJob, Work
from inranker_flow.scoring.processes import Workers
from inranker_flow.scoring.prompts import Tokenised

log = logging.getLogger(__name__)


class Scorer(Protocol):
    """Scores the pieces of a plan."""

    #: The pairs, longest prompts first.
    order: np.ndarray
    #: Tokens that are computed for each pair.
    lengths: np.ndarray

    def score(self, parts: Iterable[tuple[int, slice]], progress: Progress) -> Iterator[tuple[int, np.ndarray]]:
        """Return (number, logits) of each part, as they are done; a part is a piece of ``order``, logits float64 (n, 2).

        ``parts`` are asked for one by one, as there is room for another.
        """
        ...


def score(job: ScoringJob, load: Callable[[], Ranker], tokenised: Tokenised | None = None) -> Work:
    """Complete ``job.known``: this pod's share first, then what nobody has done by then.

    Shards are cut from the missing pairs sorted by length, so padding is nearly none. ``load`` gives the model to this
    process; where several score, each loads it for itself. ``tokenised``: prompts that models share which read alike.
    A model that computes in less than float32 on a CPU is compared with float32 before anything is scored.
    """
    tasks = job.known.to_score(job.share)
    if not tasks.size:
        return Work()
    rows = job.known.pair[tasks]
    count = count_processes(job.processes.count, job.processes.setting)
    rounds = rounds_on_cpu(job.checkpoint.scoring.dtype)
    ranker = load() if count == 1 or rounds else None
    prompts = _prompts(job, rows, ranker, tokenised or Tokenised(job.source))
    error = precision.measure_error(job.checkpoint, prompts, ranker) if ranker and rounds else {}
    scorer: AbstractContextManager[Scorer]
    if ranker and count == 1:
        scorer = nullcontext(_Alone(ranker.job(prompts)))
    else:
        del ranker  # the processes need its memory
        scorer = Workers(job.checkpoint, prompts, count, job.folder, job.what, job.processes.setting)
    with scorer as each:
        pairs, tokens, seconds = _scored(job, each, tasks)
    return Work(pairs, tokens, seconds, count, prompts.cut_queries, error=error)


def _prompts(job: ScoringJob, rows: np.ndarray, ranker: Ranker | None, tokenised: Tokenised) -> Prompts:
    checkpoint = job.checkpoint
    reader = ranker.reader if ranker else load_reader(checkpoint.reference, checkpoint.scoring, checkpoint.revision)
    return tokenised.prompts(reader, rows)


def _scored(job: ScoringJob, scorer: Scorer, tasks: np.ndarray) -> tuple[int, int, float]:
    """Score ``tasks``, shard by shard; returns how many, their tokens, and in how many seconds."""
    order, lengths, known = scorer.order, scorer.lengths, job.known
    start = time.perf_counter()
    progress = Progress(job.what, int(lengths.sum(dtype=np.int64)), "tokens")
    shards = known.shards(
        tasks[order], job.shard_pairs, job.share, lambda part: progress.resume(_sum(lengths, order[part]))
    )
    given: dict[int, slice] = {}
    pairs = tokens = 0
    for number, values in scorer.score(_noted(shards, given), progress):
        rows = order[given.pop(number)]
        job.check(known.pair[tasks[rows]], values)
        known.keep(tasks[rows], values)
        pairs, tokens = pairs + len(rows), tokens + _sum(lengths, rows)
    progress.finish()
    return pairs, tokens, time.perf_counter() - start


def _noted(shards: Iterable[tuple[int, slice]], given: dict[int, slice]) -> Iterator[tuple[int, slice]]:
    for number, part in shards:
        given[number] = part
        yield number, part


def _sum(lengths: np.ndarray, rows: np.ndarray) -> int:
    return int(lengths[rows].sum(dtype=np.int64))


class _Alone:
    """This process scores part after part."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self.lengths = job.lengths
        self.order = np.argsort(-job.lengths, kind="stable")

    def score(self, parts: Iterable[tuple[int, slice]], progress: Progress) -> Iterator[tuple[int, np.ndarray]]:
        for number, part in parts:
            yield number, self._job.score(self.order[part], progress)
