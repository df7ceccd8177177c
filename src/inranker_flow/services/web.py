"""Small HTTP requests with short timeouts, to the APIs around a run: Kubernetes, Kubeflow Pipelines, the hub, a webhook."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from base64 import b64encode
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from inranker_flow.environment import variables
from inranker_flow.errors import UserError

#: Seconds after which a server counts as silent.
TIMEOUT = 5


def request(
    url: str,
    *,
    method: str = "GET",
    token: str = "",
    data: Any = None,
    context: ssl.SSLContext | None = None,
    timeout: float | None = None,
) -> bytes:
    """Return the body of the answer (of HEAD: nothing); ``data`` is sent as JSON.

    ``token`` (Bearer), or user and password of the address, go to this address alone, not to where it redirects. Raises
    :class:`urllib.error.HTTPError` for a refusal, another :class:`OSError` where nobody answers, and :class:`UserError` for
    what is no http(s) address (the message does not repeat it: it may be a secret).
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise UserError("not an address of the form http://... or https://...", code="address-form")
    body = None if data is None else json.dumps(data).encode()
    address, login = _without_login(url)
    asked = urllib.request.Request(address, data=body, method=method)
    if body is not None:
        asked.add_header("Content-Type", "application/json")
    if token or login:
        asked.add_unredirected_header("Authorization", f"Bearer {token}" if token else f"Basic {login}")
    with urllib.request.urlopen(asked, timeout=timeout or TIMEOUT, context=context or _trusted()) as answer:
        # A HEAD that is redirected becomes a GET, perhaps of many gigabytes.
        content: bytes = b"" if method == "HEAD" else answer.read()
        return content


def _trusted() -> ssl.SSLContext | None:
    """Return the certificates that the other clients of a stage trust, where the environment names some."""
    bundle = variables.certificates()
    if not bundle:
        return None
    context = ssl.create_default_context()
    context.load_verify_locations(**{"capath" if Path(bundle).is_dir() else "cafile": bundle})
    return context


def _without_login(url: str) -> tuple[str, str]:
    """Return the address that urllib knows, and user and password as a header has them, or ""."""
    parts = urlsplit(url)
    login, at, host = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    basic = b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode() if at else ""
    return parts._replace(netloc=host).geturl(), basic


def is_inside_cluster(address: str) -> bool:
    """Return whether the host of an address is one that only the pods of a cluster find: a service's name."""
    host = urlsplit(address).hostname or ""
    return host != "localhost" and ("." not in host or host.endswith((".svc", ".cluster.local")))


def reason(error: BaseException) -> str:
    """Return the reason of a failed request in a few words that never hold the address."""
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}".strip()
    if isinstance(error, urllib.error.URLError):
        return reason(error.reason) if isinstance(error.reason, BaseException) else "no answer"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) if isinstance(error, UserError) else type(error).__name__
