"""What a running server tells Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

#: Seconds: a small model answers in milliseconds, a queue in tens of seconds.
_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
_COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


class Metrics:
    """The metrics of one server, in a registry of their own."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = self._counter("requests", "Answered requests, by route and status.", "route", "status")
        self.seconds = self._histogram("request_seconds", "Seconds from a request to its answer.", _SECONDS, "route")
        self.waiting = self._histogram("waiting_seconds", "Seconds that a request waits for the model.", _SECONDS)
        self.scoring = self._histogram("scoring_seconds", "Seconds that a batch takes.", _SECONDS, "alias")
        self.batch_pairs = self._histogram("batch_pairs", "Pairs (query, passage) that are scored together.", _COUNTS)
        self.batch_requests = self._histogram("batch_requests", "Requests that are scored together.", _COUNTS)
        self.queue = self._gauge("queue_requests", "Requests that wait for the model.")
        self.version = self._gauge("model_version", "1 for the version that serves.", "alias", "reference")
        self.changes = self._counter("model_changes", "Versions that began to serve.", "alias")
        self.failures = self._counter(
            "model_failures",
            "Versions that could not be loaded, or score otherwise than evaluated.",
            "alias",
            "reference",
        )
        self.failed = self._gauge("model_failed", "1 while the version of the alias has failed.", "alias")
        self.registry_up = self._gauge("registry_up", "1 while the model registry answers.")
        self.canary = self._counter("canary_requests", "Requests that the challenger answered.")
        self.canary_compared = self._counter("canary_compared", "Of these, requests that the champion scored, too.")
        self.canary_differs = self._counter("canary_top_differs", "Of these, requests with another best passage.")
        self.canary_seconds = self._histogram(
            "canary_seconds", "Seconds that each model takes for the same canary request.", _SECONDS, "alias"
        )

    def text(self) -> bytes:
        """Return all metrics in Prometheus' form."""
        return generate_latest(self._registry)

    def observe_queue(self, length: Callable[[], float]) -> None:
        """Let ``length`` say how many requests wait, whenever somebody looks."""
        self.queue.set_function(length)

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(f"inranker_{name}", about, labels, registry=self._registry)

    def _gauge(self, name: str, about: str, *labels: str) -> Gauge:
        return Gauge(f"inranker_{name}", about, labels, registry=self._registry)

    def _histogram(self, name: str, about: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"inranker_{name}", about, labels, buckets=buckets, registry=self._registry)
