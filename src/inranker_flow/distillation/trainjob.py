"""A training over several machines, by Kubeflow Trainer: the stage's pod puts the inputs into the store, creates a TrainJob,
follows it, and fetches the model.

What a machine's pod is made of (settings, Secrets, node pool) is the TrainingRuntime of `k8s/components/trainer`; here are only
image, command, number and size. Without the stage's pod there is no TrainJob: Kubernetes deletes it with its owner, and a pod
that is told to end deletes it itself.
"""

from __future__ import annotations

import json
import logging
import signal
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from inranker_flow.environment import variables
from inranker_flow.errors import UserError
from inranker_flow.services import kubernetes
from inranker_flow.services.kubernetes import Cluster, Unreadable
from inranker_flow.storage import uris
from inranker_flow.store import unfinished

log = logging.getLogger(__name__)

#: Where the pipeline was compiled with `cluster.nodes`: :class:`Asked` as JSON.
GROUP, VERSION = "trainer.kubeflow.org", "v1alpha1"
RUNTIME = "inranker-distill"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
#: Seconds between two looks, and for how long a silent API is asked again.
PAUSE, PATIENCE = 10.0, 600.0
#: Lines of the first machine's log at a look.
_LINES = 200


@dataclass(frozen=True)
class Asked:
    """``nodes`` machines with ``image``, each with so much of everything; ``queue``: the LocalQueue, or ""."""

    nodes: int
    image: str
    cpu: str
    memory: str
    gpu_type: str = ""
    gpus: int = 0
    queue: str = ""


def asked() -> Asked | None:
    """Return the order that this pod was given; None if it trains by itself."""
    told = variables.training_nodes()
    return Asked(**json.loads(told)) if told else None


def manifest(asked: Asked, name: str, uri: str, owner: dict[str, str] | None) -> dict[str, Any]:
    """Return the TrainJob for what lies at ``uri``; ``owner``: name and uid of the pod with which it goes."""
    size = {"cpu": asked.cpu, "memory": asked.memory, **({asked.gpu_type: str(asked.gpus)} if asked.gpus else {})}
    owners = [{"apiVersion": "v1", "kind": "Pod", **owner, "blockOwnerDeletion": False}] if owner else []
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "TrainJob",
        "metadata": {
            "name": name,
            **({"labels": {QUEUE_LABEL: asked.queue}} if asked.queue else {}),
            **({"ownerReferences": owners} if owners else {}),
        },
        "spec": {
            "runtimeRef": {"apiGroup": GROUP, "kind": "TrainingRuntime", "name": RUNTIME},
            "trainer": {
                "image": asked.image,
                "command": ["python3", "-m", "inranker_flow.distillation.node", uri],
                "numNodes": asked.nodes,
                "numProcPerNode": max(asked.gpus, 1),
                "resourcesPerNode": {"requests": size, "limits": size},
            },
        },
    }


def launch(asked: Asked, job: dict[str, Any]) -> dict[str, Any]:
    """Run ``job`` (see `distillation.__main__`) on the machines of a TrainJob; returns its stats.

    Raises :class:`UserError` with the line of a machine that refused, or with what the TrainJob says of its failure.
    """
    root = variables.store_root()
    if not root:
        raise UserError(
            f"cluster.nodes: {asked.nodes} machines exchange their files through INRANKER_STORE, which is off; set it to an "
            "s3:// prefix, or cluster.nodes to 1",
            code="store-off",
        )
    try:
        api = kubernetes.of_this_pod()
    except Unreadable as error:
        raise UserError(
            f"cluster.nodes: {error}; without it no TrainJob can be created", code="cluster-refused"
        ) from error
    namespace = kubernetes.namespace()
    if api is None or not namespace:
        raise UserError(
            "cluster.nodes: this is no pod of a cluster, so there is no Kubeflow Trainer; set it to 1",
            code="cluster-absent",
        )
    name = f"inranker-distill-{uuid.uuid4().hex[:10]}"
    uri = f"{root}/{unfinished.FOLDER}/trainings/{name}"
    model = Path(job["model"])
    try:
        _send(uri, job)
        with _created(api, namespace, manifest(asked, name, uri, _owner(api, namespace))):
            _wait(api, namespace, name, uri)
        stats: dict[str, Any] = json.loads(uris.read(f"{uri}/answer.json"))
        for file in uris.list_files(f"{uri}/model"):
            uris.download(file.uri, model / file.uri.partition(f"{name}/model/")[2])
    finally:
        for file in uris.list_files(uri):
            uris.delete(file.uri)
    return stats


def _send(uri: str, job: dict[str, Any]) -> None:
    """Put what the machines need below ``uri``, the job last."""
    names = {}
    for number, folder in enumerate(filter(None, [*job["training_sets"], job["start"], job["replay"]])):
        names[folder] = f"inputs/{number}"
        uris.upload(folder, f"{uri}/{names[folder]}")
    told = {
        "config": {**job["config"], "start": "phase1"},  # the champion has been found
        "training_sets": [names[each] for each in job["training_sets"]],
        **{key: names[job[key]] if job[key] else "" for key in ("start", "replay")},
    }
    uris.put(json.dumps(told).encode(), f"{uri}/job.json")


def _owner(api: Cluster, namespace: str) -> dict[str, str] | None:
    """This pod, whose name is its host's; None where it may not be read."""
    try:
        pod = api.get(f"/api/v1/namespaces/{namespace}/pods/{socket.gethostname()}", "this pod")
    except Unreadable:
        return None
    return {"name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]} if pod else None


@contextmanager
def _created(api: Cluster, namespace: str, job: dict[str, Any]) -> Iterator[None]:
    """Create the TrainJob, and delete it at the end of the block, whatever ends it."""
    jobs = f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}/trainjobs"
    name = job["metadata"]["name"]

    def end(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        try:
            if not api.send("POST", jobs, job, "create TrainJobs"):
                raise UserError(
                    "cluster.nodes: Kubeflow Trainer is not installed in this cluster (there is no "
                    f"{GROUP}/{VERSION}); install it and the component trainer, or set cluster.nodes to 1",
                    code="trainer-missing",
                )
        except Unreadable as error:
            raise UserError(
                f"cluster.nodes: {error}; add the component trainer to the overlay", code="cluster-refused"
            ) from error
        log.info("TrainJob %s created", name)
        yield
    finally:
        try:
            api.send("DELETE", f"{jobs}/{name}", None, "delete TrainJobs")
        except Unreadable as error:
            log.warning("TrainJob %s is not deleted: %s", name, error)
        signal.signal(signal.SIGTERM, before)


def _wait(api: Cluster, namespace: str, name: str, uri: str) -> None:
    """Return when the TrainJob is complete; its first machine's log goes into this one."""
    path = f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}/trainjobs/{name}"
    said, heard = 0, time.monotonic()
    while True:
        try:
            found = api.get(path, "TrainJobs")
            heard = time.monotonic()
        except Unreadable as error:
            if time.monotonic() - heard > PATIENCE:
                raise UserError(
                    f"cluster.nodes: TrainJob {name} is not heard of any more: {error}", code="trainjob-lost"
                ) from error
            time.sleep(PAUSE)
            continue
        if found is None:
            raise UserError(f"cluster.nodes: somebody has deleted TrainJob {name}; run again", code="trainjob-lost")
        said = _follow(api, namespace, name, said)
        conditions = {each["type"]: each for each in (found.get("status") or {}).get("conditions") or []}
        if conditions.get("Failed", {}).get("status") == "True":
            raise UserError(
                _why(uri) or f"TrainJob {name} failed: {_line(conditions['Failed'])}; the logs above say more",
                code="trainjob-failed",
            )
        if conditions.get("Complete", {}).get("status") == "True":
            return
        time.sleep(PAUSE)


def _follow(api: Cluster, namespace: str, name: str, said: int) -> int:
    """Print what is new in the first machine's log; how many lines there have been. A log that cannot be read is no error."""
    labels = f"jobset.sigs.k8s.io%2Fjobset-name%3D{name},batch.kubernetes.io%2Fjob-completion-index%3D0"
    pods = f"/api/v1/namespaces/{namespace}/pods"
    try:
        items = (api.get(f"{pods}?labelSelector={labels}", "pods") or {}).get("items", [])
        if not items:
            return said
        lines = api.text(f"{pods}/{items[0]['metadata']['name']}/log?container=node", "logs").splitlines()
    except Unreadable:
        return said
    for line in lines[max(said, len(lines) - _LINES) :]:
        log.info("node 0: %s", line)
    return len(lines)


def _why(uri: str) -> str:
    """Return the line of the machine that refused, if one has."""
    try:
        return uris.read(f"{uri}/error.txt").decode()
    except FileNotFoundError:
        return ""


def _line(condition: dict[str, Any]) -> str:
    told = " ".join(f"{condition.get('reason', '')}: {condition.get('message', '')}".split())
    return told.strip(": ") or "no reason given"
