"""`make why`: the sentence, from what KFP's API and Kubernetes' API say."""

from __future__ import annotations

import pytest
import yaml

from inranker_flow.config import ClusterConfig
from inranker_flow.errors import UserError
from pipelines import cluster, kfp_api, submit, tasks, why
from pipelines.placement import COMPONENT_LABEL
from tests.kfp_api import KfpApi
from tests.kubernetes_api import KubernetesApi, node

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


def failed(server: KfpApi, run: dict, name: str = "teacher-label", error: str = "", state: str = "FAILED") -> None:
    """The run as KFP tells of it when one task ended badly: with the nodes that it adds around."""
    details = [
        {"task_id": "n-root", "display_name": run["display_name"], "state": state},
        {"task_id": "n-1-driver", "display_name": f"{name}-driver", "state": "SUCCEEDED"},
        {"task_id": "n-0", "display_name": "preflight", "state": "SUCCEEDED"},
        {
            "task_id": "n-1",
            "display_name": name,
            "state": state,
            "child_tasks": [{"pod_name": "n-1-0"}],
            **({"error": {"code": 2, "message": error}} if error else {}),
        },
        {"task_id": "n-1-0", "display_name": "executor", "state": state, "parent_task_id": "n-1"},
    ]
    server.set_run(run["run_id"], state=state, run_details={"task_details": details})


def pod(run: dict, name: str = "w-1", node_id: str = "n-1-0", task: str = "teacher-label", **status) -> dict:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "labels": {"pipeline/runid": run["run_id"]},
            "creationTimestamp": "2026-11-25T03:00:00Z",
            "annotations": {
                "workflows.argoproj.io/node-id": node_id,
                "workflows.argoproj.io/node-name": f"w.root.exit-handler-1.{task}.executor",
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
    first, second = pod(run, "w-1", "n-1-0", **ended("OOMKilled", 137)), pod(run, "w-2", "n-1-1", **ended())
    second["metadata"]["creationTimestamp"] = "2026-11-25T04:00:00Z"
    server.runs[run["run_id"]]["run_details"]["task_details"][3]["child_tasks"].append({"pod_name": "n-1-1"})
    kubernetes.add(first)
    kubernetes.add(second)
    assert "OOMKilled" in sentence(capsys)


def test_a_failed_attempt_of_a_task_that_then_succeeded_is_not_blamed(server, kubernetes, run, capsys):
    failed(server, run)
    kubernetes.add(pod(run, "w-9", "n-0-0", task="preflight", **ended("OOMKilled", 137)))
    kubernetes.add(pod(run, "w-1", **ended()))
    assert "task teacher-label: pod w-1: main ended with exit code 1" in sentence(capsys)


def test_a_pod_is_known_by_its_path_where_the_ids_differ(server, kubernetes, run, capsys):
    failed(server, run)
    kubernetes.add(pod(run, "w-9", "other-0", task="preflight", **ended("OOMKilled", 137)))
    kubernetes.add(pod(run, "w-1", "other-1", **ended()))
    assert "task teacher-label: pod w-1" in sentence(capsys)


def test_a_pod_is_known_by_its_label(server, kubernetes, run, capsys):
    failed(server, run)
    for name, stage, status in (("w-9", "preflight", ended("OOMKilled", 137)), ("w-1", "teacher_label", ended())):
        labelled = pod(run, name, "other", **status)
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


def test_rounds_of_a_loop_are_told_apart():
    details = [
        {"task_id": f"n-{i}", "display_name": "retrieve", "state": state, "create_time": f"2026-11-25T03:0{i}:00Z"}
        for i, state in enumerate(["SUCCEEDED", "FAILED"])
    ]
    found = tasks.of_run({"display_name": "r", "run_details": {"task_details": details}})
    assert [(task.name, task.state) for task in found] == [("retrieve #1", "SUCCEEDED"), ("retrieve #2", "FAILED")]


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


def test_a_log_of_nothing_but_the_launcher_has_no_last_line(server, kubernetes, run):
    kubernetes.add(pod(run, **ended()))
    kubernetes.logs[(NAMESPACE, "w-1")] = "I1125 03:00:01.1 1 launcher_v2.go:90] x\nError: exit status 1\n"
    assert cluster.Kubernetes().last_line(NAMESPACE, "w-1") == ""
    kubernetes.add(pod(run, "w-2", **waiting("ContainerCreating", "")))
    with pytest.raises(cluster.Unasked, match="HTTP 400"):
        cluster.Kubernetes().last_line(NAMESPACE, "w-2")


def test_a_kubeconfig_is_demanded_where_there_is_none(surroundings):
    with pytest.raises(UserError, match="no kubeconfig on this machine"):
        cluster.Kubernetes()
