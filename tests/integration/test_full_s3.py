"""A store that is really full: SeaweedFS that has no volume left, and one whose disk is full. Run by `make integration`.

It answers 500 InternalError to what it refuses, whatever is full, and keeps nothing of it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import pytest

from inranker_flow.artifacts import tables
from inranker_flow.artifacts.manifest import read_manifest
from inranker_flow.config.parsing import as_dict
from inranker_flow.execution.run_stage import run_stage
from inranker_flow.stages.teacher_label import teacher_label
from inranker_flow.storage import s3_client, uris
from tests.integration.test_store_on_s3 import config, label_files, rows_in
from tests.integration.test_store_on_s3 import inputs as inputs
from tests.servers import running_s3
from tests.stack import lacks

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.long,
]

#: Shards that are stored before it is full.
BEFORE = 3


class Server:
    """SeaweedFS with little room, on ports of its own."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self.folder = kind, folder
        folder.mkdir()
        if kind == "disk":
            self._mount("size=40m")
        self._stack = contextlib.ExitStack()
        self._start({"volume.max": 8, "master.volumeSizeLimitMB": 1} if kind == "volumes" else {})

    def _mount(self, options: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.folder)]
        if subprocess.run(command, capture_output=True).returncode:
            lacks("the right to mount a small disk (root has it)")

    def _start(self, changes: dict[str, object]) -> None:
        server = self._stack.enter_context(running_s3(self.folder, changes=changes))
        os.environ.update(server.environment)
        s3_client.client.cache_clear()

    def fill(self) -> None:
        """Put files until not even a small one goes in."""
        import boto3
        from botocore.config import Config
        from botocore.exceptions import ClientError

        client = boto3.client("s3", config=Config(retries={"total_max_attempts": 1}))
        end = time.monotonic() + 60
        for size in (2**20, 2**16, 2**13, 2**10, 16):
            refused = 0
            while refused < 12:  # in a row: the end of one of the volumes may have room for a little more
                assert time.monotonic() < end, "it does not fill up"
                try:
                    client.put_object(Bucket="inranker", Key=f"filler/{time.monotonic_ns()}", Body=os.urandom(size))
                    refused = 0
                except ClientError as error:
                    assert error.response["Error"]["Code"] == "InternalError"
                    refused += 1

    def make_room(self) -> None:
        """As an operator does: more volumes, or a larger disk; the server is started again."""
        self._stack.close()
        if self.kind == "disk":
            self._mount("remount,size=256m")
        self._start({})

    def close(self) -> None:
        self._stack.close()
        if self.kind == "disk":
            subprocess.run(["umount", "--lazy", str(self.folder)], check=True)


@pytest.fixture(params=["volumes", "disk"])
def server(request, tmp_path, monkeypatch):
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "")  # put back at the end
    server = Server(request.param, tmp_path / "seaweedfs")
    yield server
    server.close()
    s3_client.client.cache_clear()


def run(inputs, labels):
    """The stage as its adapter runs it."""
    collection, candidates, out = (SimpleNamespace(path=str(path), metadata={}) for path in (*inputs, labels))
    return run_stage(
        teacher_label,
        configs={"config": as_dict(config())},
        inputs={"collection": collection, "candidates": candidates},
        outputs={"labels": out},
        tracked=False,
    )


def test_a_store_that_is_full_ends_the_stage_in_one_line_and_loses_nothing(
    server,
    inputs,
    tmp_path,
    monkeypatch,
    capfd,
):
    teacher_label(config(), *inputs, tmp_path / "alone")
    store = "s3://inranker/store"
    monkeypatch.setenv("INRANKER_STORE", store)
    inner, stored = uris.put_if_absent, []

    def full_after_a_while(data, uri):
        if len(stored) > BEFORE:  # the identity is the first
            server.fill()
        found = inner(data, uri)
        stored.append(uri)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(uris, "put_if_absent", full_after_a_while)
        if server.kind == "disk":  # once with all its patience is enough
            patch.setattr(s3_client, "PAUSE", 0.01)
        with pytest.raises(SystemExit) as ended:
            run(inputs, tmp_path / "labels")
    assert ended.value.code == 2
    shards = len(stored) - 1
    assert shards == BEFORE or (server.kind == "disk" and BEFORE < shards < 12), "a full disk may take a small file yet"
    out = capfd.readouterr().out
    (line,) = [each for each in out.splitlines() if "FAILED" in each]
    assert f"FAILED: {store}/labels/" in line and " answered InternalError: " in line and " (tried again for " in line
    assert "what is stored stays" in line and "free space" in line and "run again" in line
    assert "Traceback" not in out and not (tmp_path / "labels" / "manifest.json").exists()

    check_files(store, shards)
    kept = rows_in(store)
    assert len(kept) == len(set(kept)) == 10 * shards, "what was stored is read while it is full"

    server.make_room()
    check_files(store, shards)
    assert rows_in(store) == kept
    stats = run(inputs, tmp_path / "labels")
    assert stats.reused_pairs == 10 * shards and stats.pairs == 120
    assert read_manifest(tmp_path / "labels").content == read_manifest(tmp_path / "alone").content
    table, alone = (tables.read(tables.LABELS, tmp_path / name) for name in ("labels", "alone"))
    assert table == alone
    check_files(store, 12)
    assert len(rows_in(store)) == len(set(rows_in(store))) == 120


def check_files(store: str, count: int) -> None:
    """There are ``count`` files of labels, each of them whole: its name is the digest of its bytes."""
    files = label_files(store)
    assert len(files) == count
    for uri in files:
        assert sha256(uris.read(uri)).hexdigest() == uri.rpartition("/")[2].removesuffix(".parquet")
