"""The stage `preflight`: every check at once, all failures in one line, and the champion to be measured against."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from inranker_flow import registry, tracking
from inranker_flow.config import CorpusConfig, DistillConfig, GenerateConfig, PromoteConfig, TeacherConfig
from inranker_flow.errors import UserError
from inranker_flow.preflight.checkpoints import check_student, check_teacher
from inranker_flow.preflight.checks import Check, Result, markdown, run_checks
from inranker_flow.preflight.collections import check_collection, check_source
from inranker_flow.preflight.generator import check_generator
from inranker_flow.preflight.mlflow_server import check_mlflow
from inranker_flow.preflight.pool import Need, check_nodes, check_queue
from inranker_flow.preflight.stores import check_disk, check_store
from inranker_flow.storage import atomic_write

log = logging.getLogger(__name__)

_MLFLOW = "MLflow"


@dataclass(frozen=True)
class PreflightStats:
    """``champion`` is the reference (models:/NAME/VERSION, or empty) that the run is measured against; ``start`` the same
    one where phase 2 goes on from the champion, else empty: a new champion then changes nothing about phase 2."""

    checks: int
    skipped: int
    champion: str
    start: str

    @property
    def found(self) -> tuple[str, str]:
        """What later stages are told."""
        return self.champion, self.start


def preflight(
    source: CorpusConfig,
    targets: tuple[CorpusConfig, ...],
    teacher: TeacherConfig,
    generation: GenerateConfig,
    student: DistillConfig,
    phase2: DistillConfig,
    promotion: PromoteConfig,
    need: dict[str, Any],
    run_key: str,
    report: Path,
) -> PreflightStats:
    """Check everything that this run needs from outside, in seconds; write ``report`` (Markdown).

    ``student`` is the section of phase 1; ``need`` is what the largest GPU task asks for (:class:`Need`). Raises
    :class:`UserError` with every failure and its remedy in one line.
    """
    largest = Need(**need)
    results = run_checks(
        [
            Check("S3", check_store),
            Check(_MLFLOW, check_mlflow),
            Check("teacher's checkpoint", partial(check_teacher, teacher)),
            Check("student's checkpoint", partial(check_student, student)),
            Check("generator", partial(check_generator, generation)),
            Check(f"collection {source.name}", partial(check_source, source)),
            *(Check(f"collection {each.name}", partial(check_collection, each)) for each in targets),
            Check("disk", check_disk),
            Check("node pool", partial(check_nodes, largest)),
            Check("queue", partial(check_queue, largest)),
        ]
    )
    with atomic_write(report) as out:
        out.write(markdown(results).encode())
    for each in results:
        log.info("%s: %s (%s)", each.name, each.result, each.detail)
    _open_mlflow_run(results, promotion.model_name)
    if failures := _failures(results):
        raise UserError(failures)
    skipped = sum(each.result == "skipped" for each in results)
    champion = registry.opponent(promotion.model_name, run_key)
    start = champion if phase2.start == "champion" else ""
    if damage := registry.damage(champion) if champion else "":
        # A repeated run is told of the champion before its own, which only an answer in the cache needs.
        serving = registry.champion(promotion.model_name)
        if start and serving and serving.reference == start:
            raise UserError(f"phase2.start: {damage}")
        log.warning("%s; until then the gate holds every student (champion_unmeasured)", damage)
    return PreflightStats(len(results), skipped, champion, start)


def _failures(results: Sequence[Result]) -> str:
    """All failures in one line; what several checks failed of is told once."""
    failed = [each for each in results if each.result == "FAILED"]
    names = {each.detail: [other.name for other in failed if other.detail == each.detail] for each in failed}
    return "; ".join(f"{', '.join(named)}: {detail}" for detail, named in names.items())


def _open_mlflow_run(results: Sequence[Result], name: str) -> None:
    """The parent of this run's stages in MLflow, where neither KFP's plugin nor `make run` made one."""
    usable = any(each.name == _MLFLOW and each.result == "ok" for each in results)
    if usable and (kfp_run_id := tracking.own_parent()):
        tracking.open_parent(kfp_run_id, f"{name} {kfp_run_id[:8]}")
