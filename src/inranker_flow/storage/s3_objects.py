"""Objects of a bucket: listed, read, written, and written by one of several alone."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

from inranker_flow.errors import UserError
from inranker_flow.storage import s3_client
from inranker_flow.storage.listing import FileInfo

#: Files larger than this are transferred in parts of this size.
PART_BYTES = 16 * 2**20


def missing(error: Any, uri: str) -> FileNotFoundError | None:
    """Return what a file system says of a file that is not there, where ``error`` says that of an object."""
    if error.response["Error"].get("Code") in ("NoSuchKey", "404"):
        return FileNotFoundError(errno.ENOENT, "no such object", uri)
    return None


def read(bucket: str, key: str) -> bytes:
    """Return an object's content."""
    return s3_client.patiently(lambda: bytes(s3_client.client().get_object(Bucket=bucket, Key=key)["Body"].read()))


def put_if_absent(data: bytes, bucket: str, key: str) -> bool:
    """Store an object unless there is one; False then."""

    from botocore.exceptions import ClientError

    attempts = 0

    def put_once() -> bool:
        nonlocal attempts
        attempts += 1
        try:
            s3_client.client().put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
        except ClientError as error:
            about = error.response["ResponseMetadata"]
            if about["HTTPStatusCode"] != 412:
                raise
            # Where an earlier attempt's answer was lost, what is there may be our own.
            return (attempts > 1 or bool(about.get("RetryAttempts"))) and read(bucket, key) == data
        return True

    return s3_client.patiently(put_once)


def list_files(bucket: str, prefix: str, folder: bool) -> list[FileInfo]:
    """List the objects below ``prefix``, and the one of that very name unless it is a ``folder``'s."""
    found = []
    for page in s3_client.client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get("Contents", []):
            below = (item["Key"] == prefix and not folder) or item["Key"].startswith(f"{prefix}/" if prefix else "")
            if below and not item["Key"].endswith("/"):
                if not {"Size", "ETag"} <= set(item):
                    raise ValueError(f"its list says nothing of the size or the etag of {item['Key']!r}")
                changed = item["LastModified"].timestamp() if "LastModified" in item else 0.0
                found.append(FileInfo(f"s3://{bucket}/{item['Key']}", item["Size"], item["ETag"].strip('"'), changed))
    return found


def list_names(bucket: str, prefix: str) -> dict[str, int]:
    """Return name -> size in bytes of the objects directly below ``prefix``."""
    found = {}
    for page in (
        s3_client.client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, Delimiter="/")
    ):
        for item in page.get("Contents", []):
            if item["Key"] != prefix:
                found[item["Key"].removeprefix(prefix)] = item["Size"]
    return found


def download(bucket: str, key: str, path: Path) -> None:
    """Write an object to the file ``path``."""
    s3_client.patiently(lambda: s3_client.client().download_file(bucket, key, str(path), Config=_transfer()))


def upload(path: Path, bucket: str, key: str) -> None:
    """Store the file ``path`` as an object."""
    s3_client.patiently(lambda: s3_client.client().upload_file(str(path), bucket, key, Config=_transfer()))


def _transfer() -> Any:
    from boto3.s3.transfer import TransferConfig

    return TransferConfig(multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=8)


def split(uri: str) -> tuple[str, str]:
    """Return bucket and key of an address."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not bucket:
        raise UserError(f"{uri}: no bucket; S3 addresses are s3://BUCKET/PREFIX", code="address-form")
    return bucket, key
