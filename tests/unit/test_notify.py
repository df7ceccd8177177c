"""The exit handler's stage, against real HTTP: KFP's answers in the shape of its own API models, and a webhook."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from base64 import b64encode

import pytest
from kfp_server_api import ApiClient, GoogleRpcStatus, V2beta1PipelineTaskDetail, V2beta1Run, V2beta1RunDetails
from kfp_server_api.models.pipeline_task_detail_child_task import PipelineTaskDetailChildTask

from inranker_flow import run_state, tracking
from inranker_flow.notify import NotifyStats, notify
from inranker_flow.run_state import Failure, Outcome
from tests.http_server import Answer, HttpServer
from tests.servers import nobody

RUN = "6f1c1b0e-0000-4000-8000-000000000001"
PATH = f"/apis/v2beta1/runs/{RUN}"


def task(name: str, state: str, error: str = "", children: tuple[str, ...] = (), **more: str):
    return V2beta1PipelineTaskDetail(
        task_id=more.get("task_id", name),
        parent_task_id=more.get("parent"),
        display_name=name,
        pod_name=f"pod-{more.get('task_id', name)}",
        state=state,
        error=GoogleRpcStatus(code=2, message=error) if error else None,
        child_tasks=[PipelineTaskDetailChildTask(pod_name=f"pod-{child}") for child in children],
    )


def run(*tasks: V2beta1PipelineTaskDetail, state: str = "RUNNING") -> dict:
    """A run as the API answers it, while its exit handler is at work."""
    own = (
        task("root", "RUNNING"), task("root-driver", "SUCCEEDED"), task("notify-driver", "SUCCEEDED"),
        task("notify", "RUNNING"), task("executor", "RUNNING", task_id="own-executor"),
    )  # fmt: skip
    details = V2beta1RunDetails(task_details=[*own, *tasks])
    made = V2beta1Run(run_id=RUN, display_name="inranker small", state=state, run_details=details)
    return ApiClient().sanitize_for_serialization(made)


def went_well(*but: V2beta1PipelineTaskDetail) -> dict:
    return run(task("exit-handler-1", "SUCCEEDED"), task("preflight", "SUCCEEDED"), task("retrieve", "SKIPPED"), *but)


@pytest.fixture
def kfp(monkeypatch, tmp_path):
    monkeypatch.setattr(run_state, "PAUSE", 0.01)
    (tmp_path / "token").write_text("pod-token\n")
    with HttpServer() as server:
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", server.url)
        monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "token"))
        yield server


@pytest.fixture
def webhook(monkeypatch):
    monkeypatch.setattr("inranker_flow.notify.PAUSES", (0.01, 0.01))
    with HttpServer({"/services/SECRET": [Answer(200, b"ok")]}) as server:
        monkeypatch.setenv("INRANKER_WEBHOOK_URL", f"{server.url}/services/SECRET")
        yield server


def texts(server: HttpServer) -> list[str]:
    return [json.loads(request.body)["text"] for request in server.requests]


def test_nothing_configured_means_kfps_own_word_for_it():
    assert notify("SUCCEEDED", None, "1", "demo") == NotifyStats(1, "SUCCEEDED")
    assert notify("FAILED", "Task exit-handler-1 failed.", "1", "demo") == NotifyStats(0, "FAILED")
    assert notify("CANCELLED", "", "1", "demo") == NotifyStats(0, "CANCELED")
    assert notify(None, None, "1", "demo") == NotifyStats(0, "UNKNOWN"), "an end that nobody knows is no success"


def test_a_run_that_went_well_is_told_with_its_link(kfp, webhook):
    kfp.answers[PATH] = [Answer(200, went_well())]
    assert notify("SUCCEEDED", None, RUN, "inranker small").succeeded == 1
    assert texts(webhook) == [f"SUCCEEDED inranker small\n{kfp.url}/#/runs/details/{RUN}"]
    assert kfp.requests[0].headers["Authorization"] == "Bearer pod-token"


def test_a_false_green_is_seen_and_the_failed_task_named(kfp, webhook, monkeypatch):
    """The failure of a task inside of a loop is also that of the loop, of the handler's graph, of its pod."""
    monkeypatch.setenv("KF_PIPELINES_UI_ENDPOINT", "https://kubeflow.example/pipeline/")
    failed = run(
        task("exit-handler-1", "FAILED", children=("for-loop-1",)),
        task("for-loop-1", "FAILED", children=("teacher-label",)),
        task("iteration-iterations(0:0)", "FAILED"),
        task("prepare-corpus", "SUCCEEDED"),
        task("teacher-label", "FAILED", children=("inner",)),
        task("executor", "FAILED", error="OOMKilled (exit\ncode 137) <main> & more", task_id="inner"),
    )
    kfp.answers[PATH] = [Answer(200, failed)]
    assert notify("SUCCEEDED", None, RUN, "inranker small") == NotifyStats(0, "FAILED")
    assert texts(webhook) == [
        "FAILED inranker small: teacher-label: OOMKilled (exit code 137) &lt;main&gt; &amp; more\n"
        f"https://kubeflow.example/pipeline/#/runs/details/{RUN}"
    ]


def test_a_failure_that_only_kfps_status_tells_is_believed(kfp):
    kfp.answers[PATH] = [Answer(200, went_well())]
    assert notify("FAILED", "the driver broke", RUN, "x") == NotifyStats(0, "FAILED")


def test_records_that_lag_behind_are_read_again(kfp):
    running = went_well(task("evaluate", "RUNNING"))
    kfp.answers[PATH] = [Answer(200, running), Answer(200, running), Answer(200, went_well(task("evaluate", "FAILED")))]
    assert notify("SUCCEEDED", None, RUN, "x").state == "FAILED"
    assert len(kfp.requests) == 3
    kfp.answers[PATH] = [Answer(200, running)]
    kfp.requests.clear()
    assert notify("SUCCEEDED", None, RUN, "x").state == "SUCCEEDED", "KFP's word, as the records never arrive"
    assert len(kfp.requests) == run_state.LOOKS


@pytest.mark.parametrize(
    "answer",
    [Answer(401, b"no"), Answer(500, b"no"), Answer(200, b"<html>sign in</html>"), Answer(404, {"code": 5})],
)
def test_an_api_that_refuses_leaves_kfps_own_word(kfp, caplog, answer):
    kfp.answers[PATH] = [answer]
    assert notify("SUCCEEDED", None, RUN, "x").state == "SUCCEEDED"
    assert "the run cannot be read" in caplog.text and "pod-token" not in caplog.text


def test_attempts_drivers_and_cancelled_runs_are_judged_rightly():
    retried = went_well(task("evaluate", "SUCCEEDED"), task("evaluate(0)", "FAILED"), task("evaluate(1)", "SUCCEEDED"))
    assert run_state.judge(retried, "notify") == Outcome("SUCCEEDED")
    driver = went_well(task("evaluate-driver", "FAILED", error="no such parameter"))
    assert run_state.judge(driver, "notify") == Outcome("FAILED", (Failure("evaluate", "no such parameter"),))
    assert run_state.judge(went_well(task("evaluate", "CANCELED")), "notify") == Outcome("CANCELED")
    assert run_state.judge(run(state="CANCELING"), "notify") == Outcome("CANCELED")
    named = went_well(
        task("run", "FAILED", children=("targets",)),
        task("targets", "FAILED", "child failed", children=("teacher-label",)),
        task("teacher-label", "FAILED", children=("inner", "distill-phase2")),
        task("executor", "FAILED", "exit 137", task_id="inner"),
        task("distill-phase2", "SKIPPED", "omitted"),
    )
    assert run_state.judge(named, "notify") == Outcome("FAILED", (Failure("teacher-label", "exit 137"),))
    by_parent = went_well(
        task("promote", "FAILED"), task("executor", "FAILED", "exit 2", task_id="e", parent="promote")
    )
    assert run_state.judge(by_parent, "notify") == Outcome("FAILED", (Failure("promote", "exit 2"),))


def test_a_busy_webhook_gets_three_chances(webhook):
    webhook.answers["/services/SECRET"] = [Answer(503), Answer(429), Answer(200)]
    notify("SUCCEEDED", None, "1", "demo")
    assert texts(webhook) == ["SUCCEEDED demo"] * 3


def test_a_webhook_with_user_and_password_in_its_address_is_told(webhook, monkeypatch):
    monkeypatch.setenv("INRANKER_WEBHOOK_URL", webhook.url.replace("://", "://anna:p%40ss@") + "/services/SECRET")
    notify("SUCCEEDED", None, "1", "demo")
    assert texts(webhook) == ["SUCCEEDED demo"]
    assert webhook.requests[0].headers["Authorization"] == f"Basic {b64encode(b'anna:p@ss').decode()}"


@pytest.mark.parametrize(("answers", "attempts"), [([Answer(404)], 1), ([Answer(500)], 3)])
def test_a_failing_webhook_is_a_warning_without_its_address(webhook, caplog, answers, attempts):
    webhook.answers["/services/SECRET"] = answers
    assert notify("SUCCEEDED", None, "1", "demo").succeeded == 1
    assert len(webhook.requests) == attempts
    assert f"not delivered: HTTP {answers[0].status}" in caplog.text
    assert "SECRET" not in caplog.text and webhook.url not in caplog.text


@pytest.mark.parametrize(
    "url", ["hooks.example/SECRET", "file:///etc/SECRET", "http://127.0.0.1:1/SECRET", "http://a b/SECRET"]
)
def test_a_bad_webhook_address_is_not_repeated(monkeypatch, caplog, capfd, url):
    monkeypatch.setattr("inranker_flow.notify.PAUSES", (0.01, 0.01))
    monkeypatch.setenv("INRANKER_WEBHOOK_URL", url)
    assert notify("SUCCEEDED", None, "1", "demo").succeeded == 1
    assert "INRANKER_WEBHOOK_URL: the message was not delivered" in caplog.text
    assert "SECRET" not in caplog.text + "".join(capfd.readouterr())


def test_the_parent_run_in_mlflow_gets_its_end(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking.create_database(tmp_path / "mlflow.db"))
    monkeypatch.setenv("INRANKER_KFP_RUN_ID", RUN)
    import mlflow

    mlflow.set_tracking_uri(os.environ["MLFLOW_TRACKING_URI"])
    try:
        client = tracking.client()
        parent = tracking.open_parent(RUN, "inranker 6f1c1b0e")
        for state, expected in (
            ("FAILED", "FAILED"),
            ("CANCELLED", "KILLED"),
            (None, "FAILED"),
            ("SUCCESS", "FINISHED"),
        ):
            notify(state, None, RUN, "inranker small")
            info = client.get_run(parent).info
            assert (info.status, info.run_name) == (expected, "inranker small")
        monkeypatch.setenv("MLFLOW_RUN_ID", parent)
        notify("FAILED", None, RUN, "other")
        assert client.get_run(parent).info.status == "FINISHED", "what KFP's plugin began, it ends"
    finally:
        mlflow.set_tracking_uri(None)


def test_a_dead_mlflow_does_not_make_the_run_red(monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("INRANKER_KFP_RUN_ID", RUN)
    import mlflow

    mlflow.set_tracking_uri("http://127.0.0.1:9")
    try:
        assert notify("SUCCEEDED", None, RUN, "x").succeeded == 1
    finally:
        mlflow.set_tracking_uri(None)
    assert "the run in MLflow stays open: MLFLOW_TRACKING_URI: no MLflow server answers" in caplog.text


def test_the_adapter_is_quick_and_leaves_its_event(tmp_path):
    """In a process of its own, as the local runner starts it: nothing heavy is imported."""
    script = """
import sys
from kfp.dsl import PipelineTaskFinalStatus
from components.notify.component import notify
before = set(sys.modules)
status = PipelineTaskFinalStatus("FAILED", "", "exit-handler-1", 9, "Task exit-handler-1 failed.")
notify.python_func(status=status, run_id="1", run_name="demo")
print([name for name in set(sys.modules) - before if name in ("mlflow", "torch", "boto3", "pyarrow", "numpy", "kfp.client")])
"""
    env = {**os.environ, "INRANKER_EVENTS": str(tmp_path / "events.jsonl")}
    for name in ("KF_PIPELINES_ENDPOINT", "INRANKER_WEBHOOK_URL", "INRANKER_KFP_RUN_ID"):
        env.pop(name, None)
    ended = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "FAILED demo: Task exit-handler-1 failed." in ended.stdout
    assert ended.stdout.splitlines()[-1] == "[]"
    event = json.loads((tmp_path / "events.jsonl").read_text())
    assert (event["stage"], event["stats"]["succeeded"]) == ("notify", 0)


def test_a_silent_webhook_costs_seconds_only(monkeypatch, caplog):
    monkeypatch.setattr("inranker_flow.web.TIMEOUT", 0.2)
    monkeypatch.setattr("inranker_flow.notify.PAUSES", (0.01, 0.01))
    with nobody("silent") as url:
        monkeypatch.setenv("INRANKER_WEBHOOK_URL", f"{url}/SECRET")
        notify("SUCCEEDED", None, "1", "demo")
    assert "not delivered: no answer in time" in caplog.text
