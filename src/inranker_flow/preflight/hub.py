"""Whether the Hugging Face hub gives a file to this run: one request for its head, no library."""

from __future__ import annotations

import os
import urllib.error
from urllib.parse import quote

from inranker_flow import web
from inranker_flow.errors import UserError
from inranker_flow.preflight.checks import Skipped

_TERMS = "set HF_TOKEN (on a cluster: Secret inranker-hub) to a token of an account that was given access"


def check_file(repository: str, revision: str, name: str) -> str:
    """Ask for ``name`` of ``repository`` (``OWNER/MODEL``, ``datasets/OWNER/NAME``)."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise Skipped("HF_HUB_OFFLINE is set: the hub is not asked")
    endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    url = f"{endpoint}/{repository}/resolve/{quote(revision or 'main', safe='')}/{quote(name)}"
    try:
        web.request(url, method="HEAD", token=os.environ.get("HF_TOKEN", ""))
    except urllib.error.HTTPError as error:
        raise UserError(_refusal(repository, revision or "main", name, error)) from error
    except OSError as error:
        raise UserError(
            f"{repository}: the hub at {endpoint} does not answer ({web.reason(error)}); open the network to it or set "
            "HF_ENDPOINT, or give a copy under s3://"
        ) from error
    return f"{repository} at {endpoint}"


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
