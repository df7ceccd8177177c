"""The compiled YAML, tested as what it is: the product that a cluster gets."""

from __future__ import annotations

import inspect
import json
import re
from contextlib import nullcontext
from dataclasses import replace
from typing import get_args, get_type_hints

import pytest
from kfp import dsl
from kfp.dsl import pipeline_task

from inranker_flow.config.cluster import ClusterConfig, Resources, Toleration
from inranker_flow.distillation.trainjob import Asked
from inranker_flow.environment import variables
from inranker_flow.preflight.pool import Need
from inranker_flow.services import kfp_nodes
from pipelines import placement
from pipelines.compile import PIPELINES, _callers_by_name, compile_pipeline, read
from pipelines.placement import (
    COMPONENT_LABEL,
    CPU_QUEUE,
    HELPS,
    PLACEMENT,
    QUEUE,
    QUEUE_LABEL,
    ROOT,
    SECRETS,
    SETTINGS,
    STAGE_SECRETS,
    UNQUEUED,
    image,
)

#: What the pipelines of these tests are compiled for.
CLUSTER = ClusterConfig(gpus=2, gpu_pool={"pool": "a100", "zone": "b"})


@pytest.fixture(scope="module", params=[*PIPELINES, "inranker with 4 workers"])
def documents(request, tmp_path_factory):
    name, *many = request.param.split(" with ")
    path = tmp_path_factory.mktemp("compiled") / "it.yaml"
    return read(compile_pipeline(name, path, replace(CLUSTER, workers=4) if many else CLUSTER))


def shares(documents):
    """Whether pods share the work on one collection."""
    return "exec-help-label" in documents[0]["deploymentSpec"]["executors"]


def stages(documents):
    """What the table says of the stages that a pipeline has: all, but that only `retrain` looks for corpora, and that pods
    help others only where the profile asks for several."""
    leaves_out = set() if documents[0]["pipelineInfo"]["name"] == "retrain" else {"discover"}
    leaves_out |= set() if shares(documents) else set(HELPS)
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
        # Where there is no request, Kubernetes takes the limit for it.
        assert (resources["resourceCpuLimit"], resources["resourceMemoryLimit"]) == (row.cpu, row.memory), stage
        assert "resourceCpuRequest" not in resources and "resourceMemoryRequest" not in resources
        assert settings["activeDeadlineSeconds"] == str(row.timeout), stage
        assert settings["securityContext"] == {"runAsNonRoot": True}
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
    for stage, _, container, settings in tasks:
        row = PLACEMENT[stage]
        if not row.gpu:
            assert "accelerator" not in container["resources"], stage
            queued = {} if stage in UNQUEUED else {QUEUE_LABEL: CPU_QUEUE}
            assert settings["podMetadata"] == {"labels": {COMPONENT_LABEL: stage, **queued}}, stage
            assert "nodeSelector" not in settings and "tolerations" not in settings, stage
            continue
        accelerator = container["resources"]["accelerator"]
        assert (accelerator["resourceType"], accelerator["resourceCount"]) == ("nvidia.com/gpu", "2"), stage
        assert settings["nodeSelector"] == {"labels": CLUSTER.gpu_pool}, stage
        tolerated = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
        assert settings["tolerations"] == [tolerated], stage
        assert settings["podMetadata"] == {"labels": {QUEUE_LABEL: QUEUE, COMPONENT_LABEL: stage}}, stage
        shared = {"mountPath": "/dev/shm", "volumeName": "dshm", "medium": "Memory", "sizeLimit": row.shm}
        assert row.shm and shared in settings["emptyDirMounts"], stage
        assert row.retries and row.timeout, stage


def test_without_gpus_tasks_run_on_any_node(tmp_path):
    tolerations = (Toleration("", "Exists", "NoExecute"), Toleration("team", "Equal", value="search"))
    cluster = ClusterConfig(gpus=0, gpu_tolerations=tolerations)
    pipeline, platform = read(compile_pipeline("inranker", tmp_path / "it.yaml", cluster))
    assert "accelerator" not in json.dumps(pipeline)
    settings = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-evaluate"]
    assert "nodeSelector" not in settings
    assert settings["podMetadata"]["labels"][QUEUE_LABEL] == CPU_QUEUE, "the other queue's flavor wants GPU nodes"
    assert settings["tolerations"] == [
        {"operator": "Exists", "effect": "NoExecute"},
        {"key": "team", "operator": "Equal", "value": "search", "effect": "NoSchedule"},
    ]


def test_a_first_stage_that_computes_vectors_has_torch_and_gpus(tmp_path):
    pipeline, platform = read(compile_pipeline("inranker", tmp_path / "it.yaml", replace(CLUSTER, first_stage="dense")))
    plain, _ = read(compile_pipeline("inranker", tmp_path / "plain.yaml", CLUSTER))
    for name in ("exec-retrieve", "exec-retrieve-2"):
        container = pipeline["deploymentSpec"]["executors"][name]["container"]
        assert container["image"] == image("teacher_label")
        assert container["resources"]["accelerator"]["resourceCount"] == "2"
        settings = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"][name]
        assert settings["podMetadata"]["labels"][QUEUE_LABEL] == QUEUE
        assert settings["nodeSelector"] == {"labels": CLUSTER.gpu_pool}
        assert "inranker-hub" in {each["secretName"] for each in settings["secretAsVolume"]}
        other = plain["deploymentSpec"]["executors"][name]["container"]
        assert other["image"] == image("retrieve") != container["image"] and "accelerator" not in other["resources"]
    with placement.compiled_for(replace(CLUSTER, first_stage="dense")):
        assert Need(**placement.largest_gpu_task()).first_stage == "dense"
    index = replace(CLUSTER, first_stage="opensearch")
    assert not placement.takes_gpus("retrieve", index) and "inranker-hub" in placement.secrets("retrieve", index)
    assert "inranker-hub" not in placement.secrets("retrieve", CLUSTER)


def test_a_stages_own_resources_come_before_those_of_all_and_those_before_the_tables(tmp_path):
    given = {
        "default": Resources(cpu=1, memory="4Gi"),
        "evaluate": Resources(memory="64Gi"),
        "notify": Resources("250m"),
    }
    cluster = ClusterConfig(resources=given)
    found = {stage: placement.resources(stage, cluster) for stage in PLACEMENT}
    helped = ClusterConfig(resources={"default": Resources(cpu=1), "teacher_label": Resources(cpu=3)})
    assert [placement.resources(stage, helped)[0] for stage in HELPS] == ["3", "1"], "as the stage that it helps"
    assert (found["evaluate"], found["notify"], found["retrieve"]) == (("1", "64Gi"), ("250m", "4Gi"), ("1", "4Gi"))
    assert placement.resources("retrieve", ClusterConfig()) == ("4", "32Gi")
    (spec, _) = read(compile_pipeline("inranker", tmp_path / "it.yaml", cluster))
    limits = spec["deploymentSpec"]["executors"]["exec-evaluate"]["container"]["resources"]
    assert (limits["resourceCpuLimit"], limits["resourceMemoryLimit"]) == ("1", "64Gi")
    asked = spec["components"]["comp-exit-handler-1"]["dag"]["tasks"]["preflight"]["inputs"]["parameters"]["need"]
    need = Need(**asked["runtimeValue"]["constant"])
    assert (need.stage, need.cpu, need.memory, need.gpus) == ("evaluate", "1", "64Gi", 1)
    assert need.less == "cluster.resources.evaluate.cpu, .memory, cluster.gpus"


def test_every_stage_can_be_given_resources():
    names = get_args(get_args(get_type_hints(ClusterConfig)["resources"])[0])
    assert set(names) == {"default", *PLACEMENT}


def test_settings_and_secrets_are_mounted_whole_where_stages_read_them_and_may_be_absent(tasks):
    for stage, _, _, settings in tasks:
        assert settings["configMapAsVolume"] == [
            {"configMapName": SETTINGS, "mountPath": "/etc/inranker/settings", "optional": True}
        ]
        # Asking no index and fetching no checkpoint, `retrieve` has none of its own.
        expected = {*SECRETS, *(STAGE_SECRETS.get(stage, ()) if stage != "retrieve" else ())}
        found = {each["secretName"]: each["mountPath"] for each in settings["secretAsVolume"]}
        assert found == {name: f"/etc/inranker/{name.removeprefix('inranker-')}" for name in expected}, stage
        assert all(each["optional"] is True for each in settings["secretAsVolume"])
        assert "configMapAsEnv" not in settings and "secretAsEnv" not in settings


def test_only_the_stages_that_need_them_see_the_webhook_the_key_of_the_endpoint_and_the_hubs_token(tasks):
    seen = {stage: {each["secretName"] for each in settings["secretAsVolume"]} for stage, *_, settings in tasks}
    assert {stage for stage, names in seen.items() if "inranker-notify" in names} == {"notify"}
    endpoint = {stage for stage, names in seen.items() if "inranker-endpoint" in names}
    assert endpoint - {"help_generate"} == {"preflight", "generate_queries", "evaluate"}
    without = {stage for stage, names in seen.items() if "inranker-hub" not in names}
    assert without - {"discover"} == {"retrieve", "export", "promote", "notify"}


def test_pods_learn_their_run_and_hold_no_name_that_kfps_mlflow_plugin_sets(documents, tasks):
    """Kubernetes refuses a pod of which a variable has a value, from the plugin, and a `valueFrom` from here."""
    for stage, _, container, settings in tasks:
        kinds = {key for key in settings if key.lower().endswith("asenv")}
        assert kinds == {"fieldPathAsEnv"}, "whatever else becomes a variable is read from a mounted folder"
        assert {each["name"]: each["fieldPath"] for each in settings["fieldPathAsEnv"]} == {
            "INRANKER_KFP_RUN_ID": "metadata.labels['pipeline/runid']"
        }
        told = [{"name": "INRANKER_WORKERS", "value": "4"}]
        assert container.get("env", []) == (told if shares(documents) and stage in {*HELPS, *HELPS.values()} else [])


def test_preflight_is_first_and_notify_is_the_exit_handler(documents):
    root = documents[0]["root"]["dag"]["tasks"]
    assert root["notify"]["triggerPolicy"]["strategy"] == "ALL_UPSTREAM_TASKS_COMPLETED"
    (body,) = [name for name in root if name != "notify"]
    tasks = documents[0]["components"][root[body]["componentRef"]["name"]]["dag"]["tasks"]
    assert [name for name, task in tasks.items() if not task.get("dependentTasks")] == ["preflight"]


def loops(documents):
    """(graph, task) of every loop."""
    tasks = [
        (name, task)
        for name, component in documents[0]["components"].items()
        for task in component.get("dag", {}).get("tasks", {}).values()
    ]
    return [(name, task) for name, task in tasks if "parameterIterator" in task or "artifactIterator" in task]


def test_targets_are_one_flat_loop(documents):
    over_targets = [name for name, task in loops(documents) if "inputParameter" in task["parameterIterator"]["items"]]
    assert over_targets == ["comp-condition-2"]


def test_pods_that_help_are_loops_beside_the_task_that_writes_and_nothing_waits_for_them(documents):
    beside = [(name, task) for name, task in loops(documents) if "raw" in task["parameterIterator"]["items"]]
    assert len(beside) == (3 if shares(documents) else 0)
    for graph, loop in beside:
        assert json.loads(loop["parameterIterator"]["items"]["raw"]) == [1, 2, 3]
        tasks = documents[0]["components"][graph]["dag"]["tasks"]
        (name,) = [name for name, task in tasks.items() if task is loop]
        assert not [each for each, task in tasks.items() if name in task.get("dependentTasks", [])]
        (inside,) = documents[0]["components"][loop["componentRef"]["name"]]["dag"]["tasks"].values()
        helper = _stage(inside["componentRef"]["name"].removeprefix("comp-"))
        (helped,) = [
            task for each, task in tasks.items()
            if _stage_or_none(each) == HELPS[helper]
        ]  # fmt: skip
        assert loop["dependentTasks"] == helped["dependentTasks"], "it begins when the task does"


def _stage_or_none(task):
    found = re.sub(r"-\d+$", "", task).replace("-", "_")
    return found if found in PLACEMENT else None


def test_one_worker_is_the_pipeline_that_it_was_before_there_were_several(tmp_path):
    text = compile_pipeline("inranker", tmp_path / "it.yaml", replace(CLUSTER, workers=1)).read_text()
    assert "help" not in text and "workers" not in text.lower()


def test_graphs_are_not_taken_for_tasks(documents):
    components = documents[0]["components"]
    nodes = {
        name: task
        for graph in [documents[0]["root"]["dag"], *(each["dag"] for each in components.values() if "dag" in each)]
        for name, task in graph["tasks"].items()
    }
    graphs = {name for name, task in nodes.items() if "dag" in components[task["componentRef"]["name"]]}
    details = [{"display_name": name, "state": "RUNNING"} for name in nodes]
    shown = {task.name for task in kfp_nodes.written(kfp_nodes.tasks_of({"run_details": {"task_details": details}}))}
    assert len(graphs) >= 2
    assert shown == set(nodes) - graphs


def test_every_task_has_a_name_to_read(tasks):
    named = [task["taskInfo"]["name"] for _, task, *_ in tasks]
    assert len(set(named)) == len(named) and all(re.fullmatch(r"[A-Z][a-z]+( [a-z0-9]+)*", name) for name in named), (
        named
    )


def test_no_parameter_or_constant_holds_a_secret(documents):
    for name in documents[0]["root"]["inputDefinitions"]["parameters"]:
        assert not any(word in name for word in ("secret", "password", "token", "key_id"))
    text = json.dumps(documents)
    assert not re.search(r"AKIA[0-9A-Z]{16}|hooks\.slack\.com|-----BEGIN|hf_[A-Za-z0-9]{20}", text)


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_the_file_is_small_enough_for_kfp_and_argo(pipeline, tmp_path):
    assert compile_pipeline(pipeline, tmp_path / "it.yaml").stat().st_size < 200_000


def test_compiling_twice_gives_the_same_pipeline(documents, tmp_path):
    name = documents[0]["pipelineInfo"]["name"]
    cluster = replace(CLUSTER, workers=4 if shares(documents) else 1)
    again = read(compile_pipeline(name, tmp_path / "again.yaml", cluster))
    assert again == documents


def test_kfp_still_names_the_method_that_does_not_fit():
    """It looks for the method among its callers."""

    @dsl.container_component
    def leaf():
        return dsl.ContainerSpec(image="x")

    @dsl.pipeline
    def inner():
        leaf()

    for quick in (_callers_by_name, nullcontext):
        with quick(), pytest.raises(ValueError, match=r"^set_cpu_limit can only be used on single-step components"):

            @dsl.pipeline
            def outer():
                inner().set_cpu_limit("1")

    assert pipeline_task.inspect is inspect, "put back at the end"


def test_a_pushed_image_is_named_by_its_digest(monkeypatch):
    monkeypatch.setenv("INRANKER_REGISTRY", "registry.example/team")
    tagged = placement.image("promote")
    assert tagged == f"registry.example/team/inranker-flow-base:{placement.content_tag()}"
    monkeypatch.setattr(placement, "pushed_images", lambda: {tagged: "sha256:0123"})
    assert placement.image("promote") == "registry.example/team/inranker-flow-base@sha256:0123"
    assert placement.image("evaluate").endswith(placement.content_tag()), "what was not pushed keeps its tag"


def test_the_largest_gpu_task_is_what_preflight_looks_for_room_for():
    with placement.compiled_for(CLUSTER):
        need = Need(**placement.largest_gpu_task())
    with placement.compiled_for(replace(CLUSTER, workers=4)):
        assert (Need(**placement.largest_gpu_task()).workers, need.workers) == (4, 1)
    assert (need.cpu, need.memory, need.gpus, need.queue) == ("8", "32Gi", 2, QUEUE)
    assert need.also == [{"stage": "retrieve", "cpu": "4", "memory": "32Gi", "queue": CPU_QUEUE}]
    asked = {"teacher_label": Resources(memory="64Gi"), "evaluate": Resources(cpu="96")}
    with placement.compiled_for(replace(CLUSTER, resources=asked)):
        every = Need(**placement.largest_gpu_task()).every
    assert [(each.stage, each.cpu, each.memory, each.gpus) for each in every] == [
        ("teacher_label", "8", "64Gi", 2), ("evaluate", "96", "32Gi", 2), ("retrieve", "4", "32Gi", 0),
    ]  # fmt: skip
    assert (need.pool, need.tolerations[0]["key"]) == (CLUSTER.gpu_pool, "nvidia.com/gpu")


def test_a_task_is_one_short_command_without_source_or_prose(documents):
    for name, container in executors(documents).items():
        assert container["command"] == ["python3", "-m", "components", "kfp.dsl.executor_main"]
        assert container["args"] == [_stage(name), "{{$}}"]
        assert (ROOT / "components" / _stage(name) / "component.py").is_file()
    for name, component in documents[0]["components"].items():
        assert "description" not in json.dumps(component), name
    described = documents[0]["root"]["inputDefinitions"]["parameters"].values()
    assert all(each["description"] for each in described), "Kubeflow's form shows these"


def test_what_the_backend_repeats_for_a_task_is_small(documents):
    """It puts these four into a dozen places of the workflow's status, which Argo limits."""
    pipeline, platform = documents
    settings = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    graphs = [pipeline["root"], *(each for each in pipeline["components"].values() if "dag" in each)]
    sizes = []
    for task in (task for graph in graphs for task in graph["dag"]["tasks"].values()):
        component = pipeline["components"][task["componentRef"]["name"]]
        if label := component.get("executorLabel"):
            container = pipeline["deploymentSpec"]["executors"][label]["container"]
            container = {**container, "image": f"registry.example.com/search/inranker-flow-train@sha256:{'0' * 64}"}
            sizes.append(sum(map(size, (container, settings[label], component, task))))
    assert sum(sizes) / len(sizes) <= 2600, sizes


def size(message):
    return len(json.dumps(message, separators=(",", ":")).encode())


def test_a_training_over_several_machines_waits_without_gpus_and_says_what_it_asks_for(tmp_path):
    cluster = replace(CLUSTER, nodes=3)
    pipeline, platform = read(compile_pipeline("inranker", tmp_path / "it.yaml", cluster))
    executors = pipeline["deploymentSpec"]["executors"]
    settings = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for phase in ("distill-phase1", "distill-phase2"):
        container = executors[f"exec-{phase}"]["container"]
        [told] = container["env"]
        asked = Asked(**json.loads(told["value"]))
        assert told["name"] == variables.NODES and asked.image == container["image"]
        assert (asked.nodes, asked.gpus, asked.cpu, asked.memory, asked.queue) == (3, 2, "8", "32Gi", QUEUE)
        assert "accelerator" not in container["resources"]
        assert settings[f"exec-{phase}"]["podMetadata"]["labels"][QUEUE_LABEL] == CPU_QUEUE
    assert "accelerator" in executors["exec-evaluate"]["container"]["resources"]
    with placement.compiled_for(cluster):
        need = Need(**placement.largest_gpu_task())
    assert (need.nodes, need.queue, need.gpus) == (3, QUEUE, 2)
