"""Files of the Hugging Face hub, through its own cache on this machine."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from inranker_flow.environment import variables
from inranker_flow.errors import UserError
from inranker_flow.redaction import line
from inranker_flow.storage.listing import check_names

#: The hub makes Parquet of every data set that it can, on this branch: CONFIGURATION/SPLIT/NUMBER.parquet.
CONVERTED = "refs/convert/parquet"
#: Files of a data set that may be tables.
_TABLES = tuple(
    f"*{suffix}{packing}"
    for suffix in (".parquet", ".jsonl", ".ndjson", ".csv", ".tsv")
    for packing in ("", ".gz", ".zst")
)
_DATASET = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+)(?:@([^/]+))?(?:/(.+?))?/?")


def local_copy(uri: str) -> Path:
    """Return a local path with the content of ``hf://OWNER/DATASET/FILE`` or of ``hf://datasets/OWNER/NAME``.

    After NAME may stand ``@REVISION`` and a file, a folder or a configuration. Raises :class:`UserError` where the hub gives
    none.
    """
    if uri.startswith("hf://datasets/"):
        return _dataset(uri)
    from huggingface_hub import hf_hub_download

    owner, _, rest = uri.removeprefix("hf://").partition("/")
    dataset, _, name = rest.partition("/")
    if not (owner and dataset and name):
        raise UserError(f"{uri}: addresses on the hub are hf://OWNER/DATASET/FILE", code="address-form")
    check_names([name], uri)
    return _asked(
        uri, lambda: hf_hub_download(f"{owner}/{dataset}", name, repo_type="dataset", endpoint=variables.hub())
    )


def parts(uri: str) -> tuple[str, str, str]:
    """Return name, revision and path (perhaps empty both) of the address of a data set."""
    found = _DATASET.fullmatch(uri)
    if not found:
        raise UserError(
            f"{uri}: data sets on the hub are hf://datasets/OWNER/NAME, perhaps with @REVISION, and /FILE or /CONFIGURATION",
            code="address-form",
        )
    return found[1], found[2] or "", found[3] or ""


def _dataset(uri: str) -> Path:
    from huggingface_hub import snapshot_download

    name, revision, path = parts(uri)
    check_names([path] if path else [], uri)
    patterns = [path, *(f"{path}/{each}" for each in _TABLES)] if path else list(_TABLES)
    for branch in [revision] if revision else ["main", CONVERTED]:

        def fetch(branch: str = branch) -> str:
            return snapshot_download(
                name, repo_type="dataset", revision=branch, allow_patterns=patterns, endpoint=variables.hub()
            )

        if branch == CONVERTED and not _converted(name):
            break
        found = _asked(uri, fetch) / path
        if found.is_file() or any(each.is_file() for pattern in _TABLES for each in found.rglob(pattern)):
            return found
    raise UserError(
        f"{uri}: the hub has no table there (Parquet, JSON lines, CSV, TSV); correct the address", code="not-found"
    )


def _converted(name: str) -> bool:
    """Return whether the hub has made Parquet of a data set."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=variables.hub())
    try:
        return api.revision_exists(name, CONVERTED, repo_type="dataset")
    except Exception:  # it does not answer: nothing is there that was not found
        return False


def _asked(uri: str, fetch: Callable[[], str]) -> Path:
    try:
        return Path(fetch())
    except Exception as error:  # the hub's errors have no common base, and any of them means the same here
        reason = line(str(error) or type(error).__name__)
        raise UserError(
            f"{uri}: the hub does not give it ({reason}); give a local copy or s3:// instead", code="hub-refused"
        ) from error
