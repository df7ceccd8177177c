"""What the development overlay starts, with the very arguments and environment of its manifests, on this machine."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError

from tests.contract.manifests import K8S, containers, named, render
from tests.servers import free_ports, running

KEYS = {"AWS_ACCESS_KEY_ID": "made-by-deploy", "AWS_SECRET_ACCESS_KEY": "0123456789abcdef"}


@pytest.fixture(scope="module")
def dev(tmp_path_factory):
    folder = tmp_path_factory.mktemp("manifests") / "k8s"
    return render("dev", Path(shutil.copytree(K8S, folder, symlinks=True)))


def _container(manifests, kind, name):
    return containers(named(manifests, kind, name)["spec"]["template"])[0]


def _program(name):
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    return found or pytest.skip(f"`{name}` is not installed here")


def _status(url, host=""):
    request = urllib.request.Request(url, headers={"Host": host} if host else {})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def test_the_store_takes_its_keys_from_the_environment_and_the_job_makes_the_bucket_once(dev, tmp_path, monkeypatch):
    container = _container(dev, "StatefulSet", "object-store")
    environment = {variable["name"] for variable in container["env"]}
    assert set(KEYS) <= environment
    master, volume, filer, s3 = free_ports(4)
    # Later flags win: the same server, on this machine's free ports and disk. Everything else is the manifest's.
    here = {
        "dir": tmp_path, "ip": "127.0.0.1", "ip.bind": "127.0.0.1",
        "master.port": master, "master.port.grpc": master + 10_000, "volume.port": volume,
        "volume.port.grpc": volume + 10_000, "filer.port": filer, "filer.port.grpc": filer + 10_000,
        "filer.localSocket": tmp_path / "filer.sock", "s3.port": s3, "s3.port.grpc": s3 + 10_000,
        "master.electionTimeout": "1s", "metricsPort": 0,
    }  # fmt: skip
    command = [_program("weed"), *container["args"], *(f"-{name}={value}" for name, value in here.items())]
    probe = container["readinessProbe"]["httpGet"]["path"]
    endpoint = f"http://127.0.0.1:{s3}"
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    with running(command, tmp_path / "log", endpoint + probe, **KEYS):
        [script] = _container(dev, "Job", "create-bucket")["args"]
        assert script.count("object-store:9333") == script.count("object-store:8888") == 1
        script = script.replace("object-store:9333", f"127.0.0.1:{master}.{master + 10_000}")
        script = script.replace("object-store:8888", f"127.0.0.1:{filer}.{filer + 10_000}")
        script = re.sub(r"\bweed\b", _program("weed"), script)
        said = [
            subprocess.run(["sh", "-euc", script], capture_output=True, text=True, timeout=60, check=True).stdout
            for _ in range(2)
        ]
        assert "created bucket inranker" in said[0] and "bucket inranker is there" in said[1]
        client = boto3.client("s3", endpoint_url=endpoint, **{key.lower(): value for key, value in KEYS.items()})
        client.put_object(Bucket="inranker", Key="store/x", Body=b"x")
        assert client.get_object(Bucket="inranker", Key="store/x")["Body"].read() == b"x"
        stranger = boto3.client("s3", endpoint_url=endpoint, aws_access_key_id="x", aws_secret_access_key="y")
        with pytest.raises(ClientError, match="InvalidAccessKeyId"):
            stranger.list_buckets()


def test_mlflow_answers_its_probes_and_its_clients_by_service_name_and_no_other_host(dev, tmp_path):
    container = _container(dev, "Deployment", "mlflow")
    _program("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    here = ["--host=127.0.0.1", f"--port={port}"]  # later options win
    # Kubernetes puts the container's variables into its arguments.
    arguments = [argument.replace("$(NAMESPACE)", "inranker") for argument in container["args"]]
    assert not [argument for argument in arguments if "$(" in argument]
    command = [sys.executable, "-m", *container["command"], *arguments, *here]
    given = {variable["name"]: variable.get("value", "") for variable in container["env"]}
    assert given["MLFLOW_BACKEND_STORE_URI"] == (
        "postgresql+psycopg2://mlflow:$(POSTGRES_PASSWORD)@mlflow-postgres:5432/mlflow"
    )
    environment = {
        **KEYS, "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{tmp_path}/mlflow.db", "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "HOME": str(tmp_path),
    }  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    api = f"{url}/api/2.0/mlflow/experiments/get?experiment_id=0"
    with running(command, tmp_path / "log", f"{url}/health", **environment):
        # The kubelet asks by the pod's address.
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert _status(url + container[probe]["httpGet"]["path"], "10.244.1.7:5000") == 200
        for host in ("mlflow:5000", "mlflow.inranker:5000", "mlflow.inranker.svc:5000", "localhost:5000"):
            assert _status(api, host) == 200, host
        assert _status(api, "evil.example") == 403
        with urllib.request.urlopen(api, timeout=5) as answer:
            assert b'"artifact_location": "s3://inranker/mlflow/0"' in answer.read()
        assert _status(f"{url}/api/2.0/mlflow-artifacts/artifacts") in (404, 503), "weights would go through the server"
