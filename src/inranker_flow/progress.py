"""Progress: for logs one line every few seconds with rate and ETA (a bar is noise in a pod's log), and points by step for
whoever listens."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

log = logging.getLogger(__name__)

_listeners: list[Callable[[int, Mapping[str, float]], None]] = []


@contextmanager
def listening(listener: Callable[[int, Mapping[str, float]], None]) -> Iterator[None]:
    """Call ``listener(step, numbers)`` within the block for each :func:`point`."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def point(step: int, numbers: Mapping[str, float]) -> None:
    """Tell the numbers that a work in progress has at ``step``."""
    for listener in _listeners:
        listener(step, numbers)


class Progress:
    """Count work in ``unit`` (say what is proportional to time: tokens, not batches) and log now and then."""

    def __init__(self, what: str, total: int, unit: str, every_seconds: float = 5.0, points: bool = True) -> None:
        """``points``: tell the rate by the amount done, as a point of a curve."""
        self._points = points
        self.what, self.total, self.unit, self.every = what, total, unit, every_seconds
        self.done = 0
        self._start = self._last = time.monotonic()
        self._resumed = 0

    def resume(self, done: int) -> None:
        """Count work that an earlier attempt finished: it moves the percentage, not the rate."""
        self.done += done
        self._resumed += done

    def advance(self, amount: int, note: str = "") -> None:
        self.done += amount
        now = time.monotonic()
        if now - self._last >= self.every:
            self._last = now
            self._log(now, note)

    @property
    def rate(self) -> float:
        """The amount for each second, of what this process did."""
        return (self.done - self._resumed) / max(time.monotonic() - self._start, 1e-9)

    def _log(self, now: float, note: str) -> None:
        rate = self.rate
        if self._points:
            point(self.done, {f"{self.what}/{self.unit}_per_second": rate})
        eta = (self.total - self.done) / rate if rate else float("inf")
        log.info(
            "%s: %s of %s %s (%d%%), %s %s/s, ETA %s%s",
            self.what, f"{self.done:,}", f"{self.total:,}", self.unit, 100 * self.done // max(self.total, 1),
            f"{rate:,.0f}", self.unit, clock(eta), f", {note}" if note else "",
        )  # fmt: skip

    def finish(self) -> float:
        """Log the total; returns the rate in ``unit`` per second over the work of this process."""
        seconds = max(time.monotonic() - self._start, 1e-9)
        rate = (self.done - self._resumed) / seconds
        if self._points:
            point(self.done, {f"{self.what}/{self.unit}_per_second": rate})
        log.info("%s: %s %s in %.1f s (%s/s)", self.what, f"{self.done:,}", self.unit, seconds, f"{rate:,.0f}")
        return rate


def clock(seconds: float) -> str:
    """Return ``1h02m`` or ``3m07s``: for a number that counts."""
    if seconds == float("inf"):
        return "unknown"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"


def duration(seconds: float) -> str:
    """Return ``2.1 s``, ``81 s``, ``12 min`` or ``3 h 12 min``: for a sentence, and for :func:`of_duration`."""
    if seconds < 600:
        return f"{seconds:.{1 if 0 < seconds < 9.95 else 0}f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min"


def of_duration(text: str) -> float | None:
    """Return the seconds of a :func:`duration`; None for other words."""
    found = re.fullmatch(r"(?:([\d,]+) h )?(?:(\d+) min|([\d.]+) s)", text)
    if not found:
        return None
    hours, minutes, rest = (float((each or "0").replace(",", "")) for each in found.groups())
    return 3600 * hours + 60 * minutes + rest
