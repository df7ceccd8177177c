"""The Job of an event: it runs the schedule's work now, once, and says in one line what keeps it from that."""

from __future__ import annotations

import subprocess
import sys

import kfp_server_api
import pytest

from pipelines.compile import compile_pipeline
from tests.contract.manifests import K8S
from tests.kfp_api import KfpApi

SCRIPT = K8S / "components" / "argo-events" / "start_run.py"


@pytest.fixture
def server():
    with KfpApi(namespaces=("inranker",)) as api:
        yield api
        assert not api.violations


def _run(url, tmp_path, token="good", name="inranker-demo"):
    (tmp_path / "token").write_text(f"{token}\n")
    environment = {
        "KF_PIPELINES_ENDPOINT": url, "NAMESPACE": "inranker", "SCHEDULE": name, "QUIET_SECONDS": "0",
        "KF_PIPELINES_SA_TOKEN_PATH": str(tmp_path / "token"),
    }  # fmt: skip
    # -I: the standard library alone, as in the plain Python image.
    return subprocess.run([sys.executable, "-I", SCRIPT], env=environment, capture_output=True, text=True, check=False)


def _schedule(server, tmp_path, monkeypatch):
    """A schedule as `make schedule` makes it, through the same code."""
    from pipelines import schedule, submission
    from pipelines.kfp_api import Api
    from pipelines.profile import load
    from pipelines.release import Release

    monkeypatch.setenv("KF_PIPELINES_TOKEN", "good")
    package = compile_pipeline("inranker", tmp_path / "inranker.yaml")
    arguments = submission.arguments("inranker", load("demo"))
    release = Release(
        pipeline="inranker", description="", name="inranker-demo", version="inranker-0123", package=package,
        arguments=arguments,
    )  # fmt: skip
    schedule.schedule(Api(server.url, "inranker"), release, "inranker", "0 0 3 * * *")
    [made] = server.recurring_runs.values()
    return made


def test_an_event_starts_what_the_schedule_would_start_and_a_second_one_nothing(server, tmp_path, monkeypatch):
    made = _schedule(server, tmp_path, monkeypatch)
    first = _run(server.url, tmp_path)
    assert first.returncode == 0 and first.stdout.startswith("started run "), first.stderr
    [run] = server.runs.values()
    for key in ("pipeline_version_reference", "runtime_config", "experiment_id", "service_account"):
        assert run[key] == made[key], key
    second = _run(server.url, tmp_path)
    assert second.returncode == 0 and f"run {run['run_id']} of this work is going on" in second.stdout
    assert len(server.runs) == 1
    server.set_run(run["run_id"], state="FAILED")
    assert "started run" in _run(server.url, tmp_path).stdout
    assert len(server.runs) == 2


def test_a_disabled_schedule_starts_nothing(server, tmp_path, monkeypatch):
    made = _schedule(server, tmp_path, monkeypatch)
    made.update(status="DISABLED", mode="DISABLE")
    ended = _run(server.url, tmp_path)
    assert ended.returncode == 0 and "is disabled" in ended.stdout and not server.runs


def test_what_is_wrong_is_one_line(server, tmp_path):
    for url, changes, said in [
        (server.url, {}, "has no schedule 'inranker-demo' (it has: none)"),
        (server.url, {"token": "old"}, "answered HTTP 401"),
        ("http://127.0.0.1:9", {}, "does not answer"),
        ("", {}, "KF_PIPELINES_ENDPOINT is not set"),
    ]:
        ended = _run(url, tmp_path, **changes)
        assert ended.returncode == 2 and said in ended.stderr
        assert ended.stderr.startswith("FAILED: ") and ended.stderr.count("\n") == 1
    assert not server.runs


def test_the_script_knows_every_state_that_is_not_the_end():
    states = set(kfp_server_api.V2beta1RuntimeState.allowable_values)
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        import start_run
    finally:
        sys.path.remove(str(SCRIPT.parent))
    assert states - {"SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"} == set(start_run.LIVE)
