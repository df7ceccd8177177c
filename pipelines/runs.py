"""`make runs`: the newest runs of an experiment as a table."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from inranker_flow.commands import console
from inranker_flow.commands.command import Parser, listing
from inranker_flow.environment import variables
from inranker_flow.errors import UserError
from inranker_flow.services import kfp_nodes
from inranker_flow.tracking.records import left_out_by_kfp_run
from pipelines import kfp_api, why, workflows
from pipelines.kfp_api import Api

#: Rows at most.
MOST = 20


@listing
def main(arguments: list[str] | None = None) -> int:
    """List runs; returns the exit status."""
    parser = Parser("inranker runs")
    kfp_api.add_options(parser)
    options = parser.parse_args(arguments)
    api = Api(options.host, options.namespace)
    experiment_id = api.find_experiment(options.experiment)
    found = api.runs(experiment_id, most=MOST) if experiment_id else []
    gone = {run.run_id for run in found if workflows.is_gone(api, why.plain(run))}
    without, unasked = _left_out() if found else ({}, "")
    print(table(api, found, gone, without) if found else f"no run yet in experiment {options.experiment}")
    if gone:
        print(f"{workflows.GONE}: {workflows.EXPLAINED}")
    if unasked:
        print(unasked)
    if found and api.ui_hint:
        print(api.ui_hint)
    return 0


def _left_out() -> tuple[dict[str, list[str]], str]:
    """Return the id of each run that went without targets -> their names, as MLflow has it; and why it could not be asked."""
    if not variables.tracking_uri():
        return {}, ""
    try:
        return left_out_by_kfp_run(), ""
    except UserError as error:
        return {}, f"whether targets were left out is not known: {error}"


def table(api: Api, runs: list[Any], gone: set[str], without: Mapping[str, list[str]]) -> str:
    """Return the name, state, start, minutes and link of each run; ``gone`` are the ids of those whose workflow is not there,
    ``without`` the targets that a run left out."""
    rows = [["name", "state", "started", "minutes", "link"]]
    for run in runs:
        started = f"{run.created_at:%Y-%m-%d %H:%M}"
        lost = run.run_id in gone
        state = workflows.GONE if lost else run.state or "PENDING"
        if names := without.get(run.run_id):
            state += f" without {', '.join(names)}"
        rows.append([run.display_name, state, started, "-" if lost else _minutes(run), api.link(run.run_id)])
    return console.table(rows)


def _minutes(run: Any) -> str:
    """From its start to its end, or until now. For "not yet" the API says 1970."""
    ended = run.finished_at if run.finished_at and run.finished_at > run.created_at else None
    if run.state in kfp_nodes.FINAL and not ended:
        return "-"
    end = ended or datetime.datetime.now(datetime.UTC)
    return f"{max(0.0, (end - run.created_at).total_seconds()) / 60:.0f}"
