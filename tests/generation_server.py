"""A small server with the part of OpenAI's API that query generation uses; what it writes depends on prompt and seed."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from hashlib import sha256
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.http_server import LoopbackServer


class GenerationServer(LoopbackServer):
    """Serves ``model``. ``trouble``: of the number of a generating request (from 0), what is wrong with its answer:
    a status, "silence" (no answer for `silence` seconds), "half" (its JSON ends early) or None.

    ``context``: words that a prompt may have. ``logprobs`` False: they are left out, without a word about it. ``answer``:
    what a chat's prompt is answered with, as it is.
    """

    def __init__(
        self,
        model: str = "writer",
        trouble: Callable[[int], Any] = lambda number: None,
        context: int = 10_000,
        logprobs: bool = True,
        headers: dict[str, str] | None = None,
        key: str = "",
        silence: float = 1.0,
        delay: float = 0.0,
        answer: Callable[[str], str | None] | None = None,
    ) -> None:
        self.answer = answer
        self.model, self.trouble, self.context, self.logprobs = model, trouble, context, logprobs
        self.headers, self.key, self.silence, self.delay = headers or {}, key, silence, delay
        self.requests: list[dict[str, Any]] = []
        self.routes: list[str] = []
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        super().__init__(_handler(self))

    def generating(self) -> list[dict[str, Any]]:
        """The requests for queries, without the one that asks what the server can."""
        return [each for each in self.requests if each["max_tokens"] > 1]


def prompt_of(request: dict[str, Any]) -> str:
    return request["prompt"] if "prompt" in request else request["messages"][-1]["content"]


def written(prompt: str, seed: int, number: int) -> tuple[str, list[float]]:
    """Text and log-probabilities of its tokens."""
    digest = sha256(f"{prompt}/{seed}/{number}".encode()).hexdigest()
    return f" what about {digest[:6]} {digest[6:12]}", [-int(digest[12:14], 16) / 100, -0.5]


def _handler(server: GenerationServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path == "/v1/models":
                self._send(200, {"data": [{"id": server.model, "root": "/models/w", "max_model_len": 512}]})
            elif self.path == "/version":
                self._send(200, {"version": "1.2.3"})
            else:
                self._send(404, {"error": {"message": "no such route"}})

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with server.lock:
                number = len(server.requests)
                server.requests.append(request)
                server.routes.append(self.path)
                server.at_once += 1
                server.most_at_once = max(server.most_at_once, server.at_once)
            time.sleep(server.delay)
            self._answer(request, server.trouble(number))
            with server.lock:
                server.at_once -= 1

        def _answer(self, request: dict[str, Any], trouble: Any) -> None:
            if server.key and self.headers.get("Authorization") != f"Bearer {server.key}":
                self._send(401, {"error": {"message": "Incorrect API key provided"}})
            elif trouble == "silence":
                time.sleep(server.silence)
                self.close_connection = True
            elif isinstance(trouble, int):
                self._send(trouble, {"error": {"message": "trouble, on purpose"}})
            elif len(prompt_of(request).split()) > server.context:
                message = (
                    f"This model's maximum context length is {server.context} tokens. However, you requested more."
                )
                self._send(400, {"error": {"message": message, "type": "BadRequestError", "code": 400}})
            else:
                self._send(200, self._completion(request), half=trouble == "half")

        def _completion(self, request: dict[str, Any]) -> dict[str, Any]:
            choices = []
            for number in range(request["n"]):
                text, values = written(prompt_of(request), request["seed"], number)
                choice: dict[str, Any] = {"index": number, "finish_reason": "stop"}
                asked = server.logprobs and request.get("logprobs")
                if "messages" in request:
                    said = server.answer(prompt_of(request)) if server.answer else None
                    said = f'<think>hm\n</think>\n"{text.strip()}"\n' if said is None else said
                    choice["message"] = {"role": "assistant", "content": said}
                    choice["logprobs"] = {"content": [{"logprob": value} for value in values]} if asked else None
                else:
                    choice |= {"text": text, "logprobs": {"token_logprobs": values} if asked else None}
                choices.append(choice)
            return {"choices": choices[::-1], "usage": {"completion_tokens": 2 * request["n"]}}

        def _send(self, status: int, body: Any, half: bool = False) -> None:
            data = json.dumps(body).encode()
            data = data[: len(data) // 2] if half else data
            self.send_response(status)
            for name, value in server.headers.items() if status != 200 else ():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
