"""`make run`: the compiled pipeline on this machine, with KFP's local runner.

    python -m pipelines.run inranker --profile demo

No cluster, no container: each stage is a process of this environment. KFP's local cache skips what is done, so a second
run is quick and a failed one continues.
"""

from __future__ import annotations

import argparse
import builtins
import fcntl
import json
import os
import shlex
import shutil
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from hashlib import sha256
from pathlib import Path
from typing import Any

from inranker_flow import registry, tracking
from inranker_flow.errors import UserError
from pipelines import console
from pipelines.compile import compile_pipeline
from pipelines.options import add_options, resolve
from pipelines.pin import pin
from pipelines.placement import PLACEMENT, content_tag
from pipelines.profile import Profile


def main(arguments: list[str] | None = None) -> int:
    """Run a pipeline locally; returns the exit status."""
    parser = argparse.ArgumentParser(prog="make run")
    add_options(parser)
    parser.add_argument("--run-dir", type=Path, default=Path(".run"), help="artifacts, cache, MLflow database, logs")
    parser.add_argument("--verbose", action="store_true", help="show KFP's own log lines too")
    options = parser.parse_args(arguments)
    try:
        resolved = pin(resolve(options))
        label = f"{options.pipeline}-{Path(options.profile).stem}"
        return run(options.pipeline, resolved, label, options.run_dir.resolve(), options.verbose)
    except UserError as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        where = error.filename or options.run_dir
        print(f"FAILED: RUN_DIR: {where}: {error.strerror}; make room or give another RUN_DIR", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nINTERRUPTED: what is finished is kept; the same command continues", file=sys.stderr)
        return 130


def run(pipeline: str, resolved: Profile, label: str, run_dir: Path, verbose: bool = False) -> int:
    """Compile, run, report. Returns 0, or 1 when a stage failed; :class:`UserError` before anything ran."""
    start = time.monotonic()
    run_dir.mkdir(parents=True, exist_ok=True)
    with _only_run(run_dir):
        return _run(pipeline, resolved, label, run_dir, verbose, start)


def _run(pipeline: str, resolved: Profile, label: str, run_dir: Path, verbose: bool, start: float) -> int:
    _environment(run_dir)
    arguments = resolved.arguments()
    run_key = sha256(json.dumps([pipeline, arguments, content_tag()], sort_keys=True).encode()).hexdigest()[:16]
    arguments |= {"champion": _opponent(resolved.promotion.model_name, run_key), "run_key": run_key}
    yaml = compile_pipeline(pipeline, run_dir / f"{pipeline}.yaml")

    name = f"{label}-{time.strftime('%Y%m%d-%H%M%S')}"
    log, events = run_dir / "logs" / f"{name}.log", run_dir / "logs" / f"{name}.events.jsonl"
    log.parent.mkdir(exist_ok=True)
    os.environ["INRANKER_EVENTS"] = str(events)
    print(f"{name}: {yaml.relative_to(Path.cwd()) if yaml.is_relative_to(Path.cwd()) else yaml}, log in {log}")
    try:
        with tracking.pipeline_run(name, {"label": label, **arguments}):
            outputs = _execute(yaml, arguments, run_dir, log, verbose)
    except RuntimeError as error:
        failed = [event for event in console.read_events(events) if event.get("error")]
        reason = f"{failed[0]['stage']} {failed[0]['dataset']}: {failed[0]['error']}" if failed else str(error)
        print(f"\nFAILED: {reason}\nLog: {log}", file=sys.stderr)
        return 1
    _report(outputs, console.read_events(events), run_dir, resolved.promotion.model_name, time.monotonic() - start)
    return 0


@contextmanager
def _only_run(run_dir: Path) -> Iterator[None]:
    """Cache, logs and database of a folder belong to one run at a time; the kernel frees the lock of a killed one."""
    with open(run_dir / ".lock", "a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                f"RUN_DIR: another run is working in {run_dir}; wait for it or give another RUN_DIR"
            ) from error
        yield


def _environment(run_dir: Path) -> None:
    """Defaults for what the stages inherit; whatever is set already wins."""
    if "MLFLOW_TRACKING_URI" not in os.environ:
        os.environ["MLFLOW_TRACKING_URI"] = tracking.create_database(run_dir / "mlflow.db")
    if os.environ["MLFLOW_TRACKING_URI"].startswith("sqlite:"):
        os.environ.setdefault("INRANKER_ARTIFACT_ROOT", (run_dir / "mlartifacts").as_uri())
    os.environ.setdefault("INRANKER_SCRATCH", str(run_dir / "scratch"))
    os.environ["INRANKER_CODE_VERSION"] = content_tag()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Threads that wait sleep instead of spinning: on a busy machine spinning slows every small operation a hundredfold.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _opponent(model_name: str, run_key: str) -> str:
    """The champion that this run is measured against: the one that serves, unless this very work made it.

    Then it is the one that served before: a repeated run asks the same question and meets its cached answer, instead of
    comparing a model with itself.
    """
    serving = registry.champion(model_name)
    if serving is None:
        return ""
    return serving.tags.get("inranker.against", "") if serving.tags.get("run_key") == run_key else serving.reference


def _execute(yaml: Path, arguments: dict[str, Any], run_dir: Path, log: Path, verbose: bool) -> dict[str, Any]:
    """Run the compiled file; returns its outputs. Raises RuntimeError when a task fails."""
    from kfp import components, local

    # The runner warns about each image that is not called "python" and each setting that only a cluster knows.
    warnings.filterwarnings("ignore", module=r"kfp\.")
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(run_dir / "artifacts"), enable_caching=True)
    loaded = components.load_component_from_file(str(yaml))
    plain_print = builtins.print  # KFP's runner replaces it to indent; with parallel tasks it does not put it back
    try:
        with open(log, "w", encoding="utf-8") as file, redirect_stdout(console.Tee(sys.stdout, file, verbose)):
            task = loaded(**arguments)
    finally:
        builtins.print = plain_print
    outputs: dict[str, Any] = task.outputs
    return outputs


def _report(
    outputs: dict[str, Any], events: list[dict[str, Any]], run_dir: Path, model_name: str, seconds: float
) -> None:
    summary = json.loads((Path(outputs["evaluation"].path) / "summary.json").read_text())
    decision = json.loads((Path(outputs["decision"].path) / "decision.json").read_text())
    report = run_dir / "report.html"
    shutil.copyfile(outputs["report"].path, report)
    uri = os.environ["MLFLOW_TRACKING_URI"]
    served = f"--backend-store-uri {uri}" if uri.startswith("sqlite:") else ""
    python = shlex.quote(sys.executable)
    print(f"\n{console.results_table(summary)}\n")
    print(f"{console.stages_table(list(PLACEMENT), events)}\n")
    print(f"{decision['verdict']} {model_name} version {decision['version']}: {decision['reasons'][0]['message']}")
    print(f"\nThe report     {python} -m webbrowser {report.as_uri()}")
    print(f"MLflow's UI    {python} -m mlflow ui {served}" if served else f"MLflow's UI    {uri}")
    if registry.champion(model_name):
        print(
            f"The champion   MLFLOW_TRACKING_URI={uri} {python} -c 'import mlflow, pandas; "
            f'print(mlflow.pyfunc.load_model("models:/{model_name}@champion")'
            '.predict(pandas.DataFrame([{"query": "...", "passages": ["...", "..."]}])))\''
        )
    print(f"\nDone in {seconds:.0f} s.")


if __name__ == "__main__":
    sys.exit(main())
