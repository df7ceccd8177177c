"""The reading half of an image registry's API for tests: manifests, and the three ways in which registries ask who one is."""

from __future__ import annotations

import base64
import json
import re
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.http_server import LoopbackServer

LOGIN = base64.b64encode(b"reader:secret").decode()


class Registry(LoopbackServer):
    """``images`` holds ``repository:tag`` and ``repository@digest``; ``everything`` has them all.

    ``asks``: nothing, ``bearer`` (a token for anybody), ``login`` (a token for :data:`LOGIN`), ``basic``, or ``refuse``.
    """

    def __init__(self, everything: bool = False, asks: str = "") -> None:
        self.images: set[str] = set()
        self.everything, self.asks = everything, asks
        #: (method, path) of every request.
        self.requests: list[tuple[str, str]] = []
        super().__init__(_handler(self))
        self.name = f"127.0.0.1:{self.port}"

    def challenge(self, authorization: str, repository: str) -> str | None:
        """What a caller without the right to read is asked for."""
        realm = f'Bearer realm="http://{self.name}/token",service="tests",scope="repository:{repository}:pull"'
        wanted = {
            "": authorization,
            "bearer": f"Bearer token-for-{repository}",
            "login": f"Bearer token-for-{repository}",
            "basic": f"Basic {LOGIN}",
            "refuse": "never",
        }[self.asks]
        return None if authorization == wanted else 'Basic realm="tests"' if self.asks == "basic" else realm


def _handler(registry: Registry) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        wbufsize = -1  # one packet for each answer: two cost 40 ms (delayed acknowledgement)

        def _manifest(self) -> None:
            registry.requests.append((self.command, self.path))
            found = re.fullmatch(r"/v2/(.+)/manifests/([^/]+)", urlsplit(self.path).path)
            if not found:
                return self._send(404)
            repository, version = found.groups()
            if challenge := registry.challenge(self.headers.get("Authorization", ""), repository):
                return self._send(401, {"WWW-Authenticate": challenge})
            if "application/vnd.oci.image.index.v1+json" not in self.headers.get("Accept", ""):
                return self._send(404)  # as real ones do for an index that the caller does not accept
            name = f"{repository}{'@' if version.startswith('sha256:') else ':'}{version}"
            return self._send(200 if registry.everything or name in registry.images else 404)

        def do_GET(self) -> None:
            registry.requests.append((self.command, self.path))
            split = urlsplit(self.path)
            scope = parse_qs(split.query).get("scope", [""])[0]
            if split.path != "/token" or not scope:
                return self._send(404)
            if registry.asks == "login" and self.headers.get("Authorization") != f"Basic {LOGIN}":
                return self._send(401)
            return self._send(200, body={"token": f"token-for-{scope.split(':')[1]}"})

        do_HEAD = _manifest  # noqa: N815

        def _send(self, status: int, headers: dict[str, str] | None = None, body: Any = None) -> None:
            data = json.dumps(body).encode() if body else b""
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
