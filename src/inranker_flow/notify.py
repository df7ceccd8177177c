"""The stage `notify`, the exit handler: say how the run ended, to a webhook if there is one, and close its MLflow run."""

from __future__ import annotations

import logging
import os
import time
import urllib.error
from dataclasses import dataclass
from html import escape
from http.client import HTTPException
from urllib.parse import quote

from inranker_flow import redaction, run_state, tracking, web
from inranker_flow.errors import UserError
from inranker_flow.run_state import Outcome

log = logging.getLogger(__name__)

#: Seconds before the second and the third attempt at the webhook.
PAUSES = (1.0, 3.0)
#: State of a run in MLflow; of one whose end nobody knows it must not be said that it went well.
_MLFLOW_STATES = {run_state.SUCCEEDED: "FINISHED", run_state.CANCELED: "KILLED"}


@dataclass(frozen=True)
class NotifyStats:
    """``succeeded`` is 1 or 0; ``state`` is SUCCEEDED, FAILED, CANCELED or UNKNOWN."""

    succeeded: int
    state: str


def notify(state: str | None, error: str | None, run_id: str, run_name: str) -> NotifyStats:
    """Tell how the run ended. What cannot be told is a warning in the log: it never makes the run red.

    ``state`` and ``error`` are KFP's final status of the tasks. KFP's API is asked where ``KF_PIPELINES_ENDPOINT`` names
    it; a failure that either of them reports is believed, because a false green is the worse error. The message goes
    to ``INRANKER_WEBHOOK_URL`` (Slack's format) where that is set.
    """
    outcome = run_state.of_status(state, error)
    told = run_state.of_run(run_id, own_task="notify")
    if told and (told.state != run_state.SUCCEEDED or outcome.state != run_state.FAILED):
        outcome = told
    compared = _compared(run_id) if told else []
    lines = [_verdict(outcome, run_name), *compared, *_link(run_id)]
    for line in lines[: 1 + len(compared)]:
        log.info("%s", line)
    _close_mlflow_run(outcome, run_name)
    _post("\n".join(lines))
    return NotifyStats(int(outcome.state == run_state.SUCCEEDED), outcome.state)


def _verdict(outcome: Outcome, run_name: str) -> str:
    """``FAILED NAME: TASK: REASON`` in one line."""
    told = [": ".join(filter(None, (each.task, each.reason))) or "see its log" for each in outcome.failures]
    return ": ".join([f"{outcome.state} {run_name}", *(["; ".join(told)] if told else [])])


def _compared(run_id: str) -> list[str]:
    """What was planned when the run was submitted, and what its stages did, as far as MLflow has it."""
    kfp_run_id = tracking.own_parent()
    if not kfp_run_id or not tracking.configured_uri():
        return []
    said = run_state.description(run_id)
    if not said:
        return []  # without the imports that the rest needs
    from inranker_flow import planning
    from inranker_flow.planning import reality

    if not planning.read_sentence(said):
        return []
    try:
        did = reality.done(tracking.stages_of(tracking.parent_of_kfp(kfp_run_id)))
    except Exception as error:  # as below
        log.warning("what was planned is not compared: %s", redaction.line(error))
        return []
    return [said, f"computed in this run: {planning.sentence(did)}"]


def _link(run_id: str) -> list[str]:
    """The run's page: the UI's address where it is known, else the API's, which often serves the UI too."""
    base = os.environ.get("KF_PIPELINES_UI_ENDPOINT") or os.environ.get("KF_PIPELINES_ENDPOINT") or ""
    return [f"{base.rstrip('/')}/#/runs/details/{quote(run_id, safe='')}"] if base and run_id else []


def _close_mlflow_run(outcome: Outcome, run_name: str) -> None:
    kfp_run_id = tracking.own_parent()
    if not kfp_run_id or not tracking.configured_uri():
        return
    try:
        tracking.close_parent(kfp_run_id, _MLFLOW_STATES.get(outcome.state, "FAILED"), run_name)
    except Exception as error:  # MLflow's errors have no common base, and none of them may make the run red
        log.warning("the run in MLflow stays open: %s", redaction.line(error))


def _post(text: str) -> None:
    """Send ``text`` to the webhook; its address is a secret and is in no message."""
    url = os.environ.get("INRANKER_WEBHOOK_URL", "").strip()
    if not url:
        return
    # Slack reads &, < and > as markup.
    message = {"text": escape(redaction.redact(text), quote=False)}
    for pause in (*PAUSES, None):
        try:
            web.request(url, method="POST", data=message)
            log.info("told the webhook")
            return
        except (OSError, HTTPException, ValueError, UserError) as error:
            final = isinstance(error, urllib.error.HTTPError) and error.code < 500 and error.code != 429
            if pause is None or final or not isinstance(error, OSError):
                log.warning("INRANKER_WEBHOOK_URL: the message was not delivered: %s", web.reason(error))
                return
        time.sleep(pause)
