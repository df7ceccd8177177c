"""`file://` and `s3://` behind one interface: atomic writes, content digests, conditional puts.

Endpoint and credentials come from the standard AWS environment through boto3 (``AWS_ENDPOINT_URL``,
``AWS_ACCESS_KEY_ID``, ...). Big files are transferred in parts. A file or folder appears under its final name only when
it is complete.
"""

from __future__ import annotations

import errno
import logging
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import urlsplit

from inranker_flow import environment, scratch
from inranker_flow.errors import UserError
from inranker_flow.redaction import credentials_in, line, redact

T = TypeVar("T")

#: What file systems take: bytes of one name, and of a path (with room for the name of a temporary file).
_LONGEST_NAME, _LONGEST_PATH = 255, 3800

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
            raise UserError(f"{path}: exists and is not an empty folder; remove it or give another name") from error


def digest_file(path: str | os.PathLike[str]) -> str:
    """sha256 of a file's content, as hex."""
    import hashlib

    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_folder(path: str | os.PathLike[str]) -> str:
    """sha256 over the names and contents of all files below ``path``, as hex."""
    root, digest = Path(path), sha256()
    for file in sorted(each for each in root.rglob("*") if each.is_file()):
        name = file.relative_to(root).as_posix().encode(errors="surrogateescape")  # bytes that are no UTF-8
        digest.update(name + f"\0{digest_file(file)}\n".encode())
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
        try:
            found = path.exists()
        except OSError as error:  # a folder on the way that may not be entered, or a name that is too long
            raise UserError(
                f"{uri[:300]}: cannot be looked at ({error.strerror}); check the path and its rights"
            ) from error
        if not found:
            raise UserError(f"{uri}: no such file or folder; check the path, and that its disk is mounted here")
        return path
    files = list_files(uri)
    if not files:
        raise UserError(f"{uri}: nothing is stored there")
    single = len(files) == 1 and files[0].uri == uri
    names = [Path(uri).name if single else file.uri.removeprefix(uri.rstrip("/") + "/") for file in files]
    target = _cache_root() / fingerprint_of(uri, files)[:32]
    check_names(names, uri, target)
    if not target.exists():
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"INRANKER_CACHE: {target.parent}: {error.strerror}; give a folder that can be written"
            ) from error
        try:
            with atomic_folder(target) as folder, explained(uri):
                for file, name in zip(files, names, strict=True):
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    bucket, key = _split(file.uri)
                    _download(bucket, key, folder / name)
        except UserError:
            if not target.exists():  # else another process has just finished the same download
                raise
    return target / names[0] if single else target


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
        raise UserError(f"{source}: the name {name[:200]!r} {reason}: nothing was copied; rename or remove it there")


def download(uri: str, path: Path) -> None:
    """Write one stored file to ``path``. Raises :class:`FileNotFoundError` where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not uri.startswith("s3://"):
        shutil.copyfile(local_path(uri), path)
        return
    from botocore.exceptions import ClientError

    bucket, key = _split(uri)
    with disk_errors(path), explained(uri):
        try:
            _download(bucket, key, path)
        except ClientError as error:
            raise _missing(error, uri) or error from error


def upload(path: str | os.PathLike[str], uri: str) -> None:
    """Copy a local file or folder to ``uri``; each file appears complete or not at all."""
    path = Path(path)
    files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    for file in files:
        if path.is_dir() and file.is_symlink() and not file.resolve().is_relative_to(path.resolve()):
            raise UserError(f"{file}: is a link to {file.resolve()}, outside of its folder; put a file there")
    for file in files:
        target = f"{uri.rstrip('/')}/{file.relative_to(path).as_posix()}" if path.is_dir() else uri
        if target.startswith("s3://"):
            bucket, key = _split(target)
            with explained(target):
                _upload(file, bucket, key)
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
    with explained(uri):
        return sorted(patiently(lambda: _list_files(bucket, prefix, key.endswith("/"))), key=lambda file: file.uri)


def look(uri: str) -> list[FileInfo]:
    """As :func:`list_files`, without reading local files: their ``etag`` is the time of their last change."""
    if uri.startswith("s3://"):
        return list_files(uri)
    found = []
    for path in sorted(each for each in local_path(uri).rglob("*") if each.is_file()):
        stat = path.stat()
        found.append(FileInfo(str(path), stat.st_size, str(stat.st_mtime_ns)))
    return found


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
    if uri.startswith("s3://"):
        return bool(list_files(uri))
    try:
        return local_path(uri).exists()
    except OSError as error:
        raise UserError(
            f"{uri[:300]}: cannot be looked at ({error.strerror}); check the path and its rights"
        ) from error


def put_if_absent(data: bytes, uri: str) -> bool:
    """Store ``data`` unless something is there already; False then. Of several writers at once exactly one wins.

    Where an answer was lost on the way, what is there counts as one's own if it is equal: who must know whether it was the
    first puts something into ``data`` that no other writer has. Raises :class:`UserError` where it cannot be stored; what
    is there already stays as it is.
    """
    if uri.startswith("s3://"):
        with explained(uri):
            return _put_if_absent_on_s3(data, uri)
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
        bucket, key = _split(uri)
        with explained(uri):
            patiently(lambda: s3().put_object(Bucket=bucket, Key=key, Body=data))
        return
    with atomic_write(local_path(uri)) as out:
        out.write(data)


def read(uri: str) -> bytes:
    """Content of one file. Raises :class:`FileNotFoundError` where there is none."""
    if not uri.startswith("s3://"):
        return local_path(uri).read_bytes()
    from botocore.exceptions import ClientError

    bucket, key = _split(uri)
    with explained(uri):
        try:
            return patiently(lambda: bytes(s3().get_object(Bucket=bucket, Key=key)["Body"].read()))
        except ClientError as error:
            raise _missing(error, uri) or error from error


def names(uri: str) -> dict[str, int]:
    """Name -> size in bytes of the files that lie directly in the folder or prefix ``uri``; temporary ones are left out.

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
    bucket, key = _split(uri)
    prefix = f"{key.rstrip('/')}/"
    with explained(uri):
        return patiently(lambda: _list_names(bucket, prefix))


def delete(uri: str) -> None:
    """Remove one file; one that is not there is no error."""
    if not uri.startswith("s3://"):
        local_path(uri).unlink(missing_ok=True)
        return
    bucket, key = _split(uri)
    with explained(uri):
        patiently(lambda: s3().delete_object(Bucket=bucket, Key=key))


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
        name = file.uri.removeprefix(uri)
        digest.update(f"{name}\0{file.size}\0{file.etag}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


# --- S3 and the hub ---------------------------------------------------------------------------------------------------

#: Attempts of :func:`patiently`, each of up to three of the client's own, over about half a minute.
ATTEMPTS = 7
#: Seconds before the second attempt; it doubles.
PAUSE = 0.4

#: What S3 servers call a trouble that passes, whatever the status.
_PASSING = {
    *("SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "RequestTimeTooSkewed", "Throttling"),
    *("ThrottlingException", "RequestLimitExceeded", "TooManyRequests", "IncompleteBody", "BadDigest"),
    *("ConditionalRequestConflict", "OperationAborted", "XAmzContentChecksumMismatch"),
}
#: Credentials that were good and may have been renewed where they come from (a file, a role).
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"}
_NEVER = (501, 507)
#: What servers say of a bucket or a disk that is full.
_FULL_CODES = {"InsufficientStorage", "QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded"}

#: Attempts at a server that has not answered in this process: an address where nobody is is not waited for.
FIRST_ATTEMPTS = 3
#: Seconds in which such a server must answer, and those of one that has.
FIRST_TIMEOUT, TIMEOUT = 6, 60

#: Servers that have answered in this process, and not with a trouble.
_answered: set[str] = set()


def patiently(action: Callable[[], T]) -> T:
    """``action`` on S3, again after a while where it failed for a reason that passes.

    Such are a busy server, a connection or an answer that was cut, and credentials that have been renewed. The client
    itself tries three times within a second; this is for work that must not be lost for a bad minute. An error that stays
    gets a note that says for how long it was tried.
    """
    began = time.monotonic()
    for attempt in range(1, ATTEMPTS + 1):
        try:
            result = action()
        except Exception as error:
            if not _passes(error):
                raise
            if attempt >= (ATTEMPTS if _endpoint() in _answered else FIRST_ATTEMPTS):
                error.add_note(f"tried again for {time.monotonic() - began:.0f} s")
                raise
            time.sleep(PAUSE * 2 ** (attempt - 1) * random.uniform(0.5, 1.0))
        else:
            return result
    raise AssertionError("the last attempt returns or raises")


def _missing(error: Any, uri: str) -> FileNotFoundError | None:
    if error.response["Error"].get("Code") in ("NoSuchKey", "404"):
        return FileNotFoundError(errno.ENOENT, "no such object", uri)
    return None


def _passes(error: Exception) -> bool:
    from botocore import exceptions
    from botocore.parsers import ResponseParserError

    error = _inside(error)
    if isinstance(error, exceptions.ClientError):
        code = error.response["Error"].get("Code", "")
        if code in _EXPIRED:
            _clients.cache_clear()  # a new session asks for its credentials anew
            return True
        status = int(error.response["ResponseMetadata"].get("HTTPStatusCode", 0))
        return code in _PASSING or (status >= 500 and status not in _NEVER and code not in _FULL_CODES)
    nobody = (exceptions.EndpointConnectionError, exceptions.ConnectTimeoutError, exceptions.ReadTimeoutError)
    if isinstance(error, nobody):
        return _endpoint() in _answered
    if isinstance(error, exceptions.SSLError | exceptions.ProxyConnectionError):
        return _endpoint() in _answered
    cut = (exceptions.HTTPClientError, exceptions.ConnectionError, exceptions.IncompleteReadError)
    return isinstance(error, (*cut, exceptions.FlexibleChecksumError, ResponseParserError))


def _inside(error: Any) -> Any:
    """What went wrong in a transfer in parts, out of boto3's error around it; any other error is itself."""
    from boto3.exceptions import Boto3Error

    inner = (getattr(error, "last_exception", None) or error.__context__) if isinstance(error, Boto3Error) else None
    return inner or error


def _put_if_absent_on_s3(data: bytes, uri: str) -> bool:
    from botocore.exceptions import ClientError

    bucket, key = _split(uri)
    attempts = 0

    def put_once() -> bool:
        nonlocal attempts
        attempts += 1
        try:
            s3().put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
        except ClientError as error:
            about = error.response["ResponseMetadata"]
            if about["HTTPStatusCode"] != 412:
                raise
            # Where an earlier attempt's answer was lost, what is there may be our own.
            return (attempts > 1 or bool(about.get("RetryAttempts"))) and read(uri) == data
        return True

    return patiently(put_once)


def _list_files(bucket: str, prefix: str, folder: bool) -> list[FileInfo]:
    found = []
    for page in s3().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get("Contents", []):
            below = (item["Key"] == prefix and not folder) or item["Key"].startswith(f"{prefix}/" if prefix else "")
            if below and not item["Key"].endswith("/"):
                if not {"Size", "ETag"} <= set(item):
                    raise ValueError(f"its list says nothing of the size or the etag of {item['Key']!r}")
                found.append(FileInfo(f"s3://{bucket}/{item['Key']}", item["Size"], item["ETag"].strip('"')))
    return found


def _list_names(bucket: str, prefix: str) -> dict[str, int]:
    found = {}
    for page in s3().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, Delimiter="/"):
        for item in page.get("Contents", []):
            if item["Key"] != prefix:
                found[item["Key"].removeprefix(prefix)] = item["Size"]
    return found


def s3() -> Any:
    """The S3 client. It gives up in seconds where nobody answers, and waits for a server that has answered before.

    Raises :class:`UserError` where the environment or AWS' files do not make one.
    """
    first, later = _clients()
    return later if first.meta.endpoint_url in _answered else first


def _endpoint() -> str:
    return str(_clients()[0].meta.endpoint_url)


@cache
def _clients() -> tuple[Any, Any]:
    """The client for a server's first answer, and that for all others."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    environment.forget_blanks()
    for name in ("botocore.credentials", "botocore.tokens"):  # they log tracebacks of what they raise as well
        logging.getLogger(name).setLevel(logging.CRITICAL)
    region = os.environ.get("AWS_REGION")  # as AWS' other programs have it; boto3 knows AWS_DEFAULT_REGION alone
    made = []
    try:
        session = boto3.session.Session(region_name=region)  # the default session would keep old credentials
        for attempts, timeout in ((2, FIRST_TIMEOUT), (3, TIMEOUT)):
            config = Config(
                connect_timeout=3, read_timeout=timeout, retries={"mode": "standard", "total_max_attempts": attempts}
            )
            made.append(session.client("s3", config=config))
        _check_endpoint(made[0].meta.endpoint_url)
    except BotoCoreError as error:
        raise UserError(f"{' '.join(str(error).split())}; {_setting(error)}") from error
    except OSError as error:  # a profile's program that hands out credentials
        raise UserError(f"{line(error)}; correct the credential_process of the profile in ~/.aws/config") from error
    except ValueError as error:
        raise UserError(f"AWS_ENDPOINT_URL: {redact(str(error))}; give an address such as http://HOST:PORT") from error
    for client in made:
        client.meta.events.register("after-call.s3", _has_answered(client.meta.endpoint_url))
    return made[0], made[1]


#: Make the next call read the environment anew.
s3.cache_clear = _clients.cache_clear  # type: ignore[attr-defined]


def _has_answered(endpoint: str) -> Callable[..., None]:
    def note(http_response: Any, **_: Any) -> None:
        if http_response.status_code < 400 or http_response.status_code in (404, 412):
            _answered.add(endpoint)

    return note


def _check_endpoint(address: str) -> None:
    if credentials_in(address):
        raise UserError(
            "AWS_ENDPOINT_URL holds a user or a password, which S3 does not know; give http://HOST:PORT, and the keys in "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.port == 0:
        raise ValueError(f"{address} is no address of a server")


def _setting(error: Exception) -> str:
    """What to correct where no client can be made."""
    from botocore import exceptions

    if isinstance(error, exceptions.ProfileNotFound):
        return "correct AWS_PROFILE (or unset it), or add that profile to ~/.aws/config"
    if isinstance(error, exceptions.ConfigParseError | exceptions.ConfigNotFound):
        return "correct that file, or name another in AWS_CONFIG_FILE and AWS_SHARED_CREDENTIALS_FILE"
    if isinstance(error, exceptions.PartialCredentialsError | exceptions.NoCredentialsError):
        return "set both AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or neither where there is a role"
    if isinstance(error, exceptions.InvalidRegionError):
        return "correct AWS_REGION"
    return "correct the AWS_* variables, or the profile in ~/.aws"


def _download(bucket: str, key: str, path: Path) -> None:
    patiently(lambda: s3().download_file(bucket, key, str(path), Config=_transfer()))


def _upload(path: Path, bucket: str, key: str) -> None:
    patiently(lambda: s3().upload_file(str(path), bucket, key, Config=_transfer()))


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
    """Turn boto3's errors into one line with endpoint, how long it was tried, and remedy."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        ConnectTimeoutError,
        EndpointConnectionError,
        NoCredentialsError,
        PartialCredentialsError,
        ReadTimeoutError,
    )
    from botocore.parsers import ResponseParserError

    try:
        yield
    except (EndpointConnectionError, ConnectTimeoutError, ReadTimeoutError) as error:
        raise UserError(
            f"{uri}: no S3 server answers at {_endpoint()}; check AWS_ENDPOINT_URL and the network{_tried(error)}"
        ) from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise UserError(
            f"{uri}: no S3 credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a role"
        ) from error
    except RecursionError as error:  # botocore follows every redirection to another region
        raise UserError(
            f"{uri}: S3 at {_endpoint()} redirects for ever; set AWS_REGION to the bucket's region, or correct AWS_ENDPOINT_URL"
        ) from error
    except (ClientError, BotoCoreError, Boto3Error, ResponseParserError, ValueError) as error:
        answer = _inside(error)
        said = f"{uri}: S3 at {_endpoint()}"
        if isinstance(answer, ClientError):
            about = answer.response["Error"]
            status = answer.response.get("ResponseMetadata", {}).get("HTTPStatusCode", "?")
            message = f"{about.get('Code') or status}: {about.get('Message', '')}".strip(" :")
            said = f"{said} answered {line(message)}{_tried(error) or f' ({answer.operation_name})'}"
        elif isinstance(answer, ReadTimeoutError | EndpointConnectionError | ConnectTimeoutError):
            said = f"{said}: no answer{_tried(error)}"
        else:
            said = f"{said}: {line(answer)}{_tried(error)}"
        raise UserError(f"{said}{_remedy(answer)}") from error


def _tried(error: BaseException) -> str:
    """What `patiently` noted."""
    return "".join(f" ({note})" for note in getattr(error, "__notes__", []))


#: S3's error code -> what to do.
_REMEDIES = {
    "NoSuchBucket": "create the bucket or correct the address",
    "RequestTimeTooSkewed": "the clocks differ: set this machine's (or that server's) by NTP",
    "NotImplemented": (
        "this server lacks what was asked of it: update it, use another S3 server, or set INRANKER_STORE=off where it is the "
        "store's"
    ),
    **dict.fromkeys(_EXPIRED, "what is stored stays, so renew the credentials and run again"),
    **dict.fromkeys(_FULL_CODES, "what is stored stays, so make room there and run again"),
    **dict.fromkeys(
        ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "AuthFailure", "InvalidSecurity"),
        "correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (on a cluster: Secret inranker-s3)",
    ),
    # All that SeaweedFS says where its disk is full, its volumes are used up or the bucket is over its quota.
    "InternalError": (
        "what is stored stays. Servers that are full say this, too: look at the server's log, its free space and the bucket's "
        "quota, then run again"
    ),
}
_ELSEWHERE = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301", "307"}


def _remedy(error: Any) -> str:
    from botocore import exceptions
    from botocore.parsers import ResponseParserError

    if isinstance(error, exceptions.SSLError):
        return "; name the file of your CA in AWS_CA_BUNDLE, or give http://... where the server speaks that"
    if isinstance(error, exceptions.ProxyConnectionError):
        return "; correct HTTP_PROXY and HTTPS_PROXY, or name the host in NO_PROXY"
    if isinstance(error, ResponseParserError):
        return "; what answers there is no S3 server: correct AWS_ENDPOINT_URL"
    if isinstance(error, exceptions.SSOError | exceptions.TokenRetrievalError | exceptions.CredentialRetrievalError):
        return "; log in anew (aws sso login), or correct the profile in ~/.aws/config"
    if isinstance(error, exceptions.ParamValidationError | UnicodeError) or "Invalid header value" in str(error):
        return "; correct the address and the AWS_* variables"
    response = getattr(error, "response", None) or {}
    code = response.get("Error", {}).get("Code", "")
    about = response.get("ResponseMetadata", {})
    status = about.get("HTTPStatusCode", 0)
    if code in _REMEDIES:
        return f"; {_REMEDIES[code]}"
    if code in _ELSEWHERE:
        named = response["Error"].get("Region") or about.get("HTTPHeaders", {}).get("x-amz-bucket-region")
        return f"; set AWS_REGION to the bucket's region{f', {named}' if named else ''}, or correct AWS_ENDPOINT_URL"
    if status == 507:
        return f"; {_REMEDIES['QuotaExceeded']}"
    if status == 501:
        return f"; {_REMEDIES['NotImplemented']}"
    if status >= 500 and code not in _PASSING:
        return "; see that server's log, or correct AWS_ENDPOINT_URL where it is no S3 server"
    if status in (401, 403):
        right = error.operation_name.replace("ListObjectsV2", "ListBucket").replace("HeadObject", "GetObject")
        return f"; grant s3:{right} on it to the access key or role of the runs"
    if code in _PASSING or status == 429:
        return "; what is stored stays. That server is busy or cut the exchange: wait, and run again"
    return "; correct that address, or AWS_ENDPOINT_URL where it is no S3 server"


def _cache_root() -> Path:
    root = os.environ.get("INRANKER_CACHE") or Path(tempfile.gettempdir()) / "inranker-cache"
    return Path(root)


def _from_hub(uri: str) -> Path:
    from huggingface_hub import hf_hub_download

    owner, _, rest = uri.removeprefix("hf://").partition("/")
    dataset, _, name = rest.partition("/")
    if not (owner and dataset and name):
        raise UserError(f"{uri}: addresses on the hub are hf://OWNER/DATASET/FILE")
    check_names([name], uri)
    try:
        return Path(hf_hub_download(f"{owner}/{dataset}", name, repo_type="dataset"))
    except Exception as error:  # the hub's errors have no common base, and any of them means the same here
        reason = line(str(error) or type(error).__name__)
        raise UserError(f"{uri}: the hub does not give it ({reason}); give a local copy or s3:// instead") from error
