"""The exit handler's stage, against real HTTP: KFP's answers in the shape of its own API models, and a webhook."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from base64 import b64encode
from pathlib import Path

import pytest

from inranker_flow.errors import UserError
from inranker_flow.model_registry import history, registry
from inranker_flow.services import kfp_nodes, kfp_run
from inranker_flow.services.kfp_run import Failure, Outcome
from inranker_flow.stages.notify import NotifyStats, notify
from inranker_flow.tracking import connection, outcomes
from inranker_flow.tracking.parents import open_parent
from inranker_flow.tracking.records import note_end, note_left_out, note_retrain, run_page
from inranker_flow.tracking.runs import stage_run
from tests.databases import new_database
from tests.http_server import Answer, HttpServer
from tests.kfp_api import nodes
from tests.servers import nobody

RUN = "6f1c1b0e-0000-4000-8000-000000000001"
PATH = f"/apis/v2beta1/runs/{RUN}"
RECORDED = Path(__file__).parents[1] / "recorded"


def recorded(name: str) -> dict:
    """What KFP 2.17 answered for a run of this project."""
    return json.loads((RECORDED / f"{name}.json").read_text())


def run(tasks: dict[str, str], errors: dict[str, str] | None = None, state: str = "RUNNING") -> dict:
    """A run as the API answers it, while its exit handler is at work."""
    details = {"task_details": nodes("inranker-x7k2q", tasks, errors)}
    return {"run_id": RUN, "display_name": "inranker small", "state": state, "run_details": details}


def went_well(**but: str) -> dict:
    return run({"preflight": "SUCCEEDED", "retrieve": "SKIPPED", **{k.replace("_", "-"): v for k, v in but.items()}})


@pytest.fixture
def kfp(monkeypatch, tmp_path):
    monkeypatch.setattr(kfp_run, "PAUSE", 0.01)  # the real one is seconds, and changes when is asked, not what
    (tmp_path / "token").write_text("pod-token\n")
    with HttpServer() as server:
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", server.url)
        monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "token"))
        yield server


@pytest.fixture
def webhook(monkeypatch):
    monkeypatch.setattr("inranker_flow.stages.notify.PAUSES", (0.01, 0.01))
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
        {
            "prepare-corpus": "SUCCEEDED",
            "for-loop-2/0/retrieve-2": "SUCCEEDED",
            "for-loop-2/1/teacher-label-2": "FAILED",
        },
        {"teacher-label-2(0).executor": "OOMKilled (exit\ncode 137) <main> & more"},
    )
    kfp.answers[PATH] = [Answer(200, failed)]
    assert notify("SUCCEEDED", None, RUN, "inranker small") == NotifyStats(0, "FAILED")
    assert texts(webhook) == [
        "FAILED inranker small: teacher-label-2 #2: OOMKilled (exit code 137) &lt;main&gt; &amp; more (docs/runbook.md#oom)\n"
        f"https://kubeflow.example/pipeline/#/runs/details/{RUN}"
    ]


def test_a_failure_that_only_kfps_status_tells_is_believed(kfp):
    kfp.answers[PATH] = [Answer(200, went_well())]
    assert notify("FAILED", "the driver broke", RUN, "x") == NotifyStats(0, "FAILED")


def test_records_that_lag_behind_are_read_again(kfp):
    running = went_well(evaluate="RUNNING")
    kfp.answers[PATH] = [Answer(200, running), Answer(200, running), Answer(200, went_well(evaluate="FAILED"))]
    assert notify("SUCCEEDED", None, RUN, "x").state == "FAILED"
    assert len(kfp.requests) == 3
    kfp.answers[PATH] = [Answer(200, running)]
    kfp.requests.clear()
    assert notify("SUCCEEDED", None, RUN, "x").state == "SUCCEEDED", "KFP's word, as the records never arrive"
    assert len(kfp.requests) == kfp_run.LOOKS


@pytest.mark.parametrize(
    "answer",
    [Answer(401, b"no"), Answer(500, b"no"), Answer(200, b"<html>sign in</html>"), Answer(404, {"code": 5})],
)
def test_an_api_that_refuses_leaves_kfps_own_word(kfp, caplog, answer):
    kfp.answers[PATH] = [answer]
    assert notify("SUCCEEDED", None, RUN, "x").state == "SUCCEEDED"
    assert "the run cannot be read" in caplog.text and "pod-token" not in caplog.text


def test_attempts_drivers_and_cancelled_runs_are_judged_rightly():
    retried = went_well(evaluate="SUCCEEDED")
    for node in retried["run_details"]["task_details"]:
        if node["display_name"] == "evaluate(0)":
            node["state"] = "FAILED"
    assert kfp_run.judge(retried, "notify") == Outcome("SUCCEEDED")
    waits = run({"evaluate-driver": "RUNNING"})
    for node in waits["run_details"]["task_details"]:
        if node["display_name"] == "evaluate-driver(0)":
            node["state"] = "FAILED"
    assert kfp_run.judge(waits, "notify") is None, "a driver that is tried again"
    driver = run({"evaluate-driver": "FAILED"}, {"evaluate-driver": "no such parameter"})
    assert kfp_run.judge(driver, "notify") == Outcome("FAILED", (Failure("evaluate", "no such parameter"),))
    assert kfp_run.judge(went_well(evaluate="CANCELED"), "notify") == Outcome("CANCELED")
    assert kfp_run.judge({**went_well(), "state": "CANCELING"}, "notify") == Outcome("CANCELED")
    assert kfp_run.judge(run({"root": "SUCCEEDED"}, state="FAILED"), "notify") == Outcome("FAILED")


def test_nodes_whose_place_cannot_be_told_are_judged_by_their_names():
    """Other versions may name children otherwise."""
    told = went_well(evaluate="FAILED")
    for node in told["run_details"]["task_details"]:
        node.pop("child_tasks", None)
    assert kfp_run.judge(told, "notify") == Outcome("FAILED", (Failure("evaluate", ""),))
    assert [task.name for task in kfp_nodes.tasks_of(told) if not task.is_graph] == [
        "notify",
        "preflight",
        "retrieve",
        "evaluate",
    ]


#: A recorded answer, KFP's word to the handler beside it, and what is right.
ANSWERS = [
    ("run-succeeded-from-cache", "RUNNING", "SUCCEEDED"),
    ("run-succeeded-tasks-frozen", "COMPLETE", "SUCCEEDED"),
    ("run-frozen-while-notify-runs", "COMPLETE", "SUCCEEDED"),
    ("run-failed-while-notify-runs", "FAILED", "FAILED"),
    ("run-failed-preflight", "FAILED", "FAILED"),
    ("retrain-failed-in-a-driver", "FAILED", "FAILED"),
]
FAILED_TASK = {"run-failed": "preflight", "retrain-failed": "prepare-corpus-2 #1"}


@pytest.fixture
def mlflow_run(tmp_path, monkeypatch):
    """MLflow with the parent of the KFP run, as preflight opens it."""
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", new_database(tmp_path / "mlflow.db"))
    monkeypatch.setenv("INRANKER_KFP_RUN_ID", RUN)
    mlflow.set_tracking_uri(os.environ["MLFLOW_TRACKING_URI"])
    yield open_parent(RUN, "inranker")
    mlflow.set_tracking_uri(None)


@pytest.mark.parametrize("api", ["answers", "refuses", "silent"])
@pytest.mark.parametrize(("name", "word", "right"), ANSWERS, ids=[name for name, *_ in ANSWERS])
def test_what_kfp_really_answered_is_judged_rightly_and_mlflow_gets_its_end(
    kfp, mlflow_run, monkeypatch, name, word, right, api
):
    """Also with an API that refuses or is not there: what the stages wrote stands beside KFP's word then."""
    monkeypatch.setattr(kfp_run, "LOOKS", 2)
    if api == "silent":
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.delenv("KF_PIPELINES_SA_TOKEN_PATH")
    kfp.answers[PATH] = [Answer(200, recorded(name)) if api == "answers" else Answer(401, b"no user identity header")]
    if right == "SUCCEEDED":
        with stage_run("promote"):
            pass
    assert notify(word, None, RUN, name).state == right
    info = connection.client().get_run(mlflow_run).info
    assert info.status == {"SUCCEEDED": "FINISHED", "FAILED": "FAILED"}[right]
    if right == "FAILED" and api == "answers":
        (failure,) = kfp_run.judge(recorded(name), "notify").failures
        assert failure.task == next(task for start, task in FAILED_TASK.items() if name.startswith(start))


@pytest.mark.parametrize(
    ("settings", "opens"),
    [
        ({"KF_PIPELINES_ENDPOINT": "http://ml-pipeline.kubeflow.svc.cluster.local:8888"}, ""),
        ({"KF_PIPELINES_ENDPOINT": "http://ml-pipeline:8888"}, ""),
        ({"KF_PIPELINES_ENDPOINT": "https://kubeflow.example/pipeline/"}, "https://kubeflow.example/pipeline"),
        (
            {"KF_PIPELINES_ENDPOINT": "http://x.svc", "KF_PIPELINES_UI_ENDPOINT": "http://localhost:8080"},
            "http://localhost:8080",
        ),
    ],
)
def test_links_are_those_that_a_browser_opens(mlflow_run, monkeypatch, settings, opens):
    monkeypatch.delenv("KF_PIPELINES_UI_ENDPOINT", raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    page = f"{opens}/#/runs/details/{RUN}" if opens else ""
    assert kfp_run.page(RUN) == page
    made = connection.client().get_run(open_parent(f"{RUN}-2", "x"))
    assert made.data.tags.get("mlflow.note.content", "") == (
        f"[The run in Kubeflow Pipelines]({page}-2)" if opens else ""
    )
    assert run_page(mlflow_run) == "", "a database has no page"


def test_kfps_running_alone_says_nothing(kfp, mlflow_run):
    """Neither does a record that stands still."""
    kfp.answers[PATH] = [Answer(200, recorded("run-frozen-while-notify-runs"))]
    assert notify("RUNNING", None, RUN, "x").state == "UNKNOWN"
    note_end("discover")
    assert notify("RUNNING", None, RUN, "x").state == "SUCCEEDED", "a retraining that had nothing to do"


def test_a_failure_that_only_the_stage_wrote_is_believed_and_gives_the_reason(kfp, webhook, mlflow_run):
    def stage(outcome: Exception | None) -> None:
        with contextlib.suppress(UserError), stage_run("teacher_label", "inns"):
            if outcome:
                raise outcome

    stage(UserError("teacher.checkpoint: the hub cannot be reached; password=geheim123", code="hub-refused"))
    kfp.answers[PATH] = [Answer(200, run({"for-loop-2/0/teacher-label-2": "FAILED"}))]
    assert notify("COMPLETE", None, RUN, "x").state == "FAILED"
    assert (
        "teacher-label-2 #1: teacher.checkpoint: the hub cannot be reached; password=*** (docs/runbook.md#hub-refused)"
        in texts(webhook)[0]
    )
    kfp.answers[PATH] = [Answer(401, b"no")]
    assert notify("COMPLETE", None, RUN, "x").state == "FAILED"
    assert "FAILED x: teacher_label inns: teacher.checkpoint" in texts(webhook)[1]
    stage(None)  # a later attempt
    assert notify("COMPLETE", None, RUN, "x").state == "SUCCEEDED"
    note_end("preflight", "disk: full")
    assert notify("COMPLETE", None, RUN, "x").state == "FAILED"


def test_a_run_of_retrain_tells_how_old_all_is_and_a_silence_is_an_alarm(kfp, webhook, mlflow_run):
    client = connection.client()
    before = client.create_run(client.get_run(mlflow_run).info.experiment_id).info.run_id
    note_retrain(before, "m", 0)
    client.set_terminated(before, "FINISHED", end_time=int(time.time() * 1000) - 40 * 86_400_000)
    client.create_registered_model("m")
    history.move(registry.version("m", client.create_model_version("m", "file:///1").version), "MANUAL", "ann", "w", {})
    kfp.answers[PATH] = [Answer(200, went_well())]
    for days, alarm in ((30, True), (50, False), (0, False)):
        note_retrain(mlflow_run, "m", days)
        notify("COMPLETE", None, RUN, "x")
        line = texts(webhook)[-1].splitlines()[1]
        assert line.startswith("ALARM: models:/m/1 has served for " if alarm else "models:/m/1 has served for "), line
        assert line.endswith("; retrain last ended well 40 days ago" + (" (corpora.alarm_days: 30)" if alarm else ""))
        client.set_terminated(mlflow_run, "FAILED")  # else this one were the last


def test_targets_that_were_left_out_are_told(kfp, webhook, mlflow_run):
    with stage_run("generate_queries", "medicines") as stage:
        stage.leave_out("generate_queries: none of its 20 queries can be used")
    kfp.answers[PATH] = [Answer(200, went_well())]
    assert notify("COMPLETE", None, RUN, "x").state == "SUCCEEDED"
    assert texts(webhook)[0].splitlines()[:2] == [
        "SUCCEEDED x",
        "LEFT OUT: target medicines: generate_queries: none of its 20 queries can be used",
    ]


def test_targets_that_a_cache_left_out_are_told_by_what_promote_kept(kfp, webhook, mlflow_run):
    note_left_out(mlflow_run, {f"t{n}": "why " * 1000 for n in range(60)})
    kfp.answers[PATH] = [Answer(200, went_well())]
    notify("COMPLETE", None, RUN, "x")
    assert texts(webhook)[0].count("LEFT OUT: target t") == 60


def test_the_run_of_kfps_plugin_is_asked_and_not_closed(kfp, mlflow_run, monkeypatch):
    client = connection.client()
    experiment = client.get_run(mlflow_run).info.experiment_id
    nested = {
        name: client.create_run(experiment, tags={"mlflow.parentRunId": mlflow_run}).info.run_id
        for name in ("promote", "notify")
    }
    monkeypatch.delenv("INRANKER_KFP_RUN_ID")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
    kfp.answers[PATH] = [Answer(401, b"no")]
    for name in nested:
        monkeypatch.setenv("MLFLOW_RUN_ID", nested[name])
        if name == "promote":
            with stage_run("promote"):
                pass
        else:
            assert notify("RUNNING", None, RUN, "x").state == "SUCCEEDED"
    assert {client.get_run(each).info.status for each in (mlflow_run, *nested.values())} == {"RUNNING"}


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
    monkeypatch.setattr("inranker_flow.stages.notify.PAUSES", (0.01, 0.01))
    monkeypatch.setenv("INRANKER_WEBHOOK_URL", url)
    assert notify("SUCCEEDED", None, "1", "demo").succeeded == 1
    assert "INRANKER_WEBHOOK_URL: the message was not delivered" in caplog.text
    assert "SECRET" not in caplog.text + "".join(capfd.readouterr())


def test_the_parent_run_in_mlflow_gets_its_end(mlflow_run, monkeypatch):
    client = connection.client()
    for state, expected in (("FAILED", "FAILED"), ("CANCELLED", "KILLED"), (None, "FAILED"), ("SUCCESS", "FINISHED")):
        notify(state, None, RUN, "inranker small")
        info = client.get_run(mlflow_run).info
        assert (info.status, info.run_name) == (expected, "inranker small")


def test_the_parent_run_in_mlflow_says_whose_it_is(kfp, mlflow_run):
    about = {"a": {"description": kfp_run.by("ann", "planned without reuse: 3 queries")}, "b": {}}
    for name, run in about.items():
        kfp.answers[f"/apis/v2beta1/runs/{name}"] = [Answer(200, {**run, "service_account": "inranker-runner"})]
    tags = [connection.client().get_run(open_parent(name, name)).data.tags for name in about]
    assert [each["mlflow.user"] for each in tags] == ["ann", "inranker-runner"]


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
import time
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
    monkeypatch.setattr("inranker_flow.services.web.TIMEOUT", 0.2)
    monkeypatch.setattr("inranker_flow.stages.notify.PAUSES", (0.01, 0.01))
    with nobody("silent") as url:
        monkeypatch.setenv("INRANKER_WEBHOOK_URL", f"{url}/SECRET")
        notify("SUCCEEDED", None, "1", "demo")
    assert "not delivered: no answer in time" in caplog.text


RECORD = {
    "verdict": "PROMOTE", "model": "inranker", "version": "7", "against": "champion",
    "reasons": [
        {"code": "gain", "message": "long", "numbers": {"gain": 0.0211, "p": 0.0031, "datasets": 2}},
        {"code": "dataset_gain", "message": "a", "numbers": {"gain": 0.04}},
        {"code": "dataset_gain", "message": "b", "numbers": {"gain": -0.002}},
    ],
}  # fmt: skip
SUMMARY = {"headline": "nDCG@10", "systems": [], "datasets": {}}


def test_the_line_of_a_verdict_names_gain_and_worst_and_another_reason_as_it_is_worded():
    line = outcomes.in_a_line(RECORD, "nDCG@10", "the champion")
    assert line == "PROMOTE inranker v7: +0.021 nDCG@10 over the champion (p=0.003) on 2 data sets, worst -0.002"
    held = {
        **RECORD,
        "verdict": "HOLD",
        "reasons": [{"code": "few_queries", "message": "too few queries", "numbers": {}}],
    }
    assert outcomes.in_a_line(held, "nDCG@10", "BM25") == "HOLD inranker v7: too few queries"


@pytest.mark.parametrize("slack", [True, False])
def test_the_first_word_is_the_verdict_and_slack_gets_blocks(kfp, mlflow_run, monkeypatch, slack):
    path = "/services/T01/B02/SECRET" if slack else "/hook"
    outcomes.tell(mlflow_run, outcomes.in_a_line(RECORD, "nDCG@10", "<BM25>"), "", SUMMARY)
    kfp.answers[PATH] = [Answer(200, went_well())]
    with HttpServer({path: [Answer(200, b"ok")]}) as server:
        monkeypatch.setenv("INRANKER_WEBHOOK_URL", f"{server.url}{path}")
        assert notify("SUCCEEDED", None, RUN, "inranker small").succeeded == 1
        sent = json.loads(server.requests[0].body)
    line = "PROMOTE inranker v7: +0.021 nDCG@10 over &lt;BM25&gt; (p=0.003) on 2 data sets, worst -0.002; "
    assert sent["text"].startswith(line) and sent["text"].endswith(f"\n{kfp.url}/#/runs/details/{RUN}")
    assert ("blocks" in sent) == slack
    if slack:
        texts = [each.get("text") or each["elements"][0] for each in sent["blocks"]]
        assert all(each["type"] == "mrkdwn" for each in texts)
        assert texts[0]["text"].startswith("*PROMOTE* inranker v7: ")
        assert texts[-1]["text"] == f"<{kfp.url}/#/runs/details/{RUN}|KFP>"


def test_a_failed_run_says_so_whatever_was_decided(kfp, webhook, mlflow_run):
    outcomes.tell(mlflow_run, "PROMOTE inranker v7: better", "", SUMMARY)
    kfp.answers[PATH] = [Answer(200, went_well(evaluate="FAILED"))]
    assert notify("SUCCEEDED", None, RUN, "x").state == "FAILED"
    assert texts(webhook)[0].startswith("FAILED x: evaluate")
