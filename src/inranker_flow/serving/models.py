"""The models of a server: one that stays, or those behind the aliases of the registry, exchanged while they serve.

A new version is loaded beside the old one. Its files must be those that were registered, and its scores those of its
evaluation; then it takes the place of the old one. Whatever goes wrong on the way, the old one serves on.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from inranker_flow.errors import NoAnswer, UserError
from inranker_flow.model_registry import reference_scores, registry, stored_files
from inranker_flow.rankers import devices
from inranker_flow.rankers.checkpoints import locate
from inranker_flow.serving.backends import Backend, Loader
from inranker_flow.serving.bodies import AGAIN, Refusal
from inranker_flow.serving.metrics import Metrics

log = logging.getLogger(__name__)

Alias = Literal["champion", "challenger"]
#: Seconds after which a version that failed is tried again: at first, and at most. The wait is doubled each time.
_FIRST, _MOST = 30.0, 600.0
#: The alias is asked for after this share of `poll` at least, and at most: many servers do not ask at once.
_JITTER = (0.75, 1.25)


@dataclass(frozen=True)
class Loaded:
    """A model that can serve: its reference, the number of its version ("" for a folder), and what computes its scores."""

    reference: str
    version: str
    backend: Backend
    #: Changes if a version of the same number is another model.
    digest: str = ""


def load(reference: str, loader: Loader, batch_tokens: int = 0) -> Loaded:
    """Load ``reference`` (a folder, a hub id, ``models:/NAME/VERSION``) and score its reference pairs.

    Raises :class:`UserError` where it cannot be loaded, is damaged, or scores otherwise than in its evaluation.
    """
    folder = locate(reference)
    backend = loader(reference, batch_tokens)
    if folder:
        try:
            reference_scores.check(folder, backend.dtype, backend.score)
        except UserError as error:
            raise UserError(f"{reference}: {error}", code=error.code) from error
    registered = registry.parts(reference)[1] if reference.startswith("models:/") else ""
    return Loaded(reference, registered, backend)


class Fixed:
    """One model, which stays."""

    def __init__(self, loaded: Loaded, metrics: Metrics) -> None:
        self._loaded = loaded
        metrics.version.labels("champion", loaded.reference).set(1)

    def current(self, alias: Alias) -> Loaded:
        """Return the model."""
        return self._loaded

    def challenger(self) -> Loaded | None:
        """Return None: there is no second one."""
        return None

    def state(self) -> dict[str, Any]:
        """Return what `inranker serving` prints."""
        return {"serves": self._loaded.reference, "version": self._loaded.version}

    def close(self) -> None:
        """Do nothing: nothing is followed."""


@dataclass
class _Failure:
    """A version that failed: why, and when it is tried again (`time.monotonic`)."""

    reason: str
    wait: float
    again: float


@dataclass
class _Slot:
    """One alias: what serves for it, since when (seconds of the epoch), and what failed."""

    alias: Alias
    ask: Callable[[str], registry.Version | None]
    loaded: Loaded | None = None
    since: float = 0.0
    failed: dict[str, _Failure] = field(default_factory=dict)


class Followed:
    """The champion of the registered model ``name``, and with ``canary`` its challenger, as the registry names them.

    The first champion is loaded at once: :class:`UserError` where that fails or there is none. Where the registry does not
    answer, nothing serves until it does. After :meth:`start` the registry is asked every ``poll`` seconds.
    """

    def __init__(
        self, name: str, loader: Loader, metrics: Metrics, *, poll: float, canary: bool = False, batch_tokens: int = 0
    ) -> None:
        self.name, self._poll, self._metrics = name, poll, metrics
        self._load = partial(load, loader=loader, batch_tokens=batch_tokens)
        self._champion = _Slot("champion", registry.champion)
        self._challenger = _Slot("challenger", registry.challenger)
        self._slots: Sequence[_Slot] = (self._champion, self._challenger) if canary else (self._champion,)
        self._ended = threading.Event()
        #: Why the registry does not answer; "" while it does.
        self._silence = ""
        self._thread = threading.Thread(target=self._follow, name="following", daemon=True)
        self._first()

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def current(self, alias: Alias) -> Loaded:
        """Return the model that serves for ``alias``; the champion where the challenger is gone.

        Raises :class:`Refusal` before the first champion is there.
        """
        found = self._challenger.loaded if alias == "challenger" else None
        found = found or self._champion.loaded
        if found is None:
            why = "the registry does not answer" if self._silence else "no version could be loaded"
            raise Refusal(503, f"no model serves yet: {why}; GET /health says more", "not_ready", AGAIN)
        return found

    def challenger(self) -> Loaded | None:
        """Return the challenger, where it is another model than the champion."""
        return self._challenger.loaded

    def state(self) -> dict[str, Any]:
        """Return what `inranker serving` prints."""
        loaded, other = self._champion.loaded, self._challenger.loaded
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._champion.since))
        return {
            "model": self.name,
            "serves": loaded.reference if loaded else "",
            "version": loaded.version if loaded else "",
            "since": since if loaded else "",
            "registry": f"does not answer: {self._silence}" if self._silence else "answers",
            "failed": {name: each.reason for slot in self._slots for name, each in slot.failed.items()},
            "challenger": other.reference if other else "",
        }

    def close(self) -> None:
        """End following."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def look(self) -> None:
        """Ask the registry once, and exchange what has changed."""
        for slot in self._slots:
            try:
                found = slot.ask(self.name)
            except UserError as error:
                self._silent(error)
                return
            self._answers()
            if self._settle(slot, found):
                devices.free()
            if self._champion.loaded is None:
                return

    def _first(self) -> None:
        try:
            found = registry.champion(self.name)
        except NoAnswer as error:
            if error.code != NoAnswer.code:  # it answers, and refuses
                raise
            return self._silent(error)
        if found is None:
            raise UserError(
                f"{self.name}: no version serves, so there is no champion; train one (make run), let one serve (make "
                "promote), or name a folder or models:/NAME/VERSION",
                code="version-missing",
            )
        self._answers()
        return self._exchange(self._champion, self._loaded(found))

    def _follow(self) -> None:
        while not self._ended.wait(self._poll * random.uniform(*_JITTER)):
            try:
                self.look()
            except Exception as error:  # whatever it is, what serves goes on
                log.error("the registry was not looked at: %s", type(error).__name__, exc_info=error)

    def _settle(self, slot: _Slot, found: registry.Version | None) -> bool:
        """Let ``found`` serve for the alias of ``slot``; returns whether a model was loaded or dropped."""
        if found is None or (slot is self._challenger and found.reference == self.current("champion").reference):
            return self._empty(slot)
        if slot.loaded and (slot.loaded.reference, slot.loaded.digest) == (found.reference, _digest(found)):
            self._metrics.failed.labels(slot.alias).set(0)
            return False
        failure = slot.failed.get(found.reference)
        if failure and time.monotonic() < failure.again:
            return False
        try:
            loaded = self._loaded(found)
        except Exception as error:  # a damaged file may raise anything
            self._fail(slot, found.reference, error)
            return True
        slot.failed.pop(found.reference, None)
        self._exchange(slot, loaded)
        return True

    def _loaded(self, found: registry.Version) -> Loaded:
        return replace(self._load(found.reference), digest=_digest(found))

    def _exchange(self, slot: _Slot, loaded: Loaded) -> None:
        before = slot.loaded.reference if slot.loaded else ""
        slot.loaded, slot.since = loaded, time.time()
        if before:
            self._drop(slot, before)
        self._metrics.version.labels(slot.alias, loaded.reference).set(1)
        self._metrics.changes.labels(slot.alias).inc()
        self._metrics.failed.labels(slot.alias).set(0)
        log.info("%s serves as %s%s", loaded.reference, slot.alias, f", before {before}" if before else "")

    def _empty(self, slot: _Slot) -> bool:
        """Without a champion the last one serves on; without another challenger nothing is compared."""
        if slot is self._champion:
            log.warning("%s has no champion now: %s serves", self.name, self._serves(slot))
            return False
        before, slot.loaded = slot.loaded, None
        self._metrics.failed.labels(slot.alias).set(0)
        if before is None:
            return False
        self._drop(slot, before.reference)
        return True

    def _drop(self, slot: _Slot, reference: str) -> None:
        self._metrics.version.remove(slot.alias, reference)
        self._forget(reference)

    def _forget(self, reference: str) -> None:
        """Remove the files of a version that serves for no alias."""
        if reference not in {each.loaded.reference for each in self._slots if each.loaded}:
            stored_files.forget(reference)

    def _fail(self, slot: _Slot, reference: str, error: Exception) -> None:
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {str(error)[:200]}"
        before = slot.failed.get(reference)
        wait = min(before.wait * 2, _MOST) if before else _FIRST
        slot.failed[reference] = _Failure(reason, wait, time.monotonic() + wait)
        self._forget(reference)
        self._metrics.failures.labels(slot.alias, reference).inc()
        self._metrics.failed.labels(slot.alias).set(1)
        log.error("%s does not serve as %s, %s does: %s", reference, slot.alias, self._serves(slot), reason)

    def _serves(self, slot: _Slot) -> str:
        return slot.loaded.reference if slot.loaded else "nothing"

    def _silent(self, error: UserError) -> None:
        self._metrics.registry_up.set(0)
        if not self._silence:
            log.warning("the registry does not answer; %s serves: %s", self._serves(self._champion), error)
        self._silence = str(error)

    def _answers(self) -> None:
        self._metrics.registry_up.set(1)
        if self._silence:
            log.info("the registry answers again")
        self._silence = ""


def _digest(found: registry.Version) -> str:
    return "".join(found.tags.get(name, "") for name in (registry.DIGEST, registry.IDENTITY, stored_files.FILES))
