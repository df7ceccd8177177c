"""Artifact folders through a store, where a runner hands on nothing but local paths.

On a cluster KFP's launcher carries artifacts to and from S3. KFP's local runner does not: with ``INRANKER_ARTIFACTS`` set
to ``s3://BUCKET/PREFIX``, a finished artifact folder is uploaded there under the digest of its manifest, and what stays in
its place is the manifest and a pointer; the stage that reads it downloads it. Unset, nothing is moved.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from inranker_flow.artifacts.manifest import FILENAME
from inranker_flow.environment import variables
from inranker_flow.errors import UserError
from inranker_flow.storage import uris
from inranker_flow.storage.local import atomic_write, digest_file
from inranker_flow.storage.uris import local_path

#: File that stands in a folder for what was moved to the store: one line, its address.
POINTER = "moved-to.txt"


def publish(folder: Path) -> None:
    """Move a complete artifact folder to the store; files and folders without a manifest stay as they are."""
    root = variables.artifacts()
    manifest = folder / FILENAME
    if not root or not manifest.is_file():
        return
    uri = f"{root}/{digest_file(manifest)}"
    uris.upload(folder, uri)
    # The pointer is written when all is there, and only then is anything removed: killed between, both are whole.
    with atomic_write(folder / POINTER) as out:
        out.write(f"{uri}\n".encode())
    for each in folder.iterdir():
        if each.is_dir():
            shutil.rmtree(each)
        elif each.name not in (FILENAME, POINTER):
            each.unlink()


def moved(folder: Path) -> bool:
    """True where only manifest and pointer are left of an artifact folder."""
    return (folder / POINTER).is_file()


def fetch(folder: Path) -> Path:
    """Return the folder on this machine with the content of ``folder``: itself, or a copy of an artifact that was moved.

    Raises :class:`UserError` where the pointer leads nowhere.
    """
    pointer = folder / POINTER
    if not moved(folder):
        return folder
    remedy = f"remove {folder} and run its stage again"
    try:
        uri = pointer.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{pointer}: cannot be read ({error}); {remedy}", code="artifact-unreadable") from error
    if not uri.startswith("s3://") and not local_path(uri).is_absolute():
        raise UserError(f"{pointer}: {uri[:100]!r} is no address of a folder; {remedy}", code="pointer-damaged")
    if "\n" in uri or "\0" in uri:
        raise UserError(f"{pointer}: {uri[:100]!r} is no address, but several lines; {remedy}", code="pointer-damaged")
    if not uris.exists(uri):
        raise UserError(
            f"{pointer}: this artifact was moved to {uri}, and nothing is there; bring it back (is the store of "
            f"INRANKER_ARTIFACTS mounted?), or {remedy}",
            code="artifact-missing",
        )
    return uris.local_copy(uri)
