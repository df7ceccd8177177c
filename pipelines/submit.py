"""`make submit`: start a run on a cluster, once.

    inranker submit inranker --profile paper --namespace team-a

Whatever is wrong with the input is said before anything is created; what is there already is used.
"""

from __future__ import annotations

import datetime
import itertools

from inranker_flow.commands.command import Parser, Terminated, command
from inranker_flow.commands.options import add_options
from inranker_flow.errors import UserError
from inranker_flow.model_registry import history
from inranker_flow.services import kfp_nodes, kfp_run
from pipelines import kfp_api, why, workflows
from pipelines.follow import follow
from pipelines.kfp_api import Api
from pipelines.release import Release, prepare, publish


@command
def main(arguments: list[str] | None = None) -> int:
    """Submit a pipeline; returns the exit status (with ``--wait`` the run's: 0 or 1)."""
    parser = Parser("inranker submit")
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
    if api.pod_namespace != api.namespace:
        print(f"note        this KFP is for one user: runs are in {api.pod_namespace}, not in {api.namespace}")
    experiment_id = api.experiment(experiment)
    alike = api.runs_like(experiment_id, release.run_name)
    same = [run for run in alike if run.state not in kfp_nodes.FINAL]
    live = [run for run in same if not workflows.is_gone(api, why.plain(run))]
    for run in same:
        if run not in live:
            print(f"note        {run.display_name} is {workflows.GONE}: {workflows.EXPLAINED}")
    if live and not force:
        raise UserError(
            f"the same run is {live[0].state} already: {live[0].display_name}, {api.link(live[0].run_id)}; FORCE=1 starts it "
            "once more",
            code="run-live",
        )
    name = _new_name(release.run_name, {run.display_name for run in alike})
    about = kfp_run.by(history.person(), release.planned)
    run = api.create_run(experiment_id, name, publish(api, release), release.arguments, about)
    if release.planned:
        print(f"plan        {release.planned.removeprefix('planned ')} (make plan says how)")
    print(f"run         {name} ({run.run_id})\nexperiment  {experiment}, namespace {api.pod_namespace}")
    print(" ".join(filter(None, (api.link(run.run_id), api.ui_hint))))
    return str(run.run_id)


def _new_name(beginning: str, taken: set[str]) -> str:
    """Return a name that no other run has: with the time, and a number for a second run in the same second."""
    name = f"{beginning}-{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S}"
    numbered = (f"{name}-{number}" for number in itertools.count(2))
    return name if name not in taken else next(each for each in numbered if each not in taken)
