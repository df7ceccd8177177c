"""The compiled YAML, tested as what it is: the product that a cluster gets."""

from __future__ import annotations

import importlib
import json
import re

import pytest
import yaml

from inranker_flow import run_nodes
from pipelines import placement
from pipelines.compile import PIPELINES, compile_pipeline
from pipelines.placement import (
    COMPONENT_LABEL,
    PLACEMENT,
    QUEUE,
    QUEUE_LABEL,
    SECRETS,
    SETTINGS,
    STAGE_SECRETS,
    UID,
    image,
)


@pytest.fixture(scope="module", params=PIPELINES)
def documents(request, tmp_path_factory):
    path = compile_pipeline(request.param, tmp_path_factory.mktemp("compiled") / "it.yaml")
    return list(yaml.safe_load_all(path.read_text()))


def stages(documents):
    """What the table says of the stages that a pipeline has: all, but that only `retrain` looks for corpora."""
    leaves_out = set() if documents[0]["pipelineInfo"]["name"] == "retrain" else {"discover"}
    return {stage: row for stage, row in PLACEMENT.items() if stage not in leaves_out}


@pytest.fixture(scope="module")
def tasks(documents):
    """Every task that is a component of ours: (stage, task, container, platform settings)."""
    pipeline, platform = documents
    settings = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    components = pipeline["components"]
    graphs = [pipeline["root"]["dag"], *(each["dag"] for each in components.values() if "dag" in each)]
    found = []
    for graph in graphs:
        for task in graph["tasks"].values():
            label = components[task["componentRef"]["name"]].get("executorLabel")
            if label:
                container = pipeline["deploymentSpec"]["executors"][label]["container"]
                found.append((_stage(label.removeprefix("exec-")), task, container, settings[label]))
    return found


def executors(documents):
    return {
        key.removeprefix("exec-"): value["container"]
        for key, value in documents[0]["deploymentSpec"]["executors"].items()
    }


def _stage(executor: str) -> str:
    name = executor.replace("-", "_")
    return next(stage for stage in sorted(PLACEMENT, key=len, reverse=True) if name.startswith(stage))


def test_nothing_is_installed_at_run_time(documents):
    for name, container in executors(documents).items():
        assert "pip" not in " ".join(container["command"]), name


def test_every_stage_is_there_in_its_own_image(documents):
    found = {_stage(name): container["image"] for name, container in executors(documents).items()}
    assert found == {stage: image(stage) for stage in stages(documents)}


def test_image_tags_are_content_digests(documents):
    for container in executors(documents).values():
        tag = container["image"].rsplit(":", 1)[1]
        assert len(tag) == 16 and int(tag, 16)


def test_cpu_memory_timeout_and_user_are_those_of_the_table(documents, tasks):
    assert {stage for stage, *_ in tasks} == set(stages(documents))
    for stage, _, container, settings in tasks:
        row, resources = PLACEMENT[stage], container["resources"]
        assert {resources["resourceCpuRequest"], resources["resourceCpuLimit"]} == {row.cpu}, stage
        assert {resources["resourceMemoryRequest"], resources["resourceMemoryLimit"]} == {row.memory}, stage
        assert settings["activeDeadlineSeconds"] == str(row.timeout), stage
        assert settings["imagePullPolicy"] == "IfNotPresent"
        assert settings["securityContext"] == {
            "runAsUser": str(UID),
            "runAsGroup": str(UID),
            "runAsNonRoot": True,
        }
        assert {"mountPath": "/tmp", "volumeName": "tmp"} in settings["emptyDirMounts"]


def test_retries_are_those_of_the_table_with_backoff(tasks):
    for stage, task, *_ in tasks:
        policy = task.get("retryPolicy")
        if not PLACEMENT[stage].retries:
            assert policy is None, stage
            continue
        assert policy == {
            "maxRetryCount": PLACEMENT[stage].retries,
            "backoffDuration": "60s",
            "backoffFactor": 2.0,
            "backoffMaxDuration": "600s",
        }, stage


def test_what_looks_at_the_world_or_changes_it_is_never_cached(documents, tasks):
    cached = {stage: bool(task["cachingOptions"].get("enableCache")) for stage, task, *_ in tasks}
    assert cached == {stage: row.cache for stage, row in stages(documents).items()}
    assert [stage for stage, row in PLACEMENT.items() if not row.cache] == [
        "preflight",
        "discover",
        "promote",
        "notify",
    ]


def test_gpu_stages_have_everything_that_a_gpu_pod_needs_and_no_other_stage_has_any_of_it(tasks):
    for stage, task, container, settings in tasks:
        row = PLACEMENT[stage]
        parameter = {key: {"componentInputParameter": value} for key, value in _handed_down(task, stage).items()}
        if not row.gpu:
            assert "accelerator" not in container["resources"], stage
            assert settings["podMetadata"] == {"labels": {COMPONENT_LABEL: stage}}, stage
            assert "nodeSelector" not in settings and "tolerations" not in settings, stage
            continue
        accelerator = container["resources"]["accelerator"]
        assert accelerator["resourceType"] == "{{$.inputs.parameters['pipelinechannel--gpu_type']}}", stage
        assert accelerator["resourceCount"] == "{{$.inputs.parameters['pipelinechannel--gpus']}}", stage
        assert set(parameter) == {"gpu_type", "gpus"}, stage
        assert settings["nodeSelector"] == {
            "nodeSelectorJson": {"componentInputParameter": "pipelinechannel--gpu_pool"}
        }, stage
        assert settings["tolerations"] == [
            {"tolerationJson": {"componentInputParameter": "pipelinechannel--gpu_tolerations"}}
        ], stage
        assert settings["podMetadata"] == {"labels": {QUEUE_LABEL: QUEUE, COMPONENT_LABEL: stage}}, stage
        shared = {"mountPath": "/dev/shm", "volumeName": "dshm", "medium": "Memory", "sizeLimit": row.shm}
        assert row.shm and shared in settings["emptyDirMounts"], stage
        assert row.retries and row.timeout, stage


def _handed_down(task, stage):
    """GPU parameters that the task's own graph hands to it."""
    inputs = task["inputs"].get("parameters", {})
    return {
        key.removeprefix("pipelinechannel--"): value["componentInputParameter"]
        for key, value in inputs.items()
        if key.startswith("pipelinechannel--gpu")
    }


def test_every_graph_receives_the_gpu_parameters_that_its_tasks_use(documents):
    """KFP 2.17 leaves them out of a loop's inputs unless it is told to (`place` does)."""
    pipeline = documents[0]
    graphs = {name: each for name, each in pipeline["components"].items() if "dag" in each}
    # The exit handler's, the loop's, and where it looks for corpora that of the condition.
    assert len(graphs) == (3 if documents[0]["pipelineInfo"]["name"] == "retrain" else 2)
    for name, each in graphs.items():
        assert {f"pipelinechannel--{key}" for key in ("gpu_type", "gpus", "gpu_pool", "gpu_tolerations")} <= set(
            each["inputDefinitions"]["parameters"]
        ), name


def test_settings_and_secrets_are_mounted_whole_where_stages_read_them_and_may_be_absent(tasks):
    for stage, _, _, settings in tasks:
        assert settings["configMapAsVolume"] == [
            {
                "configMapName": SETTINGS,
                "configMapNameParameter": {"runtimeValue": {"constant": SETTINGS}},
                "mountPath": "/etc/inranker/settings",
                "optional": True,
            }
        ]
        expected = {*SECRETS, *STAGE_SECRETS.get(stage, ())}
        found = {each["secretName"]: each["mountPath"] for each in settings["secretAsVolume"]}
        assert found == {name: f"/etc/inranker/secrets/{name}" for name in expected}, stage
        assert all(each["optional"] is True for each in settings["secretAsVolume"])
        assert "configMapAsEnv" not in settings and "secretAsEnv" not in settings


def test_only_the_stages_that_need_them_see_the_webhook_and_the_key_of_the_endpoint(tasks):
    seen = {stage: {each["secretName"] for each in settings["secretAsVolume"]} for stage, *_, settings in tasks}
    assert {stage for stage, names in seen.items() if "inranker-notify" in names} == {"notify"}
    assert {stage for stage, names in seen.items() if "inranker-endpoint" in names} == {"preflight", "generate_queries"}


def test_pods_learn_their_run_and_namespace(tasks):
    for *_, settings in tasks:
        assert {each["name"]: each["fieldPath"] for each in settings["fieldPathAsEnv"]} == {
            "INRANKER_KFP_RUN_ID": "metadata.labels['pipeline/runid']",
            "INRANKER_NAMESPACE": "metadata.namespace",
        }


def test_preflight_is_first_and_notify_is_the_exit_handler(documents):
    root = documents[0]["root"]["dag"]["tasks"]
    assert root["notify"]["triggerPolicy"]["strategy"] == "ALL_UPSTREAM_TASKS_COMPLETED"
    (body,) = [name for name in root if name != "notify"]
    tasks = documents[0]["components"][root[body]["componentRef"]["name"]]["dag"]["tasks"]
    assert [name for name, task in tasks.items() if not task.get("dependentTasks")] == ["preflight"]


def test_targets_are_one_flat_loop(documents):
    tasks = [
        (name, task)
        for name, component in documents[0]["components"].items()
        for task in component.get("dag", {}).get("tasks", {}).values()
    ]
    loops = [name for name, task in tasks if "parameterIterator" in task or "artifactIterator" in task]
    assert loops == ["comp-condition-2" if documents[0]["pipelineInfo"]["name"] == "retrain" else "comp-exit-handler-1"]


def test_graphs_are_not_taken_for_tasks(documents):
    components = documents[0]["components"]
    nodes = {
        name: task
        for graph in [documents[0]["root"]["dag"], *(each["dag"] for each in components.values() if "dag" in each)]
        for name, task in graph["tasks"].items()
    }
    graphs = {name for name, task in nodes.items() if "dag" in components[task["componentRef"]["name"]]}
    details = [{"display_name": name, "state": "RUNNING"} for name in nodes]
    shown = {task.name for task in run_nodes.written(run_nodes.tasks_of({"run_details": {"task_details": details}}))}
    assert len(graphs) >= 2
    assert shown == set(nodes) - graphs


def test_no_parameter_or_constant_holds_a_secret(documents):
    pipeline = documents[0]["pipelineInfo"]["name"]
    function = getattr(importlib.import_module(f"pipelines.{pipeline}"), pipeline)
    for name in function.component_spec.inputs:
        assert not any(word in name for word in ("secret", "password", "token", "key_id"))
    text = json.dumps(documents)
    assert not re.search(r"AKIA[0-9A-Z]{16}|hooks\.slack\.com|-----BEGIN|hf_[A-Za-z0-9]{20}", text)


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_the_file_is_small_enough_for_kfp_and_argo(pipeline, tmp_path):
    assert compile_pipeline(pipeline, tmp_path / "it.yaml").stat().st_size < 200_000


def test_compiling_twice_gives_the_same_pipeline(documents, tmp_path):
    name = documents[0]["pipelineInfo"]["name"]
    again = list(yaml.safe_load_all(compile_pipeline(name, tmp_path / "again.yaml").read_text()))
    assert again == documents


def test_a_pushed_image_is_named_by_its_digest(monkeypatch):
    monkeypatch.setenv("INRANKER_REGISTRY", "registry.example/team")
    tagged = placement.image("promote")
    assert tagged == f"registry.example/team/inranker-flow-base:{placement.content_tag()}"
    monkeypatch.setattr(placement, "pushed_images", lambda: {tagged: "sha256:0123"})
    assert placement.image("promote") == "registry.example/team/inranker-flow-base@sha256:0123"
    assert placement.image("evaluate").endswith(placement.content_tag()), "what was not pushed keeps its tag"


def test_the_largest_gpu_task_is_what_preflight_looks_for_room_for():
    assert placement.largest_gpu_task() == {"cpu": "8", "memory": "32Gi", "shm": "8Gi", "queue": QUEUE}
