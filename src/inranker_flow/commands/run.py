"""`inranker run` and `make run`: a whole pipeline on this machine, then results, verdict and where to look.

    inranker run --source data/squad --targets data/handbook --profile small --run-dir out

No cluster. RUNNER says what runs the stages: `plain` (the order in `inranker_flow.workflow`), or KFP's local runner with
the compiled pipeline, in which a task is a `process` or a container (`docker`); `make run` asks for `process`. What is done
is not done again, so a second run is quick and a failed one continues.
"""

from __future__ import annotations

import importlib
import json
import re
import shlex
import shutil
import sys
import time
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any, Protocol

from inranker_flow import error_codes
from inranker_flow.artifacts.manifest import check
from inranker_flow.commands import console, folder, forked, outcome, plan, screen
from inranker_flow.commands.command import FAILED, Parser, command, logging_to
from inranker_flow.commands.options import add_options, profile_of, resolve
from inranker_flow.commands.outcome import Distilled
from inranker_flow.environment import changes, variables
from inranker_flow.errors import UserError
from inranker_flow.execution import artifact_transfer
from inranker_flow.generation.backends import check_here
from inranker_flow.model_registry import registry
from inranker_flow.planning import reality
from inranker_flow.planning.plans import Plan, sentence_of
from inranker_flow.planning.speed import this_device
from inranker_flow.progress import duration
from inranker_flow.redaction import credentials_in, redact
from inranker_flow.settings.keys import keys
from inranker_flow.settings.pin import pin
from inranker_flow.settings.profile import Profile
from inranker_flow.tracking import connection
from inranker_flow.tracking.records import log_plan, stages_of
from inranker_flow.tracking.runs import close_killed, pipeline_run
from inranker_flow.workflow.pipelines import tasks_of
from inranker_flow.workflow.tasks import ALWAYS, STAGES

#: RUNNER -> the module that runs a pipeline so (:class:`Runner`); those with KFP are in a checkout alone.
RUNNERS = {"plain": "inranker_flow.workflow.runner", "process": "pipelines.local", "docker": "pipelines.local"}


#: Documents that may be counted a second time for an estimate on the screen: it takes a second.
_COUNTED_TWICE = 100_000


class Runner(Protocol):
    """The functions of a module of `RUNNERS`."""

    def code_version(self) -> str:
        """Return the version of the code that will run."""
        ...

    def prepare(self, pipeline: str, profile: Profile, hold: folder.Run, runner: str) -> Any:
        """Check that it can run here; returns what `execute` takes. :class:`UserError` where it cannot."""
        ...

    def execute(
        self,
        prepared: Any,
        pipeline: str,
        profile: Profile,
        keys: dict[str, str],
        hold: folder.Run,
        log: Path,
        verbose: bool,
    ) -> None:
        """Run all stages. Raises RuntimeError when one fails, after `notify`."""
        ...


@command
def main(arguments: list[str] | None = None) -> int:
    """Run a pipeline locally; returns the exit status."""
    parser = Parser("inranker run")
    add_options(parser)
    parser.add_argument("--run-dir", default=str(folder.DEFAULT), help="artifacts, cache, MLflow database, logs")
    parser.add_argument("--runner", choices=list(RUNNERS), default="plain", help="what runs the stages")
    parser.add_argument("--verbose", action="store_true", help="show KFP's own log lines too")
    options = parser.parse_args(arguments)
    run_dir = folder.checked(options.run_dir)
    resolved = pin(resolve(options))
    if options.runner != "docker":
        check_here(resolved.generation)
    label = f"{options.pipeline}-{Path(profile_of(options)).stem}"
    return run(options.pipeline, resolved, label, run_dir, options.runner, options.verbose)


def run(
    pipeline: str, resolved: Profile, label: str, run_dir: Path, runner: str = "plain", verbose: bool = False
) -> int:
    """Run, report. Returns 0, or 1 when a stage failed; :class:`UserError` before anything ran."""
    start = time.monotonic()
    resolved.check_for(pipeline)
    with folder.working(run_dir) as hold:
        hold.remember(runner=runner)
        return _run(pipeline, resolved, label, hold, runner, verbose, start)


def _runner(name: str) -> Any:
    try:
        found = importlib.import_module(RUNNERS[name])
    except ModuleNotFoundError as error:
        raise UserError(
            f"RUNNER={name}: needs a checkout of InRanker Flow with its environment ({error}); make run has both, and "
            "RUNNER=plain needs neither",
            code="needs-checkout",
        ) from error
    return found


def _run(
    pipeline: str, resolved: Profile, label: str, hold: folder.Run, runner: str, verbose: bool, start: float
) -> int:
    run_dir = hold.folder
    engine: Runner = _runner(runner)
    # Containers see nothing of the run's folder but this.
    root = run_dir / "artifacts"
    _environment(run_dir, root, engine.code_version())
    if runner != "docker" and forked.possible():
        forked.prepare(hold.temporary)
    _tidy(hold)
    (run_dir / outcome.FILENAME).unlink(missing_ok=True)
    known_by = keys(pipeline, resolved, engine.code_version())
    with folder.of_runs(run_dir):
        prepared = engine.prepare(pipeline, resolved, hold, runner)

    name = f"{label}-{time.strftime('%Y%m%d-%H%M%S')}"
    log, events = run_dir / "logs" / f"{name}.log", root / "events" / f"{name}.jsonl"
    with folder.of_runs(run_dir):
        for each in (log, events):
            each.parent.mkdir(parents=True, exist_ok=True)
            each.touch()
        events.chmod(0o666)  # a container's user is another one
    changes.put(variables.EVENTS, str(events))
    screen.announce(f"{name}: log in {log}")
    try:
        with (
            logging_to(log),
            pipeline_run(
                name,
                {"label": label, **resolved.as_data(), **known_by},
                {"label": label, **resolved.arguments(), **known_by},
            ) as parent,
        ):
            made = _plan(pipeline, resolved, run_dir, parent)
            planned = made.promised if made else {}
            with _shown(pipeline, resolved, made, run_dir, verbose):
                engine.execute(prepared, pipeline, resolved, known_by, hold, log, verbose)
    except RuntimeError as error:
        failed = [event for event in console.read_events(events) if event.get("error")]
        if failed:
            reason = f"{failed[0]['stage']} {failed[0]['dataset']}".strip() + f": {failed[0]['error']}"
            reason = error_codes.with_row(reason, failed[0].get("code", ""))
        else:
            said = re.sub(r"\x1b\[[0-9;]*m", "", str(error))  # KFP's colours
            reason = f"{said} If its log ends without a reason, it was killed, perhaps for want of memory; run again to continue"
        told = redact(f"\nFAILED: {' '.join(reason.split())}\nLog: {log}")
        print(screen.wrapped(told, sys.stderr), file=sys.stderr)
        return FAILED
    did = reality.done(stages_of(parent)) if planned else {}
    seconds = time.monotonic() - start
    found = console.read_events(events)
    _report(found, planned, did, run_dir, resolved.promotion.model_name, seconds, runner, verbose).write(run_dir)
    return 0


def _plan(pipeline: str, resolved: Profile, run_dir: Path, parent: str) -> Plan | None:
    """Return the plan, kept in MLflow; None where it cannot be made: the run will say why."""
    try:
        made = plan.outline(pipeline, resolved, run_dir / "mlflow.db")
    except (UserError, OSError):
        return None
    log_plan(parent, made.as_data(), made.promised)
    return made


def _shown(
    pipeline: str, resolved: Profile, made: Plan | None, run_dir: Path, verbose: bool
) -> AbstractContextManager[None]:
    """Return the block within which a terminal shows the stages at work; elsewhere their lines come as they are."""
    if not screen.on(verbose):
        return nullcontext()
    tasks = tasks_of(pipeline, resolved.as_data())
    if made and made.total.hours is None and made.total.documents <= _COUNTED_TWICE:
        with suppress(UserError, OSError):  # a first run: by the models' sizes
            made = plan.outline(
                pipeline, resolved, run_dir / "mlflow.db", "cpu" if forked.possible() else this_device()
            )
    seconds = {(row.stage, row.collection): 3600 * row.hours for row in made.rows if row.hours} if made else {}
    return screen.Screen(sys.stdout, screen.Expected(tasks, seconds)).shown()


def _tidy(hold: folder.Run) -> None:
    """Remove what killed runs left in the folder, and give their runs in MLflow an end."""
    for file, known in folder.tidy(hold).items():
        closed = close_killed(file.name)
        removed = _runner("docker").remove_containers(file.name) if known.get("runner") == "docker" else 0
        print(f"A run was killed here: {closed} of its runs in MLflow are KILLED now", end="")
        print(f", {removed} containers removed" if removed else "", flush=True)
        file.unlink()


def _environment(run_dir: Path, root: Path, code: str) -> None:
    """Defaults for what the stages inherit; whatever is set already wins."""
    if not variables.tracking_uri():
        with folder.of_runs(run_dir):
            folder.check_database(run_dir / "mlflow.db")
            changes.put(variables.TRACKING_URI, connection.create_database(run_dir / "mlflow.db"))
    if variables.tracking_uri().startswith("sqlite"):
        changes.default(variables.ARTIFACT_ROOT, (run_dir / "mlartifacts").as_uri())
    changes.default(variables.SCRATCH, str(root / "scratch"))
    changes.default(variables.STORE, str(root / "store"))
    changes.put(variables.CODE_VERSION, code)
    changes.default("TOKENIZERS_PARALLELISM", "false")
    # Threads that wait sleep instead of spinning: on a busy machine spinning slows every small operation a hundredfold.
    changes.default("OMP_WAIT_POLICY", "PASSIVE")


def _report(
    events: list[dict[str, Any]],
    planned: dict[str, float],
    did: dict[str, float],
    run_dir: Path,
    model_name: str,
    seconds: float,
    made_by: str,
    verbose: bool,
) -> Distilled:
    discovered = [event for event in events if event["stage"] == "discover"]
    # Promote is never cached, so its record is there, and it names what the decision rests on.
    promoted = next((event for event in events if event["stage"] == "promote"), None)
    if promoted is None:
        screen.announce(f"\nNothing to do: {discovered[0]['reason']}.\n\nDone in {duration(seconds)}.")
        return Distilled("NOTHING", discovered[0]["reason"])
    evaluation, decided = (
        artifact_transfer.fetch(Path(path))
        for path in (promoted["inputs"]["evaluation"], promoted["outputs"]["decision"])
    )
    for each in (evaluation, decided):
        check(each)
    summary = json.loads((evaluation / "summary.json").read_text())
    decision = json.loads((decided / "decision.json").read_text())
    report = run_dir / "report.html"
    shutil.copyfile(promoted["outputs"]["report"], report)
    headline = summary["headline"]
    ended = Distilled(
        decision["verdict"],
        decision["reasons"][0]["message"],
        headline,
        console.means_of(summary, headline),
        artifact_transfer.fetch(Path(promoted["inputs"]["student"])),
        report,
        model_name,
        decision["version"],
    )
    left_out = [f"LEFT OUT: target {target}: {reason}" for target, reason in decision.get("left_out", {}).items()]
    if screen.on(verbose):
        screen.results(headline, summary["systems"], ended.measures)
        for told in left_out:
            screen.announce(told)
        screen.verdict(ended.verdict, model_name, ended.version, ended.reason)
        _next(run_dir, made_by)
    else:
        print(f"\n{console.results_table(headline, summary['systems'], ended.measures)}\n")
        # What is always done and has no record is no part of this pipeline.
        ran = {event["stage"] for event in events}
        print(f"{console.stages_table([stage for stage in STAGES if stage not in ALWAYS or stage in ran], events)}\n")
        if planned:
            print(f"planned, without reuse  {sentence_of(planned)}")
            print(f"computed in this run    {sentence_of(did)}\n")
        print(*left_out, f"{ended.verdict} {model_name} version {ended.version}: {ended.reason}", sep="\n")
        _where(report, model_name)
    print(f"\nDone in {duration(seconds)}.")
    return ended


def _next(run_dir: Path, runner: str) -> None:
    """Print what a person does next: make's targets in a checkout, else commands."""
    word, option = ("inranker", "--run-dir=") if runner == "plain" else ("make", "RUN_DIR=")
    where = "" if run_dir == folder.checked(str(folder.DEFAULT)) else f" {option}{shlex.quote(str(run_dir))}"
    about = {
        "try": "your queries: the first stage beside the champion",
        "report": "the evidence, in a browser",
        "mlflow": "runs, curves and models",
    }
    screen.commands([(f"{word} {name}{where}", told) for name, told in about.items()])


def _where(report: Path, model_name: str) -> None:
    """Print where everything is, as commands that work in any folder."""
    uri, python = variables.tracking_uri(), shlex.quote(sys.executable)
    served = f"--backend-store-uri {shlex.quote(uri)}" if uri.startswith("sqlite") else ""
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
