"""Whether the Hugging Face hub gives a file to this run: one request for its head, no library.

What is in the hub's cache on this disk already is used where the hub does not answer, as its library does.
"""

from __future__ import annotations

import urllib.error
from http.client import HTTPException
from urllib.parse import quote

from inranker_flow.environment import variables
from inranker_flow.errors import UserError
from inranker_flow.preflight.checks import Skipped
from inranker_flow.services import web

_TERMS = "set HF_TOKEN (on a cluster: Secret inranker-hub) to a token of an account that was given access"


def check_file(repository: str, revision: str, name: str) -> str:
    """Ask for ``name`` of ``repository`` (``OWNER/MODEL``, ``datasets/OWNER/NAME``)."""
    return _check(repository, revision, name, _address(repository, revision, name)[1])


def check_dataset(name: str, revision: str) -> str:
    """Ask for the data set ``name`` (``OWNER/NAME``)."""
    url = f"{variables.hub()}/api/datasets/{name}/revision/{quote(revision or 'main', safe='')}"
    return _check(f"datasets/{name}", revision, "*", url)


def _check(repository: str, revision: str, name: str, url: str) -> str:
    if variables.hub_offline():
        if _cached(repository, name):
            return f"{repository}: in the cache of this machine"
        raise Skipped("HF_HUB_OFFLINE is set: the hub is not asked")
    endpoint = variables.hub()
    try:
        web.request(url, method="HEAD", token=variables.hub_token())
    except UserError as error:
        raise UserError(f"HF_ENDPOINT: {error}", code=error.code) from error
    except urllib.error.HTTPError as error:
        raise UserError(_refusal(repository, revision or "main", name, error), code="hub-refused") from error
    except (OSError, HTTPException) as error:
        if _cached(repository, name):
            return f"{repository}: in the cache of this machine (the hub does not answer)"
        raise UserError(
            f"the hub at {endpoint} does not answer ({web.reason(error)}); open the network to it or set HF_ENDPOINT, or "
            "give a copy under s3:// instead",
            code="server-no-answer",
        ) from error
    return f"{repository} at {endpoint}"


def read(repository: str, revision: str, name: str) -> bytes:
    """Return the content of a small file, of which :func:`check_file` has said that it is there; empty where the hub is not
    asked."""
    if _cached(repository, name):
        return b""
    try:
        return web.request(_address(repository, revision, name)[1], token=variables.hub_token())
    except (OSError, HTTPException):
        return b""


def _address(repository: str, revision: str, name: str) -> tuple[str, str]:
    """Return the hub's address and the file's."""
    endpoint = variables.hub()
    return endpoint, f"{endpoint}/{repository}/resolve/{quote(revision or 'main', safe='')}/{quote(name)}"


def _cached(repository: str, name: str) -> bool:
    """True where a download of any revision lies in the hub's cache (its documented layout)."""
    kind = "" if repository.startswith("datasets/") else "models/"
    return any((variables.hub_cache() / f"{kind}{repository}".replace("/", "--")).glob(f"snapshots/*/{name}"))


def _refusal(repository: str, revision: str, name: str, error: urllib.error.HTTPError) -> str:
    said = error.headers.get("X-Error-Code", "")
    if said == "GatedRepo" or error.code == 403:
        return f"{repository}: gated; accept its terms on the hub and {_TERMS}"
    if error.code == 401:  # the hub's answer for what does not exist too
        return f"{repository}: gated, private or not there; correct the name, or {_TERMS}"
    if said == "RevisionNotFound":
        return f"{repository}: has no revision {revision}; correct it"
    if said == "EntryNotFound":
        return f"{repository}: holds no {name} at revision {revision}; give another one or correct the address"
    if error.code == 404:
        return f"{repository}: the hub knows no such repository or file ({name}); correct the name"
    return f"{repository}: the hub answered {web.reason(error)}; try again later, or give a copy under s3://"
