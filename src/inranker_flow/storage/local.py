"""Files of this machine that appear whole or not at all, and digests of their content."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import IO

from inranker_flow import scratch
from inranker_flow.errors import UserError

#: Links to folders are followed so deep below a folder: some lead back.
LINKS = 3


@contextmanager
def disk_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Say in one line that the disk with ``path`` is full, or a quota or a file size limit reached."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = _disk_reason(error)
        if reason:
            raise UserError(
                f"{path}: cannot be written: {reason}; nothing is left under the final name, so make room and run again",
                code="disk-full",
            ) from error
        raise


def _disk_reason(error: BaseException | None) -> str:
    """Return the system's words if a full disk is behind ``error``, otherwise "". Libraries wrap it (SQLite, safetensors)."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return os.strerror(error.errno)
        for said in ("database or disk is full", os.strerror(errno.ENOSPC)):
            if said in str(error):
                return said
        error = error.__cause__ or error.__context__
    return ""


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A binary file that takes the name ``path`` only when the block ends well; otherwise nothing is left."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with scratch.aside(path) as aside:
        with disk_errors(path), open(aside, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.chmod(0o644)
        aside.replace(path)


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder that takes the name ``path`` only when the block ends well; an empty ``path`` may exist already.

    Raises :class:`UserError` where ``path`` holds something: nothing is overwritten.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with scratch.aside(path, folder=True) as aside:
        aside.chmod(0o755)
        with disk_errors(path):
            yield aside
        try:
            aside.replace(path)
        except OSError as error:
            raise UserError(
                f"{path}: exists and is not an empty folder; remove it or give another name", code="folder-not-empty"
            ) from error


def files_below(folder: Path) -> list[Path]:
    """Return the files below a folder, sorted: also below links to folders, but for those that lead back or lie deep.

    What may not be looked at is left out.
    """
    found: list[Path] = []

    def walk(folder: Path, above: frozenset[tuple[int, int]]) -> None:
        with suppress(PermissionError, FileNotFoundError), os.scandir(folder) as entries:
            for entry in entries:
                path = folder / entry.name
                with suppress(OSError):
                    if entry.is_file():
                        found.append(path)
                    elif entry.is_dir():
                        status = entry.stat()
                        this = status.st_dev, status.st_ino
                        if not entry.is_symlink() or (this not in above and len(above) <= LINKS):
                            walk(path, above | {this})

    with suppress(OSError):
        root = folder.stat()
        walk(folder, frozenset({(root.st_dev, root.st_ino)}))
    return sorted(found)


def digest_file(path: str | os.PathLike[str]) -> str:
    """Return sha256 of a file's content, as hex."""
    import hashlib

    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_folder(path: str | os.PathLike[str]) -> str:
    """Return sha256 over the names and contents of all files below ``path``, as hex."""
    root, digest = Path(path), sha256()
    for file in sorted(each for each in root.rglob("*") if each.is_file()):
        name = file.relative_to(root).as_posix().encode(errors="surrogateescape")  # bytes that are no UTF-8
        digest.update(name + f"\0{digest_file(file)}\n".encode())
    return digest.hexdigest()
