"""Where files go: the S3 prefix of the project, what is read from S3, the disk."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from inranker_flow import storage
from inranker_flow.errors import UserError
from inranker_flow.preflight.checks import Skipped

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

#: Least free space on the disk of temporary files.
LEAST_FREE = 2**30

_CREDENTIALS = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "AuthFailure"}


def check_store() -> str:
    """Put, get and delete a small object under ``INRANKER_STORE``."""
    store = os.environ.get("INRANKER_STORE", "")
    if not store.startswith("s3://"):
        raise Skipped(f"INRANKER_STORE is {store or 'not set'}: no S3 prefix of the project's own")
    uri = f"{store.rstrip('/')}/preflight/{uuid.uuid4().hex}"
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    client = storage.s3()
    sent = uri.encode()
    with _explained(uri):
        client.put_object(Bucket=bucket, Key=key, Body=sent)
        try:
            received = client.get_object(Bucket=bucket, Key=key)["Body"].read()
        finally:
            client.delete_object(Bucket=bucket, Key=key)
    if received != sent:
        raise UserError(f"{uri}: S3 gave back other bytes than were put; check what answers at AWS_ENDPOINT_URL")
    return f"{store}: put, get and delete work"


def readable(uri: str) -> list[str]:
    """Names below ``uri`` (``s3://``) after reading a byte of one. Raises :class:`UserError` where there is nothing."""
    with _explained(uri):
        files = storage.list_files(uri)
        if not files:
            raise UserError(f"{uri}: nothing is stored there; upload it or correct the address")
        bucket, _, key = files[0].uri.removeprefix("s3://").partition("/")
        body = storage.s3().get_object(Bucket=bucket, Key=key)["Body"]
        body.read(1)
        body.close()
    return [file.uri.removeprefix(uri).lstrip("/") for file in files]


def check_disk() -> str:
    """Room for temporary files: scratch, downloads, checkpoints."""
    folders = {
        "INRANKER_SCRATCH": os.environ.get("INRANKER_SCRATCH") or tempfile.gettempdir(),
        "TMPDIR": tempfile.gettempdir(),
    }
    told = {}
    for variable, name in folders.items():
        folder = _existing(Path(name))
        free = shutil.disk_usage(folder).free
        if not os.access(folder, os.W_OK):
            raise UserError(f"{name}: this user may not write there; mount a volume or set {variable} to a folder")
        if free < LEAST_FREE:
            raise UserError(
                f"{name}: {free / 2**30:.1f} GiB free, at least {LEAST_FREE / 2**30:g} GiB is needed; make room, or set "
                f"{variable} to a folder on a larger disk"
            )
        told[str(folder)] = f"{folder}: {free / 2**30:.1f} GiB free"
    return ", ".join(told.values())


def _existing(path: Path) -> Path:
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())


@contextmanager
def _explained(uri: str) -> Iterator[None]:
    """Say for a refusal what was asked and which right is missing."""
    from botocore.exceptions import ClientError

    try:
        with storage.explained(uri):
            yield
    except UserError as error:
        refusal = error.__cause__
        if not isinstance(refusal, ClientError):
            raise
        raise UserError(f"{error} ({refusal.operation_name}); {_remedy(refusal)}") from refusal


def _remedy(refusal: ClientError) -> str:
    code = refusal.response["Error"].get("Code", "")
    if code == "NoSuchBucket":
        return "create the bucket or correct the address"
    if code in _CREDENTIALS:
        return "correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (on a cluster: Secret inranker-s3)"
    if refusal.response["ResponseMetadata"]["HTTPStatusCode"] == 403:
        right = refusal.operation_name.replace("ListObjectsV2", "ListBucket")
        return f"grant s3:{right} on it to the access key or role of the runs"
    return "see that server's log"
