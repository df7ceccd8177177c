"""The queue in front of the model: requests of many clients are scored together, by one thread.

A batch takes waiting requests, in the order in which they came, up to a budget of tokens. Nothing waits for a batch to fill: a
lone request is scored at once. Inside the batch the ranker sorts all pairs by length (`rankers.batches`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from inranker_flow.errors import UserError
from inranker_flow.serving.backends import Pair
from inranker_flow.serving.metrics import Metrics
from inranker_flow.serving.models import Alias, Loaded

log = logging.getLogger(__name__)

#: The budget of a batch, in batches of the ranker: enough that few of them are part empty, and few enough that nobody waits
#: for many other requests.
RANKER_BATCHES = 8
#: Characters of a token, roughly: the budget must not cost what tokenising costs.
_CHARACTERS = 4


class Full(Exception):
    """The queue holds as many requests as it may."""


class Slow(Exception):
    """What waits already takes longer than a request may wait."""


@dataclass(frozen=True)
class Scored:
    """The ``scores`` of a request's pairs, by ``model``; ``seconds``: its share, by pairs, of the time of its batch."""

    scores: np.ndarray
    model: Loaded
    seconds: float


@dataclass(eq=False)
class Work:
    """The pairs of one request, and the promise of their scores."""

    pairs: Sequence[Pair]
    alias: Alias
    tokens: int
    future: Future[Scored] = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)


class Batcher:
    """Scores requests with what ``model`` returns for an alias when a batch begins.

    ``most``: requests that may wait. ``patience``: seconds that one may wait.
    """

    def __init__(self, model: Callable[[Alias], Loaded], most: int, patience: float, metrics: Metrics) -> None:
        self._model, self._most, self._patience, self._metrics = model, most, patience, metrics
        self._waiting: deque[Work] = deque()
        self._changed = threading.Condition()
        self._stopped = False
        self._tokens = 0
        #: Tokens a second of the last batches; 0 before the first.
        self._speed = 0.0
        metrics.observe_queue(lambda: len(self._waiting))
        self._thread = threading.Thread(target=self._run, name="scoring", daemon=True)
        self._thread.start()

    def submit(self, pairs: Sequence[Pair], alias: Alias = "champion") -> Future[Scored]:
        """Queue the pairs of a request. Raises :class:`Full` or :class:`Slow` where they would wait too long."""
        work = Work(pairs, alias, sum(map(_tokens, pairs)))
        with self._changed:
            if self._refused():
                self._drop_cancelled()
            if refused := self._refused():
                raise refused
            self._waiting.append(work)
            self._tokens += work.tokens
            self._changed.notify()
        return work.future

    def _refused(self) -> Full | Slow | None:
        if len(self._waiting) >= self._most:
            return Full()
        return Slow() if self._speed and self._tokens / self._speed > self._patience else None

    def _drop_cancelled(self) -> None:
        """What nobody waits for takes nobody's place."""
        self._waiting = deque(work for work in self._waiting if not work.future.cancelled())
        self._tokens = sum(work.tokens for work in self._waiting)

    @property
    def alive(self) -> bool:
        """Whether scores are computed at all."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Score what waits, then end."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._next():
            model = self._model(batch[0].alias)
            now = time.monotonic()
            for work in batch:
                self._metrics.waiting.observe(now - work.since)
            self._score(batch, model)

    def _next(self) -> list[Work]:
        """Return the requests of the next batch, all of one model; none when this is to end."""
        batch: list[Work] = []
        with self._changed:
            while not batch:
                self._changed.wait_for(lambda: self._waiting or self._stopped)
                if not self._waiting:
                    return []
                self._fill(batch)
        return batch

    def _fill(self, batch: list[Work]) -> None:
        alias, tokens = self._waiting[0].alias, 0
        budget = RANKER_BATCHES * self._model(alias).backend.batch_tokens
        while self._waiting and self._waiting[0].alias == alias:
            if batch and tokens + self._waiting[0].tokens > budget:
                break
            work = self._waiting.popleft()
            self._tokens -= work.tokens
            if work.future.set_running_or_notify_cancel():  # else nobody waits for it any more
                tokens += work.tokens
                batch.append(work)

    def _score(self, batch: Sequence[Work], model: Loaded) -> None:
        pairs = [pair for work in batch for pair in work.pairs]
        start = time.monotonic()
        try:
            scores = model.backend.score(pairs)
            if not np.isfinite(scores).all():
                raise UserError(f"{model.reference}: a score is not a finite number", code="scores-not-finite")
        except Exception as error:
            if len(batch) == 1:
                batch[0].future.set_exception(error)
                return
            for work in batch:  # one request's trouble is its own
                self._score([work], model)
            return
        seconds = time.monotonic() - start
        self._measure(batch, model, len(pairs), seconds)
        at = 0
        for work in batch:
            count = len(work.pairs)
            work.future.set_result(Scored(scores[at : at + count], model, seconds * count / len(pairs)))
            at += count

    def _measure(self, batch: Sequence[Work], model: Loaded, pairs: int, seconds: float) -> None:
        speed = sum(work.tokens for work in batch) / max(seconds, 1e-6)
        self._speed = 0.8 * self._speed + 0.2 * speed if self._speed else speed
        self._metrics.scoring.labels(batch[0].alias).observe(seconds)
        self._metrics.batch_pairs.observe(pairs)
        self._metrics.batch_requests.observe(len(batch))


def _tokens(pair: Pair) -> int:
    query, passage = pair
    text = passage if isinstance(passage, str) else passage["text"]
    return 1 + (len(query) + len(text)) // _CHARACTERS
