"""`make submit`: start a run on a cluster, once.

    python -m pipelines.submit inranker --profile paper --namespace team-a

Whatever is wrong with the input is said before anything is created; what is there already is used.
"""

from __future__ import annotations

import sys

from inranker_flow.errors import UserError
from pipelines import kfp_api, tasks
from pipelines.command import Parser, Terminated, command
from pipelines.follow import follow
from pipelines.kfp_api import Api
from pipelines.options import add_options
from pipelines.release import Release, prepare, publish


@command
def main(arguments: list[str] | None = None) -> int:
    """Submit a pipeline; returns the exit status (with ``--wait`` the run's: 0 or 1)."""
    parser = Parser("make submit")
    add_options(parser)
    kfp_api.add_options(parser)
    parser.add_argument("--wait", action="store_true", help="follow the run, and end as it ends")
    parser.add_argument("--force", action="store_true", help="start it although the same run is still going")
    options = parser.parse_args(arguments)
    release = prepare(options)
    api = Api(options.host, options.namespace)
    run_id = submit(api, release, options.experiment, options.force)
    if not options.wait:
        return 0
    try:
        return follow(api, run_id)
    except (KeyboardInterrupt, Terminated) as error:
        raise type(error)(f"the run goes on: make why RUN={run_id}") from error


def submit(api: Api, release: Release, experiment: str, force: bool = False) -> str:
    """Start a run, or find the one that is still going; its id. Raises :class:`UserError`."""
    if not api.multi_user:
        print(f"note        this KFP is for one user: runs are in its own namespace, not in {api.namespace}")
    experiment_id = api.experiment(experiment)
    name = release.run_name
    live = [run for run in api.runs(experiment_id, name) if run.state not in tasks.FINAL]
    if live and not force:
        raise UserError(
            f"the same run is {live[0].state} already: {name}, {api.link(live[0].run_id)}; FORCE=1 starts it once more"
        )
    run = api.create_run(experiment_id, name, publish(api, release), release.arguments, release.planned)
    if release.planned:
        print(f"plan        {release.planned.removeprefix('planned ')} (make plan says how)")
    print(f"run         {name} ({run.run_id})\nexperiment  {experiment}, namespace {api.pod_namespace}")
    print(" ".join(filter(None, (api.link(run.run_id), api.ui_hint))))
    return str(run.run_id)


if __name__ == "__main__":
    sys.exit(main())
