"""Complete the logits of a job by asking a server, request by request; what was answered is kept, whatever happens."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed

import numpy as np

from inranker_flow.progress import Progress
from inranker_flow.scoring.job import ShardedJob, Work
from inranker_flow.scoring.rerank_server import Answer, Pair, RerankServer

log = logging.getLogger(__name__)


def score(job: ShardedJob, server: RerankServer) -> Work:
    """Complete ``job.known`` as `engine.score` does. A score s becomes the logits (-s/2, s/2).

    A shard that ends early (a server that is gone, a signal) keeps the scores that are there.
    """
    tasks = job.known.to_score(job.share)
    if not tasks.size:
        return Work()
    server.check_model()
    tasks = tasks[np.argsort(job.known.pair[tasks], kind="stable")]  # pairs of a query lie together
    progress = Progress(job.what, len(tasks), "pairs")
    work = Work()
    start = time.perf_counter()
    shards = job.known.shards(tasks, job.shard_pairs, job.share, lambda part: progress.resume(part.stop - part.start))
    for _, part in shards:
        work += _shard(job, server, tasks[part], progress.advance)
    progress.finish()
    least, most = server.seen
    log.info(
        "%s: %s requests to %s, %s tokens by its own count, scores from %.4g to %.4g",
        job.what, f"{work.requests:,}", server.endpoint.url, f"{work.tokens:,}", least, most,
    )  # fmt: skip
    return Work(work.pairs, work.tokens, time.perf_counter() - start, requests=work.requests)


def _shard(job: ShardedJob, server: RerankServer, tasks: np.ndarray, done: Callable[[int], None]) -> Work:
    rows = job.known.pair[tasks]
    queries, passages, places = job.source.select(rows)
    asked, read = list(queries), list(passages)
    pairs: list[Pair] = [(asked[query], read[passage]) for query, passage in places.tolist()]
    scores = np.full(len(tasks), np.nan)
    tokens = requests = 0

    def take(batch: np.ndarray, answer: Answer) -> None:
        nonlocal tokens, requests
        scores[batch] = answer.scores
        tokens, requests = tokens + answer.tokens, requests + 1
        done(len(batch))

    try:
        _ask(server, pairs, list(server.batches(places[:, 0])), take)
    finally:
        known = np.flatnonzero(np.isfinite(scores))
        if known.size:
            logits = np.stack([-scores[known] / 2, scores[known] / 2], axis=1)
            job.check(rows[known], logits)
            job.known.keep(tasks[known], logits)
    return Work(len(known), tokens, requests=requests)


def _ask(
    server: RerankServer, pairs: list[Pair], batches: list[np.ndarray], take: Callable[[np.ndarray, Answer], None]
) -> None:
    """Ask for all ``batches``, as many at a time as the server may be asked; ``take`` is called with each answer."""
    with ThreadPoolExecutor(server.teacher.server.concurrency) as pool:
        asked = {pool.submit(server.ask, [pairs[row] for row in batch.tolist()]): batch for batch in batches}
        waiting = dict(asked)
        try:
            for future in as_completed(asked):
                take(waiting.pop(future), future.result())
        except BaseException:
            server.endpoint.stop()  # what waits to be sent again gives up
            pool.shutdown(cancel_futures=True)
            for future, batch in waiting.items():
                if not future.cancelled() and future.exception() is None:
                    take(batch, future.result())
            raise
