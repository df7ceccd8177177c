"""A small server with the routes by which rerankers are served; what it answers follows from the texts."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from hashlib import sha256
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.http_server import LoopbackServer

#: Tokens that it counts for a pair.
TOKENS = 7


def raw(query: str, passage: str) -> float:
    """The logit of a pair, -4 to 4."""
    return int(sha256(f"{query}/{passage}".encode()).hexdigest()[:8], 16) / 2**32 * 8 - 4


class RerankServer(LoopbackServer):
    """Serves ``model`` as vLLM does (/score, /rerank), and as TEI (/rerank with ``texts``).

    ``trouble``: of the number of a request (from 0), what is wrong with its answer: a status, "half" (its JSON ends early), or
    a function that is given the answer and returns another. ``limit``: characters of a passage that it can read. ``probability``:
    Cohere's way, whatever is asked for.
    """

    def __init__(
        self,
        model: str = "big-reranker",
        trouble: Callable[[int], Any] = lambda number: None,
        headers: dict[str, str] | None = None,
        key: str = "",
        limit: int = 10_000,
        most_pairs: int = 10_000,
        score: Callable[[str, str], float] = raw,
        delay: float = 0.0,
    ) -> None:
        self.model, self.trouble, self.headers, self.key = model, trouble, headers or {}, key
        self.limit, self.most_pairs, self.score, self.delay = limit, most_pairs, score, delay
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        super().__init__(_handler(self))

    def pairs(self) -> list[tuple[str, str]]:
        """All pairs that were asked for, in the order of the requests."""
        return [pair for _, request in self.requests for pair in pairs_of(request)]


def pairs_of(request: dict[str, Any]) -> list[tuple[str, str]]:
    if "text_1" in request:
        return list(zip(request["text_1"], request["text_2"], strict=True))
    return [(request["query"], each) for each in request.get("texts") or request["documents"]]


def _handler(server: RerankServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            found = {"model_id": server.model, "max_client_batch_size": server.most_pairs}
            self._send(*((200, found) if self.path == "/info" else (404, {"error": "no such route"})))

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with server.lock:
                number = len(server.requests)
                server.requests.append((self.path, request))
                server.at_once += 1
                server.most_at_once = max(server.most_at_once, server.at_once)
            time.sleep(server.delay)
            self._answer(request, server.trouble(number))
            with server.lock:
                server.at_once -= 1

        def _answer(self, request: dict[str, Any], trouble: Any) -> None:
            if server.key and self.headers.get("Authorization") != f"Bearer {server.key}":
                self._send(401, {"error": {"message": "Incorrect API key provided"}})
            elif isinstance(trouble, int):
                self._send(trouble, {"error": {"message": "trouble, on purpose"}})
            elif self.path not in ("/score", "/rerank"):
                self._send(404, {"detail": "Not Found"})
            elif "texts" not in request and request["model"] != server.model:
                self._send(404, {"error": {"message": f"The model `{request['model']}` does not exist."}})
            elif len(pairs_of(request)) > server.most_pairs:
                said = f"batch size {len(pairs_of(request))} > maximum allowed batch size {server.most_pairs}"
                self._send(413, {"error": said, "error_type": "Validation"})
            elif max(len(passage) for _, passage in pairs_of(request)) > server.limit and not _cuts(request):
                self._send(
                    400, {"error": {"message": f"This model's maximum context length is {server.limit} tokens."}}
                )
            else:
                answer = self._scored(request)
                body = json.dumps(trouble(answer) if callable(trouble) else answer).encode()
                tokens = {"x-compute-tokens": str(TOKENS * len(pairs_of(request)))} if "texts" in request else {}
                self._send(200, body[: len(body) // 2] if trouble == "half" else body, tokens)

        def _scored(self, request: dict[str, Any]) -> Any:
            raw_ones = request.get("raw_scores") or request.get("use_activation") is False
            scores = [server.score(*pair) for pair in pairs_of(request)]
            if not raw_ones and server.score is raw:
                scores = [1 / (1 + 2.718281828459045**-each) for each in scores]
            usage = {"total_tokens": TOKENS * len(scores), "prompt_tokens": TOKENS * len(scores)}
            if "text_1" in request:
                data = [{"index": n, "object": "score", "score": each} for n, each in enumerate(scores)]
                return {"id": "score-1", "object": "list", "model": server.model, "data": data, "usage": usage}
            best = sorted(range(len(scores)), key=lambda n: -scores[n])
            if "texts" in request:
                return [{"index": n, "score": scores[n]} for n in best]
            results = [{"index": n, "document": {"text": "x"}, "relevance_score": scores[n]} for n in best]
            return {"id": "rerank-1", "model": server.model, "results": results, "usage": usage}

        def _send(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {**(headers or {}), **(server.headers if status != 200 else {})}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


def _cuts(request: dict[str, Any]) -> bool:
    return bool(request.get("truncate") or request.get("truncate_prompt_tokens"))
