"""What a pod may read of its own cluster: the Kubernetes API with the service account's token, and nothing more of it."""

from __future__ import annotations

import json
import re
import ssl
import urllib.error
from collections.abc import Iterable, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any

from inranker_flow.environment import variables
from inranker_flow.services import web

#: Where Kubernetes puts a pod's token and the API server's CA.
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

_UNITS = {
    "": 1.0, "n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
    "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50, "Ei": 2.0**60,
}  # fmt: skip


class Unreadable(Exception):
    """The API does not answer, or may not be read by this service account; the message says which."""


class Cluster:
    """The Kubernetes API of the cluster that this pod runs in."""

    def __init__(self, url: str, token: str, context: ssl.SSLContext | None = None) -> None:
        self._url, self._token, self._context = url.rstrip("/"), token, context

    def get(self, path: str, what: str) -> dict[str, Any] | None:
        """Return the object or list at ``path``, called ``what`` in errors; None where there is none.

        Raises :class:`Unreadable`.
        """
        return self._object("GET", path, None, f"read {what}")

    def send(self, method: str, path: str, data: dict[str, Any] | None, doing: str) -> dict[str, Any] | None:
        """Return the answer to a POST or DELETE that is for ``doing`` ("create pods"); None where there is nothing at
        ``path``.

        Raises :class:`Unreadable`.
        """
        return self._object(method, path, data, doing)

    def text(self, path: str, what: str) -> str:
        """Return the text at ``path``, a log; "" where there is none. Raises :class:`Unreadable`."""
        return (self._ask("GET", path, None, f"read {what}") or b"").decode(errors="replace")

    def _object(self, method: str, path: str, data: dict[str, Any] | None, doing: str) -> dict[str, Any] | None:
        found = self._ask(method, path, data, doing)
        try:
            answer: dict[str, Any] | None = None if found is None else json.loads(found)
        except ValueError as error:
            raise Unreadable(f"the Kubernetes API cannot be read ({web.reason(error)})") from error
        return answer

    def _ask(self, method: str, path: str, data: dict[str, Any] | None, doing: str) -> bytes | None:
        try:
            return web.request(self._url + path, method=method, data=data, token=self._token, context=self._context)
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            if error.code in (401, 403):
                raise Unreadable(f"the service account may not {doing} (HTTP {error.code})") from error
            raise Unreadable(f"the Kubernetes API answered {web.reason(error)}") from error
        except (OSError, ValueError, HTTPException) as error:
            raise Unreadable(f"the Kubernetes API cannot be read ({web.reason(error)})") from error


def of_this_pod() -> Cluster | None:
    """Return the cluster that this process runs in, or None where it runs in none. Raises :class:`Unreadable`."""
    host, port = variables.kubernetes_api()
    token = SERVICE_ACCOUNT / "token"
    if not host or not token.is_file():
        return None
    try:
        context = ssl.create_default_context(cafile=str(SERVICE_ACCOUNT / "ca.crt"))
        said = token.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise Unreadable(f"{SERVICE_ACCOUNT}: token or ca.crt cannot be read ({web.reason(error)})") from error
    named = f"[{host}]" if ":" in host else host
    return Cluster(f"https://{named}:{port}", said, context)


def namespace() -> str:
    """Return the namespace of this pod, as Kubernetes says it beside the token; "" where it does not."""
    try:
        return (SERVICE_ACCOUNT / "namespace").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""


def quantity(text: str | float) -> float:
    """Return a Kubernetes quantity (``500m``, ``32Gi``, ``8``) as a number; ValueError for anything else."""
    found = re.fullmatch(r"([0-9.]+(?:[eE][+-]?[0-9]+)?)([A-Za-z]{0,2})", str(text).strip())
    if not found or found[2] not in _UNITS:
        raise ValueError(f"{text!r} is no Kubernetes quantity")
    return float(found[1]) * _UNITS[found[2]]


def tolerated(taint: Mapping[str, str], tolerations: Iterable[Mapping[str, str]]) -> bool:
    """True where one of ``tolerations`` lets a pod onto a node with ``taint``."""
    return any(
        each.get("effect", "") in ("", taint.get("effect"))
        and (
            (not each.get("key") and each.get("operator") == "Exists")
            or (
                each.get("key") == taint["key"]
                and (each.get("operator") == "Exists" or each.get("value", "") == taint.get("value", ""))
            )
        )
        for each in tolerations
    )
