"""How a KFP run really went: judged by its tasks, as KFP's REST API tells them.

What KFP hands to an exit handler (`PipelineTaskFinalStatus`) has been wrong on some versions, and while the handler runs
the run itself is still RUNNING.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
import urllib.error
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote

from inranker_flow import web
from inranker_flow.errors import UserError

log = logging.getLogger(__name__)

SUCCEEDED, FAILED, CANCELED, UNKNOWN = "SUCCEEDED", "FAILED", "CANCELED", "UNKNOWN"
#: Where KFP's own client looks for the projected token of a pod.
TOKEN_PATH = "/var/run/secrets/kubeflow/pipelines/token"
#: The API's records follow the cluster by seconds: how often, and after how many seconds, to look again.
LOOKS, PAUSE = 5, 2.0

#: Nodes that KFP adds to a run around the tasks that its author wrote.
SCAFFOLD = r"root|executor|exit-handler-\d+|for-loop-\d+|condition(-branches)?-\d+|iteration\b.*|.*-iterator"


@dataclass(frozen=True)
class Failure:
    """A task that failed; ``reason`` is what KFP knows, perhaps nothing."""

    task: str
    reason: str


@dataclass(frozen=True)
class Outcome:
    """``state``: SUCCEEDED, FAILED, CANCELED or UNKNOWN."""

    state: str
    failures: tuple[Failure, ...] = ()


def of_status(state: str | None, error: str | None) -> Outcome:
    """What KFP told the exit handler; its local runner and its backends spell the states differently."""
    known = {"SUCCESS": SUCCEEDED, "FAILURE": FAILED, "ERROR": FAILED, "CANCELLED": CANCELED}
    name = (state or "").upper()
    name = known.get(name, name)
    name = name if name in (SUCCEEDED, FAILED, CANCELED) else UNKNOWN
    return Outcome(name, (Failure("", " ".join(error.split())),) if error and name == FAILED else ())


def of_run(run_id: str, own_task: str) -> Outcome | None:
    """The outcome of run ``run_id`` but for ``own_task``, which is asking.

    None where ``KF_PIPELINES_ENDPOINT`` is not set, the API does not answer (a warning says why) or does not yet know.
    """
    if not os.environ.get("KF_PIPELINES_ENDPOINT") or not run_id:
        return None
    for look in range(LOOKS):
        if look:
            time.sleep(PAUSE)
        try:
            outcome = judge(_read(run_id), own_task)
        except (OSError, ValueError, HTTPException, UserError) as error:
            log.warning("KF_PIPELINES_ENDPOINT: the run cannot be read (%s); its state is taken from KFP's status",
                        web.reason(error))  # fmt: skip
            return None
        if outcome:
            return outcome
    return None


def description(run_id: str) -> str:
    """What was written beside the run ``run_id`` when it was submitted; "" where there is nothing, or nobody to ask."""
    if not os.environ.get("KF_PIPELINES_ENDPOINT") or not run_id:
        return ""
    try:
        run = _read(run_id)
    except (OSError, ValueError, HTTPException, UserError) as error:
        log.warning("KF_PIPELINES_ENDPOINT: what the run was planned with cannot be read (%s)", web.reason(error))
        return ""
    return str(run.get("description") or "") if isinstance(run, dict) else ""


def is_over(run_id: str) -> bool:
    """Whether the run ``run_id`` has ended, or is not there any more. Raises :class:`UserError` where KFP's API
    (``KF_PIPELINES_ENDPOINT``) does not say."""
    try:
        state = _read(run_id).get("state")
    except (OSError, ValueError, HTTPException, UserError) as error:
        if isinstance(error, urllib.error.HTTPError) and error.code == 404:
            return True
        raise UserError(
            f"KF_PIPELINES_ENDPOINT: the state of run {run_id} cannot be read ({web.reason(error)})"
        ) from error
    return state in (SUCCEEDED, FAILED, CANCELED, "SKIPPED")


def judge(run: Mapping[str, Any], own_task: str) -> Outcome | None:
    """The outcome of a run as `GetRun` answers it; None while another task than ``own_task`` is unfinished."""
    tasks = [task for task in (run.get("run_details") or {}).get("task_details") or [] if _name(task) != own_task]
    written = [task for task in tasks if not re.fullmatch(SCAFFOLD, _name(task))]
    names = {task.get("display_name") for task in written}
    # An attempt (`evaluate(0)`) is its task's business: that one failed only if the last attempt did.
    written = [task for task in written if not (_attempt(task) and _name(task) in names)]
    if not tasks or any(task.get("state") in ("RUNNING", "PENDING") for task in written):
        return None
    failed = [task for task in written if task.get("state") == FAILED]
    # A graph with a name of its own (a loop, the handler's) failed of what is in it.
    failed = [task for task in failed if not any(other in failed for other in _below(task, tasks))]
    failures = tuple({_name(task): Failure(_name(task), _reason(task, tasks)) for task in failed}.values())
    if failures:
        return Outcome(FAILED, failures)
    states = {task.get("state") for task in written} | {run.get("state")}
    return Outcome(CANCELED if states & {"CANCELED", "CANCELING"} else SUCCEEDED)


def _read(run_id: str) -> Any:
    """What KFP's API answers for a run; raises what :func:`web.request` does, and ValueError where that is no JSON."""
    endpoint = os.environ.get("KF_PIPELINES_ENDPOINT", "").rstrip("/")
    return json.loads(web.request(f"{endpoint}/apis/v2beta1/runs/{quote(run_id, safe='')}", token=_token()))


def _name(task: Mapping[str, Any]) -> str:
    return re.sub(r"(-driver)?(\(\d+\))?$", "", task.get("display_name") or "")


def _attempt(task: Mapping[str, Any]) -> bool:
    return bool(re.search(r"\(\d+\)$", task.get("display_name") or ""))


def _reason(task: Mapping[str, Any], tasks: list[Mapping[str, Any]]) -> str:
    """The first error text of a task, or of what failed below it."""
    family = [task, *(each for each in _below(task, tasks) if each.get("state") == FAILED)]
    messages = ((each.get("error") or {}).get("message") or "" for each in family)
    return next((" ".join(message.split()) for message in messages if message), "")


def _below(task: Mapping[str, Any], tasks: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The tasks under ``task``, nearest first; backends name them by their parent, or as children by task or pod."""
    found: list[Mapping[str, Any]] = []
    waiting = [task]
    while waiting:
        parent = waiting.pop(0)
        listed = {each.get(key) for each in parent.get("child_tasks") or [] for key in ("task_id", "pod_name")}
        listed -= {None, ""}
        for other in tasks:
            child = listed & {other.get("task_id"), other.get("pod_name")}
            if (child or other.get("parent_task_id") == parent.get("task_id")) and other not in [task, *found]:
                found.append(other)
                waiting.append(other)
    return found


def _token() -> str:
    """The pod's token for KFP's API, where one is mounted."""
    path = Path(os.environ.get("KF_PIPELINES_SA_TOKEN_PATH") or TOKEN_PATH)
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
