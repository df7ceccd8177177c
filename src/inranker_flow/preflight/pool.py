"""Whether the node pool and the queue of the cluster have room for the largest GPU task.

What the service account may not read is skipped: the run does not need it. A pool without any node is skipped too, for
an autoscaler may have scaled it to zero; nodes that are there and do not fit are a failure, because the pods would wait
for ever.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from inranker_flow.errors import UserError
from inranker_flow.preflight.checks import Skipped
from inranker_flow.services import kubernetes
from inranker_flow.services.kubernetes import Cluster, Unreadable, quantity, tolerated

#: Taints that come and go with a node's condition; a pod waits for them to go.
_PASSING = ("node.kubernetes.io/", "node.cloudprovider.kubernetes.io/", "ToBeDeletedBy", "DeletionCandidateOf")


@dataclass(frozen=True)
class Need:
    """The request of the largest GPU task to one node and its queue. KFP hands it over as plain data."""

    stage: str
    cpu: str
    memory: str
    queue: str
    tolerations: Sequence[Mapping[str, str]] = ()
    gpu_type: str = ""
    gpus: float = 0
    pool: Mapping[str, str] = field(default_factory=dict)
    #: Pods at one piece of work (`cluster.workers`).
    workers: int = 1
    #: Machines of one training (`cluster.nodes`).
    nodes: int = 1
    #: The first stage that the pipeline was compiled for (`cluster.first_stage`).
    first_stage: str = "bm25"
    #: The same of tasks that ask for more CPU, and of the largest that wait in another queue.
    also: Sequence[Mapping[str, Any]] = ()

    @property
    def resources(self) -> dict[str, str]:
        """Resource -> quantity, as Kubernetes writes them."""
        return {**({self.gpu_type: f"{self.gpus:g}"} if self.gpus else {}), "cpu": self.cpu, "memory": self.memory}

    @property
    def every(self) -> list[Need]:
        """This and the others."""
        return [self, *(Need(**each) for each in self.also)]

    @property
    def less(self) -> str:
        """The settings with which a task asks for less."""
        settings = [f"cluster.resources.{self.stage}.cpu", ".memory", *(["cluster.gpus"] if self.gpus else [])]
        return ", ".join(settings)

    def __str__(self) -> str:
        return ", ".join(f"{amount} {resource}" for resource, amount in self.resources.items())


def is_here() -> bool:
    """Return whether this is a pod of a cluster, so that there is something to look at."""
    try:
        return kubernetes.of_this_pod() is not None
    except Unreadable:
        return True


def _cluster() -> Cluster:
    try:
        found = kubernetes.of_this_pod()
    except Unreadable as error:
        raise Skipped(str(error)) from error
    if found is None:
        raise Skipped("not in a pod of a cluster")
    return found


def check_nodes(need: Need) -> str:
    """Find nodes of the pool that the task fits on."""
    labels = ",".join(f"{key}={value}" for key, value in need.pool.items())
    try:
        listed = _cluster().get(f"/api/v1/nodes?labelSelector={quote(labels)}", "nodes")
    except Unreadable as error:
        raise Skipped(f"{error}; grant list on nodes to have this checked") from error
    nodes = (listed or {}).get("items", [])
    if not nodes:
        raise Skipped(
            f"no node has the labels {labels or '(none)'} now: fine where an autoscaler adds them, else label the nodes or "
            "correct cluster.gpu_pool"
        )
    return "; ".join(_fitting(nodes, each, labels) for each in need.every if each.queue == need.queue)


def _fitting(nodes: Sequence[Mapping[str, Any]], need: Need, labels: str) -> str:
    """Return a line about the nodes that a task fits on; :class:`UserError` where it is none."""
    reasons = [_refusal(node, need) for node in nodes]
    fitting = reasons.count("")
    if not fitting:
        told = "; ".join(f"{reasons.count(reason)} x {reason}" for reason in dict.fromkeys(reasons))
        raise UserError(
            f"none of the {len(nodes)} nodes labelled {labels or '(any)'} has room for {need.stage}: {need} ({told}); ask for "
            f"less ({need.less}), add tolerations (cluster.gpu_tolerations) or choose another pool (cluster.gpu_pool)",
            code="cluster-no-room",
        )
    return f"{fitting} of {len(nodes)} nodes labelled {labels or '(any)'} can take {need}"


def _refusal(node: Mapping[str, Any], need: Need) -> str:
    """Return the reason for which a task never fits on ``node``, or "". Use of the moment and cordons pass, so they do not
    count."""
    for taint in (node.get("spec") or {}).get("taints") or []:
        lasting = taint["effect"] != "PreferNoSchedule" and not taint["key"].startswith(_PASSING)
        if lasting and not tolerated(taint, need.tolerations):
            value = f"={taint['value']}" if taint.get("value") else ""
            return f"taint {taint['key']}{value}:{taint['effect']} is not tolerated"
    has = node["status"].get("allocatable") or {}
    for resource, amount in need.resources.items():
        if quantity(has.get(resource, "0")) < quantity(amount):
            return f"{has.get(resource, 'no')} {resource}"
    return ""


def check_trainer(need: Need) -> str:
    """Find Kubeflow Trainer, and the runtime that a training over several machines names, where the run has one."""
    if need.nodes == 1:
        raise Skipped("each training has one machine (cluster.nodes)")
    from inranker_flow.distillation import trainjob  # with numpy and Arrow, which other runs do without

    api, namespace = _cluster(), kubernetes.namespace()
    root = f"/apis/{trainjob.GROUP}/{trainjob.VERSION}"
    remedy = "or set cluster.nodes to 1"
    try:
        if api.get(root, "the API groups") is None:
            raise UserError(
                f"cluster.nodes {need.nodes}: Kubeflow Trainer 2 is not installed; install it, {remedy}",
                code="trainer-missing",
            )
        runtime = api.get(f"{root}/namespaces/{namespace}/trainingruntimes/{trainjob.RUNTIME}", "the TrainingRuntime")
    except Unreadable as error:
        raise UserError(
            f"cluster.nodes {need.nodes}: {error}; add the component trainer to the overlay, {remedy}",
            code="cluster-refused",
        ) from error
    if runtime is None:
        raise UserError(
            f"cluster.nodes {need.nodes}: namespace {namespace} has no TrainingRuntime {trainjob.RUNTIME}; add the component "
            f"trainer to the overlay, {remedy}",
            code="trainer-missing",
        )
    return f"TrainingRuntime {trainjob.RUNTIME} is there, for {need.nodes} machines"


def check_queues(need: Need) -> str:
    """Find the Kueue queues of this namespace, and quotas behind them that admit the largest tasks."""
    return "; ".join(check_queue(each) for each in need.every)


def check_queue(need: Need) -> str:
    """Find one Kueue queue of this namespace, and a quota behind it that admits the task."""
    name = need.queue
    api, namespace = _cluster(), kubernetes.namespace()
    if not namespace:
        raise Skipped(f"{kubernetes.SERVICE_ACCOUNT}/namespace does not say which namespace this is")
    try:
        group = api.get("/apis/kueue.x-k8s.io", "the API groups")
        if group is None:
            raise Skipped("Kueue is not installed: pods are not queued")
        root = f"/apis/{group['preferredVersion']['groupVersion']}"
        local = api.get(f"{root}/namespaces/{namespace}/localqueues/{name}", "the LocalQueue")
        if local is None:
            raise UserError(
                f"namespace {namespace} has no LocalQueue {name}: apply the project's Kueue component there",
                code="queue-missing",
            )
        behind = local["spec"]["clusterQueue"]
        found = api.get(f"{root}/clusterqueues/{behind}", "the ClusterQueue")
    except Unreadable as error:
        raise Skipped(f"{error}; grant get on localqueues and clusterqueues to have this checked") from error
    if found is None:
        raise UserError(
            f"LocalQueue {name} names ClusterQueue {behind}, which does not exist; create it or correct the name",
            code="queue-missing",
        )
    for kind, spec in (("LocalQueue", local["spec"]), ("ClusterQueue", found["spec"])):
        if spec.get("stopPolicy", "None") != "None":
            raise UserError(
                f"{kind} {spec.get('clusterQueue', behind)} is held (stopPolicy {spec['stopPolicy']}); release it",
                code="queue-held",
            )
    for resource, amount in need.resources.items():
        _check_quota(found, behind, resource, amount, need)
    return f"{name} -> {behind}: its quota admits {need}"


def _check_quota(cluster_queue: Mapping[str, Any], name: str, resource: str, amount: str, need: Need) -> None:
    spec = cluster_queue["spec"]
    quotas = [
        each
        for group in spec.get("resourceGroups") or []
        for flavor in group["flavors"]
        for each in flavor["resources"]
        if each["name"] == resource
    ]
    if not quotas:
        raise UserError(
            f"ClusterQueue {name} has no quota for {resource}, so it admits no task that asks for it; add one",
            code="queue-quota",
        )
    shared = spec.get("cohort") or spec.get("cohortName")
    most = max(_limit(each, bool(shared)) for each in quotas)
    if most < quantity(amount):
        nominal = max((each["nominalQuota"] for each in quotas), key=quantity)
        raise UserError(
            f"ClusterQueue {name}: its quota is {nominal} {resource} and {need.stage} asks for {amount}; raise the quota or "
            f"ask for less ({need.less})",
            code="queue-quota",
        )


def _limit(quota: Mapping[str, Any], shared: bool) -> float:
    """Return the most that a queue can have of a flavor: its own quota, and what it may borrow from its cohort."""
    nominal = quantity(quota["nominalQuota"])
    if not shared:
        return nominal
    borrowed = quota.get("borrowingLimit")
    return float("inf") if borrowed is None else nominal + quantity(borrowed)
