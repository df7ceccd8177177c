"""`run_stage`: the one wrapper between a KFP adapter and a stage.

It validates the configuration, turns artifacts into paths, times the stage, records it in MLflow, fills the KFP
metrics, labels the output artifacts with their content digests, and turns an exception into a last log line that says
what to do. Adapters therefore hold no logic, and stages know neither KFP nor MLflow.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

from inranker_flow import error_codes, redaction
from inranker_flow.artifacts.manifest import FILENAME, Manifest, check, content_digest, made_from, read_manifest
from inranker_flow.config.parsing import as_plain, parse
from inranker_flow.environment import mounted, variables
from inranker_flow.errors import REFUSALS, CollectionFault, UserError, of_system
from inranker_flow.execution import artifact_transfer, left_out
from inranker_flow.execution.left_out import LeftOutStats, Reason
from inranker_flow.storage.local import atomic_write, disk_errors
from inranker_flow.store import stage_results, unfinished
from inranker_flow.tracking.runs import StageRun, stage_run

log = logging.getLogger(__name__)

#: Digits of a content digest that KFP is told: enough to see that an artifact was replaced, and it repeats them everywhere.
_KNOWN = 16
#: Exit status of a stage that refused its input.
REFUSED = 2
#: Stages that read their inputs once more, whole: what they say decides what serves, and scoring or training takes longer.
_WHOLE = frozenset({"distill_phase1", "distill_phase2", "evaluate", "export", "promote"})
#: Input -> the stage that writes it, for those whose names are no accident.
_WRITTEN_BY = {
    **dict.fromkeys(("collection", "collections"), "prepare_corpus"),
    "candidates": "retrieve",
    **dict.fromkeys(("labels", "training_sets", "replay"), "teacher_label"),
    "queries": "generate_queries",
    **dict.fromkeys(("student", "students", "start"), "distill"),
    "evaluation": "evaluate",
    "exported": "export",
}


def run_stage(
    stage: Callable[..., Any],
    *,
    name: str = "",
    configs: Mapping[str, Any],
    inputs: Mapping[str, Any] | None = None,
    outputs: Mapping[str, Any] | None = None,
    metrics: Any = None,
    tracked: bool = True,
    **values: Any,
) -> Any:
    """Run ``stage`` for an adapter and return its stats; ends the process with a status other than 0 when it fails.

    ``configs``: parameter name -> plain data, parsed into the dataclass (or tuple of dataclasses) that the stage's
    annotation names. ``inputs`` / ``outputs``: parameter name -> KFP artifact, list or mapping of artifacts, or None;
    the stage gets paths. ``values`` are passed as they are; a parameter ``left_out`` gets
    the targets that the lists of ``inputs`` go without, and why. ``metrics`` is the KFP metrics artifact. Not ``tracked``:
    without an MLflow run of its own, for a stage that must work where MLflow does not. A stage that `stage_results` knows, and
    that has done the same work before, gives what it gave then. A target that is refused, or was by a stage before, is left
    out where it may be (`left_out`): the stats are then :class:`LeftOutStats`, and the process goes on.
    """
    with redaction.hidden_in_output(), unfinished.kept_first():
        return _run_stage(stage, name or stage.__name__, configs, inputs or {}, outputs or {}, metrics, tracked, values)


def _run_stage(
    stage: Callable[..., Any],
    name: str,
    configs: Mapping[str, Any],
    inputs: Mapping[str, Any],
    outputs: Mapping[str, Any],
    metrics: Any,
    tracked: bool,
    values: Mapping[str, Any],
) -> Any:
    start = time.monotonic()
    dataset = ""
    try:
        mounted.settle()
        hints = get_type_hints(stage)
        parsed = {key: _parse(hints[key], data, key) for key, data in configs.items()}
        _check_given(inputs)
        given, dropped = left_out.without(_paths(inputs))
        dataset = getattr(parsed.get("corpus"), "name", "") or _dataset_of(_paths(inputs))
        start_logging(f"{name} {dataset}".strip())
        for artifact in outputs.values():
            Path(artifact.path).parent.mkdir(parents=True, exist_ok=True)
        log.info("started")
        for target, why in dropped.items():
            log.warning("without target %s, left out by %s", target, why)
        if dropped and "left_out" in hints:
            values = {**values, "left_out": {target: str(why) for target, why in dropped.items()}}
        # The tables' writers say so themselves; what other libraries write (weights, sqlite) is caught here.
        disk = disk_errors(next(iter(_paths(outputs).values()), "the output"))
        with disk, _record(tracked, name, dataset) as run:
            if run:
                run.log_config({key: as_plain(value) for key, value in parsed.items()})
                run.log_inputs({key: _digests(value) for key, value in given.items()})
            left_out.check(given, dropped)
            handed_on = left_out.handed_on(given)
            work = None if handed_on else stage_results.work(name, parsed, given, values)
            stats: Any = work.restore(hints["return"], _paths(outputs)) if work else None
            reused = stats is not None
            if not reused:
                stats = handed_on or _worked(stage, name, parsed, given, outputs, values)
            gone = isinstance(stats, Reason)
            if gone:
                left_out.write(_paths(outputs), dataset, name, stats)
                stats = LeftOutStats(stats)
            seconds = time.monotonic() - start
            numbers = {**_numbers(stats), "seconds": seconds, **({"reused": 1.0} if reused else {})}
            if run:
                run.log_metrics(numbers, headline=getattr(stats, "metrics", {}))
                run.log_outputs(_paths(outputs))
                run.log_device()
                if gone:
                    run.leave_out(stats.reason)
        # What could not be measured may be mended tomorrow, at the same address.
        if work and not reused and not gone and not getattr(stats, "unmeasured", 0):
            work.keep(stats, _paths(outputs))
        _describe(outputs)
        for path in _paths(outputs).values():
            artifact_transfer.publish(path)
        _write_metrics(metrics, {**getattr(stats, "metrics", {}), **numbers})
        paths = {"inputs": _strings(_paths(inputs)), "outputs": _strings(_paths(outputs))}
        reason = redaction.redact(getattr(stats, "reason", ""))
        _event(name, dataset, seconds=seconds, stats=numbers, reused=reused, reason=reason, **paths)
        if gone:
            if not handed_on:
                left_out.note(dataset)
            log.warning("LEFT OUT: target %s: %s", dataset, stats.reason)
            return stats
        log.info("%s in %.1f s: %s", "taken from the store" if reused else "done", seconds, _sentence(numbers))
        return stats
    except UserError as error:
        _fail(name, dataset, start, str(error), error.code)
    except Exception as error:
        _fail(name, dataset, start, *_unexpected(error))


def _unexpected(error: Exception) -> tuple[str, str]:
    """Return the line and the code of an error that the code did not foresee.

    Its traceback is printed unless the error is this machine's.
    """
    if isinstance(error, OSError) and error.filename and error.errno in REFUSALS:
        return of_system(error), "disk-refused"
    print(redaction.redact(traceback.format_exc()), file=sys.stderr)
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    return f"{text} (unexpected: the traceback is in the log; run again to continue, or report it)", "unexpected"


def _worked(
    stage: Callable[..., Any],
    name: str,
    parsed: Mapping[str, Any],
    given: Mapping[str, Any],
    outputs: Mapping[str, Any],
    values: Mapping[str, Any],
) -> Any:
    """Return the stats of the stage's own work, on inputs that are here and what they say; why its target is left out (a
    `Reason`), where that is refused and may be."""
    fetched = _fetched(given)
    _check_fetched(given, fetched, whole=name in _WHOLE)
    try:
        with made_from(stage_results.origin(parsed, given)):
            return stage(**parsed, **fetched, **_paths(outputs), **values)
    except CollectionFault as error:
        if not left_out.may_be(parsed.get("corpus"), given):
            raise
        # Where a run keeps its artifacts says nothing about the target, and is another place each time.
        text = str(error)
        for key, path in [*fetched.items(), *given.items()]:
            text = text.replace(str(path), key) if isinstance(path, Path) else text
        return Reason(name, redaction.line(text, 1000))


def start_logging(label: str) -> None:
    """Log lines as ``HH:MM:SS [stage dataset] message`` on standard output, where Kubernetes and KFP read them."""
    handler = logging.StreamHandler(sys.stdout)
    form = f"%(asctime)s [{label.replace('%', '%%')}] %(warning)s%(message)s"
    handler.setFormatter(redaction.Formatter(form, "%H:%M:%S", defaults={"warning": ""}))
    handler.addFilter(_marked)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("inranker_flow").setLevel(logging.INFO)


def _marked(record: logging.LogRecord) -> bool:
    """Mark warnings, which a terminal keeps on the screen; what a target was left out for has a word of its own."""
    own = str(record.msg).startswith(("LEFT OUT", "without target"))
    record.warning = "WARNING: " if record.levelno == logging.WARNING and not own else ""
    return True


def _record(tracked: bool, name: str, dataset: str) -> AbstractContextManager[StageRun | None]:
    return stage_run(name, dataset) if tracked else nullcontext()


def _parse(hint: Any, data: Any, where: str) -> Any:
    """Return one section, or (``tuple[Section, ...]``) a list of them."""
    if get_origin(hint) is not tuple:
        return parse(hint, data, where)
    if not isinstance(data, list | tuple):
        raise UserError(f"{where}: expected a list, got {data!r}", code="setting-type")
    return tuple(parse(get_args(hint)[0], each, f"{where}[{i}]") for i, each in enumerate(data))


def _fail(name: str, dataset: str, start: float, message: str, code: str) -> NoReturn:
    message = " ".join(redaction.redact(message).split())
    _event(name, dataset, seconds=time.monotonic() - start, error=message, code=code)
    start_logging(f"{name} {dataset}".strip())
    log.error("FAILED: %s", error_codes.with_row(message, code))
    sys.stdout.flush()
    sys.exit(REFUSED)


def _check_given(inputs: Mapping[str, Any]) -> None:
    """Refuse an input that is not there, not what its manifest says, another stage's, or not the one that KFP knows."""
    for key, given in inputs.items():
        for artifact in _artifacts(given):
            path = Path(artifact.path)
            found = read_manifest(path) if artifact_transfer.moved(path) else check(path)
            written_by = _WRITTEN_BY.get(key, found.stage)
            if found.stage != written_by:
                raise UserError(
                    f"{path}: {key} is what {written_by} writes, and this was written by {found.stage}",
                    code="artifact-mismatch",
                )
            known = artifact.metadata.get("digest", "")
            if not found.content.startswith(known):
                raise UserError(
                    f"{path / FILENAME}: of other content than when {found.stage} ended, so its artifact was replaced; "
                    f"remove {path} and run that stage again (on a cluster: with KFP's cache off)",
                    code="artifact-replaced",
                )


def _artifacts(given: Any) -> list[Any]:
    """KFP's artifacts in an input, whatever its structure."""
    if given is None:
        return []
    if isinstance(given, Mapping | list | tuple):
        return [
            each for value in (given.values() if isinstance(given, Mapping) else given) for each in _artifacts(value)
        ]
    return [given]


def _check_fetched(given: Any, fetched: Any, whole: bool) -> None:
    """The same for the content that came from elsewhere, and the bytes of all files where the stage is one of `_WHOLE`."""
    for path, copy in zip(_flat(given), _flat(fetched), strict=True):
        if check(copy, whole=whole).content != read_manifest(path).content:
            raise UserError(
                f"{copy}: not the artifact of {path}; remove both and run its stage again", code="artifact-mismatch"
            )


def _paths(artifacts: Any) -> Any:
    """Return the same structure with each KFP artifact replaced by the path where it lies (or is to lie)."""
    if artifacts is None:
        return None
    if isinstance(artifacts, Mapping):
        return {key: _paths(value) for key, value in artifacts.items()}
    if isinstance(artifacts, list | tuple):
        return [_paths(value) for value in artifacts]
    return Path(artifacts.path)


def _fetched(paths: Any) -> Any:
    """Return the same structure with each path replaced by where its content is on this machine."""
    if isinstance(paths, Mapping):
        return {key: _fetched(value) for key, value in paths.items()}
    if isinstance(paths, list):
        return [_fetched(value) for value in paths]
    return None if paths is None else artifact_transfer.fetch(paths)


def _strings(paths: Any) -> Any:
    """Return the same structure as data for JSON."""
    if isinstance(paths, Mapping):
        return {key: _strings(value) for key, value in paths.items()}
    if isinstance(paths, list):
        return [_strings(value) for value in paths]
    return None if paths is None else str(paths)


def _manifest(path: Path) -> Manifest | None:
    return read_manifest(path) if (path / FILENAME).is_file() else None


def _dataset_of(paths: Any) -> str:
    """Return the name of the dataset that a stage works on: that of its inputs when they agree, else none."""
    names = {manifest.dataset for path in _flat(paths) if (manifest := _manifest(path))}
    return names.pop() if len(names) == 1 else ""


def _flat(paths: Any) -> list[Path]:
    if paths is None:
        return []
    if isinstance(paths, Path):
        return [paths]
    values = paths.values() if isinstance(paths, Mapping) else paths
    return [path for value in values for path in _flat(value)]


def _digests(paths: Any) -> dict[str, str]:
    """Return the dataset name -> content digest of each artifact in ``paths``."""
    found = {}
    for path in _flat(paths):
        manifest = _manifest(path)
        found[manifest.dataset if manifest else path.name] = content_digest(path)
    return found


def _describe(outputs: Mapping[str, Any]) -> None:
    """Put dataset and digest into the artifacts' metadata: the KFP UI shows them and KFP's cache keys hold them."""
    for artifact in outputs.values():
        path = Path(artifact.path)
        manifest = _manifest(path)
        if manifest:
            artifact.metadata.update(dataset=manifest.dataset, digest=manifest.content[:_KNOWN])
            if reason := left_out.reason_of(manifest):
                artifact.metadata.update(left_out=reason.stage)
        elif path.is_file():
            artifact.metadata.update(digest=content_digest(path)[:_KNOWN])


def _numbers(stats: Any) -> dict[str, float]:
    return {
        field.name: float(value)
        for field in dataclasses.fields(stats)
        if isinstance(value := getattr(stats, field.name), int | float)
    }


def _sentence(numbers: Mapping[str, float]) -> str:
    shown = {key: value for key, value in numbers.items() if key != "seconds"}
    return ", ".join(f"{key} {value:,.4g}" if value % 1 else f"{key} {int(value):,}" for key, value in shown.items())


def _write_metrics(metrics: Any, numbers: Mapping[str, float]) -> None:
    """Fill KFP's metrics; the file matters too, because a local cache hit needs every output to exist."""
    if metrics is None:
        return
    for key, value in numbers.items():
        metrics.log_metric(key, value)
    Path(metrics.path).parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(metrics.path) as out:
        out.write(json.dumps(numbers, indent=1).encode())


def _event(name: str, dataset: str, **details: Any) -> None:
    """Append one line to the local run's record (``INRANKER_EVENTS``), from which `make run` prints its tables."""
    path = variables.events()
    if path:
        with open(path, "a", encoding="utf-8") as events:
            events.write(json.dumps({"stage": name, "dataset": dataset, **details}) + "\n")
