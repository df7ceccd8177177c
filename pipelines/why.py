"""`make why`: one sentence about a run: which task, what Kubernetes said, the last line of its log."""

from __future__ import annotations

import re
import sys
from typing import Any

import kfp_server_api

from inranker_flow import run_state
from inranker_flow.errors import UserError
from pipelines import kfp_api, tasks
from pipelines.cluster import Kubernetes, Pod, Unasked, most_telling
from pipelines.command import Parser, command
from pipelines.kfp_api import Api


@command
def main(arguments: list[str] | None = None) -> int:
    """Explain a run; returns the exit status."""
    parser = Parser("make why")
    kfp_api.add_options(parser)
    parser.add_argument("--run", default="", help="id or name of the run (default: the newest)")
    options = parser.parse_args(arguments)
    api = Api(options.host, options.namespace)
    run = find(api, options.run, options.experiment)
    print(explain(api, run))
    print(" ".join(filter(None, (api.link(run["run_id"]), api.ui_hint))))
    return 0


def find(api: Api, wanted: str, experiment: str) -> dict[str, Any]:
    """A run by its id or name, the newest of that name, or the newest of the experiment; as JSON data."""
    if re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", wanted):
        return plain(api.run(wanted))
    if wanted:
        found = api.runs_named(wanted)
    else:
        experiment_id = api.find_experiment(experiment)
        found = api.runs(experiment_id, most=1) if experiment_id else []
    if not found:
        what = f"RUN={wanted}: no such run" if wanted else f"EXPERIMENT={experiment}: no run yet"
        raise UserError(f"{what} in namespace {api.namespace}; make runs lists them")
    return plain(api.run(found[0].run_id))


def plain(run: Any) -> dict[str, Any]:
    """A run of the generated client as JSON data."""
    data: dict[str, Any] = kfp_server_api.ApiClient().sanitize_for_serialization(run)
    return data


def explain(api: Api, run: dict[str, Any]) -> str:
    """The sentence."""
    name, state = run["display_name"], run.get("state") or "PENDING"
    if state == "SUCCEEDED":
        return f"{name} SUCCEEDED: every task ended well."
    found = tasks.of_run(run)
    concerned = [task for task in found if task.state == "FAILED"]
    if not concerned and state not in tasks.FINAL:
        concerned = [task for task in found if task.state not in tasks.FINAL]
    told = _kfp(run)
    try:
        pod, said = _kubernetes(api, run, concerned)
    except (UserError, Unasked) as error:
        pod, said = None, f"Kubernetes could not be asked ({error})"
    where = _name(concerned, pod)
    return ": ".join(filter(None, (f"{name} {state}", where, told, said))) + "."


def _kubernetes(api: Api, run: dict[str, Any], concerned: list[tasks.Task]) -> tuple[Pod | None, str]:
    """The pod that explains most, and what is known about it."""
    kubernetes = Kubernetes()
    namespace = api.pod_namespace
    pods = kubernetes.pods(namespace, run["run_id"])
    ids = {each for task in concerned for each in task.ids}
    own = [pod for pod in pods if {pod.name, pod.node_id} & ids] or [pod for pod in pods if _belongs(pod, concerned)]
    pod = most_telling(own or pods)
    if pod is None:
        return None, f"no pod of it is left in namespace {namespace}" if concerned else ""
    parts = [f"pod {pod.name}: {pod.said}"]
    if not pod.started:
        parts.append(_tried(lambda: kubernetes.queue(namespace, pod.name), "its queue"))
    if pod.rank != 2:  # that `main` failed is no matter for Kubernetes: its log tells
        warning = _tried(lambda: kubernetes.warning(namespace, pod.name), "its events")
        known = warning.partition(": ")[2] or warning
        parts.append("" if known in pod.said else warning)
    if pod.started:
        parts.append(_tried(lambda: _last_line(kubernetes, namespace, pod.name), "its log"))
    return pod, "; ".join(filter(None, parts))


def _last_line(kubernetes: Kubernetes, namespace: str, pod: str) -> str:
    line = kubernetes.last_line(namespace, pod)
    return f"last log line: {line}" if line else ""


def _tried(question: Any, what: str) -> str:
    """An answer, or why there is none: one forbidden question must not hide the others' answers."""
    try:
        return str(question())
    except Unasked as error:
        return f"{what} cannot be read ({error})"


def _belongs(pod: Pod, concerned: list[tasks.Task]) -> bool:
    """Whether a pod is of one of the tasks, by its label or its path in the workflow (``w.root.retrieve(0).executor``)."""
    steps = {re.sub(r"(-driver)?(\(\d+\))*$", "", step) for step in pod.path.split(".")}
    steps.add(pod.stage.replace("_", "-"))
    return any(task.name.partition(" #")[0] in steps for task in concerned)


def _name(concerned: list[tasks.Task], pod: Pod | None) -> str:
    """The task to name: the pod's own among those concerned."""
    own = [task for task in concerned if pod and {pod.name, pod.node_id} & task.ids]
    own = own or [task for task in concerned if pod and _belongs(pod, [task])] or concerned
    return f"task {own[0].name}" if own else ""


def _kfp(run: dict[str, Any]) -> str:
    """What KFP itself says, where it is more than that something failed."""
    outcome = run_state.judge(run, "notify")
    said = next((each.reason for each in outcome.failures if each.reason), "") if outcome else ""
    said = said or str((run.get("error") or {}).get("message") or "")
    return f"KFP says {' '.join(said.split())[:300]!r}" if said else ""


if __name__ == "__main__":
    sys.exit(main())
