"""The real stack for `make integration`: a docker engine, the images, and S3, PostgreSQL and MLflow in a network that
has nothing but loopback.

What the machine lacks is named: the tests that need it are skipped, and fail where CI=true.
"""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

from tests.servers import free_ports, running, running_s3

PYTHON_IMAGE = "python:3.11-slim"


def lacks(what: str) -> NoReturn:
    """Skip with the reason; in CI a missing piece is a failure once `make integration` has installed what it can."""
    if os.environ.get("CI") == "true" and os.environ.get("INRANKER_INTEGRATION"):
        pytest.fail(f"this machine lacks {what}")
    pytest.skip(f"this machine lacks {what}")


def let_pass(folder: Path) -> None:
    """Let other users through to ``folder``: pytest's folders are closed, and a container's user is another one."""
    for each in (folder, *folder.parents):
        if each == Path(tempfile.gettempdir()):
            break
        each.chmod(each.stat().st_mode | 0o011)


@pytest.fixture(scope="session")
def vllm_python() -> str:
    """The interpreter of an environment with vLLM (`scripts/vllm-cpu`)."""
    python = os.environ.get("INRANKER_VLLM_PYTHON", "")
    if not python:
        lacks("an environment with vLLM: scripts/vllm-cpu could not make one")
    return python


@pytest.fixture(scope="session")
def docker_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A docker engine: the machine's own, else one started for these tests (by root) with its data in a folder."""
    if not shutil.which("docker"):
        lacks("docker: install it, or docker.io of Debian")
    if docker("info", check=False).returncode == 0:
        yield
        return
    if os.getuid() or not shutil.which("dockerd"):
        lacks("a docker engine: start it, or run as root where `dockerd` is installed (docker.io of Debian)")
    # Not the test's folder: the engine's socket needs a short path, and its images survive for the next run.
    root = Path(os.environ.get("INRANKER_DOCKER_ROOT", "/var/tmp/inranker-docker"))
    root.mkdir(parents=True, exist_ok=True)
    address = f"unix://{root}/docker.sock"
    command = ["dockerd", "-H", address, "--data-root", root / "data", "--exec-root", root / "exec"]
    command += ["--pidfile", root / "dockerd.pid"]
    with open(root / "dockerd.log", "wb") as log:
        engine = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    os.environ["DOCKER_HOST"] = address
    try:
        end = time.monotonic() + 60
        while docker("info", check=False).returncode:
            if engine.poll() is not None or time.monotonic() > end:
                lacks(f"a docker engine that starts: {(root / 'dockerd.log').read_text(errors='replace')[-500:]}")
            time.sleep(0.5)
        yield
        _forget_old_images()
    finally:
        del os.environ["DOCKER_HOST"]
        engine.send_signal(signal.SIGTERM)
        engine.wait(timeout=60)


def _forget_old_images() -> None:
    """Of our own engine: images of other sources, and layers that no build of the last days has used."""
    from pipelines.placement import content_tag

    listed = docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").stdout.split()
    old = [each for each in listed if "inranker-flow-" in each and not each.endswith(f":{content_tag()}")]
    if old:
        docker("image", "rm", "--force", *old, check=False)
    docker("image", "prune", "--force", "--filter", "until=72h", check=False)


@pytest.fixture(scope="session")
def python_image(docker_engine: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The base of all images: the official one where a registry gives it, else the same made of Debian's packages."""
    if docker("image", "inspect", PYTHON_IMAGE, check=False).returncode == 0:
        return PYTHON_IMAGE
    if docker("pull", "--quiet", PYTHON_IMAGE, check=False).returncode == 0:
        return PYTHON_IMAGE
    if os.getuid() or not shutil.which("mmdebstrap"):
        lacks(f"{PYTHON_IMAGE}: no registry gives it, and `mmdebstrap` (as root) is not here to make it")
    archive = tmp_path_factory.mktemp("python-image") / "root.tar"
    left_out = [f"--dpkgopt=path-exclude=/usr/share/{each}/*" for each in ("doc", "man", "locale")]
    hooks = ["--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr"]
    hooks += ["--customize-hook=rm -rf $1/var/lib/apt/lists/* $1/var/cache/apt/*"]
    hooks += ["--customize-hook=copy-in /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs"]
    packages = "--include=usr-is-merged,ca-certificates,python3,python3-venv"
    made = subprocess.run(
        ["mmdebstrap", "--quiet", "--variant=minbase", packages, *left_out, *hooks, _suite(), archive, *_sources()],
        capture_output=True,
        text=True,
    )
    if made.returncode:
        lacks(f"a base image: mmdebstrap said {made.stderr[-500:]}")
    docker("import", "-c", 'CMD ["python3"]', str(archive), PYTHON_IMAGE)
    return PYTHON_IMAGE


def _suite() -> str:
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    return release["VERSION_CODENAME"].strip('"')


def _sources() -> list[str]:
    """Where apt of this machine gets Debian from."""
    known = (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list"))
    return [str(path) for path in known if path.exists()][:1]


@pytest.fixture(scope="session")
def images(python_image: str) -> dict[str, int]:
    """Every image, built from these sources: name -> MB. A size above its budget fails here."""
    from pipelines import images

    return {name: images.build(name, python_image, cpu=True) for name in images.NAMES}


@dataclass(frozen=True)
class Stack:
    """Running servers. ``inside``: words before a command that is to reach them; ``network``: docker's name for it."""

    environment: dict[str, str]
    inside: tuple[str, ...]
    network: str

    def run(self, *command: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
        """A command that sees the servers and no other network."""
        own = ("AWS_", "INRANKER_", "MLFLOW_")
        env = {key: value for key, value in os.environ.items() if not key.startswith(own)} | self.environment
        return subprocess.run([*self.inside, *command], env=env, capture_output=True, text=True, **options)  # type: ignore[call-overload]

    def python(self, script: str) -> str:
        """Output of a Python script beside the servers."""
        done = self.run(sys.executable, "-c", script)
        assert done.returncode == 0, done.stderr
        return str(done.stdout)


@pytest.fixture(scope="session")
def stack(images: dict[str, int], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """S3, PostgreSQL and MLflow; as root in a network namespace that a waiting container holds, else on the host's."""
    from pipelines.images import reference

    with contextlib.ExitStack() as started:
        inside: tuple[str, ...] = ()
        network = "host"
        if os.getuid() == 0 and shutil.which("nsenter"):
            name = f"inranker-loopback-{secrets.token_hex(4)}"
            docker("run", "--detach", "--rm", "--network=none", "--name", name, reference("base"), "sleep", "3600")
            started.callback(docker, "kill", name)
            pid = docker("inspect", "--format", "{{.State.Pid}}", name).stdout.strip()
            inside, network = ("nsenter", f"--net=/proc/{pid}/ns/net"), f"container:{name}"
        s3 = started.enter_context(running_s3(tmp_path_factory.mktemp("seaweedfs"), inside))
        database = started.enter_context(postgresql(tmp_path_factory.mktemp("postgresql"), inside))
        environment = {**s3.environment, "MLFLOW_S3_ENDPOINT_URL": s3.endpoint}
        uri = started.enter_context(
            _mlflow(tmp_path_factory.mktemp("mlflow"), database, f"s3://{s3.bucket}/mlflow", inside, environment)
        )
        yield Stack({**environment, "MLFLOW_TRACKING_URI": uri, "INRANKER_DOCKER_NETWORK": network}, inside, network)


@contextlib.contextmanager
def postgresql(folder: Path, inside: Sequence[str]) -> Iterator[str]:
    """A database server of its own; yields the address that MLflow takes."""
    found = [str(path.parent) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))]
    program = functools.partial(shutil.which, path=os.pathsep.join([*found, os.environ["PATH"]]))
    if not program("initdb") or not program("postgres"):
        lacks("PostgreSQL: initdb and postgres")
    as_user: list[str] = []
    if os.getuid() == 0:
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        let_pass(folder)
        shutil.chown(folder, "postgres")
        if subprocess.run([*as_user, "test", "-w", folder]).returncode:
            lacks(f"a way for the user postgres into {tempfile.gettempdir()}: TMPDIR is below a closed folder")
    (password := folder / "password").write_text(word := secrets.token_hex(8))
    password.chmod(0o644)
    make = [
        "-D",
        folder / "data",
        "-A",
        "scram-sha-256",
        "-U",
        "mlflow",
        f"--pwfile={password}",
        "-E",
        "UTF8",
        "--no-sync",
    ]
    subprocess.run([*as_user, program("initdb"), *make], check=True, capture_output=True, cwd=folder)
    (port,) = free_ports(1)
    serve = [
        "-D",
        folder / "data",
        "-p",
        str(port),
        "-k",
        folder,
        "-c",
        "listen_addresses=127.0.0.1",
        "-c",
        "fsync=off",
    ]
    log = open(folder.parent / f"{folder.name}.log", "wb")  # noqa: SIM115 (closed with the server)
    server = subprocess.Popen(
        [*inside, *as_user, program("postgres"), *serve], stdout=log, stderr=log, cwd=folder, start_new_session=True
    )
    address = f"postgresql+psycopg2://mlflow:{word}@127.0.0.1:{port}/postgres"
    ask = f"import psycopg2; psycopg2.connect({address.replace('+psycopg2', '')!r}, connect_timeout=2)"
    try:
        end = time.monotonic() + 30
        while subprocess.run([*inside, sys.executable, "-c", ask], capture_output=True).returncode:
            assert server.poll() is None and time.monotonic() < end, Path(log.name).read_text()
            time.sleep(0.2)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGINT)  # PostgreSQL's "fast shutdown"
        server.wait(timeout=30)
        log.close()


@contextlib.contextmanager
def _mlflow(
    folder: Path, database: str, artifacts: str, inside: Sequence[str], environment: dict[str, str]
) -> Iterator[str]:
    """An MLflow server whose clients send their artifacts to S3 themselves; yields its address."""
    (port,) = free_ports(1)
    command = [
        *inside, sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", database, "--default-artifact-root", artifacts, "--no-serve-artifacts",
    ]  # fmt: skip
    uri = f"http://127.0.0.1:{port}"
    alone = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # its job workers are seven processes more
    with running(command, folder / "mlflow.log", f"{uri}/health", inside, seconds=120, **environment, **alone):
        yield uri


def docker(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """A docker command."""
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=check)
