"""The stage `preflight`: what is asked for, every check at once, all failures in one line, and the champion."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from inranker_flow.environment import variables
from inranker_flow.environment.variables import code_version
from inranker_flow.errors import UserError
from inranker_flow.execution import left_out
from inranker_flow.model_registry import history, registry, stored_files
from inranker_flow.preflight.checkpoints import check_student
from inranker_flow.preflight.checks import Check, Result, markdown, run_checks
from inranker_flow.preflight.collections import check_collection, check_source
from inranker_flow.preflight.first_stage import check_first_stage
from inranker_flow.preflight.generator import check_generator, check_judge
from inranker_flow.preflight.mlflow_server import check_mlflow
from inranker_flow.preflight.pool import Need, check_nodes, check_queues, check_trainer, is_here
from inranker_flow.preflight.stores import check_disk, check_store
from inranker_flow.preflight.teachers import check_teachers
from inranker_flow.settings.keys import keys
from inranker_flow.settings.pin import pin
from inranker_flow.settings.profile import SECTIONS, Profile, resolve
from inranker_flow.storage.local import atomic_write
from inranker_flow.tracking.parents import open_parent, own_parent, parent_here
from inranker_flow.tracking.records import RETRAIN, note_end, note_retrain, run_page
from inranker_flow.tracking.runs import keep_parameters

log = logging.getLogger(__name__)

_MLFLOW = "MLflow"


@dataclass(frozen=True)
class PreflightStats:
    """``champion`` is the reference (models:/NAME/VERSION, or empty) that the run is measured against; ``start`` the same
    one where phase 2 goes on from the champion, else empty: a new champion then changes nothing about phase 2. ``sections``
    and ``keys`` are the run's, resolved."""

    checks: int
    skipped: int
    champion: str
    start: str
    sections: Mapping[str, Any] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)

    @property
    def found(self) -> tuple[Any, ...]:
        """What later stages are told, in the order of the component's outputs."""
        given = (self.sections.get(name, {}) for name in SECTIONS)
        return ("yes", *given, self.champion, self.start, self.keys["run_key"], self.keys["work_key"])


def preflight(
    pipeline: str,
    values: dict[str, Any],
    source: str,
    targets: str,
    teacher: str,
    student: str,
    generator: str,
    settings: str,
    need: dict[str, Any],
    run_key: str,
    work_key: str,
    report: Path,
) -> PreflightStats:
    """Resolve what the run was started with, and check everything that it needs from outside; write ``report`` (Markdown).

    ``values`` are a profile's sections; the fields beside them are what somebody typed into Kubeflow's form, as make's
    variables of these names (``settings``: SET). The keys are empty there, and computed here as `make submit` does. ``need``
    is what the largest GPU task asks for (:class:`Need`). Raises :class:`UserError` with every failure and its remedy in
    one line.
    """
    typed = {"source": source, "targets": targets, "teacher": teacher, "student": student, "generator": generator}
    resolved = resolve(values, settings, typed)
    resolved.check_for(pipeline)
    if not (run_key and work_key) or settings or any(typed.values()):
        resolved = pin(resolved)
        found = keys(pipeline, resolved, code_version())
        run_key, work_key = found["run_key"], found["work_key"]
    stats = check_run(resolved, Need(**need), run_key, report, retrain=pipeline == RETRAIN)
    if parent := parent_here():
        told = {"pipeline": pipeline, "run_key": run_key, "work_key": work_key}
        keep_parameters(parent, {**resolved.as_data(), **told}, {**resolved.arguments(), **told})
    if pipeline != RETRAIN:  # there `discover` knows all of them
        resolved = replace(resolved, targets=left_out.settled(resolved.targets, resolved.corpora.refused))
    return replace(stats, sections=resolved.arguments(), keys={"run_key": run_key, "work_key": work_key})


def check_run(run: Profile, need: Need, run_key: str, report: Path, retrain: bool = False) -> PreflightStats:
    """Return the checks, in seconds, and the champion; ``need`` is what the largest GPU task asks for, and a ``retrain`` is told
    as one to MLflow."""
    first_stage = partial(check_first_stage, run.retrieval, (run.source, *run.targets), need)
    results = run_checks(
        [
            Check("S3", partial(check_store, int(need.workers))),
            Check(_MLFLOW, check_mlflow),
            Check("teacher's checkpoint", partial(check_teachers, run.teacher)),
            Check("student's checkpoint", partial(check_student, run.phase1, run.phase2)),
            *([Check("first stage", first_stage)] if run.retrieval.first_stage != "bm25" else []),
            Check("generator", partial(check_generator, run.generation)),
            *([Check("judge", partial(check_judge, run.evaluation.judge))] if run.evaluation.judge.checkpoint else []),
            Check(f"collection {run.source.name}", partial(check_source, run.source)),
            *(Check(f"collection {each.name}", partial(check_collection, each)) for each in run.targets),
            Check("disk", check_disk),
            *(
                [Check("node pool", partial(check_nodes, need)), Check("queue", partial(check_queues, need))]
                if is_here()
                else []
            ),
            *([Check("Kubeflow Trainer", partial(check_trainer, need))] if need.nodes > 1 else []),
        ]
    )
    _write(report, markdown(results))
    for each in results:
        log.info("%s: %s (%s)", each.name, each.result, each.detail)
    name = run.promotion.model_name
    failures = _failures(results)
    if address := _open_mlflow_run(results, name, failures, run.corpora.alarm_days if retrain else None):
        _write(report, f"{markdown(results)}\n[The run in MLflow]({address})\n")
    if failures:
        raise UserError(failures, code="preflight-failed")
    skipped = sum(each.result == "skipped" for each in results)
    champion = history.opponent(name, run_key)
    start = champion if run.phase2.start == "champion" else ""
    if damage := stored_files.damage(champion) if champion else "":
        # A repeated run is told of the champion before its own, which only an answer in the cache needs.
        serving = registry.champion(name)
        if start and serving and serving.reference == start:
            raise UserError(f"phase2.start: {damage}", code="version-missing")
        log.warning("%s; until then the gate holds every student (champion_unmeasured)", damage)
    return PreflightStats(len(results), skipped, champion, start)


def _failures(results: Sequence[Result]) -> str:
    """Return all failures in one line; what several checks failed of is told once."""
    failed = [each for each in results if each.result == "FAILED"]
    names = {each.detail: [other.name for other in failed if other.detail == each.detail] for each in failed}
    return "; ".join(f"{', '.join(named)}: {detail}" for detail, named in names.items())


def _write(report: Path, text: str) -> None:
    with atomic_write(report) as out:
        out.write(text.encode())


def _open_mlflow_run(results: Sequence[Result], name: str, failures: str, alarm_days: int | None) -> str:
    """Open the parent of this run's stages in MLflow, where neither KFP's plugin nor `make run` made one, and keep
    ``failures`` in it, and of a retraining its ``alarm_days``; returns its page, if there is one."""
    if not any(each.name == _MLFLOW and each.result == "ok" for each in results):
        return ""
    if kfp_run_id := own_parent():
        open_parent(kfp_run_id, f"{name} {kfp_run_id[:8]}")
    parent = parent_here()
    note_end("preflight", failures, "preflight-failed" if failures else "")
    if alarm_days is not None:
        note_retrain(parent or variables.parent_run(), name, alarm_days)
    return run_page(parent)
