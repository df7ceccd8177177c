"""Stored files by their names: which are allowed, and what a listing says of a content."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from inranker_flow.errors import UserError

#: What file systems take: bytes of one name, and of a path (with room for the name of a temporary file).
_LONGEST_NAME, _LONGEST_PATH = 255, 3800


@dataclass(frozen=True)
class FileInfo:
    """One stored file: ``uri``, ``size`` in bytes, ``etag`` (S3's, or the content digest of a local file; see also
    :func:`look`), ``changed`` in seconds since 1970."""

    uri: str
    size: int
    etag: str
    changed: float = 0.0


def check_names(names: Iterable[str], source: str, folder: Path | None = None) -> None:
    """Refuse names that are to be files below a folder and would lie anywhere else, before the first is written.

    Who may write a key, a manifest or a record must not decide where this process writes. ``source`` has these names;
    ``folder`` is where they are to lie. Raises :class:`UserError` with the first that is refused.
    """
    names = list(names)
    known = set(names)
    room = _LONGEST_PATH - len(os.fsencode(folder or ""))
    for name in names:
        parts = name.split("/")
        if "" in parts or "." in parts or ".." in parts:
            reason = "has an empty part, or a part . or .."
        elif "\0" in name or "\\" in name:
            reason = "holds a backslash or a zero byte"
        elif max(len(os.fsencode(part)) for part in parts) > _LONGEST_NAME or len(os.fsencode(name)) > room:
            reason = "is too long for a file's name"
        elif shorter := next(("/".join(parts[:i]) for i in range(1, len(parts)) if "/".join(parts[:i]) in known), ""):
            reason = f"lies below {shorter!r}, which is a file"
        else:
            continue
        raise UserError(
            f"{source}: the name {name[:200]!r} {reason}: nothing was copied; rename or remove it there",
            code="name-unusable",
        )


def fingerprint_of(uri: str, files: list[FileInfo]) -> str:
    """Digest over names relative to ``uri``, sizes and etags, as hex."""
    digest = sha256()
    for file in files:
        name = file.uri.removeprefix(uri)
        digest.update(f"{name}\0{file.size}\0{file.etag}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()
