"""What Kubernetes knows about the nodes and about the pods of a run; read-only."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from inranker_flow.config.cluster import ClusterConfig
from inranker_flow.environment import variables
from inranker_flow.errors import UserError
from pipelines import kubeconfig
from pipelines.placement import COMPONENT_LABEL

#: Seconds to connect, and to wait for an answer.
TIMEOUT = (3, 10)
#: Lines of a log's end among which its last telling line is looked for.
TAIL = 60
_KUEUE = ("kueue.x-k8s.io", ("v1beta2", "v1beta1"))
_ARGO = ("argoproj.io", "v1alpha1", "workflows")


class Unasked(Exception):
    """Kubernetes does not answer, or not to this account."""


@dataclass(frozen=True)
class Pod:
    """A pod of a run, of a ``stage`` (if it is labelled). ``rank`` orders what is ``said``: 0 explains a failure, 9 nothing.

    ``path`` is that of its node in the workflow; ``container`` the one that explains, with its termination ``message``.
    """

    name: str
    stage: str
    path: str
    created: str
    rank: int
    said: str
    started: bool
    phase: str = ""
    container: str = "main"
    message: str = ""


@dataclass(frozen=True)
class Workflow:
    """The workflow of a run: its own ``message``, and those of its ``nodes`` (path, phase, message), as Argo keeps them."""

    name: str
    message: str
    nodes: tuple[tuple[str, str, str], ...]


class Kubernetes:
    """Read-only questions; each raises :class:`Unasked` where it gets no answer."""

    def __init__(self) -> None:
        """Find the Kubernetes API; nothing is asked yet. Raises :class:`UserError` when there is none."""
        from kubernetes import client

        configuration = client.Configuration()
        configuration.retries = False
        self.context = kubeconfig.load(configuration)
        api = client.ApiClient(configuration)
        self._core = client.CoreV1Api(api)
        self._custom = client.CustomObjectsApi(api)
        self._plain = api.sanitize_for_serialization

    def _ask(self, function: Callable[..., Any], *args: Any, **where: Any) -> Any:
        import urllib3
        from kubernetes import client

        try:
            return self._plain(function(*args, _request_timeout=TIMEOUT, **where))
        except client.ApiException as error:
            raise Unasked(f"HTTP {error.status} {error.reason}") from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Unasked(str(error).rpartition(": ")[2][:120] or type(error).__name__) from error

    def nodes(self, labels: dict[str, str]) -> list[dict[str, Any]]:
        """Return nodes that carry all ``labels``."""
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        return list(self._ask(self._core.list_node, label_selector=selector)["items"])

    def pods(self, namespace: str, run_id: str) -> list[Pod]:
        """Return pods of a KFP run."""
        found = self._ask(self._core.list_namespaced_pod, namespace, label_selector=f"pipeline/runid={run_id}")
        return [_pod(each) for each in found["items"]]

    def warning(self, namespace: str, pod: str) -> str:
        """Return the last warning about a pod, with its reason."""
        events = self._ask(
            self._core.list_namespaced_event, namespace, field_selector=f"involvedObject.name={pod},type=Warning"
        )["items"]
        # "Failed to pull image ...: denied" tells more than the "Error: ImagePullBackOff" that follows it.
        telling = [each for each in events if not (each.get("message") or "").startswith(("Error: ", "Back-off"))]
        last = max(telling or events, key=_when, default=None)
        return f"{last.get('reason')}: {_line(last.get('message'))}" if last else ""

    def queue(self, namespace: str, pod: str) -> str:
        """Return Kueue's words about a pod that it has not admitted."""
        group, versions = _KUEUE
        for version in versions:
            try:
                items = self._ask(self._custom.list_namespaced_custom_object, group, version, namespace, "workloads")
            except Unasked as error:
                if "HTTP 404" in str(error):
                    continue
                raise
            for workload in items["items"]:
                owners = workload["metadata"].get("ownerReferences") or []
                if any(owner.get("kind") == "Pod" and owner.get("name") == pod for owner in owners):
                    return _unadmitted(workload)
        return ""

    def last_line(self, namespace: str, pod: Pod) -> str:
        """Return the telling line of the log of the container that explains the pod."""
        asked = {"container": pod.container, "tail_lines": TAIL}
        return telling(self._ask(self._core.read_namespaced_pod_log, pod.name, namespace, **asked) or "")

    def workflow(self, namespace: str, run_id: str) -> Workflow | None:
        """Return the workflow of a KFP run; None where it is not there (any more)."""
        group, version, plural = _ARGO
        found = self._ask(
            self._custom.list_namespaced_custom_object, group, version, namespace, plural,
            label_selector=f"pipeline/runid={run_id}",
        )["items"]  # fmt: skip
        return _workflow(found[0]) if found else None

    def pipeline_root(self, namespace: str) -> str:
        """Return the root of the artifacts of KFP's launcher: the ConfigMap ``kfp-launcher``."""
        found = self._ask(self._core.read_namespaced_config_map, "kfp-launcher", namespace)
        return str((found.get("data") or {}).get("defaultPipelineRoot") or "")


#: Lines of KFP's launcher and driver and of Argo's executor around a stage's own.
_AROUND = re.compile(r"[IWEF]\d{4} |time=|Error: exit status|\s*$")
_FATAL = re.compile(r"F\d{4} .*?\] (?!failed to execute component)(.*)")


def telling(log: str) -> str:
    """Return the line of a container's log that says most: a stage's ``FAILED:``, a driver's fatal one, else the last of its
    own."""
    lines = [line for line in log.splitlines() if not _AROUND.match(line)]
    failed = [line[line.index("FAILED:") :] for line in lines if "FAILED:" in line]
    fatal = [found[1] for line in log.splitlines() if (found := _FATAL.match(line))]
    # What a driver was called with is hundreds of letters long.
    fatal = [re.sub(r"\(pipelineName=.*?\) failed: ", " failed: ", line) for line in fatal]
    return _line((failed or fatal or lines or [""])[-1].removeprefix("Error: "))


def check_gpus(config: ClusterConfig) -> list[str]:
    """Refuse a task that no node of the pool can hold; returns warnings. Without a kubeconfig nothing is asked.

    Raises :class:`UserError`.
    """
    if not config.gpus or not (variables.in_cluster() or kubeconfig.exists()):
        return []
    pool = ",".join(f"{key}={value}" for key, value in config.gpu_pool.items()) or "(any)"
    try:
        kubernetes = Kubernetes()
        nodes = kubernetes.nodes(config.gpu_pool)
    except (UserError, Unasked) as error:
        return [f"the nodes are not checked for {config.gpu_type}: Kubernetes cannot be asked ({error})"]
    most = max((int(node["status"].get("allocatable", {}).get(config.gpu_type, 0)) for node in nodes), default=0)
    if not nodes:
        return [f"no node has the labels {pool} now (context {kubernetes.context}): the tasks wait until one is added"]
    if most < config.gpus:
        raise UserError(
            f"cluster.gpus {config.gpus}: the largest of {len(nodes)} nodes with the labels {pool} has {most} "
            f"{config.gpu_type} (context {kubernetes.context}); ask for fewer, or name another pool (cluster.gpu_pool)",
            code="cluster-no-room",
        )
    return []


def _pod(manifest: dict[str, Any]) -> Pod:
    metadata, status = manifest["metadata"], manifest.get("status") or {}
    annotations = metadata.get("annotations") or {}
    containers = (status.get("initContainerStatuses") or []) + (status.get("containerStatuses") or [])
    named = [(*_container(each), str(each.get("name") or "main"), _ended(each)) for each in containers]
    rank, said, container, ended = min([*named, (*_phase(status), "main", {})], key=lambda each: each[0])
    node = (manifest.get("spec") or {}).get("nodeName")
    return Pod(
        name=metadata["name"],
        stage=(metadata.get("labels") or {}).get(COMPONENT_LABEL, ""),
        path=annotations.get("workflows.argoproj.io/node-name", ""),
        created=str(metadata.get("creationTimestamp") or ""),
        rank=rank,
        said=f"{said} on node {node}" if node and said else said,
        started=any((each.get("state") or {}).keys() & {"running", "terminated"} for each in containers),
        phase=str(status.get("phase") or ""),
        container=container,
        message=telling(str(ended.get("message") or "")),
    )


def _workflow(manifest: dict[str, Any]) -> Workflow:
    status = manifest.get("status") or {}
    nodes = status.get("nodes") or {}
    if packed := status.get("compressedNodes"):
        nodes = json.loads(gzip.decompress(base64.b64decode(packed)))
    told = ((str(node.get("name")), str(node.get("phase")), _line(node.get("message"))) for node in nodes.values())
    return Workflow(manifest["metadata"]["name"], _line(status.get("message")), tuple(sorted(told)))


def _ended(status: dict[str, Any]) -> dict[str, Any]:
    """Return the end of a container, or of its last attempt."""
    state = status.get("state") or {}
    return state.get("terminated") or (status.get("lastState") or {}).get("terminated") or {}


def _container(status: dict[str, Any]) -> tuple[int, str]:
    """Return the explanation in a container's state."""
    name = status.get("name")
    ended, waiting = _ended(status), (status.get("state") or {}).get("waiting") or {}
    if ended.get("reason") == "OOMKilled":
        return 0, f"{name} was OOMKilled (it needs more memory than its limit)"
    if waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
        return 0, f"{name} waits: {waiting['reason']}" + (
            f": {_line(waiting['message'])}" if waiting.get("message") else ""
        )
    if ended.get("exitCode"):
        # `wait` ends badly because `main` did.
        return 2 if name == "main" else 3, f"{name} ended with exit code {ended['exitCode']} ({ended.get('reason')})"
    return 9, ""


def _phase(status: dict[str, Any]) -> tuple[int, str]:
    """Return the explanation in a pod's own state."""
    if status.get("reason"):
        return 1, f"{status['reason']}: {_line(status.get('message'))}".rstrip(": ")
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return 4, f"{condition.get('reason')}: {_line(condition.get('message'))}".rstrip(": ")
    return (5 if status.get("phase") == "Pending" else 8), str(status.get("phase") or "")


def _unadmitted(workload: dict[str, Any]) -> str:
    conditions = {each.get("type"): each for each in (workload.get("status") or {}).get("conditions") or []}
    name = (workload.get("spec") or {}).get("queueName", "")
    evicted, reserved = conditions.get("Evicted", {}), conditions.get("QuotaReserved", {})
    told = evicted if evicted.get("status") == "True" else reserved
    if told is reserved and reserved.get("status") == "True":
        return ""
    return f"Kueue (queue {name}): {told.get('reason', 'not admitted yet')}: {_line(told.get('message'))}".rstrip(": ")


def _when(event: dict[str, Any]) -> str:
    series = event.get("series") or {}
    return str(
        event.get("lastTimestamp")
        or series.get("lastObservedTime")
        or event.get("eventTime")
        or event["metadata"].get("creationTimestamp")
        or ""
    )


def _line(text: Any) -> str:
    """In one line; of a long text its end, where the reason stands."""
    plain = " ".join(str(text or "").split())
    return plain if len(plain) <= 300 else f"... {plain[-300:]}"


def most_telling(pods: Iterable[Pod]) -> Pod | None:
    """Return the pod that explains most; of equals the newest."""
    newest_first = sorted(pods, key=lambda pod: pod.created, reverse=True)
    return min(newest_first, key=lambda pod: pod.rank, default=None)
