"""The stage `promote`: ask the gate, register the student, move the alias."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from inranker_flow.artifacts import tables
from inranker_flow.artifacts.manifest import check, read_manifest, write_manifest
from inranker_flow.config.parsing import as_dict
from inranker_flow.config.sections import CorpusConfig, PromoteConfig
from inranker_flow.config.values import EvidenceName
from inranker_flow.environment import variables
from inranker_flow.environment.variables import code_version
from inranker_flow.errors import UserError
from inranker_flow.evaluation import by_query, gate, unjudged
from inranker_flow.exporting import record
from inranker_flow.model_registry import history, model_card, reference_scores, registration, registry, stored_files
from inranker_flow.model_registry.registry import Version
from inranker_flow.model_registry.trained_on import DATA_TAG, trained_on
from inranker_flow.planning import reality
from inranker_flow.planning.plans import read_sentence
from inranker_flow.report.page import render
from inranker_flow.services import kfp_run
from inranker_flow.storage.local import atomic_write
from inranker_flow.tracking import outcomes
from inranker_flow.tracking.origins import origin_of, version_page
from inranker_flow.tracking.parents import parent_of
from inranker_flow.tracking.records import note_left_out, read_plan, run_that_wrote, stages_of
from inranker_flow.tracking.runs import current_run_id, log_file

log = logging.getLogger(__name__)

#: The system of the evaluation that may become champion.
CHALLENGER = "phase2"
#: What `distill` and `evaluate` always write, and a verdict, a model card or the page is made from.
_TRAINING = ("start", "inputs", "config", "versions", "steps", "best_step")
_SUMMARY = (
    *("headline", "measures", "systems", "students", "models", "latency", "unmeasured", "datasets", "skipped", "leaks"),
    *("config", "families", "average", "intervals", "comparisons", "cases", "training", "generation", "licences"),
)


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
    champion: str,
    run_key: str,
    targets: tuple[CorpusConfig, ...],
    work_key: str,
    decision: Path,
    report: Path,
    exported: Path | None = None,
) -> PromoteStats:
    """Register ``student`` with its verdict and model card; it becomes champion only if the gate says PROMOTE.

    ``report`` becomes the evaluation's page with the verdict on top, which is kept in the MLflow run too that holds the
    model. ``champion`` is the reference (models:/NAME/VERSION, or empty) that the evaluation measured as "champion".
    ``run_key`` is kept with the version, so that a repeat of the same work is recognised, and so are ``targets`` and
    ``work_key``, by which `discover` sees whether anything is new. Where targets were left out, the version says so: it was
    not trained on them, its work is not that of ``run_key``, and a repeat is measured against it. What was ``exported`` of
    the student lies beside it in the registry. Killed anywhere it is started again at no loss: until the alias moves, last of
    all, the old champion serves. Where another promotion is faster, this one is a HOLD. Raises :class:`UserError` where
    MLflow refuses or does not answer.
    """
    name = config.model_name
    # Nothing that was changed after it was measured decides.
    check(student, whole=True)
    check(evaluation, whole=True)
    variants = _variants(exported)
    training = _read_json(student / "training.json", _TRAINING)
    summary = _read_json(evaluation / "summary.json", _SUMMARY)
    left_out: dict[str, str] = summary.get("left_out", {})
    if left_out:
        run_key = f"{run_key} without {', '.join(sorted(left_out))}"[:1000]
        targets = tuple(each for each in targets if each.name not in left_out)
    state = history.settle(name)
    decided = _decide(config, evaluation, summary, champion, variants)

    digest = model_digest(student)
    current = registry.champion(name)
    serving = _serving(training, summary, evaluation)
    known = registry.registered(name, digest, registration.identity(student, serving.scoring))
    decided = _held_by_registry(decided, name, champion, current, known, state)

    run_id = current_run_id(name)
    origin = _tags(student, evaluation, training, summary, champion, run_key, run_id)
    tags = {**origin, **trained_on(targets, work_key, left_out), **_verdict(decided)}
    note_left_out(parent_of(run_id), left_out)
    sample, languages = reference_scores.example(evaluation), [each.language for each in targets if each.language]
    told = model_card.Told(name, CHALLENGER, training, summary, record.rows(variants), sample, languages)
    trained_by = run_that_wrote("model", read_manifest(student).content) or run_id
    version = registration.register(name, student, digest, tags, serving, trained_by, model_card.write(told), exported)
    own = current is not None and current.version == version.version
    if not own or (version.tags.get("run_key") == run_key and decided.verdict == "PROMOTE"):
        # Of this verdict, also where an earlier attempt registered the same model.
        registry.set_tags(version, tags)
        registry.describe(version, model_card.describe(told, version.version))
    # else the champion was made again: it keeps the record of its own promotion
    if decided.verdict == "PROMOTE":
        why = decided.reasons[0].message + (f"; left out: {', '.join(left_out)}" if left_out else "")
        details = {"digest": digest, "evaluation": tags["digest.evaluation"], "run_key": run_key, "mlflow_run": run_id}
        decided = _moved(decided, version, champion, why, details)
    if decided.verdict != "PROMOTE" and not own:
        registry.set_alias(version, registry.CHALLENGER)
    log.info("%s: %s", decided.verdict, decided.reasons[0].message)

    verdict = {
        "model": name,
        "version": version.version,
        "champion": champion,
        **asdict(decided),
        "left_out": left_out,
        "policy": as_dict(config),
    }
    reached = _reality(run_id, [each.name for each in targets], read_manifest(evaluation).content)
    _write(report, render(summary, verdict, reached, variants, _origin(run_id, verdict), by_query.read(evaluation)))
    _tell(run_id, report, evaluation, verdict, summary, version)
    _keep(decision, verdict, read_manifest(student).dataset)
    return PromoteStats(int(decided.verdict == "PROMOTE"), decided.verdict, version.version)


def _keep(decision: Path, verdict: Mapping[str, Any], dataset: str) -> None:
    """Write the folder with the verdict."""
    _write(decision / "decision.json", json.dumps(verdict, indent=1))
    write_manifest(decision, dataset=dataset, stage="promote", verdict=verdict["verdict"])


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as out:
        out.write(text.encode())


def _variants(exported: Path | None) -> dict[str, Any]:
    """Return what `export` measured; empty where nothing was exported."""
    if exported:
        check(exported, whole=True)
    return record.read(exported)


def _tell(
    run_id: str,
    report: Path,
    evaluation: Path,
    verdict: Mapping[str, Any],
    summary: Mapping[str, Any],
    version: Version,
) -> None:
    """Keep the page and the CSV of all queries in the stage's run in MLflow; let the model show its measures and the pipeline's
    run the verdict, the measures and the collections, which is no reason to fail."""
    log_file(run_id, report, "report.html")
    if (queries := evaluation / by_query.FILENAME).is_file():
        log_file(run_id, queries, by_query.FILENAME)
    try:
        registration.measured(version, run_id, _numbers(summary))
        parent = parent_of(run_id)
        link = f"[the page with the evidence](#/experiments/{{experiment}}/runs/{parent}/artifacts/report.html?{outcomes.OPENS})"
        reason = verdict["reasons"][0]["message"]
        told = outcomes.note(verdict["verdict"], verdict["model"], verdict["version"], reason, summary, [link])
        stage = summary.get("first_stage", {}).get("name", "BM25")
        against = "the champion" if verdict["against"] == "champion" else stage
        line = outcomes.in_a_line(verdict, verdict["policy"]["measure"] or summary["headline"], against)
        outcomes.tell(parent, line, told, summary)
    except Exception as error:  # as below
        log.warning("the run in MLflow does not show the verdict: %s", " ".join(str(error).split())[:300])


def _held_by_registry(
    decided: gate.Decision,
    name: str,
    champion: str,
    current: Version | None,
    known: Version | None,
    state: history.State,
) -> gate.Decision:
    """Return the decision, held where what serves ``current``ly is not what was measured, or a person took this model out."""
    if gone := history.gone(name):
        decided = _held(decided, _champion_gone(gone))
    if current and current.reference != champion and not (known and known.version == current.version):
        decided = _held(decided, _champion_changed(current.reference))
    taken_out = state.taken_out(known) if known else None
    if known and taken_out and decided.verdict == "PROMOTE":
        decided = _held(decided, _taken_out(known, taken_out))
    return decided


def _moved(
    decided: gate.Decision, version: Version, champion: str, why: str, details: Mapping[str, str]
) -> gate.Decision:
    """Let ``version`` serve; the decision, held where another promotion was faster."""
    stored_files.fetch(version.reference)  # what will serve is what is stored, not what was uploaded: look at it once
    if history.move(version, "PROMOTE", _who(), why, details, champion.rpartition("/")[2]):
        return decided
    faster, gone = registry.champion(version.name), history.gone(version.name)
    changed = _champion_changed(faster.reference if faster else "another version")
    held = _held(decided, _champion_gone(gone) if gone else changed)
    registry.set_tags(Version(version.name, version.version, {}), _verdict(held))
    return held


def _origin(run_id: str, verdict: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the page says of the run itself. The verdict does not depend on it: a warning says what cannot be read."""
    kfp = variables.kfp_run()
    found = {"version": version_page(verdict["model"], verdict["version"]), "kfp": kfp_run.page(kfp)}
    try:
        found |= origin_of(parent_of(run_id) or run_id)
        if name := kfp_run.name(kfp):
            found["name"] = name  # in MLflow the run is called so when it ends
    except Exception as error:  # as below
        log.warning("the report does not say of which run it is: %s", " ".join(str(error).split())[:300])
    return found


def _reality(run_id: str, targets: list[str], evaluated: str) -> dict[str, Any] | None:
    """Return the plan of this run beside the amounts that its stages computed, for the page; None without a plan. What it found
    done has the amounts of the run that made the evaluation with the digest ``evaluated``.

    The plan is that of the parent run in MLflow, which `make run` keeps there, or of the KFP run's description, which `make
    submit` writes. The verdict does not depend on it: where it cannot be read, a warning says so.
    """

    try:
        parent = parent_of(run_id)
        plan = read_plan(parent) if parent else {}
        if parent and not plan:
            promised = read_sentence(kfp_run.description(variables.kfp_run()))
            plan = reality.of_sentence(promised, len(targets)) if promised else {}
        if not plan:
            return None
        without = reality.left_out(plan, targets)
        compared = reality.compare(plan, stages_of(parent), without)
        wrote = run_that_wrote("evaluation", evaluated, first=True)
        if wrote and (first := parent_of(wrote)) not in ("", parent):
            compared = reality.with_earlier(compared, reality.compare(plan, stages_of(first), without))
    except Exception as error:  # MLflow's errors have no common base, and the page is whole without this section
        log.warning("the report does not hold the plan against reality: %s", " ".join(str(error).split())[:300])
        return None
    return {"rows": compared, "device": plan.get("device", ""), "without": without}


def model_digest(student: Path) -> str:
    """Digest of the weights alone: the same model is recognised whatever is written beside it."""
    digest = stored_files.weights_digest(read_manifest(student).files)
    if not digest:
        raise UserError(
            f"{student}: holds no weights (*.safetensors), so there is nothing to register",
            code="checkpoint-incomplete",
        )
    return digest


def _decide(
    config: PromoteConfig,
    evaluation: Path,
    summary: Mapping[str, Any],
    champion: str,
    variants: Mapping[str, Any],
) -> gate.Decision:
    measures = tables.read(tables.MEASURES, evaluation)
    first = summary["systems"][0]
    # The candidates that training was by have no name of their own.
    asked = "" if config.candidates == first else config.candidates
    challenger, serving, baseline = (
        gate.on_candidates(gate.from_measures(measures, system, config.measure), asked)
        for system in (CHALLENGER, "champion", asked or first)
    )
    others = _others(config, evaluation, summary, "champion" if champion else first)
    measured = [(serving, challenger), *((each.opponent, each.challenger) for each in others.values())]
    if champion and any(ours and not theirs for theirs, ours in measured):
        # A champion that cannot be measured is never beaten by default.
        why = summary.get("unmeasured", {}).get("champion") or f"the evaluation holds no {config.measure} of it"
        message = f"the champion {champion} was not measured, so nothing is known to be better: {why}"
        return gate.Decision("HOLD", (gate.Reason("champion_unmeasured", "", message),), "champion")
    evidence = gate.evidence_of(summary, CHALLENGER)
    if config.variant:
        costs = record.served(variants, config.variant)
        evidence = replace(
            evidence, latency_p95_ms=costs.get("latency_p95_ms", math.nan), size_mb=costs.get("size_mb", math.nan)
        )
    before = serving if champion else None
    decided = gate.decide(
        before, challenger, config, baseline=baseline, evidence=evidence, first_stage=first, others=others
    )
    left_out = summary.get("left_out")
    if left_out and config.left_out == "hold" and decided.verdict == "PROMOTE":
        return _held(decided, _incomplete(left_out))
    return decided


def _numbers(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return what the evaluation measured of the student: its measures by dataset and in the mean, and its costs."""
    found = {
        f"{measure}/{name}": value
        for name, each in summary["datasets"].items()
        for measure, value in each["systems"].get(CHALLENGER, {}).get("means", {}).items()
    }
    found |= {f"{measure}/mean": value for measure, value in summary["average"].get(CHALLENGER, {}).items()}
    model = summary["models"].get(CHALLENGER, {})
    costs = ("latency_median_ms", "latency_p95_ms", "size_mb", "parameters", "pairs_per_second")
    return found | {name: model[name] for name in costs if model.get(name) is not None}


def _others(
    config: PromoteConfig, evaluation: Path, summary: Mapping[str, Any], opponent: str
) -> dict[EvidenceName, gate.Versus]:
    """Return what was measured without judgements."""
    found: dict[EvidenceName, gate.Versus] = {}
    if told := summary.get("judge"):
        measure = config.measure if config.measure in told["measures"] else told["measures"][0]
        table = tables.read(tables.JUDGED_MEASURES, evaluation)
        theirs, ours = (gate.from_measures(table, each, measure) for each in (opponent, CHALLENGER))
        found["judge"] = gate.Versus(theirs, ours, measure)
    path = evaluation / tables.EVIDENCE.filename
    if not path.is_file():
        return found
    table = tables.read(tables.EVIDENCE, path)
    for kind, (measure, *_) in unjudged.MEASURES.items():
        theirs, ours = (unjudged.from_evidence(table, kind, each, measure) for each in (opponent, CHALLENGER))
        if theirs or ours:
            found[kind] = gate.Versus(theirs, ours, measure)
    return found


def _held(decided: gate.Decision, reason: gate.Reason) -> gate.Decision:
    return replace(decided, verdict="HOLD", reasons=(reason, *decided.reasons))


def _incomplete(left_out: Mapping[str, str]) -> gate.Reason:
    text = f"{', '.join(f'{name} was left out ({why})' for name, why in left_out.items())}; promotion.left_out: hold"
    return gate.Reason("target_left_out", "", text)


def _champion_gone(gone: str) -> gate.Reason:
    # Better than the first stage is not better than what served.
    return gate.Reason("champion_gone", "", gone)


def _champion_changed(reference: str) -> gate.Reason:
    text = f"{reference} became champion after this evaluation began; run again to be measured against it"
    return gate.Reason("champion_changed", "", text)


def _taken_out(version: Version, by: history.Entry) -> gate.Reason:
    text = (
        f"version {version.version} is this very model, and {by.who} took it out of service ({by.why}); to bring it back: "
        f"make promote VERSION={version.version} WHY=..."
    )
    return gate.Reason("taken_out", "", text)


def _tags(
    student: Path,
    evaluation: Path,
    training: Mapping[str, Any],
    summary: Mapping[str, Any],
    champion: str,
    run_key: str,
    run_id: str,
) -> dict[str, str]:
    """Return the tags that tell the origin of the version."""
    teacher = summary["config"]["teacher"]
    phases = [*training.get("lineage", []), training]
    tags = {
        "inranker.against": champion,
        "inranker.datasets": read_manifest(student).dataset,
        "inranker.code": code_version(),
        "inranker.git": variables.git_revision(),
        "inranker.teacher": " + ".join(
            "@".join(filter(None, (each["checkpoint"], each.get("revision", ""))))
            for each in (teacher, *teacher.get("also", ()))
        ),
        "inranker.mlflow_run": run_id,
        "inranker.kfp_run": variables.kfp_run(),
        "run_key": run_key,
        "digest.evaluation": read_manifest(evaluation).files["measures.parquet"],
    }
    for phase in phases:
        tags |= {f"{DATA_TAG}{each['dataset']}": each["digest"] for each in phase["inputs"]["training_sets"]}
    return {key: value for key, value in tags.items() if value or key == "inranker.against"}


def _verdict(decided: gate.Decision) -> dict[str, str]:
    return {"inranker.verdict": decided.verdict, "inranker.reason": decided.reasons[0].message[:1000]}


def _who() -> str:
    run = variables.kfp_run()
    return f"pipeline run {run}" if run else f"a run of {history.person()}"


def _serving(training: Mapping[str, Any], summary: Mapping[str, Any], evaluation: Path) -> registration.Serving:
    """With what the student was measured it is served; where its folder says how it reads, that decides in both."""
    measured = summary["models"].get(CHALLENGER, {})
    scoring = {**measured.get("reads", {}), **measured.get("served", {})}
    return registration.Serving(scoring, training["versions"], evaluation / reference_scores.FILENAME)


def _read_json(path: Path, keys: Iterable[str]) -> dict[str, Any]:
    """Return the object in a JSON file that holds at least ``keys``."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: not readable ({error}); the stage that writes it must run again", code="artifact-unreadable"
        ) from error
    missing = [f"no {key!r}" for key in keys if key not in found] if isinstance(found, dict) else ["no JSON object"]
    if missing:
        raise UserError(
            f"{path}: holds {missing[0]}, so it is not complete; the stage that writes it must run again",
            code="artifact-damaged",
        )
    return dict(found)
