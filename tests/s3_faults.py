"""A proxy in front of a real S3 server that does to a share of the requests what networks and busy servers do."""

from __future__ import annotations

import http.client
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import urlsplit

from tests.http_server import LoopbackServer

#: What may happen to a request: dropped before or after the server has done it, done late, an answer or an upload that is
#: cut in the middle, and what a server in trouble answers.
KINDS = ("drop", "drop answer", "delay", "cut answer", "cut upload", "InternalError", "ServiceUnavailable", "SlowDown")
_STATUS = {"InternalError": 500, "ServiceUnavailable": 503, "SlowDown": 503}
_DELAY = 0.3


class S3Faults(LoopbackServer):
    """Serves ``endpoint`` with faults at the share ``rate`` of the requests.

    ``refuse``: (method, path, headers) -> (status, S3 error code), or None to let a request through; asked before anything
    else, for servers that are full and credentials that have expired.
    """

    def __init__(self, endpoint: str, rate: float = 0.0, seed: int = 0) -> None:
        self.address, self.rate = urlsplit(endpoint).netloc, rate
        self.refuse: Callable[[str, str, Any], tuple[int, str] | None] = lambda *_: None
        #: How often what happened.
        self.done: Counter[str] = Counter()
        self._random, self._lock = random.Random(seed), threading.Lock()
        super().__init__(_handler(self))

    def fault(self) -> str:
        """What happens to this request; "" for nothing."""
        with self._lock:
            kind = self._random.choice(KINDS) if self._random.random() < self.rate else ""
            self.done[kind] += 1
        return kind


def _handler(proxy: S3Faults) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            refusal = proxy.refuse(self.command, self.path, self.headers)
            if refusal:
                self._error(*refusal)
                return
            kind = proxy.fault()
            if kind in _STATUS:
                self._error(_STATUS[kind], kind)
                return
            if kind == "drop":
                self.close_connection = True
                return
            if kind == "delay":
                time.sleep(_DELAY)
            answer = self._forward(body, cut=kind == "cut upload" and len(body) > 1)
            if answer is None or kind == "drop answer":
                self.close_connection = True
                return
            self._answer(*answer, cut=kind == "cut answer")

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815

        def _forward(self, body: bytes, cut: bool) -> tuple[int, list[tuple[str, str]], bytes] | None:
            """The server's answer; None where the upload was cut, so that there is none."""
            server = http.client.HTTPConnection(proxy.address, timeout=60)
            try:
                # The host is signed, so it stays the proxy's.
                server.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    if name.lower() not in ("expect", "connection"):
                        server.putheader(name, value)
                server.endheaders()
                server.send(body[: len(body) // 2] if cut else body)
                if cut:
                    return None
                answer = server.getresponse()
                return answer.status, answer.getheaders(), answer.read()
            finally:
                server.close()

        def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, cut: bool) -> None:
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                    self.send_header(name, value)
            size = dict(headers).get("Content-Length") if self.command == "HEAD" else None
            self.send_header("Content-Length", size or str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if cut else body)
            self.close_connection = cut

        def _error(self, status: int, code: str) -> None:
            text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>said the test</Message></Error>".encode()
            self._answer(
                status, [("Content-Type", "application/xml")], b"" if self.command == "HEAD" else text, cut=False
            )

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
