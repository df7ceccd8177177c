"""Where the unfinished work of a stage lies, so that it outlives the process: below ``INRANKER_STORE``, else in scratch.

A pod's scratch goes with the pod. Below the store another pod finds the work by its identity: what the result follows from,
not the run. A version of it is files under their digests, then one small file, NUMBER.json, that names them: it is written
last, so half a version is never read.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inranker_flow import scratch
from inranker_flow.environment import variables
from inranker_flow.errors import UserError
from inranker_flow.storage import listing, local, uris

log = logging.getLogger(__name__)

#: Folder below the store.
FOLDER = "unfinished"
#: Versions that are kept: the one before the newest, too, for the case that the newest is damaged.
VERSIONS = 2
_VERSION = re.compile(r"\d{12}\.json")
_DIGEST = re.compile(r"[0-9a-f]{64}")
#: What is to be removed at the end of :func:`kept_first`.
_later: ContextVar[list[str] | None] = ContextVar("_later", default=None)


def shared() -> bool:
    """Return whether other pods see what lies in a :func:`place`."""
    return bool(variables.store_root())


def place(stage: str, *identity: Any) -> str:
    """Return the folder or prefix of the work of ``stage`` that ``identity`` (JSON data) describes."""
    below = variables.store_root()
    if not below:
        return str(scratch.scratch_folder(stage, *identity))
    return f"{below}/{FOLDER}/{stage}/{scratch.key(*identity)}"


@contextmanager
def kept_first() -> Iterator[None]:
    """Put the removals in the block off to its end, where results are safe; where it ends badly nothing is removed."""
    later: list[str] = []
    before = _later.set(later)
    try:
        yield
    finally:
        _later.reset(before)
    for uri in later:
        remove(uri)


def remove(uri: str) -> None:
    """Remove what lies in a place: its stage is done. What cannot be removed is told, and costs the stage nothing."""
    later = _later.get()
    if later is not None:
        later.append(uri)
        return
    try:
        if not uri.startswith("s3://"):
            _remove_folder(uris.local_path(uri))
            return
        # Versions first: a reader meets none whose files are gone.
        for file in sorted(uris.look(uri), key=lambda each: not _VERSION.fullmatch(each.uri.rpartition("/")[2])):
            uris.delete(file.uri)
    except (UserError, OSError) as error:
        log.warning("unfinished work of a stage that is done is left: %s", error)


def save(path: Path, uri: str, number: int) -> None:
    """Keep the file or folder ``path`` as version ``number`` of what lies at ``uri``; a later version has a higher number.

    Raises :class:`UserError` or :class:`OSError` where it cannot be stored; the versions before are still there then.
    """
    files = {each.relative_to(path).as_posix(): each for each in sorted(path.rglob("*")) if each.is_file()}
    digests = {}
    for name, file in (files if path.is_dir() else {"": path}).items():
        digests[name] = local.digest_file(file)
        _put(file, f"{uri}/{digests[name]}")
    uris.put(json.dumps({"files": digests}).encode(), f"{uri}/{number:012}.json")
    _forget_old(uri)


def load(uri: str, path: Path, above: int = -1) -> int | None:
    """Put the newest version at ``uri`` in place of ``path`` and return its number; None where none is above ``above``.

    A version that is damaged is told and removed, and the one before is taken. Raises :class:`UserError` where the store does not
    answer: what may lie there is not to be paid for twice.
    """
    for number in reversed(_versions(uri)):
        if number <= above:
            break
        try:
            _fetch(uri, _files(uri, number), path)
        except (FileNotFoundError, _DamagedError) as error:
            log.warning("%s: version %s of unfinished work is removed: %s", uri, number, error)
            uris.delete(f"{uri}/{number:012}.json")
        else:
            return number
    return None


@dataclass(frozen=True)
class Left:
    """Unfinished work at ``uri``; ``changed``: when something was last put there, in seconds since 1970."""

    uri: str
    size: int
    changed: float


def left(store: str) -> Iterator[Left]:
    """Yield the unfinished work of all stages below a store, in the order of its addresses."""
    found: dict[str, list[listing.FileInfo]] = {}
    base = f"{store.removeprefix('file://').rstrip('/')}/{FOLDER}"
    for file in uris.look(base):
        parts = file.uri.removeprefix(f"{base}/").split("/")
        found.setdefault("/".join([base, *parts[: min(2, len(parts) - 1)]]), []).append(file)
    for uri, files in sorted(found.items()):
        yield Left(uri, sum(each.size for each in files), max(each.changed for each in files))


class _DamagedError(Exception):
    """What is stored is not what was stored."""


def _remove_folder(path: Path) -> None:
    """With the folders above that are left empty, up to the store: S3 has none either."""
    shutil.rmtree(path, ignore_errors=True)
    if path.parents[1].name == FOLDER:
        with suppress(OSError):  # something else lies there
            path.parents[0].rmdir()
            path.parents[1].rmdir()


def _put(file: Path, uri: str) -> None:
    """Store a file that is never changed, only replaced. Where it lies on the disk of the store it takes no room twice."""
    if not uri.startswith("s3://"):
        target = uris.local_path(uri)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        try:
            os.link(file, target)
            return
        except OSError:  # another disk, or one without links
            pass
    uris.upload(file, uri)


def _fetch(uri: str, files: Mapping[str, str], path: Path) -> None:
    with scratch.aside(path, folder="" not in files) as aside:
        for name, digest in files.items():
            # Once more before it is given up: what was damaged may be the way.
            if not any(_arrives(f"{uri}/{digest}", aside / name, digest) for _ in range(2)):
                raise _DamagedError(f"{uri}/{digest} is damaged")
        if path.is_dir():
            shutil.rmtree(path)
        aside.replace(path)


def _arrives(uri: str, path: Path, digest: str) -> bool:
    uris.download(uri, path)
    return local.digest_file(path) == digest


def _versions(uri: str) -> list[int]:
    return sorted(int(name.removesuffix(".json")) for name in uris.names(uri) if _VERSION.fullmatch(name))


def _files(uri: str, number: int) -> dict[str, str]:
    """Return name -> digest of a version's files; the only one has the name ""."""
    try:
        files = json.loads(uris.read(f"{uri}/{number:012}.json"))["files"]
        if not files or not all(_DIGEST.fullmatch(digest) for digest in files.values()):
            raise ValueError("it names no files")
        if list(files) != [""]:
            listing.check_names(files, uri)
    except (ValueError, KeyError, TypeError, AttributeError, UserError) as error:
        raise _DamagedError(f"{number:012}.json is damaged: {error}") from error
    return dict(files)


def _forget_old(uri: str) -> None:
    """Remove versions before the newest ones, and the files of theirs that no newer one names."""
    versions = _versions(uri)
    kept = {digest for number in versions[-VERSIONS:] for digest in _digests(uri, number)}
    for number in versions[:-VERSIONS]:
        digests = _digests(uri, number)
        uris.delete(f"{uri}/{number:012}.json")
        for digest in digests - kept:
            uris.delete(f"{uri}/{digest}")


def _digests(uri: str, number: int) -> set[str]:
    try:
        return set(_files(uri, number).values())
    except (FileNotFoundError, _DamagedError):  # another process was quicker, or nobody can say
        return set()
