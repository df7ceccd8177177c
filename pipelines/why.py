"""`make why`: one sentence about a run, local or on a cluster: which task, what Kubernetes said, the last line of its log.

Pods and workflow are deleted an hour after the end; then the logs in S3 and the stage's run in MLflow are asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import kfp_server_api

from inranker_flow import error_codes
from inranker_flow.commands import folder
from inranker_flow.commands.command import Parser, listing
from inranker_flow.commands.why import explain as explain_local
from inranker_flow.commands.why import log_of
from inranker_flow.environment import variables
from inranker_flow.errors import UserError
from inranker_flow.services import kfp_nodes
from inranker_flow.services.kfp_nodes import Task
from inranker_flow.tracking.parents import parent_of_kfp
from inranker_flow.tracking.records import ends_of, left_out_of
from pipelines import kept_logs, kfp_api, workflows
from pipelines.cluster import Kubernetes, Pod, Unasked, most_telling
from pipelines.kfp_api import Api


@listing
def main(arguments: list[str] | None = None) -> int:
    """Explain a run; returns the exit status."""
    parser = Parser("inranker why")
    kfp_api.add_options(parser)
    parser.add_argument("--run", default="", help="id or name of the run (default: the newest)")
    parser.add_argument("--run-dir", default=str(folder.DEFAULT), help="of local runs")
    options = parser.parse_args(arguments)
    run_dir = folder.checked(options.run_dir)
    local = log_of(run_dir, options.run)
    if local and options.run:
        print(explain_local(run_dir, local))
        return 0
    try:
        api = Api(options.host, options.namespace)
        run = find(api, options.run, options.experiment)
    except UserError:
        # Nobody has asked for a cluster, and there is none: then it is the last local run.
        if not local or options.run or options.host or variables.kfp_endpoint():
            raise
        print(explain_local(run_dir, local))
        return 0
    print(explain(api, run))
    print(" ".join(filter(None, (api.link(run["run_id"]), api.ui_hint))))
    for name, address in _pages(run):
        print(f"{name}: {address}")
    return 0


def _pages(run: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the pages of KFP's plugins about a run: the run in MLflow."""
    for name, output in (run.get("plugins_output") or {}).items():
        for entry in (output.get("entries") or {}).values():
            if str(entry.get("value") or "").startswith(("http://", "https://")):
                yield name, str(entry["value"])


def find(api: Api, wanted: str, experiment: str) -> dict[str, Any]:
    """Return a run by its id or name, the newest of that name, or the newest of the experiment; as JSON data."""
    if re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", wanted):
        return plain(api.run(wanted))
    if wanted:
        found = api.runs_named(wanted)
    else:
        experiment_id = api.find_experiment(experiment)
        found = api.runs(experiment_id, most=1) if experiment_id else []
    if not found:
        what = f"RUN={wanted}: no such run" if wanted else f"EXPERIMENT={experiment}: no run yet"
        raise UserError(f"{what} in namespace {api.namespace}; make runs lists them", code="run-unknown")
    return plain(api.run(found[0].run_id))


def plain(run: Any) -> dict[str, Any]:
    """Return a run of the generated client as JSON data."""
    data: dict[str, Any] = kfp_server_api.ApiClient().sanitize_for_serialization(run)
    return data


def explain(api: Api, run: dict[str, Any]) -> str:
    """Return the sentence."""
    name, state = run["display_name"], run.get("state") or "PENDING"
    if state == "SUCCEEDED":
        return f"{name} SUCCEEDED: {_left_out(run) or 'every task ended well.'}"
    if workflows.is_gone(api, run):
        return f"{name} {workflows.GONE}: {workflows.EXPLAINED}."
    found = kfp_nodes.tasks_of(run)
    concerned = kfp_nodes.failures_of(found)
    if not concerned and state not in kfp_nodes.FINAL:
        concerned = [task for task in kfp_nodes.written(found) if task.unfinished]
    pod, said = _kubernetes(api, run, concerned)
    task, kept = ("", "") if pod and pod.started else _kept(api, run, concerned)
    where = _name(run, concerned, pod) or (f"task {task}" if task else "")
    return (
        ": ".join(filter(None, (f"{name} {state}", where, _kfp(run, concerned), "; ".join(filter(None, (said, kept))))))
        + "."
    )


def _left_out(run: dict[str, Any]) -> str:
    """Return the targets that a run went without, as MLflow has it; "" where there are none, or nobody to ask."""
    if not variables.tracking_uri():
        return ""
    try:
        found = left_out_of(parent_of_kfp(run["run_id"]))
    except UserError as error:
        return f"every task ended well. Was a target left out? MLflow could not be asked ({error})"
    told = "; ".join(f"{target}: {reason}" for target, reason in found.items())
    return f"without targets that were left out: {told}." if found else ""


def waiting(api: Api, run: dict[str, Any]) -> str:
    """Return the reason for which tasks of a run wait whose pods have not begun: the scheduler's, Kueue's or the registry's
    words."""
    unfinished = [task for task in kfp_nodes.written(kfp_nodes.tasks_of(run)) if task.unfinished]
    try:
        kubernetes = Kubernetes()
        pods = kubernetes.pods(api.pod_namespace, run["run_id"])
        waits = [pod for pod in pods if not pod.started and pod.rank < 9 and pod.phase == "Pending"]
        told = _pod(kubernetes, api.pod_namespace, pod) if (pod := most_telling(waits)) else ""
        told = told or ("" if pods else _workflow(kubernetes, api.pod_namespace, run, unfinished))
    except (UserError, Unasked):
        return ""
    return ": ".join(filter(None, (_name(run, unfinished, pod), told))) if told else ""


def _kubernetes(api: Api, run: dict[str, Any], concerned: list[Task]) -> tuple[Pod | None, str]:
    """Return the pod that explains most, and what is known about it; without one what Argo says of the workflow."""
    try:
        kubernetes = Kubernetes()
        namespace = api.pod_namespace
        pods = kubernetes.pods(namespace, run["run_id"])
        own = [pod for pod in pods if any(task.holds(pod.path) for task in concerned)]
        own = own or [pod for pod in pods if any(_named(pod, task) for task in concerned)]
        if pod := most_telling(own if concerned else pods):
            return pod, _pod(kubernetes, namespace, pod)
        told = _tried(lambda: _workflow(kubernetes, namespace, run, concerned), "its workflow")
        left = f"no pod of it is left in namespace {namespace}" if concerned or not pods else ""
        return None, told or left
    except (UserError, Unasked) as error:
        return None, f"Kubernetes could not be asked ({error})"


def _pod(kubernetes: Kubernetes, namespace: str, pod: Pod) -> str:
    """Return the words of Kubernetes, Kueue and its log about a pod."""
    parts = [f"pod {pod.name}: {pod.said}"]
    if not pod.started:
        parts.append(_tried(lambda: kubernetes.queue(namespace, pod.name), "its queue"))
    if pod.rank != 2:  # that `main` failed is no matter for Kubernetes: its log tells
        warning = _tried(lambda: kubernetes.warning(namespace, pod.name), "its events")
        known = warning.partition(": ")[2] or warning
        parts.append("" if known in pod.said else warning)
    if pod.started:
        parts.append(pod.message or _tried(lambda: _last_line(kubernetes, namespace, pod), "its log"))
    return "; ".join(filter(None, parts))


def _workflow(kubernetes: Kubernetes, namespace: str, run: dict[str, Any], concerned: list[Task]) -> str:
    """Return Argo's words about pods that it could not make, and about the workflow as a whole."""
    workflow = kubernetes.workflow(namespace, run["run_id"])
    if workflow is None:
        return ""
    told = [(path, text) for path, phase, text in workflow.nodes if text and phase in ("Error", "Failed", "Pending")]
    told = [each for each in told if not re.match(r"child '.*' (failed|errored)", each[1])]
    own = [text for path, text in told if any(task.holds(path) for task in concerned)]
    said = own or [text for _, text in told] or [workflow.message]
    event = kubernetes.warning(namespace, workflow.name)
    known = any(text and (text in event or event.partition(": ")[2] in text) for text in said)
    return "; ".join(filter(None, (f"Argo says of its node: {said[-1]}" if said[-1] else "", "" if known else event)))


def _kept(api: Api, run: dict[str, Any], concerned: list[Task]) -> tuple[str, str]:
    """Return the task and the line of the logs that outlive its pods, else what the stage wrote into its run in MLflow."""
    asked = []
    try:
        found = list(
            kept_logs.of_tasks(_root(api, run), api.pod_namespace, run["run_id"], kfp_nodes.workflow_of(run), concerned)
        )
        telling = [each for each in found if each[1].startswith("FAILED:")] or [
            each for each in found if concerned and each[1]
        ]
        if telling:
            return telling[-1][0], f"its log that is kept says {telling[-1][1]}"
    except UserError as error:
        asked.append(f"its log that is kept cannot be read ({error})")
    if variables.tracking_uri():
        try:
            ends = [each for each in ends_of(parent_of_kfp(run["run_id"])) if each.failed]
        except UserError as error:
            return "", "; ".join([*asked, f"MLflow could not be asked ({error})"])
        stages = {re.sub(r"-\d+$", "", task.name).replace("-", "_") for task in concerned}
        for end in ends:
            if not stages or end.stage in stages:
                told = error_codes.with_row(f"MLflow has: FAILED: {end.reason}", end.code)
                return f"{end.stage} {end.dataset}".strip(), "; ".join([*asked, told])
    return "", "; ".join(asked)


def _root(api: Api, run: dict[str, Any]) -> str:
    """Return the root of the run's artifacts: as it was started, by ``KF_PIPELINES_ROOT``, or as the namespace has it."""
    given = str((run.get("runtime_config") or {}).get("pipeline_root") or variables.kfp_root())
    if given:
        return given
    try:
        return Kubernetes().pipeline_root(api.pod_namespace)
    except (UserError, Unasked):
        return ""


def _last_line(kubernetes: Kubernetes, namespace: str, pod: Pod) -> str:
    line = kubernetes.last_line(namespace, pod)
    return f"last log line: {line}" if line else ""


def _tried(question: Any, what: str) -> str:
    """Return an answer, or why there is none: one forbidden question must not hide the others' answers."""
    try:
        return str(question())
    except Unasked as error:
        return f"{what} cannot be read ({error})"


def _named(pod: Pod, task: Task) -> bool:
    """Return whether a pod is of a task by the names in its path, or by its label."""
    steps = {re.sub(r"(-driver)?(\(\d+(:.*?)?\))*$", "", step) for step in pod.path.split(".")}
    return task.name in steps or (not pod.path and re.sub(r"-\d+$", "", task.name) == pod.stage.replace("_", "-"))


def _name(run: dict[str, Any], concerned: list[Task], pod: Pod | None) -> str:
    """Return the task to name: the pod's own among those concerned; a loop's round with the target that it was for."""
    own = [task for task in concerned if pod and task.holds(pod.path)]
    own = own or [task for task in concerned if pod and _named(pod, task)] or concerned
    if not own:
        return ""
    targets, number = _targets(run), own[0].round
    of = targets[int(number) - 1] if number.isdigit() and int(number) <= len(targets) else ""
    return f"task {own[0].label}" + (f" ({of})" if of else "")


def _targets(run: dict[str, Any]) -> list[str]:
    """Return the names of the targets that the run was started with: typed into the form, or in the profile's values."""
    asked = (run.get("runtime_config") or {}).get("parameters") or {}
    if asked.get("targets"):
        return [each.strip() for each in str(asked["targets"]).split(",")]
    return [str(each.get("name") or each.get("uri") or "") for each in (asked.get("values") or {}).get("targets") or []]


def _kfp(run: dict[str, Any], concerned: list[Task]) -> str:
    """Return KFP's own words if they say more than that something failed."""
    said = next((task.reason for task in concerned if task.reason), "")
    said = said or str((run.get("error") or {}).get("message") or "")
    return f"KFP says {' '.join(said.split())[:300]!r}" if said else ""
