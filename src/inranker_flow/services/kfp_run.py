"""How a KFP run really went: KFP's word to its exit handler, and its tasks as KFP's REST API tells of them.

The word (`PipelineTaskFinalStatus`) is COMPLETE or FAILED; it is RUNNING where all came out of KFP's cache, which says
nothing. While the handler runs, the run itself is still RUNNING in the API, and the records of its tasks may stand still.
"""

from __future__ import annotations

import json
import logging
import re
import time
import urllib.error
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote

from inranker_flow.environment import variables
from inranker_flow.errors import UserError
from inranker_flow.services import kfp_nodes, web

log = logging.getLogger(__name__)

SUCCEEDED, FAILED, CANCELED, UNKNOWN = kfp_nodes.SUCCEEDED, kfp_nodes.FAILED, kfp_nodes.CANCELED, "UNKNOWN"
#: Where KFP's own client looks for the projected token of a pod.
TOKEN_PATH = "/var/run/secrets/kubeflow/pipelines/token"
#: The API's records follow the cluster by seconds: how often, and after how many seconds, to look again.
LOOKS, PAUSE = 5, 2.0


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
    """Return the outcome from KFP's words to the exit handler. Its local runner and its backends spell the states differently."""
    known = {"COMPLETE": SUCCEEDED, "SUCCESS": SUCCEEDED, "FAILURE": FAILED, "ERROR": FAILED, "CANCELLED": CANCELED}
    name = (state or "").upper()
    name = known.get(name, name)
    name = name if name in (SUCCEEDED, FAILED, CANCELED) else UNKNOWN
    return Outcome(name, (Failure("", " ".join(error.split())),) if error and name == FAILED else ())


def of_run(run_id: str, own_task: str) -> Outcome | None:
    """Return the outcome of run ``run_id`` but for ``own_task``, which is asking.

    None where ``KF_PIPELINES_ENDPOINT`` is not set, the API does not answer (a warning says why) or does not yet know.
    """
    if not variables.kfp_endpoint() or not run_id:
        return None
    for look in range(LOOKS):
        if look:
            time.sleep(PAUSE)
        try:
            outcome = judge(_read(run_id), own_task)
        except (OSError, ValueError, HTTPException, UserError) as error:
            log.warning("KF_PIPELINES_ENDPOINT: the tasks of the run cannot be read (%s)", web.reason(error))
            return None
        if outcome:
            return outcome
    return None


def page(run_id: str) -> str:
    """Return the run's page in KFP's UI, where a browser finds it: ``KF_PIPELINES_UI_ENDPOINT``, else the API's address, which
    often serves the UI too, but for a name that only pods know; "" where there is none."""
    base = variables.kfp_ui() or variables.kfp_endpoint()
    if not base or not run_id or (not variables.kfp_ui() and web.is_inside_cluster(base)):
        return ""
    return f"{base.rstrip('/')}/#/runs/details/{quote(run_id, safe='')}"


def description(run_id: str) -> str:
    """Return the description of the run ``run_id``; "" if it has none, or no API is known."""
    return _told(run_id, "description", "what the run was planned with")


def name(run_id: str) -> str:
    """Return the name of the run ``run_id`` in KFP's UI; "" if no API is known."""
    return _told(run_id, "display_name", "the run's name")


def _told(run_id: str, key: str, what: str) -> str:
    if not variables.kfp_endpoint() or not run_id:
        return ""
    try:
        run = _read(run_id)
    except (OSError, ValueError, HTTPException, UserError) as error:
        log.warning("KF_PIPELINES_ENDPOINT: %s cannot be read (%s)", what, web.reason(error))
        return ""
    return str(run.get(key) or "") if isinstance(run, dict) else ""


def user(run_id: str) -> str:
    """Return who submitted the run ``run_id``, as :func:`by` has written; else its service account; "" where no API tells."""
    if not variables.kfp_endpoint() or not run_id:
        return ""
    try:
        run = _read(run_id)
    except (OSError, ValueError, HTTPException, UserError):
        return ""  # the run has other troubles then, of which others tell
    found = re.match(r"submitted by ([^,]+)", str(run.get("description") or ""))
    return found[1] if found else str(run.get("service_account") or "")


def by(person: str, plan: str) -> str:
    """Return the description of a run that ``person`` submits, with its ``plan`` in a sentence ("" for none)."""
    return ", ".join(filter(None, (f"submitted by {person.replace(',', ' ')}", plan)))


def is_over(run_id: str) -> bool:
    """Return whether the run ``run_id`` has ended, or is not there any more. Raises :class:`UserError` where KFP's API
    (``KF_PIPELINES_ENDPOINT``) does not say.

    With a recurring run KFP deletes the workflows of its runs, and calls those RUNNING for ever.
    """
    try:
        run = _read(run_id)
        if run.get("state") not in kfp_nodes.FINAL and (owner := run.get("recurring_run_id")):
            return not _is_there(f"recurringruns/{quote(owner, safe='')}")
        return run.get("state") in kfp_nodes.FINAL
    except (OSError, ValueError, HTTPException, UserError) as error:
        if isinstance(error, urllib.error.HTTPError) and error.code == 404:
            return True
        raise UserError(
            f"KF_PIPELINES_ENDPOINT: the state of run {run_id} cannot be read ({web.reason(error)})",
            code="server-no-answer",
        ) from error


def judge(run: Mapping[str, Any], own_task: str) -> Outcome | None:
    """Return the outcome of a run as `GetRun` answers it, asked by ``own_task`` at the run's end; None where that is not said.

    A failure is one at once. That all went well is said only by a record that has no unfinished task and knows of
    ``own_task``: the records of a run with many tasks stand still from some moment on.
    """
    tasks = kfp_nodes.tasks_of(run)
    others = [task for task in tasks if task.name != own_task]
    failed = kfp_nodes.failures_of(others)
    if failed:
        named = {task.label: Failure(task.label, task.reason) for task in failed}
        return Outcome(FAILED, tuple(named.values()))
    if run.get("state") == FAILED:
        said = str((run.get("error") or {}).get("message") or "")
        return Outcome(FAILED, (Failure("", " ".join(said.split())),) if said else ())
    states = {task.state for task in others} | {run.get("state")}
    if states & {CANCELED, "CANCELING"}:
        return Outcome(CANCELED)
    if len(others) == len(tasks) or any(task.unfinished for task in kfp_nodes.written(others)):
        return None
    return Outcome(SUCCEEDED)


def _read(run_id: str) -> Any:
    """Return the answer of KFP's API for a run; raises what :func:`web.request` does, and ValueError where that is no JSON."""
    return json.loads(_asked(f"runs/{quote(run_id, safe='')}"))


def _is_there(path: str) -> bool:
    """Return whether KFP's API has something; also where it does not say."""
    try:
        _asked(path)
    except (OSError, HTTPException) as error:
        return not (isinstance(error, urllib.error.HTTPError) and error.code == 404)
    return True


def _asked(path: str) -> bytes:
    endpoint = variables.kfp_endpoint().rstrip("/")
    return web.request(f"{endpoint}/apis/v2beta1/{path}", token=_token())


def _token() -> str:
    """Return the pod's token for KFP's API, where one is mounted."""
    path = Path(variables.kfp_pod_token_file() or TOKEN_PATH)
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
