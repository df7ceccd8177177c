"""One task of the plain pipeline: a stage in a process of its own, as a pod is on a cluster.

    python -m inranker_flow.workflow.tasks TASK.json

A process ends with all that it holds: a GPU's memory, a library's settings, log handlers. The caller's process stays as it
was.
"""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inranker_flow.config.parsing import as_plain
from inranker_flow.execution.run_stage import run_stage
from inranker_flow.storage.local import atomic_write

#: Task -> the stage's function.
STAGES = {
    **{
        name: f"inranker_flow.stages.{name}:{name}"
        for name in ("preflight", "discover", "prepare_corpus", "retrieve", "teacher_label", "generate_queries")
    },
    **dict.fromkeys(("distill_phase1", "distill_phase2"), "inranker_flow.stages.distill:distill"),
    **{name: f"inranker_flow.stages.{name}:{name}" for name in ("evaluate", "export", "promote", "notify")},
}
#: They look at the world or change it, so they are never skipped.
ALWAYS = frozenset({"preflight", "discover", "promote", "notify"})
#: These have no run of their own in MLflow: they must work where MLflow does not.
_UNTRACKED = frozenset({"preflight", "discover", "notify"})


@dataclass(frozen=True)
class Done:
    """The results of a task: its ``outputs`` by name, and the stage's ``stats`` as data."""

    outputs: Mapping[str, Path]
    stats: Mapping[str, Any]


@dataclass
class Artifact:
    """An artifact as KFP would hand it to `run_stage`: a folder or a file."""

    path: str
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        """The same: nothing is anywhere else."""
        return self.path


class Run:
    """Runs tasks one after another; their files go below ``root``.

    ``start`` runs a module with arguments to its end and returns the exit status. ``name`` is the run's.
    """

    def __init__(self, root: Path, start: Callable[[str, Sequence[str]], int], name: str) -> None:
        self.root, self.start, self.name = root, start, name

    def __call__(
        self,
        stage: str,
        dataset: str = "",
        *,
        configs: Mapping[str, Any] | None = None,
        inputs: Mapping[str, Any] | None = None,
        outputs: Sequence[str] = (),
        **values: Any,
    ) -> Done:
        """Run ``stage`` for ``dataset`` with what `run_stage` takes; ``outputs`` are names. Raises RuntimeError if it fails:
        what was wrong is in its log and its event."""
        folder = self.root / stage / (dataset or "all")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        made = {name: folder / name for name in outputs}
        task = {"stage": stage, "configs": configs or {}, "inputs": inputs or {}, "outputs": made, "values": values}
        with atomic_write(folder / "task.json") as out:
            out.write(json.dumps(task, indent=1, default=str).encode())
        if status := self.start("inranker_flow.workflow.tasks", [str(folder / "task.json")]):
            raise RuntimeError(f"{stage} {dataset}".strip() + f" ended with status {status}.")
        return Done(made, json.loads((folder / "stats.json").read_text(encoding="utf-8")))


def run_task(path: Path) -> None:
    """Run the task in the file ``path``, and write the stage's stats beside it; ends the process as `run_stage` does."""

    task = json.loads(path.read_text(encoding="utf-8"))
    module, function = STAGES[task["stage"]].split(":")
    stats = run_stage(
        getattr(importlib.import_module(module), function),
        name=task["stage"],
        configs=task["configs"],
        inputs=_artifacts(task["inputs"]),
        outputs=_artifacts(task["outputs"]),
        tracked=task["stage"] not in _UNTRACKED,
        **task["values"],
    )
    with atomic_write(path.with_name("stats.json")) as out:
        out.write(json.dumps(as_plain(stats)).encode())


def _artifacts(paths: Any) -> Any:
    """Return the same structure with an artifact for each path."""
    if isinstance(paths, Mapping):
        return {name: _artifacts(each) for name, each in paths.items()}
    if isinstance(paths, list):
        return [_artifacts(each) for each in paths]
    return None if paths is None else Artifact(str(paths))


if __name__ == "__main__":
    run_task(Path(sys.argv[1]))
