"""Files that a collection's settings name beside its documents: a log of queries, soft labels, run files."""

from __future__ import annotations

from pathlib import Path

from inranker_flow.errors import CollectionFault, UserError
from inranker_flow.storage import uris


def local_file(uri: str) -> Path:
    """Return a local path of the file at ``uri``.

    Raises :class:`CollectionFault` where there is none. That is no `BadCollection`, which may be remembered: the file may come
    while the collection stays as it is.
    """
    try:
        path = uris.local_copy(uri)
    except UserError as error:
        if error.code != "not-found":
            raise
        raise CollectionFault(str(error), code=error.code) from error
    if not path.is_file():
        raise CollectionFault(f"{uri}: not a file; name the file itself", code="collection-form")
    return path
