"""The process that listens: it ends when it is told to, after it has answered what is under way."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from inranker_flow.errors import UserError
from inranker_flow.serving.app import make_app
from inranker_flow.serving.service import Service

#: Seconds for what is under way after SIGTERM: less than Kubernetes waits (`terminationGracePeriodSeconds`).
_LAST_SECONDS = 50
#: Seconds that an idle connection stays open: longer than load balancers keep theirs, or they would use one that closes.
_IDLE = 75


class _Server(uvicorn.Server):
    """SIGTERM and SIGINT are a way to end, and no failure: they are not raised again afterwards."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        main = threading.current_thread() is threading.main_thread()
        numbers = (signal.SIGINT, signal.SIGTERM) if main else ()
        before = {each: signal.signal(each, self.handle_exit) for each in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 is a free one. Raises :class:`UserError` where there is none."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        made = socket.create_server((host, port), family=family, backlog=512)
    except (OSError, OverflowError) as error:
        said = getattr(error, "strerror", None) or str(error)
        raise UserError(f"PORT: cannot listen at {host}:{port}: {said}; give another", code="port-refused") from error
    # Connections inherit it. asyncio sets it for sockets of its own making alone; without it the body of an answer waits 40 ms
    # for the client to acknowledge the head.
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def server(service: Service) -> uvicorn.Server:
    """Return the server of ``service``: its `run` serves until SIGTERM or SIGINT, and answers what is under way then."""
    config = uvicorn.Config(
        make_app(service),
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=_IDLE,
        timeout_graceful_shutdown=_LAST_SECONDS,
    )
    return _Server(config)
