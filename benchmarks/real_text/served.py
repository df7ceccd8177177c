"""The teacher: the bi-encoder that has seen a billion pairs of texts, behind a server as any teacher may be.

It answers TEI's ``/rerank`` with ``SCALE`` times the cosine of the two vectors. Vectors are kept by text, so a passage is read
once.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from inranker_flow.config.retrieval import DenseConfig
from inranker_flow.retrieval.bi_encoder import BiEncoder

#: From cosines, most between 0 and 0.8, to the spread of a reranker's logits.
SCALE = 20.0
#: Tokens of a text: what the bi-encoder was trained on, and what a student reads.
LENGTH = 128


class Teacher:
    """Scores by the bi-encoder in a folder, with vectors kept by text."""

    def __init__(self, folder: Path) -> None:
        self._encoder = BiEncoder(DenseConfig(checkpoint=str(folder), max_length=LENGTH, dtype="float32"))
        self._known: dict[str, np.ndarray] = {}

    def scores(self, query: str, texts: list[str]) -> list[float]:
        asked = [query, *texts]
        new = sorted({text for text in asked if text not in self._known})
        if new:
            self._known.update(zip(new, self._encoder.passages(new), strict=True))
        vectors = np.stack([self._known[text] for text in asked])
        return [SCALE * float(each) for each in vectors[1:] @ vectors[0]]


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve the bi-encoder in ``folder`` on a free port of this machine; yields its address."""
    model, lock = Teacher(folder), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                scores = model.scores(asked["query"], asked["texts"])
            order = sorted(range(len(scores)), key=lambda place: -scores[place])
            self._answer([{"index": place, "score": scores[place]} for place in order])

        def _answer(self, found: Any) -> None:
            body = json.dumps(found).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
