"""What all tests share: an environment in which nothing reaches out, and child processes that find the package."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import pytest

from tests.forked import quick_processes  # noqa: F401 (a fixture for every test)
from tests.servers import s3, s3_server  # noqa: F401 (fixtures for every test)
from tests.stack import docker_engine, images, python_image, stack, vllm_python  # noqa: F401

ROOT = Path(__file__).parents[1]

# What is imported while tests are collected stays: looking for garbage meanwhile takes a quarter of the time and finds none.
gc.disable()

os.environ["PYTHONPATH"] = f"{ROOT / 'src'}{os.pathsep}{ROOT}"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
for name in (
    *("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "INRANKER_PARENT_RUN_ID", "INRANKER_KFP_RUN_ID"),
    *("INRANKER_EVENTS", "INRANKER_STORE", "INRANKER_ARTIFACTS", "INRANKER_WEBHOOK_URL"),
    *("INRANKER_REGISTRY", "KF_PIPELINES_ENDPOINT"),
):
    # A person's own servers are none of the tests'.
    os.environ.pop(name, None)
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    # The processes that share the tests share the cores: threads that wait for each other's core take half as long again.
    cores = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(cores, 1)))


# A killed test run ends what it started, too.
signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave what takes minutes to `make integration`: `make test` is for every change."""
    if item.get_closest_marker("long") and not os.environ.get("INRANKER_INTEGRATION"):
        pytest.skip("minutes: run by `make integration`")


def pytest_collection_finish() -> None:
    """Look for garbage again."""
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Containers and whole runs come first: a file that takes minutes and starts last keeps one core busy and the others idle."""

    def place(item: pytest.Item) -> tuple[bool, bool]:
        return "docker_engine" not in getattr(
            item, "fixturenames", ()
        ), ROOT / "tests" / "local" not in item.path.parents

    items.sort(key=place)


_modules = 0


@pytest.fixture(autouse=True)
def no_search_for_garbage_in_modules():
    """What libraries make when they are imported stays; Python would look at all of it in each full collection, and
    `evaluate` asks for one after each model: a fifth of a second."""
    global _modules
    if len(sys.modules) > _modules + 50:
        gc.collect()
        gc.freeze()
        _modules = len(sys.modules)


@pytest.fixture(autouse=True, scope="session")
def one_description_of_s3() -> None:
    """botocore unpacks what it knows of S3, a megabyte, for each session, and each test has one of its own: a fifth of a
    second. (A bare machine has no botocore.)"""
    with suppress(ImportError):
        import botocore.session

        botocore.session.create_loader = cache(botocore.session.create_loader)


@contextmanager
def _environment() -> Iterator[None]:
    """Put back, at the end, the variables that were there: MLflow writes its own wherever it is told a server, and which
    tests share a process differs from machine to machine."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(autouse=True, scope="module")
def environment_of_a_module():
    with _environment():
        yield
        if "mlflow.tracking" in sys.modules:
            sys.modules["mlflow"].set_tracking_uri(None)


@pytest.fixture(autouse=True)
def environment_of_a_test():
    with _environment():
        yield


@pytest.fixture(autouse=True)
def own_folders(environment_of_a_test, tmp_path_factory, monkeypatch):
    """Scratch and tracking of each test in folders of its own; no code of a model that another test has loaded."""
    loaded = f"{os.sep}code"  # as MLflow calls the folder that it puts in front of all
    monkeypatch.setattr(sys, "path", [each for each in sys.path if not each.endswith(loaded)])
    monkeypatch.setenv("INRANKER_SCRATCH", str(tmp_path_factory.mktemp("scratch")))
