"""What a request goes through: admission, the queue, one model or two; without HTTP."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, Protocol

import numpy as np

from inranker_flow.serving.backends import Pair
from inranker_flow.serving.batcher import Batcher, Full, Scored, Slow
from inranker_flow.serving.bodies import AGAIN, Limits, Refusal
from inranker_flow.serving.metrics import Metrics
from inranker_flow.serving.models import Alias, Loaded

log = logging.getLogger(__name__)


class Models(Protocol):
    """The models of a server (`models.Fixed`, `models.Followed`)."""

    def current(self, alias: Alias) -> Loaded:
        """Return what serves for ``alias`` now."""
        ...

    def challenger(self) -> Loaded | None:
        """Return the model that canary requests go to, if there is another than the champion."""
        ...

    def state(self) -> dict[str, Any]:
        """Return what `inranker serving` prints."""
        ...

    def close(self) -> None:
        """End what goes on in the background."""
        ...


class Service:
    """Scores requests with ``models``.

    ``name``: what clients call the model. ``queue``: requests that may wait; ``patience``: seconds that each may wait.
    ``canary``: the share of the requests that the challenger answers.
    """

    def __init__(
        self,
        name: str,
        models: Models,
        metrics: Metrics,
        *,
        queue: int = 64,
        patience: float = 30.0,
        canary: float = 0.0,
        limits: Limits | None = None,
        log_texts: bool = False,
    ) -> None:
        self.name, self.models, self.metrics, self.limits = name, models, metrics, limits or Limits()
        self.log_texts = log_texts
        self._patience, self._canary = patience, canary
        self._batcher = Batcher(models.current, queue, patience, metrics)
        self._background: set[asyncio.Task[None]] = set()

    async def score(self, pairs: Sequence[Pair], gone: asyncio.Future[Any]) -> Scored:
        """Return the scores of a request; ``gone`` is done when its client has hung up.

        Raises :class:`Refusal` where there is no room, or where a request waits too long.
        """
        if self._canary and self.models.challenger() and random.random() < self._canary:
            return await self._canary_score(pairs, gone)
        return await self._wait(self._submit(pairs, "champion"), gone)

    def check_model(self, name: str | None) -> None:
        """Raise :class:`Refusal` where a client asks for another model than the one that is here."""
        serves = self.models.current("champion")
        known = {self.name, f"{self.name}@champion", f"models:/{self.name}@champion", serves.reference}
        if name and name not in known:
            raise Refusal(404, f"model: {name[:80]!r} is not served here; leave it out, or give {self.name!r}", "model")

    @property
    def alive(self) -> bool:
        """Whether scores are computed at all."""
        return self._batcher.alive

    def close(self) -> None:
        """Score what waits, then end."""
        self.models.close()
        self._batcher.stop()

    def _submit(self, pairs: Sequence[Pair], alias: Alias) -> Future[Scored]:
        try:
            return self._batcher.submit(pairs, alias)
        except Full:
            raise Refusal(429, "too many requests wait for the model; try again", "overloaded", AGAIN) from None
        except Slow:
            raise Refusal(
                503, f"the queue is longer than {self._patience:g} s; try again", "overloaded", AGAIN
            ) from None

    async def _wait(self, future: Future[Scored], gone: asyncio.Future[Any]) -> Scored:
        """Wait for scores that are under way however long it takes, and for the others as long as a request may wait."""
        found = asyncio.wrap_future(future)
        await asyncio.wait((found, gone), timeout=self._patience, return_when=asyncio.FIRST_COMPLETED)
        if not found.done():
            if future.cancel():
                if gone.done():
                    raise Refusal(499, "the client has hung up", "gone")
                raise Refusal(503, f"not begun within {self._patience:g} s; try again", "overloaded", AGAIN)
            await asyncio.wait((found,))
        return found.result()

    async def _canary_score(self, pairs: Sequence[Pair], gone: asyncio.Future[Any]) -> Scored:
        """Answer with the challenger's scores, and compare them with the champion's afterwards."""
        try:
            found = await self._wait(self._submit(pairs, "challenger"), gone)
        except Refusal:
            raise
        except Exception as error:
            log.error("the challenger cannot score a request: the champion answers", exc_info=error)
            return await self._wait(self._submit(pairs, "champion"), gone)
        self.metrics.canary.inc()
        task = asyncio.create_task(self._compare(pairs, found))
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return found

    async def _compare(self, pairs: Sequence[Pair], challenger: Scored) -> None:
        try:
            champion = await asyncio.wrap_future(self._submit(pairs, "champion"))
        except Exception:  # without room nothing is compared
            return
        self.metrics.canary_compared.inc()
        self.metrics.canary_seconds.labels("champion").observe(champion.seconds)
        self.metrics.canary_seconds.labels("challenger").observe(challenger.seconds)
        if int(np.argmax(champion.scores)) != int(np.argmax(challenger.scores)):
            self.metrics.canary_differs.inc()
