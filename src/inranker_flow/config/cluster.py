"""The section of a profile that says where the stages run on a cluster."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from inranker_flow.config.rules import Range, Text
from inranker_flow.config.values import LABEL, Amount, Cpus, FirstStageName, LabelName, LabelValue


@dataclass(frozen=True)
class Toleration:
    """A permission for a pod to run on a tainted node (Kubernetes' own fields, in Kubernetes' spelling)."""

    #: The taint's key.
    key: Annotated[str, Text(LABEL, "is no name that Kubernetes takes (nvidia.com/gpu)", most=300)]
    #: Exists: whatever the taint's value is. Equal: the one in `value`.
    operator: Literal["Exists", "Equal"] = "Exists"
    #: The taint's effect.
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] = "NoSchedule"
    #: The taint's value.
    value: LabelValue = ""


@dataclass(frozen=True)
class Resources:
    """CPU and memory of a task: its request and its limit. Empty: the values of the table in `placement.py`."""

    #: CPUs: 2, 0.5, 500m.
    cpu: Cpus = ""
    #: Memory: 512Mi, 64Gi.
    memory: Annotated[str, Text(r"[1-9][0-9]{0,8}(\.[0-9]{1,3})?([MGT]i?)", "is no amount of memory (512Mi, 64Gi)")] = (
        ""
    )


StageOrDefault = Literal[
    "default", "preflight", "discover", "prepare_corpus", "retrieve", "teacher_label", "help_label", "generate_queries",
    "help_generate", "distill_phase1", "distill_phase2", "evaluate", "export", "promote", "notify",
]  # fmt: skip


@dataclass(frozen=True)
class ClusterConfig:
    """Nodes, GPUs and pods of the stages on a cluster. A local run ignores this section."""

    #: Resource name of the accelerator.
    gpu_type: LabelName = "nvidia.com/gpu"
    #: GPUs of one task (0: the stage computes on the CPU, for a cluster without GPUs).
    gpus: Annotated[int, Range(0, 1024)] = 1
    #: GPUs of one node of the pool: a task that asks for more would wait for ever.
    node_gpus: Annotated[int, Range(0, 1024)] = 8
    #: Labels of the pool's nodes (this one is set by NVIDIA's GPU feature discovery).
    gpu_pool: dict[LabelName, LabelValue] = field(default_factory=lambda: {"nvidia.com/gpu.present": "true"})
    #: Taints of the pool that its tasks bear.
    gpu_tolerations: tuple[Toleration, ...] = (Toleration("nvidia.com/gpu"),)
    #: Which GPUs the pool has: for `make plan` alone.
    gpu_model: str = "A100"
    #: Price of one GPU for an hour in any currency, for `make plan` alone; 0: not known.
    gpu_hour_price: Amount = 0.0
    #: CPU and memory of a stage's tasks, by its name, or of all the others (``default``).
    resources: dict[StageOrDefault, Resources] = field(default_factory=dict)
    #: Pods that label for one collection, and that write queries for one, at a time (they share INRANKER_STORE).
    workers: Annotated[int, Range(1, 64)] = 1
    #: Machines of one training, by Kubeflow Trainer, each with ``gpus``; 1: the stage's own pod trains.
    nodes: Annotated[int, Range(1, 64)] = 1
    #: What `retrieve` needs: the image with torch, and GPUs, where it computes vectors; keys of the hub or of an index. Always as
    #: `retrieval.first_stage` says.
    first_stage: FirstStageName = "bm25"
    #: Argo tries whatever errs again, on each level (KFP's manifests say so); without, more targets fit into one run.
    retries: bool = True
