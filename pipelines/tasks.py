"""The tasks of a KFP run as its author wrote them, out of the many nodes that the API tells of."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inranker_flow.run_state import SCAFFOLD

#: States in which nothing more happens.
FINAL = ("SUCCEEDED", "SKIPPED", "FAILED", "CANCELED")
#: The names that our pipelines give to their graphs: exit handler, condition, loop.
GRAPHS = ("run", "checked", "something-new", "targets")
_SCAFFOLD = re.compile(rf"{SCAFFOLD}|{'|'.join(GRAPHS)}|.*-driver|.*\(\d+\)")


@dataclass(frozen=True)
class Task:
    """One task. ``name`` is unique in its run: a task of a loop has the number of its round behind it."""

    name: str
    state: str
    ids: frozenset[str]


def of_run(run: Mapping[str, Any]) -> list[Task]:
    """The tasks of a run (as JSON data), in the order in which they were created."""
    nodes = (run.get("run_details") or {}).get("task_details") or []
    written = [node for node in nodes if not _is_scaffold(node, run)]
    written.sort(key=lambda node: str(node.get("create_time") or ""))
    counts = Counter(node["display_name"] for node in written)
    seen: Counter[str] = Counter()
    tasks = []
    for node in written:
        name = node["display_name"]
        seen[name] += 1
        numbered = f"{name} #{seen[name]}" if counts[name] > 1 else name
        tasks.append(Task(numbered, str(node.get("state") or ""), frozenset(_family(node, nodes))))
    return tasks


def _is_scaffold(node: Mapping[str, Any], run: Mapping[str, Any]) -> bool:
    name = str(node.get("display_name") or "")
    return not name or name == run.get("display_name") or bool(_SCAFFOLD.fullmatch(name))


def _family(node: Mapping[str, Any], nodes: list[Mapping[str, Any]]) -> set[str]:
    """Every id under which the pods of a task may be known: its own and those of the nodes below it."""
    ids = {str(node.get(key)) for key in ("task_id", "pod_name") if node.get(key)}
    ids |= {str(value) for child in node.get("child_tasks") or [] for value in child.values() if value}
    grown = True
    while grown:
        below = {
            str(each[key])
            for each in nodes
            if each.get("parent_task_id") in ids or ids & {each.get("task_id"), each.get("pod_name")}
            for key in ("task_id", "pod_name")
            if each.get(key)
        }
        grown = not below <= ids
        ids |= below
    return ids
