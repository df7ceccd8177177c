"""How long the champion has served, and when the schedule last ended well: a schedule that does nothing is heard."""

from __future__ import annotations

import time

from inranker_flow.model_registry import history, registry
from inranker_flow.progress import duration
from inranker_flow.tracking.records import RETRAIN, last_end

_DAY = 86_400.0


def line(name: str, alarm_days: int) -> str:
    """Return what is to be told about the champion of ``name`` and the last `retrain`; it begins with ``ALARM:`` where either
    is older than ``alarm_days`` (0: never)."""
    serving, state, ended = registry.champion(name), history.replay(history.read(name)), last_end()
    known = serving and state.last and state.serving == serving.version
    served = time.time() - state.last.when / 1000 if known and state.last else None
    since = time.time() - ended if ended else None
    champion = f"{serving.reference} serves" if serving else f"{name} has no champion"
    if serving and served is not None:
        champion = f"{serving.reference} has served for {_long(served)}"
    last = f"{RETRAIN} last ended well {_long(since)} ago" if since else f"no {RETRAIN} has ended well before"
    late = alarm_days and max(served or 0, since or 0) > alarm_days * _DAY
    return f"ALARM: {champion}; {last} (corpora.alarm_days: {alarm_days})" if late else f"{champion}; {last}"


def _long(seconds: float) -> str:
    return duration(seconds) if seconds < 2 * _DAY else f"{seconds / _DAY:.0f} days"
