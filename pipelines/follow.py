"""Follow a run to its end: one line for each change of its state or of a task's."""

from __future__ import annotations

import time
from typing import Any

from inranker_flow.errors import UserError
from inranker_flow.services import kfp_nodes
from pipelines import why, workflows
from pipelines.kfp_api import Api

#: Seconds between two looks, and for how long a silent API is put up with.
PAUSE, PATIENCE = 5.0, 600.0
#: Seconds without a change after which it is said what the run waits for, and between two such looks.
STILL = 120.0


def follow(api: Api, run_id: str) -> int:
    """Print changes until the run ends; 0 if it succeeded, else 1. :class:`UserError` when it cannot be followed."""
    seen: dict[str, str] = {}
    silent_since = 0.0
    changed = looked = time.monotonic()
    told = ""
    while True:
        try:
            run = why.plain(api.run(run_id))
        except UserError as error:
            silent_since = silent_since or time.monotonic()
            if not _passing(error) or time.monotonic() - silent_since > PATIENCE:
                raise UserError(f"{error}; the run goes on: make why RUN={run_id}", code=error.code) from error
            time.sleep(PAUSE)
            continue
        silent_since = 0.0
        if _report(run, seen):
            changed = looked = time.monotonic()
        if run.get("state") in kfp_nodes.FINAL:
            if run["state"] != "SUCCEEDED":
                print(why.explain(api, run))
            return 0 if run["state"] == "SUCCEEDED" else 1
        if time.monotonic() - looked > STILL:
            looked = time.monotonic()
            if workflows.is_gone(api, run):
                raise UserError(f"run {run_id}: {workflows.EXPLAINED}", code="run-lost")
            if (waits := why.waiting(api, run)) and waits != told:
                told = waits
                print(f"{time.strftime('%H:%M:%S')} waits for {looked - changed:.0f} s: {told}", flush=True)
        time.sleep(PAUSE)


def _report(run: dict[str, Any], seen: dict[str, str]) -> bool:
    """Print what has changed since the last look; whether anything has."""
    states = {task.label: task.now for task in kfp_nodes.written(kfp_nodes.tasks_of(run))} | {
        "run": run.get("state") or "PENDING"
    }
    changes = {name: state for name, state in states.items() if seen.get(name) != state}
    for name, state in changes.items():
        print(f"{time.strftime('%H:%M:%S')} {name} {state}", flush=True)
    seen.update(changes)
    return bool(changes)


def _passing(error: UserError) -> bool:
    """Return whether it may be over in a while: a server that restarts, not a token that has expired."""
    return any(words in str(error) for words in ("nobody answers", "try again in a minute"))
