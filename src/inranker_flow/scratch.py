"""Unfinished work: a stage's own, so that a killed run continues where it was, and files that are still being written.

A stage's folder is named by the content that the work depends on (configuration and input digests), not by the run: another
run of the same work finds it. ``INRANKER_SCRATCH`` names the root; a stage removes its folder when its output is
complete.

A file or folder that is still being written is called ``.NAME.RANDOM.tmp``, beside NAME, and its writer holds a lock on it.
The kernel frees the lock of a writer that was killed: what the next writer in that folder can lock, it removes.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from inranker_flow.environment import variables

SUFFIX = ".tmp"


def root() -> Path:
    """Return the folder of all unfinished work, made where it is missing."""
    path = variables.scratch()
    path.mkdir(parents=True, exist_ok=True)
    return path


def scratch_folder(stage: str, *identity: Any) -> Path:
    """Create (or find) the scratch folder of ``stage`` for the work that ``identity`` (JSON data) describes."""
    folder = root() / stage / key(*identity)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def key(*identity: Any) -> str:
    """Return the name of the folder of the work that ``identity`` (JSON data) describes."""
    return sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:20]


@contextmanager
def aside(path: Path, folder: bool = False) -> Iterator[Path]:
    """A new empty file (or folder) beside ``path``, locked for the block; whatever is left of it then is removed.

    What killed writers left in that folder goes first.
    """
    if path.parent not in _crowded:
        sweep(path.parent)
    made, handle = _made(path, folder)
    try:
        yield made
    finally:
        if folder:
            shutil.rmtree(made, ignore_errors=True)
        else:
            made.unlink(missing_ok=True)
        os.close(handle)


def _made(path: Path, folder: bool) -> tuple[Path, int]:
    name = os.fsencode(path.name)[:100].decode(errors="ignore")  # the longest names leave no room for more
    prefix = f".{name}."
    while True:
        if folder:
            made = Path(tempfile.mkdtemp(dir=path.parent, prefix=prefix, suffix=SUFFIX))
        else:
            number, name = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=SUFFIX)
            os.close(number)
            made = Path(name)
        try:
            handle = os.open(made, os.O_RDONLY)
        except FileNotFoundError:
            continue  # another writer took it for a killed one's before it was locked
        _lock(handle)
        if made.exists():
            return made, handle
        os.close(handle)


def _lock(handle: int, wait: bool = True) -> bool:
    """Return whether the lock is ours; False, too, on a file system that has none."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


#: Folders with more entries than CROWD, which are looked through once for each process.
_crowded: set[Path] = set()
CROWD = 1000


def sweep(folder: Path) -> None:
    """Remove what killed writers left in ``folder``."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries]
    if len(names) > CROWD:
        _crowded.add(folder)
    for name in names:
        if name.startswith(".") and name.endswith(SUFFIX):
            _remove_abandoned(folder / name)


def sweep_tree(root: Path) -> None:
    """Remove what killed writers left in ``root`` and in the folders below it."""
    for folder, folders, _ in os.walk(root):
        sweep(Path(folder))
        folders[:] = [name for name in folders if not name.endswith(SUFFIX)]


def _remove_abandoned(path: Path) -> None:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return  # gone meanwhile, or another user's
    try:
        if not _lock(handle, wait=False):
            return
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    except PermissionError:
        return  # another user's
    finally:
        os.close(handle)
