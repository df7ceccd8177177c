"""The tasks of a KFP run, out of the nodes that KFP's REST API tells of.

GetRun lists every node of the run's workflow under its bare name: a task several times (its driver, its executor, each as
a whole and once for each attempt, ``NAME(0)``), in loops once for each round, and the graphs around it down to the
workflow itself. What a node is follows from its place. No record says that, but each names its children by their ids, and
Argo makes an id of the node's path (``WORKFLOW(0).root(0).preflight``) by FNV-1a, so the paths can be found again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

SUCCEEDED, FAILED, CANCELED = "SUCCEEDED", "FAILED", "CANCELED"
#: Not ended, as the API spells it; a node of a graph that has not come so far has no state.
UNFINISHED = ("RUNNING", "PENDING", "PAUSED", "CANCELING")

#: States of a run in which nothing more happens.
FINAL = (SUCCEEDED, "SKIPPED", FAILED, CANCELED)

#: ``(0)`` of an attempt, ``(2:{...})`` of a loop's round.
_ATTEMPTS = re.compile(r"(\(\d+(:.*?)?\))+$")
_ROUND = re.compile(r"\((\d+):")
_DRIVER = "-driver"
#: The graphs that KFP's compiler makes: known by what is in them, or by this before anything is.
_GRAPH = re.compile(r"root|(exit-handler|for-loop|condition|condition-branches)-\d+|iteration(-.*)?")
#: Nodes that belong to no graph, where their place is not known.
_AROUND = re.compile(r"executor|.*\..*|.*-iterator")


@dataclass
class Task:
    """A task, or a graph of tasks. ``path`` is its node's in the workflow ("" where that cannot be told); ``round`` is the
    number of its round, from 1, in a loop (``2.1`` in a loop within a loop); ``state`` is "" before it has one."""

    name: str
    path: str = ""
    round: str = ""
    state: str = ""
    reason: str = ""
    driver: str = ""
    inner: list[Task] = field(default_factory=list)

    @property
    def is_graph(self) -> bool:
        return bool(self.inner or _GRAPH.fullmatch(self.name))

    @property
    def label(self) -> str:
        """Its name, with its round's number."""
        return f"{self.name} #{self.round}" if self.round else self.name

    @property
    def now(self) -> str:
        """Its state; that of its driver before it has one."""
        return self.state or (self.driver if self.driver != SUCCEEDED else "PENDING")

    @property
    def failed(self) -> bool:
        return FAILED in (self.state, self.driver)

    @property
    def unfinished(self) -> bool:
        return self.state in UNFINISHED or (not self.state and self.driver in UNFINISHED)

    def holds(self, path: str) -> bool:
        """Return whether the node at ``path`` is of this task: its driver, executor or an attempt."""
        if not self.path or not path.startswith(self.path):
            return False
        return bool(re.match(rf"$|[(.]|{_DRIVER}(\(|$)", path[len(self.path) :]))


def tasks_of(run: Mapping[str, Any]) -> list[Task]:
    """Return every task and graph of a run (as JSON data), in the order in which they began."""
    nodes = _nodes(run)
    nodes.sort(key=lambda node: str(node.get("start_time") or "9"))
    workflow, paths = _paths(nodes)
    found: dict[tuple[str, str], Task] = {}
    said = []
    driven = {name for node in nodes if (name := _ATTEMPTS.sub("", node["display_name"])).endswith(_DRIVER)}
    for node, (parent, name) in _places(nodes, workflow, paths):
        whole = _ATTEMPTS.sub("", name)
        unit = whole.removesuffix(_DRIVER)
        path = f"{parent}.{unit}" if parent else ""
        if node.get("state") == FAILED and (message := str((node.get("error") or {}).get("message") or "")):
            said.append((path or unit, " ".join(message.split())))
        # Neither a task nor a graph: the workflow, an executor, a loop's rounds.
        if parent and path + _DRIVER not in paths:
            continue
        if not parent and (unit == workflow or _AROUND.fullmatch(unit) or (driven and unit + _DRIVER not in driven)):
            continue
        task = found.setdefault((parent, unit), Task(unit, path, _rounds(path)))
        # An attempt: the node of all attempts says how it ended.
        if name != whole and (f"{parent}.{whole}" in paths if parent else _is_listed(nodes, whole)):
            continue
        state = str(node.get("state") or "")
        if whole.endswith(_DRIVER):
            task.driver = state
        else:
            task.state = state
    known = list(found.values())
    for task in known:
        task.inner = [other for other in known if other is not task and task.holds(other.path)]
        task.reason = next((text for of, text in said if task.holds(of) or of == task.name), "")
    return known


def failures_of(tasks: list[Task]) -> list[Task]:
    """Return the tasks that failed; a graph only where nothing in it did."""
    failed = [task for task in tasks if task.failed and not any(other.failed for other in task.inner)]
    return [task for task in failed if not task.is_graph] or failed


def written(tasks: list[Task]) -> list[Task]:
    """Return the tasks that the pipeline's author wrote, as far as the run has come."""
    return [task for task in tasks if not task.is_graph and (task.state or task.driver)]


def workflow_of(run: Mapping[str, Any]) -> str:
    """Return the name of the run's workflow, as far as its nodes tell."""
    return _paths(_nodes(run))[0]


def _nodes(run: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [node for node in (run.get("run_details") or {}).get("task_details") or [] if node.get("display_name")]


def pod_numbers(task: Task, attempts: int = 6) -> set[str]:
    """Return the endings of the names of a task's pods: the numbers of their nodes' ids, for the first attempts."""
    if not task.path:
        return set()
    outer = [task.path, *(f"{task.path}({i})" for i in range(attempts))]
    pods = [f"{task.path}{_DRIVER}", *(f"{each}.executor" for each in outer)]
    return {str(_fnv(each + attempt)) for each in pods for attempt in ("", *(f"({i})" for i in range(attempts)))}


def _places(
    nodes: list[Mapping[str, Any]], workflow: str, paths: dict[str, tuple[str, str]]
) -> Iterator[tuple[Mapping[str, Any], tuple[str, str]]]:
    """Yield each node with its place: the path of its parent and its name; without a parent where that is not known."""
    of_name: dict[str, list[str]] = {}
    for path, (_, name) in paths.items():
        of_name.setdefault(name, []).append(path)
    below: dict[str, set[str]] = {}
    for path, (parent, _) in paths.items():
        below.setdefault(parent, set()).add(f"{workflow}-{_fnv(path)}")
    for node in nodes:
        name = node["display_name"]
        children = _children(node)
        candidates = of_name.get(name, [])
        at = [path for path in candidates if children & below.get(path, set())]
        at = at or (candidates if len(candidates) == 1 else [])
        if at:
            yield node, paths[at[0]]
        elif not candidates:
            yield node, ("", name)


def _paths(nodes: list[Mapping[str, Any]]) -> tuple[str, dict[str, tuple[str, str]]]:
    """Return the name of the workflow, and of every node whose path can be found: path -> path of its parent, its name."""
    names = {str(node["display_name"]) for node in nodes}
    listed = {child for node in nodes for child in _children(node)}
    workflow = next((name for child in listed if (name := child.rpartition("-")[0]) in names), "")
    found = {workflow: ("", workflow)} if workflow else {}
    known = {int(number) for child in listed if (number := child.rpartition("-")[2]).isdigit()}
    plain = [name for name in names if not _ATTEMPTS.search(name)]
    attempts: dict[str, list[str]] = {}
    for name in names - set(plain):
        attempts.setdefault(name[: name.rindex("(")], []).append(name)
    waiting = [workflow] if workflow else []
    while waiting:
        parent = waiting.pop()
        value, name = _fnv(parent), found[parent][1]
        steps = [(each[len(name) :], each) for each in attempts.get(name, [])] + [(f".{each}", each) for each in plain]
        for step, each in steps:
            if _fnv(step, value) in known and parent + step not in found:
                found[parent + step] = (parent, each)
                waiting.append(parent + step)
    return workflow, found


def _children(node: Mapping[str, Any]) -> set[str]:
    return {str(child.get("pod_name") or "") for child in node.get("child_tasks") or []}


def _is_listed(nodes: list[Mapping[str, Any]], name: str) -> bool:
    return any(node["display_name"] == name for node in nodes)


def _rounds(path: str) -> str:
    return ".".join(str(int(number) + 1) for number in _ROUND.findall(path))


def _fnv(text: str, value: int = 0x811C9DC5) -> int:
    """Return FNV-1a of 32 bits; ``value`` is that of what stands before ``text``."""
    for byte in text.encode():
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return value
