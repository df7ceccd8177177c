"""Curves: numbers by step, written into a stage's run while it works, and what the machine did meanwhile.

Nothing of it holds a stage up or ends it: points are sent from a thread of their own, and what MLflow does not take is left out.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from inranker_flow import progress, redaction
from inranker_flow.tracking import connection
from inranker_flow.tracking.values import batches, metric_name

log = logging.getLogger(__name__)

#: Seconds between two requests with points; until the machine is watched; and that an end waits for the last of both.
EVERY, WATCHED_AFTER, PATIENCE = 5.0, 60.0, 10.0


@contextmanager
def written(run_id: str) -> Iterator[None]:
    """Write within the block what this process tells of its progress (:func:`.progress.point`) into the run ``run_id``."""
    curves = _Curves(run_id)
    with progress.listening(curves.take):
        try:
            yield
        finally:
            curves.close()


@contextmanager
def machine_watched(run_id: str, after: float = WATCHED_AFTER) -> Iterator[None]:
    """Record processor, memory, disk, network and GPUs in the run, of a block that takes longer than ``after`` seconds."""
    over = threading.Event()
    thread = threading.Thread(target=_watch, args=(run_id, after, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(PATIENCE)


def _watch(run_id: str, after: float, over: threading.Event) -> None:
    if over.wait(after):
        return
    with suppress(Exception):  # an image without psutil, a server that has gone
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)
        monitor = SystemMetricsMonitor(run_id, sampling_interval=EVERY, samples_before_logging=2)
        monitor.start()
        over.wait()
        monitor.finish()


class _Curves:
    """Points that wait, and the thread that sends them."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._waiting: list[tuple[str, float, int, int]] = []
        self._lock, self._over = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None

    def take(self, step: int, numbers: Mapping[str, float]) -> None:
        """Let points wait to be sent; the first starts the thread."""
        now = int(time.time() * 1000)
        with self._lock:
            self._waiting += [(name, float(value), now, step) for name, value in numbers.items()]
        if self._thread is None:
            self._thread = threading.Thread(target=self._send, daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Send what waits, for seconds at most."""
        self._over.set()
        if self._thread:
            self._thread.join(PATIENCE)

    def _send(self) -> None:
        from mlflow.entities import Metric

        try:
            client: Any = connection.client()
            while True:
                over = self._over.wait(EVERY)
                with self._lock:
                    points, self._waiting = self._waiting, []
                metrics = [Metric(metric_name(name), value, at, step) for name, value, at, step in points]
                for part in batches(metrics):
                    client.log_batch(self._run_id, metrics=part)
                if over:
                    return
        except Exception as error:  # MLflow's errors have no common base, and the stage goes on whatever they are
            log.info("the curves in MLflow end here: %s", redaction.line(error))
