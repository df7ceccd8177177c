"""A running reranker for tests: a real server on 127.0.0.1, in this process or in one of its own, and requests to it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import urllib3

from inranker_flow.artifacts.manifest import write_manifest
from inranker_flow.model_registry import reference_scores
from inranker_flow.model_registry.reference_scores import ReferenceScores
from inranker_flow.reranker import Reranker
from inranker_flow.serving.server import listen, server
from inranker_flow.serving.service import Service
from tests.promoting import evaluation, promote

QUERY = "how long does it take to grow a garden"
PASSAGES = ["a garden in summer", "the bridge of copper", "moon and stone", "it does take long to grow bread", "river"]


@dataclass(frozen=True)
class Client:
    """Sends requests to the server at ``url``."""

    url: str

    def send(self, method: str, path: str, body: bytes | None = None) -> urllib3.BaseHTTPResponse:
        return _pool.request(method, f"{self.url}{path}", body=body, retries=False, timeout=60)

    def post(self, path: str, body: Any) -> tuple[int, Any]:
        """Status, and the JSON of the answer."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = self.send("POST", path, data)
        return answer.status, json.loads(answer.data)

    def get(self, path: str) -> tuple[int, Any]:
        answer = self.send("GET", path)
        return answer.status, json.loads(answer.data)

    def metric(self, name: str) -> float:
        """The sum of a metric's samples; ``name`` may hold labels as they are written."""
        lines = self.send("GET", "/metrics").data.decode().splitlines()
        found = [line for line in lines if line.startswith((f"{name} ", f"{name}{{")) or line.startswith(f"{name}")]
        found = [line for line in found if line.split(" ")[0] == name or line.startswith(f"{name}{{")]
        return sum(float(line.rpartition(" ")[2]) for line in found)


_pool = urllib3.PoolManager(maxsize=32)


@contextmanager
def running(service: Service) -> Iterator[Client]:
    """Serve in a thread of this process."""
    listening = listen("127.0.0.1", 0)
    made = server(service)
    thread = threading.Thread(target=made.run, args=([listening],), daemon=True)
    thread.start()
    try:
        yield Client(f"http://127.0.0.1:{listening.getsockname()[1]}")
    finally:
        made.should_exit = True
        thread.join(60)


@contextmanager
def process(*options: str) -> Iterator[tuple[subprocess.Popen[str], Client]]:
    """Serve in a process of its own, as `inranker serve` with ``options`` does."""
    command = [sys.executable, "-m", "inranker_flow", "serve", "--port=0", *options]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert started.stdout is not None
        line = started.stdout.readline()
        assert " at http://" in line, (line, started.communicate())
        yield started, Client(line.split(" at ")[1].split(" ")[0])
    finally:
        if started.poll() is None:
            started.kill()
        started.communicate()


def until(true: Any) -> None:
    """Wait, however long this machine takes: the test's own limit ends it."""
    while not true():
        time.sleep(0.02)


def version(name: str, student: Any, folder: Any, wrong: float = 0.0, promoted: bool = True) -> str:
    """Register ``student`` with its reference scores (``wrong``: so much off) and let it serve; returns its number."""
    scores = Reranker(student).score([(QUERY, each) for each in PASSAGES])
    champion = _champion(name)
    measured = evaluation(folder, bm25=0.2, **({"champion": 0.3} if champion else {}), phase2=0.6 if promoted else 0.25)
    known = ReferenceScores("float32", [(QUERY, each) for each in PASSAGES], [float(each) + wrong for each in scores])
    reference_scores.write(known, measured)
    write_manifest(measured, dataset="medicines", stage="evaluate")
    return promote(name, student, measured, champion, f"k-{folder.name}").version


def _champion(name: str) -> str:
    from inranker_flow.model_registry import registry

    found = registry.champion(name)
    return found.reference if found else ""
