"""RUNNER=plain: the stages one after another, by the order in `workflow.pipelines`."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from inranker_flow.commands import console, folder
from inranker_flow.commands.processes import Processes
from inranker_flow.environment import variables
from inranker_flow.errors import UserError
from inranker_flow.settings.profile import Profile
from inranker_flow.workflow import pipelines
from inranker_flow.workflow.tasks import Run

PIPELINES = {"inranker": pipelines.inranker, "retrain": pipelines.retrain}


def code_version() -> str:
    """Return the package's version, unless the environment says which code runs."""
    return variables.code_version()


def prepare(pipeline: str, profile: Profile, hold: folder.Run, runner: str) -> Any:
    """Return the pipeline's function; :class:`UserError` for a pipeline that is not there."""
    if pipeline not in PIPELINES:
        raise UserError(
            f"PIPELINE={pipeline}: no such pipeline; there is {', '.join(PIPELINES)}", code="pipeline-unknown"
        )
    return PIPELINES[pipeline]


def execute(
    prepared: Any, pipeline: str, profile: Profile, keys: dict[str, str], hold: folder.Run, log: Path, verbose: bool
) -> None:
    """Run all stages, and `notify` whatever happens. Raises RuntimeError when a stage fails."""
    processes = Processes(hold)
    name = log.stem
    with (
        open(log, "w", encoding="utf-8", errors="backslashreplace", buffering=1) as file,
        redirect_stdout(console.Tee(sys.stdout, file, verbose)),
        processes.ending(),
    ):
        run = Run(hold.folder / "artifacts" / "plain", processes.start, name)
        state, error = "FAILURE", ""
        try:
            prepared(run, profile.arguments(), keys)
            state = "SUCCESS"
        except RuntimeError as failed:
            error = str(failed)
            raise
        finally:
            if not processes.over:
                run("notify", state=state, error=error, run_id=name, run_name=name)
