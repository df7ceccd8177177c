"""The Job of an event: it runs the schedule's work now, once, and says in one line what keeps it from that."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import kfp_server_api
import pytest

from inranker_flow.profiles import load
from inranker_flow.stages.discover import discover
from inranker_flow.storage import uris
from pipelines.compile import compile_pipeline
from tests import beir
from tests.contract.manifests import K8S
from tests.kfp_api import KfpApi
from tests.promoting import use_database

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


def _schedule(server, tmp_path, monkeypatch, pipeline="inranker", **settings):
    """A schedule as `make schedule` makes it, through the same code."""
    from pipelines import schedule, submission
    from pipelines.kfp_api import Api
    from pipelines.release import Release

    monkeypatch.setenv("KF_PIPELINES_TOKEN", "good")
    package = compile_pipeline(pipeline, tmp_path / f"{pipeline}.yaml")
    arguments = submission.arguments(pipeline, load("demo", settings))
    release = Release(
        pipeline=pipeline, description="", name=f"{pipeline}-demo", version=f"{pipeline}-0123", package=package,
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
    last = list(server.runs)[-1]
    server.set_run(last, recurring_run_id=made["recurring_run_id"])
    assert f"run {last} of this work is going on" in _run(server.url, tmp_path).stdout
    server.set_run(last, recurring_run_id="deleted, and with it the run's workflow")
    assert "started run" in _run(server.url, tmp_path).stdout


def test_of_the_schedules_run_and_the_events_run_at_the_same_moment_one_trains(server, tmp_path, monkeypatch, s3):
    """Both exist in KFP, as neither could see the other; what claims the work in the shared store goes on."""
    use_database(tmp_path)
    corpus = beir.write(tmp_path / "corpus")
    (corpus / "_SUCCESS").touch()
    uris.upload(corpus, f"{s3}/corpora/animals")
    settings = {"corpora.uri": f"{s3}/corpora", "promotion.model_name": "twice"}
    made = _schedule(server, tmp_path, monkeypatch, "retrain", **settings)
    assert "started run" in _run(server.url, tmp_path, name="retrain-demo").stdout
    same = {key: made[key] for key in ("experiment_id", "pipeline_version_reference", "runtime_config")}
    same = json.loads(
        json.dumps(same), parse_float=lambda text: int(float(text)) if text.endswith(".0") else float(text)
    )
    server._createrun({**same, "display_name": "retrain-demo of the schedule"})
    runs = list(server.runs)
    assert len(runs) == 2 and len({json.dumps(run["runtime_config"]) for run in server.runs.values()}) == 1

    monkeypatch.setenv("INRANKER_STORE", f"{s3}/store")
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", server.url)
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "token"))
    profile, work = load("demo", settings), made["runtime_config"]["parameters"]["work_key"]

    def look(run_id):
        sections = (
            *(profile.corpora, profile.corpus, profile.source, profile.targets),
            *(profile.phase2, profile.promotion),
        )
        return discover(*sections, work, run_id, tmp_path / f"{run_id}.md")

    with ThreadPoolExecutor(2) as pool:
        found = dict(zip(runs, pool.map(look, runs), strict=True))
    [winner] = [run_id for run_id, each in found.items() if each.go == "yes"]
    [loser] = [run_id for run_id in runs if run_id != winner]
    assert found[loser].go == "no" and found[loser].reason == f"run {winner} is doing this very work already"
    assert found[winner].run_key == found[loser].run_key and found[loser].targets == []
    assert "Nothing to do" in (tmp_path / f"{loser}.md").read_text()
    server.set_run(winner, state="FAILED")
    assert look(loser).go == "yes", "the work of a run that failed is free"


def test_the_sensor_starts_the_schedule_that_the_documents_make():
    sensor = (SCRIPT.parent / "sensor.yaml").read_text()
    assert "{name: SCHEDULE, value: retrain-small}" in sensor
    for page in ("docs/cluster.md", "README.md"):
        assert "make schedule PIPELINE=retrain PROFILE=small" in (K8S.parent / page).read_text(), page


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
