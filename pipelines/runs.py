"""`make runs`: the newest runs of an experiment as a table."""

from __future__ import annotations

import datetime
import sys
from typing import Any

from pipelines import console, kfp_api, tasks
from pipelines.command import Parser, command
from pipelines.kfp_api import Api

#: Rows at most.
MOST = 20


@command
def main(arguments: list[str] | None = None) -> int:
    """List runs; returns the exit status."""
    parser = Parser("make runs")
    kfp_api.add_options(parser)
    options = parser.parse_args(arguments)
    api = Api(options.host, options.namespace)
    experiment_id = api.find_experiment(options.experiment)
    found = api.runs(experiment_id, most=MOST) if experiment_id else []
    print(table(api, found) if found else f"no run yet in experiment {options.experiment}")
    if found and api.ui_hint:
        print(api.ui_hint)
    return 0


def table(api: Api, runs: list[Any]) -> str:
    """Name, state, start, minutes and link of each run."""
    rows = [["name", "state", "started", "minutes", "link"]]
    for run in runs:
        started = f"{run.created_at:%Y-%m-%d %H:%M}"
        rows.append([run.display_name, run.state or "PENDING", started, _minutes(run), api.link(run.run_id)])
    return console.table(rows)


def _minutes(run: Any) -> str:
    """From its start to its end, or until now. For "not yet" the API says 1970."""
    ended = run.finished_at if run.finished_at and run.finished_at > run.created_at else None
    if run.state in tasks.FINAL and not ended:
        return "-"
    end = ended or datetime.datetime.now(datetime.UTC)
    return f"{max(0.0, (end - run.created_at).total_seconds()) / 60:.0f}"


if __name__ == "__main__":
    sys.exit(main())
