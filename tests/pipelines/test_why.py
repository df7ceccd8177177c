"""`make why`: the sentence, from what KFP's API and Kubernetes' API say."""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
from pathlib import Path

import mlflow
import pytest
import yaml

from inranker_flow.config.cluster import ClusterConfig
from inranker_flow.errors import UserError
from inranker_flow.services import kfp_nodes
from inranker_flow.storage import uris
from inranker_flow.tracking.parents import open_parent
from inranker_flow.tracking.records import note_left_out
from inranker_flow.tracking.runs import stage_run
from pipelines import cluster, follow, kfp_api, runs, submit, why
from pipelines.placement import COMPONENT_LABEL
from tests.databases import new_database
from tests.kfp_api import KfpApi, node_id, nodes
from tests.kubernetes_api import KubernetesApi, node
from tests.promoting import use
from tests.refusals import refuses

NAMESPACE = "team-a"
OPTIONS = ["inranker", "--profile", "demo", "--namespace", NAMESPACE]


@pytest.fixture
def kubernetes(server, tmp_path, monkeypatch):
    with KubernetesApi(token="kube") as api:
        monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig(tmp_path / "kubeconfig")))
        yield api


@pytest.fixture
def run(server) -> dict:
    """A run that has been submitted (the nodes of the cluster are none of these tests' business)."""
    assert submit.main(OPTIONS) == 0
    (found,) = server.runs.values()
    return found


WORKFLOW = "inranker-x7k2q"
TOP = f"{WORKFLOW}(0).root(0).exit-handler-1(0)"
RECORDED = Path(__file__).parents[1] / "recorded"


def failed(server: KfpApi, run: dict, name: str = "teacher-label", error: str = "", state: str = "FAILED") -> None:
    """The run as KFP tells of it when one task ended badly: with the nodes that it adds around."""
    details = nodes(WORKFLOW, {"preflight": "SUCCEEDED", name: state}, {f"{name}(0).executor": error}, "")
    server.set_run(run["run_id"], state=state, run_details={"task_details": details}, created_at="2026-11-25T03:00:00Z")


def pod(run: dict, name: str = "w-1", node: str = "teacher-label(0).executor(0)", **status) -> dict:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "labels": {"pipeline/runid": run["run_id"]},
            "creationTimestamp": "2026-11-25T03:00:00Z",
            "annotations": {
                "workflows.argoproj.io/node-id": node_id(WORKFLOW, f"{TOP}.{node}"),
                "workflows.argoproj.io/node-name": f"{TOP}.{node}",
            },
        },
        "spec": {"nodeName": "gpu-3", "containers": [{"name": "main"}]},
        "status": {"phase": "Failed", **status},
    }


def ended(reason: str = "Error", code: int = 1) -> dict:
    return {
        "containerStatuses": [
            {
                "name": "main",
                "state": {"terminated": {"reason": reason, "exitCode": code}},
                "image": "x",
                "imageID": "x",
                "ready": False,
                "restartCount": 0,
            },
            {
                "name": "wait",
                "state": {"terminated": {"reason": "Error", "exitCode": 64}},
                "image": "x",
                "imageID": "x",
                "ready": False,
                "restartCount": 0,
            },
        ]
    }


def waiting(reason: str, message: str) -> dict:
    state = {"waiting": {"reason": reason, "message": message}}
    container = {"name": "main", "state": state, "image": "x", "imageID": "", "ready": False, "restartCount": 0}
    return {"phase": "Pending", "containerStatuses": [container]}


def warning(pod_name: str, reason: str, message: str, at: str = "2026-11-25T03:05:00Z") -> dict:
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{pod_name}.{reason}.{at}", "namespace": NAMESPACE},
        "involvedObject": {"kind": "Pod", "name": pod_name, "namespace": NAMESPACE},
        "type": "Warning",
        "reason": reason,
        "message": message,
        "lastTimestamp": at,
    }


def sentence(capsys, *more: str) -> str:
    capsys.readouterr()
    assert why.main(["--namespace", NAMESPACE, *more]) == 0
    first, link = capsys.readouterr().out.splitlines()
    assert "/#/runs/details/" in link
    return first


def test_a_stage_that_failed_is_named_with_its_own_last_line(server, kubernetes, run, capsys):
    failed(server, run)
    kubernetes.add(pod(run, **ended()))
    kubernetes.logs[(NAMESPACE, "w-1")] = (
        "I1125 03:00:01.1 1 launcher_v2.go:90] input ExecutorInput\n"
        "03:00:02 [teacher_label inns] 128 of 4096 pairs\n"
        "03:00:09 [teacher_label inns] FAILED: teacher.checkpoint: the hub cannot be reached; give a folder\n"
        "F1125 03:00:10.2 1 main.go:50] failed to execute component: exit status 1\n"
        'time="2026-11-25T03:00:11Z" level=info msg="sub-process exited" error="<nil>"\n'
        "Error: exit status 1\n"
    )
    assert sentence(capsys) == (
        f"{run['display_name']} FAILED: task teacher-label: pod w-1: main ended with exit code 1 (Error) on node gpu-3; "
        "last log line: FAILED: teacher.checkpoint: the hub cannot be reached; give a folder."
    )


def test_out_of_memory_is_said(server, kubernetes, run, capsys):
    failed(server, run)
    kubernetes.add(pod(run, **ended("OOMKilled", 137)))
    kubernetes.logs[(NAMESPACE, "w-1")] = "03:00:02 [teacher_label inns] 128 of 4096 pairs\n"
    found = sentence(capsys)
    assert (
        "task teacher-label: pod w-1: main was OOMKilled (it needs more memory than its limit) on node gpu-3" in found
    )
    assert found.endswith("last log line: 03:00:02 [teacher_label inns] 128 of 4096 pairs.")


def test_an_image_that_cannot_be_pulled_is_said_with_the_registrys_answer(server, kubernetes, run, capsys):
    failed(server, run, state="RUNNING")
    kubernetes.add(workflow(run))
    kubernetes.add(pod(run, **waiting("ImagePullBackOff", 'Back-off pulling image "r/x:1"')))
    kubernetes.add(warning("w-1", "Failed", "Error: ImagePullBackOff", "2026-11-25T03:09:00Z"))
    kubernetes.add(warning("w-1", "Failed", 'Failed to pull image "r/x:1": 403 Forbidden'))
    assert sentence(capsys) == (
        f"{run['display_name']} RUNNING: task teacher-label: pod w-1: main waits: ImagePullBackOff: Back-off pulling image "
        '"r/x:1" on node gpu-3; Failed: Failed to pull image "r/x:1": 403 Forbidden.'
    )


def test_a_pod_that_no_node_takes_is_said(server, kubernetes, run, capsys):
    failed(server, run, state="RUNNING")
    message = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    unscheduled = pod(run, phase="Pending", conditions=[condition])
    del unscheduled["spec"]["nodeName"]
    kubernetes.add(workflow(run))
    kubernetes.add(unscheduled)
    kubernetes.add(warning("w-1", "FailedScheduling", message))
    found = sentence(capsys)
    assert found.endswith(f"task teacher-label: pod w-1: Unschedulable: {message}.")


@pytest.mark.parametrize("version", ["v1beta1", "v1beta2"])
def test_what_kueue_waits_for_is_said(server, kubernetes, run, capsys, version):
    failed(server, run, state="RUNNING")
    condition = {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "message": "gated"}
    gated = pod(run, phase="Pending", conditions=[condition])
    del gated["spec"]["nodeName"]
    kubernetes.add(gated)
    kubernetes.add(workflow(run))
    reason = "couldn't assign flavors to pod set main: insufficient unused quota for nvidia.com/gpu in flavor a100"
    kubernetes.add(
        {
            "apiVersion": f"kueue.x-k8s.io/{version}",
            "kind": "Workload",
            "metadata": {
                "name": "pod-w-1-abc",
                "namespace": NAMESPACE,
                "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "w-1", "uid": "1"}],
            },
            "spec": {"queueName": "inranker-gpu"},
            "status": {
                "conditions": [{"type": "QuotaReserved", "status": "False", "reason": "Pending", "message": reason}]
            },
        }
    )
    assert sentence(capsys).endswith(f"SchedulingGated: gated; Kueue (queue inranker-gpu): Pending: {reason}.")


def test_an_eviction_and_a_deadline_are_said(server, kubernetes, run, capsys):
    failed(server, run)
    kubernetes.add(
        pod(run, reason="DeadlineExceeded", message="Pod was active on the node longer than the specified deadline")
    )
    assert "pod w-1: DeadlineExceeded: Pod was active" in sentence(capsys)


def test_the_attempt_that_tells_most_of_a_retried_task_is_chosen(server, kubernetes, run, capsys):
    failed(server, run)
    first = pod(run, "w-1", **ended("OOMKilled", 137))
    second = pod(run, "w-2", "teacher-label(0).executor(1)", **ended())
    second["metadata"]["creationTimestamp"] = "2026-11-25T04:00:00Z"
    kubernetes.add(first)
    kubernetes.add(second)
    assert "OOMKilled" in sentence(capsys)


def test_a_failed_attempt_of_a_task_that_then_succeeded_is_not_blamed(server, kubernetes, run, capsys):
    failed(server, run)
    kubernetes.add(pod(run, "w-9", "preflight(0).executor(0)", **ended("OOMKilled", 137)))
    kubernetes.add(pod(run, "w-1", **ended()))
    assert "task teacher-label: pod w-1: main ended with exit code 1" in sentence(capsys)


def test_a_pod_is_known_by_the_names_in_its_path_where_the_places_of_the_nodes_cannot_be_told(
    server, kubernetes, run, capsys
):
    failed(server, run)
    for each in run["run_details"]["task_details"]:
        each.pop("child_tasks", None)
    kubernetes.add(pod(run, "w-9", "preflight(0).executor(0)", **ended("OOMKilled", 137)))
    kubernetes.add(pod(run, "w-1", **ended()))
    assert "task teacher-label: pod w-1" in sentence(capsys)


def test_a_pod_is_known_by_its_label(server, kubernetes, run, capsys):
    failed(server, run)
    for name, stage, status in (("w-9", "preflight", ended("OOMKilled", 137)), ("w-1", "teacher_label", ended())):
        labelled = pod(run, name, **status)
        del labelled["metadata"]["annotations"]
        labelled["metadata"]["labels"][COMPONENT_LABEL] = stage
        kubernetes.add(labelled)
    assert "task teacher-label: pod w-1" in sentence(capsys)


def test_a_log_that_may_not_be_read_hides_nothing_else(server, kubernetes, run, capsys):
    failed(server, run)
    kubernetes.forbid("pods/log")
    kubernetes.forbid("events")
    kubernetes.add(pod(run, **ended("OOMKilled", 137)))
    found = sentence(capsys)
    assert "OOMKilled" in found
    assert "its log cannot be read (HTTP 403 Forbidden)" in found
    assert "its events cannot be read (HTTP 403 Forbidden)" in found


def test_without_kubernetes_it_says_what_kfp_knows(server, run, capsys):
    failed(server, run, error="exit status 1")
    found = sentence(capsys)
    assert found == (
        f"{run['display_name']} FAILED: task teacher-label: KFP says 'exit status 1': Kubernetes could not be asked "
        "(KUBECONFIG: no kubeconfig on this machine)."
    )


def test_a_kubernetes_that_does_not_answer_is_said(server, kubernetes, run, capsys, tmp_path):
    failed(server, run)
    config = yaml.safe_load((tmp_path / "kubeconfig").read_text())
    config["clusters"][0]["cluster"]["server"] = "http://127.0.0.1:9"
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    assert "Kubernetes could not be asked ([Errno 111] Connection refused)" in sentence(capsys)


def test_pods_that_are_gone_are_said(server, kubernetes, run, capsys):
    failed(server, run)
    assert sentence(capsys).endswith(f"task teacher-label: no pod of it is left in namespace {NAMESPACE}.")


def test_a_run_that_succeeded_needs_no_kubernetes(server, kubernetes, run, capsys):
    server.set_run(run["run_id"], state="SUCCEEDED")
    kubernetes.requests.clear()
    assert sentence(capsys) == f"{run['display_name']} SUCCEEDED: every task ended well."
    assert kubernetes.requests == []


def test_a_run_is_found_by_id_by_name_and_as_the_newest(server, run, capsys):
    assert submit.main([*OPTIONS, "--seed", "9"]) == 0
    newest = list(server.runs.values())[-1]
    assert sentence(capsys, "--run", run["run_id"]).startswith(run["display_name"])
    assert sentence(capsys, "--run", run["display_name"]).startswith(run["display_name"])
    assert sentence(capsys).startswith(newest["display_name"])


@pytest.mark.parametrize("wanted", ["nothing-of-the-kind", "00000000-0000-0000-0000-000000000000"])
def test_a_run_that_is_none_is_said_in_one_line(server, capsys, wanted):
    assert why.main(["--namespace", NAMESPACE, "--run", wanted]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("FAILED: ")
    assert wanted in line


def recorded(server: KfpApi, run: dict, name: str) -> str:
    """The run as the real server told of it; the name of its workflow."""
    told = json.loads((RECORDED / f"{name}.json").read_text())
    server.set_run(run["run_id"], state=told["state"], run_details=told["run_details"])
    return kfp_nodes.workflow_of(told)


def test_rounds_of_a_loop_are_told_apart_and_named_with_their_target(server, kubernetes, run, capsys):
    failed(server, run, "for-loop-2/0/retrieve-2")
    (target,) = run["runtime_config"]["parameters"]["values"]["targets"]
    assert f"task retrieve-2 #1 ({target['name']})" in sentence(capsys)
    run["runtime_config"]["parameters"]["targets"] = "s3://b/typed, s3://b/other"
    server.set_run(run["run_id"], runtime_config=run["runtime_config"])
    assert "task retrieve-2 #1 (s3://b/typed)" in sentence(capsys)


LOGS = dict(
    part.split("\n", 1) for part in re.split(r"^== ", (RECORDED / "logs.txt").read_text(), flags=re.MULTILINE)[1:]
)


def log(beginning: str) -> str:
    (found,) = [text for title, text in LOGS.items() if title.startswith(beginning)]
    return found


def test_the_line_of_a_driver_is_its_fatal_one(server, kubernetes, run, capsys):
    workflow = recorded(server, run, "retrain-failed-in-a-driver")
    path = f"{workflow}(0).root(0).exit-handler-1(0).condition-2(0).for-loop-3(0).iteration-iterations(0:0)(0)"
    driver = pod(run, **ended())
    driver["metadata"]["annotations"]["workflows.argoproj.io/node-name"] = (
        f"{path}.iteration-item(0).prepare-corpus-2-driver(0)"
    )
    kubernetes.add(driver)
    kubernetes.logs[(NAMESPACE, "w-1")] = log("a driver that failed")
    found = sentence(capsys)
    assert "task prepare-corpus-2 #1" in found
    assert found.endswith(
        'last log line: KFP driver: driver.Container failed: failed to resolve inputs: input parameter "corpus" type mismatch: '
        "expect STRUCT, got string."
    )


@pytest.mark.parametrize("where", ["message", "log"])
def test_a_wait_container_that_failed_tells_why_itself(server, kubernetes, run, capsys, where):
    failed(server, run)
    status = ended()
    main, wait = status["containerStatuses"]
    main["state"] = {"terminated": {"reason": "Completed", "exitCode": 0}}
    text = log("a pod whose main ended well")
    if where == "message":
        wait["state"]["terminated"]["message"] = text.splitlines()[-1]
    kubernetes.add(pod(run, **status))
    kubernetes.logs[(NAMESPACE, "w-1")] = "03:00:02 [teacher_label inns] done in 9.1 s: 128 pairs\n"
    kubernetes.container_logs[(NAMESPACE, "w-1", "wait")] = text
    found = sentence(capsys)
    assert "wait ended with exit code 64" in found
    assert "timed out waiting for the condition: failed to put file" in found and "connection refused" in found
    assert "128 pairs" not in found


def test_what_the_launcher_writes_after_a_stages_own_line_is_passed_over(server, kubernetes, run, capsys):
    failed(server, run)
    kubernetes.add(pod(run, **ended()))
    kubernetes.logs[(NAMESPACE, "w-1")] = log("a stage that failed")
    assert "last log line: FAILED: node pool: none of the 1 nodes" in sentence(capsys)


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """The stores of logs, as folders."""
    monkeypatch.setenv("KF_PIPELINES_ROOT", str(tmp_path / "root"))
    monkeypatch.setenv("KF_PIPELINES_ARCHIVE", str(tmp_path / "archive"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def keep(path: str, text: str) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    return keep


def test_after_an_hour_the_log_that_the_launcher_kept_is_read(server, kubernetes, run, kept, capsys):
    recorded(server, run, "run-failed-preflight")
    kept(f"root/inranker/{run['run_id']}/preflight/60065799/executor-logs-0", log("a stage that failed"))
    kept(f"root/inranker/{run['run_id']}/notify/70065799/executor-logs-0", "FAILED: of another task")
    assert sentence(capsys).startswith(
        f"{run['display_name']} FAILED: task preflight: no pod of it is left in namespace {NAMESPACE}; its log that is kept says "
        "FAILED: node pool: none of the 1 nodes"
    )


def test_the_root_is_the_one_that_the_namespace_has_and_may_lie_on_s3(server, kubernetes, run, s3, monkeypatch, capsys):
    for name in ("KF_PIPELINES_ROOT", "KF_PIPELINES_ARCHIVE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    recorded(server, run, "run-failed-preflight")
    data = {"defaultPipelineRoot": f"{s3}/kfp"}
    metadata = {"name": "kfp-launcher", "namespace": NAMESPACE}
    kubernetes.add({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
    log_uri = f"{s3}/kfp/inranker/{run['run_id']}/preflight/60065799/executor-logs-0"
    uris.put(log("a stage that failed").encode(), log_uri)
    assert "task preflight" in (found := sentence(capsys)) and "FAILED: node pool: none of the 1 nodes" in found


def test_after_an_hour_the_log_of_a_driver_is_in_argos_archive(server, kubernetes, run, kept, capsys):
    """A driver's pod is known by the number at the end of its name, that of its node."""
    workflow = recorded(server, run, "retrain-failed-in-a-driver")
    for number, text in (
        (1891516007, log("a driver that failed")),
        (1331293285, "F1128 1 1 x.go:1] of another driver\n"),
    ):
        kept(f"archive/{NAMESPACE}/{workflow}/2026/11/28/{workflow}-system-container-driver-{number}/main.log", text)
    found = sentence(capsys)
    assert "task prepare-corpus-2 #1" in found
    assert found.endswith("type mismatch: expect STRUCT, got string.")


def test_after_an_hour_mlflow_has_what_the_stage_said(server, kubernetes, run, kept, capsys, tmp_path, monkeypatch):
    import mlflow

    failed(server, run)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", new_database(tmp_path / "mlflow.db"))
    mlflow.set_tracking_uri(os.environ["MLFLOW_TRACKING_URI"])
    try:
        monkeypatch.setenv("INRANKER_KFP_RUN_ID", run["run_id"])
        open_parent(run["run_id"], "x")
        with pytest.raises(UserError), stage_run("teacher_label", "inns"):
            raise UserError("teacher.checkpoint: the hub cannot be reached")
        assert sentence(capsys).endswith("MLflow has: FAILED: teacher.checkpoint: the hub cannot be reached.")
    finally:
        mlflow.set_tracking_uri(None)


def test_a_run_that_went_without_a_target_says_so_and_why(server, kubernetes, run, capsys, tmp_path, monkeypatch):
    server.set_run(run["run_id"], state="SUCCEEDED")
    monkeypatch.setenv("INRANKER_KFP_RUN_ID", run["run_id"])
    use(new_database(tmp_path / "mlflow.db"), tmp_path)
    try:
        parent = open_parent(run["run_id"], "x")
        assert sentence(capsys).endswith("SUCCEEDED: every task ended well.")
        with stage_run("prepare_corpus", "inns") as stage:
            stage.leave_out("prepare_corpus: corpus.jsonl line 2: not JSON")
        told = "without targets that were left out: inns: prepare_corpus: corpus.jsonl line 2: not JSON."
        assert sentence(capsys).endswith(f"SUCCEEDED: {told}")
        note_left_out(parent, {"inns": "prepare_corpus: corpus.jsonl line 2: not JSON"})
        assert runs.main(["--namespace", NAMESPACE]) == 0
        assert "SUCCEEDED without inns" in capsys.readouterr().out
    finally:
        mlflow.set_tracking_uri(None)


def workflow(run: dict, nodes: dict | None = None, packed: bool = False, name: str = WORKFLOW) -> dict:
    text = json.dumps(nodes or {}).encode()
    status = {"compressedNodes": base64.b64encode(gzip.compress(text)).decode()} if packed else {"nodes": nodes or {}}
    labels = {"pipeline/runid": run["run_id"]}
    metadata = {"name": name, "namespace": NAMESPACE, "labels": labels}
    return {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "metadata": metadata, "status": status}


REFUSED = 'Pod "w-1" is invalid: spec.containers[1].env[1].valueFrom: may not be specified when `value` is not empty'


@pytest.mark.parametrize("packed", [False, True])
def test_a_pod_that_is_never_made_is_told_of_by_the_workflow(server, kubernetes, run, capsys, packed):
    failed(server, run, state="RUNNING")
    path = f"{TOP}.teacher-label(0).executor(0)"
    told = {
        "a": {"name": path, "phase": "Error", "message": REFUSED},
        "b": {"name": f"{TOP}.teacher-label", "phase": "Error", "message": "child 'w-1' errored"},
        "c": {"name": f"{TOP}.preflight(0).executor(0)", "phase": "Failed", "message": "of another"},
    }
    kubernetes.add(workflow(run, told, packed))
    assert f"task teacher-label: Argo says of its node: {REFUSED}" in sentence(capsys)


def test_events_of_the_workflow_are_read_too(server, kubernetes, run, capsys):
    failed(server, run, state="RUNNING")
    kubernetes.add(workflow(run))
    kubernetes.add(warning(WORKFLOW, "WorkflowNodeError", f"Error node w.root: {REFUSED}"))
    assert f"task teacher-label: WorkflowNodeError: Error node w.root: {REFUSED}" in sentence(capsys)


def test_a_run_whose_workflow_was_deleted_is_told_as_such(server, kubernetes, run, capsys):
    failed(server, run, state="RUNNING")
    assert sentence(capsys).startswith(f"{run['display_name']} GONE: its workflow was deleted")
    capsys.readouterr()
    assert runs.main(["--namespace", NAMESPACE]) == 0
    _, _, row, note, *_ = capsys.readouterr().out.splitlines()
    assert row.split()[1] == "GONE" and note.startswith("GONE: its workflow was deleted")
    assert submit.main(OPTIONS) == 0, "it is no run that is still going"
    assert "is GONE" in capsys.readouterr().out
    kubernetes.add(workflow(run))
    assert " RUNNING: " in sentence(capsys, "--run", run["run_id"])


def test_following_ends_where_the_workflow_is_deleted(server, kubernetes, run, monkeypatch):
    failed(server, run, state="RUNNING")
    monkeypatch.setattr(follow, "PAUSE", 0.01)  # the real one is seconds, and changes when is asked, not what
    monkeypatch.setattr(follow, "STILL", 0.0)
    with refuses("run-lost"):
        follow.follow(kfp_api.Api("", NAMESPACE), run["run_id"])


def test_without_kubernetes_a_run_is_gone_with_the_recurring_run_that_had_started_it(server, run, capsys):
    failed(server, run, state="RUNNING")
    assert "GONE" not in sentence(capsys)
    server.set_run(run["run_id"], recurring_run_id="11111111-0000-4000-8000-000000000000")
    assert "GONE" in sentence(capsys)


def test_waiting_for_a_node_is_said_while_the_run_is_followed(server, kubernetes, run, capsys, monkeypatch):
    failed(server, run, state="RUNNING")
    message = "0/1 nodes are available: 1 Insufficient cpu."
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    unscheduled = pod(run, phase="Pending", conditions=[condition])
    del unscheduled["spec"]["nodeName"]
    kubernetes.add(unscheduled)
    kubernetes.add(workflow(run))
    server.play(run["run_id"], {}, {}, {}, {"state": "SUCCEEDED"})
    monkeypatch.setattr(follow, "PAUSE", 0.01)  # the real one is seconds, and changes when is asked, not what
    monkeypatch.setattr(follow, "STILL", 0.0)
    assert follow.follow(kfp_api.Api("", NAMESPACE), run["run_id"]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "waits for" in line]
    assert len(said) == 1 and said[0].endswith(f"task teacher-label: pod w-1: Unschedulable: {message}")


def test_the_api_is_reached_through_the_kubeconfig(surroundings, tmp_path, monkeypatch):
    """No address, but a kubeconfig: the Kubernetes API's proxy, with the kubeconfig's own token."""
    prefix = "/api/v1/namespaces/kubeflow/services/ml-pipeline:http/proxy"
    monkeypatch.delenv("KF_PIPELINES_ENDPOINT", raising=False)
    monkeypatch.setenv("KF_PIPELINES_TOKEN", "not for Kubernetes")
    with KfpApi(prefix=prefix, token="kube") as api, KubernetesApi(token="kube") as cluster_of_api:
        cluster_of_api.url = api.url
        monkeypatch.setenv("KUBECONFIG", str(cluster_of_api.kubeconfig(tmp_path / "kubeconfig")))
        client = kfp_api.Api("", NAMESPACE)
        assert client.experiment("inranker") in api.experiments
        assert "kubectl port-forward -n kubeflow svc/ml-pipeline-ui" in client.ui_hint
        assert not api.violations


# --- nodes ------------------------------------------------------------------------------------------------------------

POOL = {"pool": "a100"}


def gpus(count: int) -> ClusterConfig:
    return ClusterConfig(gpus=count, gpu_pool=POOL)


def test_a_pool_with_room_passes(kubernetes):
    kubernetes.add(node("small", POOL, {"nvidia.com/gpu": "1"}))
    kubernetes.add(node("large", POOL, {"nvidia.com/gpu": "4"}))
    assert cluster.check_gpus(gpus(4)) == []


def test_more_gpus_than_any_node_of_the_pool_has_are_refused_before_anything_is_created(server, kubernetes, capsys):
    kubernetes.add(node("small", POOL, {"nvidia.com/gpu": "1"}))
    kubernetes.add(node("elsewhere", {"pool": "h100"}, {"nvidia.com/gpu": "8"}))
    pool = ["--set", "cluster.gpu_pool={pool: a100}", "--set", "cluster.gpus=2", "--set", "cluster.node_gpus=8"]
    assert submit.main([*OPTIONS, *pool]) == 2
    assert (
        "cluster.gpus 2: the largest of 1 nodes with the labels pool=a100 has 1 nvidia.com/gpu"
        in capsys.readouterr().err
    )
    assert server.calls == []


def test_a_pool_without_nodes_now_is_a_warning(kubernetes):
    (warning,) = cluster.check_gpus(gpus(1))
    assert "no node has the labels pool=a100 now" in warning


def test_nodes_that_may_not_be_read_are_a_warning(kubernetes):
    kubernetes.forbid("nodes")
    (warning,) = cluster.check_gpus(gpus(1))
    assert "HTTP 403" in warning


def test_a_broken_kubeconfig_is_a_warning(surroundings, tmp_path, monkeypatch):
    (tmp_path / "kubeconfig").write_text("clusters: []")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    (warning,) = cluster.check_gpus(gpus(1))
    assert "cannot be asked (KUBECONFIG: " in warning


def test_a_run_without_gpus_asks_nobody(kubernetes):
    assert cluster.check_gpus(gpus(0)) == []
    assert kubernetes.requests == []


def test_no_kubeconfig_means_no_check(surroundings):
    assert cluster.check_gpus(gpus(99)) == []


def test_a_log_of_nothing_but_the_launcher_has_no_last_line():
    assert cluster.telling("I1125 03:00:01.1 1 launcher_v2.go:90] x\nError: exit status 1\n") == ""


def test_a_local_run_is_explained_by_its_record_and_its_log(tmp_path, monkeypatch, capsys):
    events = [{"stage": "preflight", "dataset": ""}, {"stage": "retrieve", "dataset": "inns", "error": "disk full"}]
    for name, found in (
        ("one", events),
        ("two", [*events[:1], {"stage": "notify", "dataset": ""}]),
        ("three", events[:1]),
    ):
        for kind, text in (("logs/{}.log", "KFP\n  12:00:00 [retrieve] at work\n\n"),
                           ("artifacts/events/{}.jsonl", "".join(f"{json.dumps(each)}\n" for each in found))):  # fmt: skip
            path = tmp_path / kind.format(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    said = {}
    for name in ("one", "two", "three"):
        assert why.main(["--run", name, "--run-dir", str(tmp_path)]) == 0
        said[name] = capsys.readouterr().out
    assert (
        said["one"].startswith("one FAILED: task retrieve inns: disk full")
        and str(tmp_path / "logs/one.log") in said["one"]
    )
    assert said["two"].startswith("two SUCCEEDED: every task ended well.")
    assert said["three"].startswith("three has no end") and "[retrieve] at work" in said["three"]
    # Without a cluster, and without a name, it is the newest.
    for name in ("KF_PIPELINES_ENDPOINT", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    os.utime(tmp_path / "logs/one.log")
    os.utime(tmp_path / "logs/two.log", (1, 1))
    os.utime(tmp_path / "logs/three.log", (1, 1))
    assert why.main(["--run-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out == said["one"]
