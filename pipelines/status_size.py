"""How large the status of a run's workflow becomes on a cluster: an estimate, because Argo takes no more than a megabyte.

For each task the backend keeps six nodes in it (driver, executor and the task, each as a node and as its first attempt; four
where the cluster's own retries are off). Those of the driver hold the compiled container, settings, interface and
arguments; all of them the patch for the pod, which the driver makes of these and of the values. The constants are those of a
recorded run (KFP 2.17.0, Argo 4.0.8; tests/pipelines/test_status_size.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from inranker_flow.errors import UserError

#: Bytes of a whole workflow beyond which Argo compresses its status (KFP's API tells nothing new of the tasks then), and
#: beyond which, compressed, the run fails.
LIMIT = 2**20
#: Linux's limit on one argument of a command, which holds all inputs of a task.
LONGEST_ARGUMENT = 128 * 1024
#: So many targets fit whatever the profile says, where one pod works for each (`cluster.workers`).
ALWAYS_FIT = 10
#: Bytes of a node without its parameters, and what a parameter becomes as a text of JSON inside JSON.
NODE, ESCAPED = 500, 1.23
#: Bytes of a pod's patch without what differs from task to task; of an input and of an output artifact in it.
PATCH, INPUT, OUTPUT = 800, 650, 350
#: The same text again inside another text of JSON.
QUOTED = 1.2
#: Nodes of an iteration beside those of its tasks: its driver's two hold the loop, the others nothing.
ITERATION_NODES = 5
#: The compressed status as a share of the plain one where many targets repeat each other (of one target's it is .135).
COMPRESSED = 0.075
#: How often the workflow's own specification, which is not compressed, holds the compiled pipeline.
COPIES = 2


@dataclass(frozen=True)
class Size:
    """Bytes of the status of a workflow with so many targets, plain and as Argo stores it (compressed, with its
    specification), and of the longest argument of a command."""

    plain: float
    stored: float
    argument: float

    @property
    def fits(self) -> bool:
        return self.stored <= LIMIT and self.argument <= LONGEST_ARGUMENT


def estimate(
    documents: list[dict[str, Any]], arguments: Mapping[str, Any], targets: int, cluster_retries: bool = True
) -> Size:
    """Return the size with ``targets`` targets, each of them like the largest of ``arguments``.

    ``cluster_retries``: Argo wraps every node in a retry, as KFP's manifests have it (`cluster.retries`).
    """
    drivers, nodes, graph_nodes = (2, 6, 2) if cluster_retries else (1, 4, 1)
    spec, platform = documents
    settings = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    executors = spec["deploymentSpec"]["executors"]
    plain = argument = 0.0
    for task, component, copies, rounds in _tasks(spec, spec["root"], targets):
        fixed = _bytes(component) + _bytes(task)
        if "dag" in component:
            drivers_of_it = 1 + rounds if "parameterIterator" in task else 1
            plain += copies * (2 * graph_nodes * NODE + drivers_of_it * drivers * (NODE + ESCAPED * fixed))
            plain += copies * rounds * ITERATION_NODES * NODE
            continue
        label = component["executorLabel"]
        fixed += _bytes(executors[label]["container"]) + _bytes(settings[label])
        given = _given(task, component, arguments, targets)
        patch = PATCH + fixed - _bytes(task) + QUOTED * given
        plain += copies * (nodes * NODE + ESCAPED * (drivers * fixed + nodes * patch))
        argument = max(argument, given)
    return Size(plain, COPIES * _bytes(documents) + COMPRESSED * plain, argument)


def most_targets(documents: list[dict[str, Any]], arguments: Mapping[str, Any], cluster_retries: bool = True) -> int:
    """With how many targets a run still fits."""
    most = 0
    while estimate(documents, arguments, most + 1, cluster_retries).fits:
        most += 1
    return most


def check(
    documents: list[dict[str, Any]], arguments: Mapping[str, Any], targets: int, cluster_retries: bool = True
) -> str:
    """Return a remark about the size of a run with ``targets`` targets, or "". Raises :class:`UserError` if it cannot fit."""
    size = estimate(documents, arguments, targets, cluster_retries)
    if not size.fits:
        raise UserError(
            f"targets: {targets} are too many for one run: the status of its workflow would have "
            f"{size.stored / LIMIT:.1f} MB, its longest argument {size.argument / 1024:.0f} KB, and Argo takes 1 MB, Linux "
            f"128 KB; {most_targets(documents, arguments, cluster_retries)} fit: split them (TARGETS=A,B,... each), or lower "
            "cluster.workers where it is above 1",
            code="too-many-targets",
        )
    if size.plain + COPIES * _bytes(documents) <= LIMIT:
        return ""
    return (
        f"with {targets} targets the workflow's status is compressed from some task on: KFP's list of tasks stands still "
        "then, and its graph and the run's own state stay right"
    )


def _tasks(
    spec: Mapping[str, Any], graph: Mapping[str, Any], targets: int, copies: int = 1
) -> Iterator[tuple[dict[str, Any], dict[str, Any], int, int]]:
    """Yield (task, component, how often a run has it, rounds of its loop: 0 where it is none) of every graph.

    A loop has the rounds of the list that it was compiled with (`cluster.workers`), else one for each target.
    """
    for task in graph["dag"]["tasks"].values():
        component = spec["components"][task["componentRef"]["name"]]
        items = task.get("parameterIterator", {}).get("items")
        rounds = 0 if items is None else len(json.loads(items["raw"])) if "raw" in items else targets
        yield task, component, copies, rounds
        if "dag" in component:
            yield from _tasks(spec, component, targets, copies if items is None else copies * rounds)


def _given(task: Mapping[str, Any], component: Mapping[str, Any], arguments: Mapping[str, Any], targets: int) -> float:
    """Return bytes of the inputs and outputs that a task is handed."""
    inputs, outputs = component.get("inputDefinitions", {}), component.get("outputDefinitions", {})
    lists = sum(bool(each.get("isArtifactList")) for each in inputs.get("artifacts", {}).values())
    single = len(inputs.get("artifacts", {})) - lists
    values = sum(
        _bytes({key: _value(each, arguments)}) for key, each in task.get("inputs", {}).get("parameters", {}).items()
    )
    return values + INPUT * (single + lists * targets) + OUTPUT * len(outputs.get("artifacts", {}))


def _value(given: Mapping[str, Any], arguments: Mapping[str, Any]) -> Any:
    """Return the length of a parameter's value: a constant, an argument or, from `preflight`, a section; what else is found
    out is short."""
    if "runtimeValue" in given:
        return given["runtimeValue"]["constant"]
    sections: Mapping[str, Any] = arguments["values"]
    if "taskOutputParameter" in given:
        return sections.get(given["taskOutputParameter"]["outputParameterKey"], "")
    name = given.get("componentInputParameter", "").removeprefix("pipelinechannel--")
    if name.endswith("-loop-item"):
        return max(sections.get("targets") or [{}], key=_bytes)
    return arguments[name] if name in arguments else sections.get(name.partition("-")[2], "")


def _bytes(message: Any) -> int:
    return len(json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode())
