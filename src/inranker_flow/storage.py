"""`file://` and `s3://` behind one interface: atomic writes, content digests, conditional puts.

Endpoint and credentials come from the standard AWS environment through boto3 (``AWS_ENDPOINT_URL``,
``AWS_ACCESS_KEY_ID``, ...). Big files are transferred in parts. A file or folder appears under its final name only when
it is complete.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

from inranker_flow.errors import UserError

#: Files larger than this are transferred in parts of this size.
PART_BYTES = 16 * 2**20


@dataclass(frozen=True)
class FileInfo:
    """One stored file: ``uri``, ``size`` in bytes, ``etag`` (S3's, or the content digest of a local file; see also
    :func:`look`)."""

    uri: str
    size: int
    etag: str


# --- local ------------------------------------------------------------------------------------------------------------


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
                f"{path}: cannot be written: {reason}; nothing is left under the final name, so make room and run again"
            ) from error
        raise


def _disk_reason(error: BaseException | None) -> str:
    """What the system said where a full disk is behind ``error``, else "". Libraries wrap it (SQLite, safetensors)."""
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
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    aside = Path(name)
    try:
        with disk_errors(path), os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.chmod(0o644)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder that takes the name ``path`` only when the block ends well; an empty ``path`` may exist already.

    Raises :class:`UserError` where ``path`` holds something: nothing is overwritten.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
    try:
        aside.chmod(0o755)
        with disk_errors(path):
            yield aside
        try:
            aside.replace(path)
        except OSError as error:
            raise UserError(f"{path}: exists and is not an empty folder; remove it or give another name") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def digest_file(path: str | os.PathLike[str]) -> str:
    """sha256 of a file's content, as hex."""
    import hashlib

    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_folder(path: str | os.PathLike[str]) -> str:
    """sha256 over the names and contents of all files below ``path``, as hex."""
    root, digest = Path(path), sha256()
    for file in sorted(each for each in root.rglob("*") if each.is_file()):
        digest.update(f"{file.relative_to(root).as_posix()}\0{digest_file(file)}\n".encode())
    return digest.hexdigest()


# --- both -------------------------------------------------------------------------------------------------------------


def local_path(uri: str) -> Path:
    """Path of a plain path or ``file://`` URI."""
    return Path(uri.removeprefix("file://")).expanduser()


def local_copy(uri: str) -> Path:
    """A local path with the content of ``uri`` (file, folder or prefix).

    Local ones are returned as they are. ``s3://`` is downloaded, whole or not at all, into a cache that is keyed by the
    etags, so unchanged content is not downloaded again; ``hf://OWNER/DATASET/FILE`` comes through the hub's own cache.
    Raises :class:`UserError` where there is nothing.
    """
    if uri.startswith("hf://"):
        return _from_hub(uri)
    if not uri.startswith("s3://"):
        path = local_path(uri)
        if not path.exists():
            raise UserError(f"{uri}: no such file or folder")
        return path
    files = list_files(uri)
    if not files:
        raise UserError(f"{uri}: nothing is stored there")
    single = len(files) == 1 and files[0].uri == uri
    target = _cache_root() / fingerprint_of(uri, files)[:32]
    if not target.exists():
        try:
            with atomic_folder(target) as folder, explained(uri):
                for file in files:
                    name = Path(uri).name if single else file.uri.removeprefix(uri.rstrip("/") + "/")
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    bucket, key = _split(file.uri)
                    s3().download_file(bucket, key, str(folder / name), Config=_transfer())
        except UserError:
            if not target.exists():  # else another process has just finished the same download
                raise
    return target / Path(uri).name if single else target


def upload(path: str | os.PathLike[str], uri: str) -> None:
    """Copy a local file or folder to ``uri``; each file appears complete or not at all."""
    path = Path(path)
    files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    for file in files:
        target = f"{uri.rstrip('/')}/{file.relative_to(path).as_posix()}" if path.is_dir() else uri
        if target.startswith("s3://"):
            bucket, key = _split(target)
            with explained(target):
                s3().upload_file(str(file), bucket, key, Config=_transfer())
        else:
            with atomic_write(local_path(target)) as out, open(file, "rb") as source:
                shutil.copyfileobj(source, out)


def list_files(uri: str) -> list[FileInfo]:
    """Files at or below ``uri``, sorted by name; empty where there is none."""
    if not uri.startswith("s3://"):
        path = local_path(uri)
        files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
        return [FileInfo(str(each), each.stat().st_size, digest_file(each)) for each in files]
    bucket, key = _split(uri)
    prefix = key.rstrip("/")
    found = []
    with explained(uri):
        for page in s3().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for item in page.get("Contents", []):
                below = item["Key"] == prefix or item["Key"].startswith(f"{prefix}/" if prefix else "")
                if below and not item["Key"].endswith("/"):
                    etag = item["ETag"].strip('"')
                    found.append(FileInfo(f"s3://{bucket}/{item['Key']}", item["Size"], etag))
    return sorted(found, key=lambda file: file.uri)


def look(uri: str) -> list[FileInfo]:
    """As :func:`list_files`, without reading local files: their ``etag`` is the time of their last change."""
    if uri.startswith("s3://"):
        return list_files(uri)
    found = []
    for path in sorted(each for each in local_path(uri).rglob("*") if each.is_file()):
        stat = path.stat()
        found.append(FileInfo(str(path), stat.st_size, str(stat.st_mtime_ns)))
    return found


def get(uri: str) -> bytes | None:
    """Content of a small file, or None where there is none."""
    if not uri.startswith("s3://"):
        try:
            return local_path(uri).read_bytes()
        except FileNotFoundError:
            return None
    from botocore.exceptions import ClientError

    bucket, key = _split(uri)
    with explained(uri):
        try:
            content: bytes = s3().get_object(Bucket=bucket, Key=key)["Body"].read()
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return None
            raise
    return content


def read_part(uri: str, start: int, length: int) -> bytes:
    """``length`` bytes of a stored file from ``start``, fewer at its end."""
    if not length:
        return b""
    if not uri.startswith("s3://"):
        with open(local_path(uri), "rb") as file:
            file.seek(start)
            return file.read(length)
    bucket, key = _split(uri)
    with explained(uri):
        part: bytes = (
            s3().get_object(Bucket=bucket, Key=key, Range=f"bytes={start}-{start + length - 1}")["Body"].read()
        )
    return part


def exists(uri: str) -> bool:
    """True where a file, folder or prefix is."""
    return bool(list_files(uri)) if uri.startswith("s3://") else local_path(uri).exists()


def put_if_absent(data: bytes, uri: str) -> bool:
    """Store ``data`` unless something is there already; False then. Of several writers at once exactly one wins."""
    if uri.startswith("s3://"):
        from botocore.exceptions import ClientError

        bucket, key = _split(uri)
        with explained(uri):
            try:
                s3().put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
            except ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] in (409, 412):
                    return False
                raise
        return True
    path = local_path(uri)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.link(name, path)  # fails where the name is taken, unlike a rename
    except FileExistsError:
        return False
    finally:
        Path(name).unlink()
    return True


def fingerprint(uri: str) -> str:
    """Digest of what ``uri`` holds now: of the contents locally, of names, sizes and etags on S3 (no download)."""
    if uri.startswith("hf://"):
        return ""
    files = list_files(uri)
    if not files:
        raise UserError(f"{uri}: no such file or folder, or an empty one")
    return fingerprint_of(uri, files)


def fingerprint_of(uri: str, files: list[FileInfo]) -> str:
    """Digest over names relative to ``uri``, sizes and etags, as hex."""
    digest = sha256()
    for file in files:
        digest.update(f"{file.uri.removeprefix(uri)}\0{file.size}\0{file.etag}\n".encode())
    return digest.hexdigest()


# --- S3 and the hub ---------------------------------------------------------------------------------------------------


@cache
def s3() -> Any:
    """The S3 client. It gives up in seconds where nobody answers."""
    import boto3
    from botocore.config import Config

    config = Config(connect_timeout=3, read_timeout=60, retries={"mode": "standard", "total_max_attempts": 3})
    try:
        return boto3.session.Session().client("s3", config=config)  # the default session would keep old credentials
    except ValueError as error:
        raise UserError(f"AWS_ENDPOINT_URL: {error}; give an address such as http://HOST:PORT") from error


def _transfer() -> Any:
    from boto3.s3.transfer import TransferConfig

    return TransferConfig(multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=8)


def _split(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not bucket:
        raise UserError(f"{uri}: no bucket; S3 addresses are s3://BUCKET/PREFIX")
    return bucket, key


@contextmanager
def explained(uri: str) -> Iterator[None]:
    """Turn boto3's errors into one line with endpoint and remedy."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        ConnectTimeoutError,
        EndpointConnectionError,
        NoCredentialsError,
    )

    try:
        yield
    except (EndpointConnectionError, ConnectTimeoutError) as error:
        endpoint = s3().meta.endpoint_url
        raise UserError(f"{uri}: no S3 server answers at {endpoint}; check AWS_ENDPOINT_URL and the network") from error
    except NoCredentialsError as error:
        raise UserError(
            f"{uri}: no S3 credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a role"
        ) from error
    except ClientError as error:
        code, message = error.response["Error"].get("Code", "?"), error.response["Error"].get("Message", "")
        raise UserError(f"{uri}: S3 at {s3().meta.endpoint_url} answered {code}: {message}".strip()) from error
    except (BotoCoreError, Boto3Error) as error:
        raise UserError(f"{uri}: S3 at {s3().meta.endpoint_url}: {' '.join(str(error).split())}") from error


def _cache_root() -> Path:
    root = os.environ.get("INRANKER_CACHE") or Path(tempfile.gettempdir()) / "inranker-cache"
    return Path(root)


def _from_hub(uri: str) -> Path:
    from huggingface_hub import hf_hub_download

    owner, _, rest = uri.removeprefix("hf://").partition("/")
    dataset, _, name = rest.partition("/")
    if not (owner and dataset and name):
        raise UserError(f"{uri}: addresses on the hub are hf://OWNER/DATASET/FILE")
    try:
        return Path(hf_hub_download(f"{owner}/{dataset}", name, repo_type="dataset"))
    except Exception as error:  # the hub's errors have no common base, and any of them means the same here
        reason = str(error).splitlines()[0]
        raise UserError(f"{uri}: the hub does not give it ({reason}); give a local copy or s3:// instead") from error
