"""Where files go: the S3 prefix of the project, what is read from S3, the disk."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import Any

from inranker_flow.environment import variables
from inranker_flow.errors import UserError
from inranker_flow.preflight.checks import Skipped
from inranker_flow.storage import s3_client, uris
from inranker_flow.storage.s3_errors import explained

#: Least free space on the disk of temporary files.
LEAST_FREE = 2**30


def check_store(workers: int = 1) -> str:
    """Put, get and delete a small object under ``INRANKER_STORE``, and try what the store rests on: a conditional put.

    Several ``workers`` for one collection meet there and nowhere else.
    """
    store = variables.store()
    in_pod = variables.in_cluster()
    if workers > 1 and (not variables.store_root() or (in_pod and not store.startswith("s3://"))):
        raise UserError(
            f"INRANKER_STORE is {store or 'not set'}, and cluster.workers {workers}: pods share their work through an s3:// "
            "prefix; set INRANKER_STORE to one in inranker-settings, or cluster.workers to 1",
            code="store-off",
        )
    if not store.startswith("s3://"):
        raise Skipped(f"INRANKER_STORE is {store or 'not set'}: no S3 prefix of the project's own")
    uri = f"{store.rstrip('/')}/preflight/{uuid.uuid4().hex}"
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    client = s3_client.client()
    sent = uri.encode()
    with explained(uri):
        client.put_object(Bucket=bucket, Key=key, Body=sent)
        try:
            received = client.get_object(Bucket=bucket, Key=key)["Body"].read()
            lacking = _lacking(client, bucket, f"{key}-once")
        finally:
            client.delete_object(Bucket=bucket, Key=key)
    if received != sent:
        raise UserError(
            f"{uri}: S3 gave back other bytes than were put; check what answers at AWS_ENDPOINT_URL",
            code="store-misbehaves",
        )
    if lacking:
        raise UserError(
            f"{store}: this S3 server {lacking}, and on conditional puts (If-None-Match: *) rests that runs which share a store "
            "do not overwrite each other's work; update it, use another S3 server, or set INRANKER_STORE=off (nothing is reused "
            "then, and work that stops begins anew)",
            code="store-misbehaves",
        )
    return f"{store}: put, get, delete and conditional put work"


def _lacking(client: Any, bucket: str, key: str) -> str:
    """Return the property that a server lacks and the store needs: put where there is nothing, and nothing but refuse the
    second."""
    from botocore.exceptions import ClientError

    def put(data: bytes) -> int:
        """Return HTTP status of the answer."""
        try:
            client.put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
        except ClientError as error:
            status = int(error.response["ResponseMetadata"]["HTTPStatusCode"])
            if status in (401, 403) or (status >= 500 and status != 501):
                raise  # says nothing of what the server knows
            return status
        return 200

    try:
        first = put(b"first")
        if first != 200:
            return f"refuses a conditional put (HTTP {first})"
        second = put(b"second")
        kept = client.get_object(Bucket=bucket, Key=key)["Body"].read()
    finally:
        client.delete_object(Bucket=bucket, Key=key)
    if second == 200 or kept != b"first":
        return "takes no notice of a conditional put: it overwrites what is there"
    return "" if second in (409, 412) else f"answers a second conditional put with HTTP {second} in place of 412"


def readable(uri: str) -> list[str]:
    """Return names below ``uri`` (``s3://``) after reading a byte of one. Raises :class:`UserError` where there is nothing."""
    with explained(uri):
        files = uris.list_files(uri)
        if not files:
            raise UserError(f"{uri}: nothing is stored there; upload it or correct the address", code="not-found")
        bucket, _, key = files[0].uri.removeprefix("s3://").partition("/")
        body = s3_client.client().get_object(Bucket=bucket, Key=key)["Body"]
        body.read(1)
        body.close()
    return [file.uri.removeprefix(uri).lstrip("/") for file in files]


def check_disk() -> str:
    """Return room for temporary files: scratch, downloads, checkpoints."""
    folders = {
        variables.SCRATCH: str(variables.scratch()),
        "TMPDIR": tempfile.gettempdir(),
    }
    told = {}
    for variable, name in folders.items():
        folder = _existing(Path(name))
        free = shutil.disk_usage(folder).free
        if not os.access(folder, os.W_OK):
            raise UserError(
                f"{name}: this user may not write there; mount a volume or set {variable} to a folder",
                code="disk-refused",
            )
        if free < LEAST_FREE:
            raise UserError(
                f"{name}: {free / 2**30:.1f} GiB free, at least {LEAST_FREE / 2**30:g} GiB is needed; make room, or set "
                f"{variable} to a folder on a larger disk",
                code="disk-full",
            )
        told[str(folder)] = f"{folder}: {free / 2**30:.1f} GiB free"
    return ", ".join(told.values())


def _existing(path: Path) -> Path:
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
