"""`file://`, `s3://` and `hf://` behind one interface.

A file or folder appears under its final name only when it is complete.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from inranker_flow import scratch
from inranker_flow.environment import variables
from inranker_flow.errors import UserError
from inranker_flow.storage import hub, s3_client, s3_objects
from inranker_flow.storage.listing import FileInfo, check_names, fingerprint_of
from inranker_flow.storage.local import atomic_folder, atomic_write, digest_file, disk_errors, files_below
from inranker_flow.storage.s3_errors import explained


def local_path(uri: str) -> Path:
    """Return the path of a plain path or ``file://`` URI."""
    return Path(uri.removeprefix("file://")).expanduser()


def local_copy(uri: str) -> Path:
    """Return a local path with the content of ``uri`` (file, folder or prefix).

    Local ones are returned as they are. ``s3://`` is downloaded, whole or not at all, into a cache that is keyed by the
    etags, so unchanged content is not downloaded again; ``hf://`` comes through the hub's own cache (:mod:`.hub`).
    Raises :class:`UserError` where there is nothing.
    """
    if uri.startswith("hf://"):
        return hub.local_copy(uri)
    if not uri.startswith("s3://"):
        path = local_path(uri)
        try:
            found = path.exists()
        except OSError as error:  # a folder on the way that may not be entered, or a name that is too long
            raise UserError(
                f"{uri[:300]}: cannot be looked at ({error.strerror}); check the path and its rights",
                code="disk-unreadable",
            ) from error
        if not found:
            raise UserError(
                f"{uri}: no such file or folder; check the path, and that its disk is mounted here", code="not-found"
            )
        return path
    files = list_files(uri)
    if not files:
        raise UserError(f"{uri}: nothing is stored there", code="not-found")
    single = len(files) == 1 and files[0].uri == uri
    names = [Path(uri).name if single else file.uri.removeprefix(uri.rstrip("/") + "/") for file in files]
    target = variables.cache() / fingerprint_of(uri, files)[:32]
    check_names(names, uri, target)
    if not target.exists():
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"INRANKER_CACHE: {target.parent}: {error.strerror}; give a folder that can be written",
                code="disk-refused",
            ) from error
        try:
            with atomic_folder(target) as folder, explained(uri):
                for file, name in zip(files, names, strict=True):
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    bucket, key = s3_objects.split(file.uri)
                    s3_objects.download(bucket, key, folder / name)
        except UserError:
            if not target.exists():  # else another process has just finished the same download
                raise
    return target / names[0] if single else target


def download(uri: str, path: Path) -> None:
    """Write one stored file to ``path``. Raises :class:`FileNotFoundError` where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not uri.startswith("s3://"):
        shutil.copyfile(local_path(uri), path)
        return
    from botocore.exceptions import ClientError

    bucket, key = s3_objects.split(uri)
    with disk_errors(path), explained(uri):
        try:
            s3_objects.download(bucket, key, path)
        except ClientError as error:
            raise s3_objects.missing(error, uri) or error from error


def upload(path: str | os.PathLike[str], uri: str) -> None:
    """Copy a local file or folder to ``uri``; each file appears complete or not at all."""
    path = Path(path)
    files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    for file in files:
        if path.is_dir() and file.is_symlink() and not file.resolve().is_relative_to(path.resolve()):
            raise UserError(
                f"{file}: is a link to {file.resolve()}, outside of its folder; put a file there", code="folder-link"
            )
    for file in files:
        target = f"{uri.rstrip('/')}/{file.relative_to(path).as_posix()}" if path.is_dir() else uri
        if target.startswith("s3://"):
            bucket, key = s3_objects.split(target)
            with explained(target):
                s3_objects.upload(file, bucket, key)
        else:
            with atomic_write(local_path(target)) as out, open(file, "rb") as source:
                shutil.copyfileobj(source, out)


def list_files(uri: str) -> list[FileInfo]:
    """Return files at or below ``uri``, sorted by name; empty where there is none."""
    if not uri.startswith("s3://"):
        path = local_path(uri)
        files = [path] if path.is_file() else files_below(path)
        return [FileInfo(str(each), each.stat().st_size, digest_file(each)) for each in files]
    bucket, key = s3_objects.split(uri)
    prefix = key.rstrip("/")
    with explained(uri):
        return sorted(
            s3_client.patiently(lambda: s3_objects.list_files(bucket, prefix, key.endswith("/"))),
            key=lambda file: file.uri,
        )


def look(uri: str) -> list[FileInfo]:
    """As :func:`list_files`, without reading local files: their ``etag`` is the time of their last change."""
    if uri.startswith("s3://"):
        return list_files(uri)
    found = []
    for path in files_below(local_path(uri)):
        stat = path.stat()
        found.append(FileInfo(str(path), stat.st_size, str(stat.st_mtime_ns), stat.st_mtime))
    return found


def read_part(uri: str, start: int, length: int) -> bytes:
    """Return ``length`` bytes of a stored file from ``start``, fewer at its end."""
    if not length:
        return b""
    if not uri.startswith("s3://"):
        with open(local_path(uri), "rb") as file:
            file.seek(start)
            return file.read(length)
    bucket, key = s3_objects.split(uri)
    with explained(uri):
        part: bytes = (
            s3_client.client()
            .get_object(Bucket=bucket, Key=key, Range=f"bytes={start}-{start + length - 1}")["Body"]
            .read()
        )
    return part


def exists(uri: str) -> bool:
    """True where a file, folder or prefix is."""
    if uri.startswith("s3://"):
        return bool(list_files(uri))
    try:
        return local_path(uri).exists()
    except OSError as error:
        raise UserError(
            f"{uri[:300]}: cannot be looked at ({error.strerror}); check the path and its rights",
            code="disk-unreadable",
        ) from error


def put_if_absent(data: bytes, uri: str) -> bool:
    """Store ``data`` unless something is there already; False then. Of several writers at once exactly one wins.

    Where an answer was lost on the way, what is there counts as one's own if it is equal: who must know whether it was the
    first puts something into ``data`` that no other writer has. Raises :class:`UserError` where it cannot be stored; what
    is there already stays as it is.
    """
    if uri.startswith("s3://"):
        with explained(uri):
            return s3_objects.put_if_absent(data, *s3_objects.split(uri))
    path = local_path(uri)
    path.parent.mkdir(parents=True, exist_ok=True)
    with scratch.aside(path) as aside, disk_errors(path):
        with open(aside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.chmod(0o644)
        try:
            os.link(aside, path)  # fails where the name is taken, unlike a rename
        except FileExistsError:
            return False
    return True


def put(data: bytes, uri: str) -> None:
    """Store ``data`` in place of what is there: whole or not at all."""
    if uri.startswith("s3://"):
        bucket, key = s3_objects.split(uri)
        with explained(uri):
            s3_client.patiently(lambda: s3_client.client().put_object(Bucket=bucket, Key=key, Body=data))
        return
    with atomic_write(local_path(uri)) as out:
        out.write(data)


def read(uri: str) -> bytes:
    """Return the content of one file. Raises :class:`FileNotFoundError` where there is none."""
    if not uri.startswith("s3://"):
        return local_path(uri).read_bytes()
    from botocore.exceptions import ClientError

    bucket, key = s3_objects.split(uri)
    with explained(uri):
        try:
            return s3_objects.read(bucket, key)
        except ClientError as error:
            raise s3_objects.missing(error, uri) or error from error


def names(uri: str) -> dict[str, int]:
    """Return name -> size in bytes of the files that lie directly in the folder or prefix ``uri``; temporary ones are left
    out.

    Unlike :func:`list_files` it reads no content.
    """
    if not uri.startswith("s3://"):
        folder = local_path(uri)
        found = {}
        for entry in os.scandir(folder) if folder.is_dir() else ():
            # Another process may be removing it just now.
            with suppress(FileNotFoundError):
                if entry.is_file() and not entry.name.startswith("."):
                    found[entry.name] = entry.stat().st_size
        return found
    bucket, key = s3_objects.split(uri)
    prefix = f"{key.rstrip('/')}/"
    with explained(uri):
        return s3_client.patiently(lambda: s3_objects.list_names(bucket, prefix))


def delete(uri: str) -> None:
    """Remove one file; one that is not there is no error."""
    if not uri.startswith("s3://"):
        local_path(uri).unlink(missing_ok=True)
        return
    bucket, key = s3_objects.split(uri)
    with explained(uri):
        s3_client.patiently(lambda: s3_client.client().delete_object(Bucket=bucket, Key=key))


def fingerprint(uri: str) -> str:
    """Digest of what ``uri`` holds now: of the contents locally, of names, sizes and etags on S3 (no download)."""
    if uri.startswith("hf://"):
        return ""
    files = list_files(uri)
    if not files:
        raise UserError(f"{uri}: no such file or folder, or an empty one", code="not-found")
    return fingerprint_of(uri, files)
