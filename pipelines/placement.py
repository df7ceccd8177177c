"""Where each stage runs: the one table of everything that Kubernetes sees."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from inranker_flow.config.cluster import ClusterConfig
from inranker_flow.config.parsing import as_dict
from inranker_flow.config.values import ENCODING
from inranker_flow.environment import variables
from inranker_flow.environment.mounted import MOUNTS
from inranker_flow.environment.variables import WORKERS
from inranker_flow.services.kubernetes import quantity
from inranker_flow.store.sharing import HELPS

ROOT = Path(__file__).resolve().parents[1]

#: The Kueue LocalQueues of tasks with GPUs and of the others; without Kueue the label does nothing.
QUEUE, CPU_QUEUE = "inranker-gpu", "inranker-cpu"
#: Stages that may train on several machines (`cluster.nodes`), and the variable that tells them so.
DISTILLS, NODES = ("distill_phase1", "distill_phase2"), "INRANKER_NODES"
#: These wait in none: one says what is wrong with the queues, the other how a run ended.
UNQUEUED = ("preflight", "notify")
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
COMPONENT_LABEL = "app.kubernetes.io/component"
#: The user of every image (their Dockerfiles say the same).
UID = 1000
MINUTE, HOUR = 60, 3600


@dataclass(frozen=True)
class Placement:
    """One row of the table.

    ``image`` is a folder of `images/`; ``cpu`` and ``memory`` are request and limit as Kubernetes writes them, where the
    profile says nothing else (`cluster.resources`); ``gpu`` says that the task takes the profile's GPUs (type, number, node
    pool and tolerations), the queue and ``shm`` as /dev/shm. ``timeout`` is in seconds from the pod's start. A failed task is
    tried ``retries`` times more, after one minute, two, four. ``cache`` False: the task looks at the world, or changes it.
    """

    image: str
    cpu: str
    memory: str
    timeout: int
    gpu: bool = False
    shm: str = ""
    retries: int = 2
    cache: bool = True


PLACEMENT: dict[str, Placement] = {
    "preflight": Placement("base", "1", "2Gi", 10 * MINUTE, retries=0, cache=False),
    "discover": Placement("base", "2", "8Gi", 12 * HOUR, cache=False),
    "prepare_corpus": Placement("base", "2", "8Gi", 12 * HOUR),
    "retrieve": Placement("base", "4", "32Gi", 12 * HOUR),
    "teacher_label": Placement("train", "8", "32Gi", 48 * HOUR, gpu=True, shm="8Gi"),
    "help_label": Placement("train", "8", "32Gi", 48 * HOUR, gpu=True, shm="8Gi", retries=5),
    "generate_queries": Placement("generate", "8", "32Gi", 48 * HOUR, gpu=True, shm="8Gi"),
    "help_generate": Placement("generate", "8", "32Gi", 48 * HOUR, gpu=True, shm="8Gi", retries=5),
    "distill_phase1": Placement("train", "8", "32Gi", 72 * HOUR, gpu=True, shm="8Gi"),
    "distill_phase2": Placement("train", "8", "32Gi", 72 * HOUR, gpu=True, shm="8Gi"),
    "evaluate": Placement("train", "8", "32Gi", 24 * HOUR, gpu=True, shm="8Gi"),
    "export": Placement("train", "4", "16Gi", 12 * HOUR),
    "promote": Placement("base", "2", "8Gi", HOUR, cache=False),
    "notify": Placement("base", "1", "2Gi", 10 * MINUTE, retries=0, cache=False),
}

#: What a stage takes instead where it computes vectors (`retrieval.first_stage` with a bi-encoder).
_ENCODING = {"retrieve": Placement("train", "8", "32Gi", 48 * HOUR, gpu=True, shm="8Gi")}

#: ConfigMap whose every key is a variable of every pod (`mounted.settle` reads what is mounted here).
SETTINGS = "inranker-settings"
#: Secrets whose every key is a variable of every pod, for every stage reads or writes the store and speaks to MLflow. Each
#: is optional: roles (IRSA) need none.
SECRETS = ("inranker-s3", "inranker-mlflow")
#: Only this stage's pods see these. The hub's is where checkpoints or collections are fetched, and holds the key of a teacher
#: behind a server, too: a Secret of its own would be repeated in each task's part of the workflow's status.
STAGE_SECRETS: dict[str, tuple[str, ...]] = {
    "notify": ("inranker-notify",),
    **dict.fromkeys(
        ("preflight", "generate_queries", "help_generate", "evaluate"), ("inranker-hub", "inranker-endpoint")
    ),
    **dict.fromkeys(
        ("prepare_corpus", "retrieve", "teacher_label", "help_label", "distill_phase1", "distill_phase2"),
        ("inranker-hub",),
    ),
}


#: What the pipeline that is being defined is compiled for (:func:`compiled_for`).
_CLUSTER: ContextVar[ClusterConfig] = ContextVar("cluster")


@contextmanager
def compiled_for(cluster: ClusterConfig) -> Iterator[None]:
    """Let the pipeline that is defined inside be for ``cluster``.

    It is fixed then, and no parameter of the pipeline: the backend repeats what a parameter costs for each task.
    """
    token = _CLUSTER.set(cluster)
    try:
        yield
    finally:
        _CLUSTER.reset(token)


def helpers() -> list[int]:
    """Return numbers of the pods that do some of another's work: none, but where `cluster.workers` asks for them."""
    return list(range(1, _CLUSTER.get().workers))


def row_of(stage: str, cluster: ClusterConfig) -> Placement:
    """Return the row of a stage as this run needs it."""
    return _ENCODING[stage] if cluster.first_stage in ENCODING and stage in _ENCODING else PLACEMENT[stage]


def secrets(stage: str, cluster: ClusterConfig) -> tuple[str, ...]:
    """Return the secrets of a stage's pods: `retrieve` has its own only where it fetches a checkpoint or asks an index."""
    own = stage != "retrieve" or cluster.first_stage in (*ENCODING, "opensearch")
    return (*SECRETS, *(STAGE_SECRETS.get(stage, ()) if own else ()))


def resources(stage: str, cluster: ClusterConfig) -> tuple[str, str]:
    """Return CPU and memory of a stage: its own settings, else those of the stage that it helps or for all, else the table's."""
    row, settings = row_of(stage, cluster), {str(name): each for name, each in cluster.resources.items()}
    given = [settings[name] for name in (stage, HELPS.get(stage, stage), "default") if name in settings]
    cpu = next((each.cpu for each in given if each.cpu), row.cpu)
    return str(cpu), next((each.memory for each in given if each.memory), row.memory)


def place_all() -> None:
    """Give every task of the pipeline that is being defined what the table says (see :func:`place`)."""
    from kfp.dsl import pipeline_context

    for task in pipeline_context.Pipeline.get_default_pipeline().tasks.values():
        place(task, _CLUSTER.get())


def place(task: Any, cluster: ClusterConfig) -> None:
    """Give one KFP task what the table and the profile say."""
    from kfp import kubernetes

    stage = task.component_spec.name.replace("-", "_")
    row = row_of(stage, cluster)
    if row.image != PLACEMENT[stage].image:
        task.set_container_image(image_of(row))
    cpu, memory = resources(stage, cluster)
    task.set_cpu_limit(cpu).set_memory_limit(memory)  # Kubernetes takes a limit for the request, too
    task.set_caching_options(row.cache)
    if row.retries:
        task.set_retry(row.retries, backoff_duration="60s", backoff_factor=2, backoff_max_duration="600s")
    kubernetes.set_timeout(task, row.timeout)
    kubernetes.set_security_context(task, run_as_non_root=True)  # as whom, the image says
    # The images write nowhere else: an administrator may make their root file system read-only.
    kubernetes.empty_dir_mount(task, "tmp", "/tmp")
    kubernetes.use_config_map_as_volume(task, SETTINGS, str(MOUNTS / "settings"), optional=True)
    for name in secrets(stage, cluster):
        place = MOUNTS / name.removeprefix("inranker-")
        kubernetes.use_secret_as_volume(task, name, str(place), optional=True)
    # KFP's SDK writes each name twice, once as what could be a parameter; its backend takes either.
    for volumes in ("configMapAsVolume", "secretAsVolume"):
        for each in task.platform_config["kubernetes"][volumes]:
            each.pop(f"{volumes.removesuffix('AsVolume')}NameParameter")
    kubernetes.use_field_path_as_env(task, "INRANKER_KFP_RUN_ID", "metadata.labels['pipeline/runid']")
    if cluster.workers > 1 and stage in (*HELPS, *HELPS.values()):
        task.set_env_variable(WORKERS, str(cluster.workers))
    # The network policies know a stage by this label: only some may reach the internet.
    kubernetes.add_pod_label(task, COMPONENT_LABEL, stage)
    if cluster.nodes > 1 and stage in DISTILLS:
        task.set_env_variable(NODES, _machines(stage, cluster))
    if waits_in := queue(stage, cluster):
        kubernetes.add_pod_label(task, QUEUE_LABEL, waits_in)
    if takes_gpus(stage, cluster):
        _place_on_gpus(task, cluster)
        kubernetes.empty_dir_mount(task, "dshm", "/dev/shm", medium="Memory", size_limit=row.shm)


def queue(stage: str, cluster: ClusterConfig) -> str:
    """Return the LocalQueue that a stage's pods name, or "": the flavor behind the GPUs' would send a pod to a node that has
    some."""
    if stage in UNQUEUED:
        return ""
    return QUEUE if takes_gpus(stage, cluster) and cluster.gpus else CPU_QUEUE


def takes_gpus(stage: str, cluster: ClusterConfig) -> bool:
    """Return whether a stage's own pod computes on GPUs: one that trains elsewhere (`cluster.nodes`) waits without."""
    return row_of(stage, cluster).gpu and not (cluster.nodes > 1 and stage in DISTILLS)


def _machines(stage: str, cluster: ClusterConfig) -> str:
    """Return the request of a training over several machines to each of them, for `trainjob`."""
    cpu, memory = resources(stage, cluster)
    gpus = {"gpu_type": cluster.gpu_type, "gpus": cluster.gpus} if cluster.gpus else {}
    asked = {"nodes": cluster.nodes, "image": image(stage), "cpu": cpu, "memory": memory, **gpus}
    return json.dumps({**asked, "queue": QUEUE if cluster.gpus else CPU_QUEUE})


def _place_on_gpus(task: Any, cluster: ClusterConfig) -> None:
    from kfp import kubernetes

    # What needs no GPU runs on any node.
    if cluster.gpus:
        task.set_accelerator_type(cluster.gpu_type).set_accelerator_limit(cluster.gpus)
        for key, value in cluster.gpu_pool.items():
            kubernetes.add_node_selector(task, key, value)
    for each in cluster.gpu_tolerations:
        # Kubernetes refuses a value beside `Exists`.
        given = {key: value for key, value in as_dict(each).items() if value}
        kubernetes.add_toleration(task, **given)


def largest_gpu_task() -> dict[str, Any]:
    """Return the request of the largest GPU task to a node, for which `preflight` looks for room in pool and queues.

    ``also``: of those that ask for more CPU than it, and the most that any other asks of its queue.
    """
    cluster = _CLUSTER.get()
    there = [stage for stage in PLACEMENT if helpers() or stage not in HELPS]
    gpus = {"gpu_type": cluster.gpu_type, "gpus": cluster.gpus, "pool": cluster.gpu_pool} if cluster.gpus else {}
    tolerations = [as_dict(each) for each in cluster.gpu_tolerations]
    workers = {"workers": cluster.workers} if helpers() else {}
    nodes = {"nodes": cluster.nodes} if cluster.nodes > 1 else {}
    computing = [stage for stage in there if row_of(stage, cluster).gpu]  # the machines of a training, too
    if not cluster.gpus:
        computing = [stage for stage in there if queue(stage, cluster)]
    found, *greedy = _largest(computing, cluster, QUEUE if cluster.gpus else CPU_QUEUE)
    also = [{**each, "tolerations": tolerations, **gpus} for each in greedy]
    if cluster.gpus:
        also += _largest([stage for stage in there if queue(stage, cluster) == CPU_QUEUE], cluster, CPU_QUEUE)
    first_stage = {"first_stage": cluster.first_stage} if cluster.first_stage != "bm25" else {}
    beside = {"also": also} if also else {}
    return {**found, "tolerations": tolerations, **gpus, **workers, **nodes, **first_stage, **beside}


def _largest(stages: list[str], cluster: ClusterConfig, waits_in: str) -> list[dict[str, Any]]:
    """Return the request of the task with the most memory, and then of those that ask for more CPU than it."""
    asked = {stage: resources(stage, cluster) for stage in stages}
    found: list[dict[str, Any]] = []
    for stage in sorted(asked, key=lambda each: (quantity(asked[each][1]), quantity(asked[each][0])), reverse=True):
        cpu, memory = asked[stage]
        if not found or quantity(cpu) > quantity(found[-1]["cpu"]):
            found.append({"stage": stage, "cpu": cpu, "memory": memory, "queue": waits_in})
    return found


def image(stage: str) -> str:
    """Return the image reference of a stage: by digest when `make push` has recorded this very content, else by content tag.

    Both of KFP's caches (local and cluster) have the image's name in their keys and not its content: with a mutable
    tag, changed code would meet stale results.
    """
    return image_of(PLACEMENT[stage])


def image_of(row: Placement) -> str:
    """Return the image reference of a row of the table."""
    return image_reference(row.image)


def image_reference(name: str) -> str:
    """Return ``REGISTRY/inranker-flow-NAME@sha256:...`` when `images/images.lock` has it, else ``...:TAG``."""
    repository = f"{variables.registry()}/inranker-flow-{name}"
    pushed = pushed_images().get(f"{repository}:{content_tag()}")
    return f"{repository}@{pushed}" if pushed else f"{repository}:{content_tag()}"


def pushed_images() -> dict[str, str]:
    """Return the record of `make push`: tagged reference -> digest (sha256:...)."""
    path = ROOT / "images" / "images.lock"
    lock: dict[str, dict[str, str]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return lock.get("digests", {})


@cache
def content_tag() -> str:
    """Digest over everything that the images are built from: library and adapters, demo models, Dockerfiles and locks.

    Of `pyproject.toml` only what is in the wheel: a tool of development must not send every label back to the GPU.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packaged = [project["project"]["version"], project["project"]["dependencies"], project["tool"]["setuptools"]]
    digest = sha256(json.dumps(packaged, sort_keys=True).encode())
    adapters = [path for path in (ROOT / "components").rglob("*.py") if path.name != "readme.py"]
    for path in sorted([*(ROOT / "src").rglob("*"), *adapters, *(ROOT / "images").rglob("*")]):
        made = path.name in ("images.lock", "README.md") and path.is_relative_to(ROOT / "images")
        # A profile is what a run is started with; no stage reads one, so another value in it needs no other image.
        unneeded = path.parent.name in ("__pycache__", "profiles") or any(
            part.endswith(".egg-info") for part in path.parts
        )
        if path.is_file() and not made and not unneeded:
            digest.update(f"{path.relative_to(ROOT)}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
