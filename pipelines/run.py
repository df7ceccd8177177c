"""`make run`: the compiled pipeline on this machine, with KFP's local runner.

    python -m pipelines.run inranker --profile demo

No cluster: each stage is a process of this environment, or a container of its image (RUNNER=docker). KFP's local cache
skips what is done, so a second run is quick and a failed one continues.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from inranker_flow import exchange, planning, registry, tracking
from inranker_flow.errors import UserError
from inranker_flow.generation.backends import check_here
from inranker_flow.manifest import check
from inranker_flow.pin import pin
from inranker_flow.planning import reality
from inranker_flow.profile import Profile
from inranker_flow.redaction import credentials_in, redact
from inranker_flow.sharing import HELPS
from pipelines import console, folder, local, plan, submission
from pipelines.command import FAILED, Parser, command, logging_to
from pipelines.compile import compile_pipeline
from pipelines.options import add_options, resolve
from pipelines.placement import PLACEMENT, content_tag


@command
def main(arguments: list[str] | None = None) -> int:
    """Run a pipeline locally; returns the exit status."""
    parser = Parser("make run")
    add_options(parser)
    parser.add_argument("--run-dir", default=str(folder.DEFAULT), help="artifacts, cache, MLflow database, logs")
    parser.add_argument("--runner", choices=["process", "docker"], default="process", help="what a task runs in")
    parser.add_argument("--verbose", action="store_true", help="show KFP's own log lines too")
    options = parser.parse_args(arguments)
    run_dir = folder.checked(options.run_dir)
    resolved = pin(resolve(options))
    if options.runner == "process":
        check_here(resolved.generation)
    label = f"{options.pipeline}-{Path(options.profile).stem}"
    return run(options.pipeline, resolved, label, run_dir, options.runner, options.verbose)


def run(
    pipeline: str, resolved: Profile, label: str, run_dir: Path, runner: str = "process", verbose: bool = False
) -> int:
    """Compile, run, report. Returns 0, or 1 when a stage failed; :class:`UserError` before anything ran."""
    start = time.monotonic()
    with folder.working(run_dir) as hold:
        hold.remember(runner=runner)
        return _run(pipeline, resolved, label, hold, runner, verbose, start)


def _run(
    pipeline: str, resolved: Profile, label: str, hold: folder.Run, runner: str, verbose: bool, start: float
) -> int:
    run_dir = hold.folder
    # Containers see nothing of the run's folder but this.
    root = run_dir / "artifacts"
    _environment(run_dir, root)
    _tidy(hold)
    arguments = submission.arguments(pipeline, resolved)
    keys = {name: arguments[name] for name in ("run_key", "work_key")}
    with folder.of_runs(run_dir):
        # One machine has one pod for everything; and KFP's local runner gives a loop's item to the loop around it, too.
        cluster = replace(resolved.cluster, workers=1, nodes=1)
        yaml = compile_pipeline(pipeline, run_dir / f"{pipeline}.yaml", cluster)

    name = f"{label}-{time.strftime('%Y%m%d-%H%M%S')}"
    log, events = run_dir / "logs" / f"{name}.log", root / "events" / f"{name}.jsonl"
    with folder.of_runs(run_dir):
        for each in (log, events):
            each.parent.mkdir(parents=True, exist_ok=True)
            each.touch()
        events.chmod(0o666)  # a container's user is another one
    os.environ["INRANKER_EVENTS"] = str(events)
    print(f"{name}: {yaml.relative_to(Path.cwd()) if yaml.is_relative_to(Path.cwd()) else yaml}, log in {log}")
    try:
        with (
            logging_to(log),
            tracking.pipeline_run(name, {"label": label, **resolved.as_data(), **keys}) as parent,
        ):
            planned = _plan(pipeline, resolved, run_dir, parent)
            local.execute(yaml, arguments, root, log, runner, verbose, hold)
    except RuntimeError as error:
        failed = [event for event in console.read_events(events) if event.get("error")]
        if failed:
            reason = f"{failed[0]['stage']} {failed[0]['dataset']}".strip() + f": {failed[0]['error']}"
        else:
            said = re.sub(r"\x1b\[[0-9;]*m", "", str(error))  # KFP's colours
            reason = f"{said} If its log ends without a reason, it was killed, perhaps for want of memory; run again to continue"
        print(redact(f"\nFAILED: {' '.join(reason.split())}\nLog: {log}"), file=sys.stderr)
        return FAILED
    did = reality.done(tracking.stages_of(parent)) if planned else {}
    seconds = time.monotonic() - start
    _report(console.read_events(events), planned, did, run_dir, resolved.promotion.model_name, seconds)
    return 0


def _plan(pipeline: str, resolved: Profile, run_dir: Path, parent: str) -> dict[str, float]:
    """The numbers that are planned, kept in MLflow; none where the plan cannot be made: the run will say why."""
    try:
        made = plan.outline(pipeline, resolved, run_dir / "mlflow.db")
    except (UserError, OSError):
        return {}
    tracking.log_plan(parent, made.as_data(), made.promised)
    return made.promised


def _tidy(hold: folder.Run) -> None:
    """Remove what killed runs left in the folder, and give their runs in MLflow an end."""
    for file, known in folder.tidy(hold).items():
        closed = tracking.close_killed(file.name)
        removed = local.remove_containers(file.name) if known.get("runner") == "docker" else 0
        print(f"A run was killed here: {closed} of its runs in MLflow are KILLED now", end="")
        print(f", {removed} containers removed" if removed else "", flush=True)
        file.unlink()


def _environment(run_dir: Path, root: Path) -> None:
    """Defaults for what the stages inherit; whatever is set already wins."""
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        with folder.of_runs(run_dir):
            folder.check_database(run_dir / "mlflow.db")
            os.environ["MLFLOW_TRACKING_URI"] = tracking.create_database(run_dir / "mlflow.db")
    if os.environ["MLFLOW_TRACKING_URI"].startswith("sqlite"):
        os.environ.setdefault("INRANKER_ARTIFACT_ROOT", (run_dir / "mlartifacts").as_uri())
    os.environ.setdefault("INRANKER_SCRATCH", str(root / "scratch"))
    os.environ.setdefault("INRANKER_STORE", str(root / "store"))
    os.environ["INRANKER_CODE_VERSION"] = content_tag()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Threads that wait sleep instead of spinning: on a busy machine spinning slows every small operation a hundredfold.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _report(
    events: list[dict[str, Any]],
    planned: dict[str, float],
    did: dict[str, float],
    run_dir: Path,
    model_name: str,
    seconds: float,
) -> None:
    discovered = [event for event in events if event["stage"] == "discover"]
    # Promote is never cached, so its record is there, and it names what the decision rests on.
    promoted = next((event for event in events if event["stage"] == "promote"), None)
    if promoted is None:
        print(f"\nNothing to do: {discovered[0]['reason']}.\n\nDone in {seconds:.0f} s.")
        return
    evaluation, decided = (
        exchange.fetch(Path(path)) for path in (promoted["inputs"]["evaluation"], promoted["outputs"]["decision"])
    )
    for each in (evaluation, decided):
        check(each)
    summary = json.loads((evaluation / "summary.json").read_text())
    decision = json.loads((decided / "decision.json").read_text())
    report = run_dir / "report.html"
    shutil.copyfile(promoted["outputs"]["report"], report)
    uri = os.environ["MLFLOW_TRACKING_URI"]
    served = f"--backend-store-uri {shlex.quote(uri)}" if uri.startswith("sqlite") else ""
    python = shlex.quote(sys.executable)
    print(f"\n{console.results_table(summary)}\n")
    # What is never cached and has no record is no part of this pipeline.
    ran = {event["stage"] for event in events}
    shown = [stage for stage, row in PLACEMENT.items() if (row.cache and stage not in HELPS) or stage in ran]
    print(f"{console.stages_table(shown, events)}\n")
    if planned:
        print(f"planned, without reuse  {planning.sentence(planned)}")
        print(f"computed in this run    {planning.sentence(did)}\n")
    for target, reason in decision.get("left_out", {}).items():
        print(f"LEFT OUT: target {target}: {reason}")
    print(f"{decision['verdict']} {model_name} version {decision['version']}: {decision['reasons'][0]['message']}")
    print(f"\nThe report     {python} -m webbrowser {report.as_uri()}")
    print(f"MLflow's UI    {python} -m mlflow ui {served}" if served else f"MLflow's UI    {uri}")
    if registry.champion(model_name):
        # A password is in no output: the person's own shell has it.
        told = "" if credentials_in(uri) else f"MLFLOW_TRACKING_URI={shlex.quote(uri)} "
        print(
            f"The champion   {told}{python} -c 'import mlflow, pandas; "
            f'print(mlflow.pyfunc.load_model("models:/{model_name}@champion")'
            '.predict(pandas.DataFrame([{"query": "...", "passages": ["...", "..."]}])))\''
        )
    print(f"\nDone in {seconds:.0f} s.")


if __name__ == "__main__":
    sys.exit(main())
