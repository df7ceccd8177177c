"""The stage `promote`: ask the gate, register the student, move the alias."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

from inranker_flow import promotion, registry, schemas, tracking
from inranker_flow.config import PromoteConfig
from inranker_flow.errors import UserError
from inranker_flow.manifest import read_manifest, write_manifest
from inranker_flow.storage import atomic_write

log = logging.getLogger(__name__)

#: The system of the evaluation that may become champion.
CHALLENGER = "phase2"


@dataclass(frozen=True)
class PromoteStats:
    """``promoted`` is 1 or 0; ``version`` is the registered version."""

    promoted: int
    verdict: str
    version: str


def promote(
    config: PromoteConfig,
    student: Path,
    evaluation: Path,
    report: Path,
    champion: str,
    run_key: str,
    decision: Path,
) -> PromoteStats:
    """Register ``student`` with its verdict; it becomes champion only if the gate says PROMOTE.

    ``report`` is kept in the MLflow run that holds the model. ``champion`` is the reference (models:/NAME/VERSION, or
    empty) that the evaluation measured as "champion". ``run_key`` is kept with the version, so that a repeat of the same
    work is recognised. Raises :class:`UserError` when the evaluation lacks the champion that it should have measured.
    """
    measures = schemas.read(schemas.MEASURES, evaluation)
    challenger = promotion.from_measures(measures, CHALLENGER, config.measure)
    serving = promotion.from_measures(measures, "champion", config.measure)
    if champion and challenger and not serving:
        raise UserError(f"{evaluation}: no {config.measure} of the champion {champion}: it must be evaluated again")
    baseline = promotion.from_measures(measures, "bm25", config.measure)
    summary = json.loads((evaluation / "summary.json").read_text(encoding="utf-8"))
    evidence = promotion.evidence_of(summary, CHALLENGER)
    decided = promotion.decide(serving if champion else None, challenger, config, baseline=baseline, evidence=evidence)

    digest = model_digest(student)
    current = registry.champion(config.model_name)
    if current and current.reference != champion and current.tags.get("digest.model") != digest:
        reason = promotion.Reason(
            "champion_changed",
            "",
            f"{current.reference} became champion after this evaluation began; run again to be measured against it",
        )
        decided = promotion.Decision("HOLD", (reason, *decided.reasons), decided.against)

    trained = read_manifest(student)
    tags = {
        "inranker.verdict": decided.verdict,
        "inranker.reason": decided.reasons[0].message,
        "inranker.against": champion,
        "inranker.datasets": trained.dataset,
        "inranker.code": tracking.code_version(),
        "run_key": run_key,
        "digest.evaluation": read_manifest(evaluation).files["measures.parquet"],
    }
    run_id = tracking.current_run_id(config.model_name)
    tracking.log_file(run_id, report, "report.html")
    version = registry.register(config.model_name, student, digest, tags, _serving(student), run_id)
    if current is None or current.version != version.version or current.tags.get("run_key") == run_key:
        registry.set_tags(version, tags)  # of this verdict, also where an earlier attempt registered the same model
    # else other code made the champion again: it keeps the record of its own promotion
    registry.set_alias(version, registry.CHALLENGER)
    if decided.verdict == "PROMOTE":
        registry.set_alias(version, registry.CHAMPION)
    log.info("%s: %s", decided.verdict, decided.reasons[0].message)

    decision.mkdir(parents=True, exist_ok=True)
    with atomic_write(decision / "decision.json") as out:
        record = {"model": config.model_name, "version": version.version, "champion": champion, **asdict(decided)}
        out.write(json.dumps(record, indent=1).encode())
    write_manifest(decision, dataset=trained.dataset, stage="promote", verdict=decided.verdict)
    return PromoteStats(int(decided.verdict == "PROMOTE"), decided.verdict, version.version)


def model_digest(student: Path) -> str:
    """Digest of the weights alone: the same model is recognised whatever is written beside it."""
    return read_manifest(student).files["model.safetensors"]


def _serving(student: Path) -> registry.Serving:
    """How the student was trained to read, and with what: serving renders, truncates and computes in the same way."""
    trained = json.loads((student / "training.json").read_text(encoding="utf-8"))
    scoring = {key: trained["config"][key] for key in ("max_length", "truncation", "true_token", "false_token")}
    return registry.Serving(scoring, trained["versions"])
