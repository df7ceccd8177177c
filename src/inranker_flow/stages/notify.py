"""The stage `notify`, the exit handler: say how the run ended, to a webhook if there is one, and close its MLflow run."""

from __future__ import annotations

import logging
import re
import time
import urllib.error
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from http.client import HTTPException
from typing import Any

from inranker_flow import error_codes, redaction
from inranker_flow.environment import variables
from inranker_flow.errors import UserError
from inranker_flow.model_registry import age
from inranker_flow.planning import reality
from inranker_flow.planning.plans import read_sentence, sentence_of
from inranker_flow.progress import duration
from inranker_flow.services import kfp_run, web
from inranker_flow.services.kfp_run import Failure, Outcome
from inranker_flow.tracking import outcomes
from inranker_flow.tracking.parents import close_parent, own_parent, parent_here
from inranker_flow.tracking.records import ends_of, left_out_of, read_plan, retrained_by, run_page, stages_of

log = logging.getLogger(__name__)

#: Seconds before the second and the third attempt at the webhook.
PAUSES = (1.0, 3.0)
#: The stages after which nothing follows; `discover` writes that it has ended only where there is nothing to do.
_LAST = frozenset({"promote", "discover"})
#: How the line of what was decided begins.
VERDICTS = ("PROMOTE ", "HOLD ", "REJECT ")
#: The address of a hook of Slack's, which reads blocks; and the characters of one.
_SLACK, _BLOCK = re.compile(r"/services/T\w+/B\w+/\w+$"), 2900
#: State of a run in MLflow; of one whose end nobody knows it must not be said that it went well.
_MLFLOW_STATES = {kfp_run.SUCCEEDED: "FINISHED", kfp_run.CANCELED: "KILLED"}


@dataclass(frozen=True)
class NotifyStats:
    """``succeeded`` is 1 or 0; ``state`` is SUCCEEDED, FAILED, CANCELED or UNKNOWN."""

    succeeded: int
    state: str


def notify(state: str | None, error: str | None, run_id: str, run_name: str) -> NotifyStats:
    """Tell how the run ended. What cannot be told is a warning in the log: it never makes the run red.

    ``state`` and ``error`` are KFP's final status of the tasks. KFP's API is asked where ``KF_PIPELINES_ENDPOINT`` names
    it, and MLflow for what the run's own stages wrote; a failure that any of them reports is believed, because a false
    green is the worse error. The message goes to ``INRANKER_WEBHOOK_URL`` where that is set; its first word is the verdict,
    or how the run ended.
    """
    parent, wrote = _mlflow()
    outcome = _judged(kfp_run.of_status(state, error), kfp_run.of_run(run_id, own_task="notify"), wrote)
    first = (_decided(parent) if outcome.state == kfp_run.SUCCEEDED else "") or _verdict(outcome, run_name)
    told = [first, *_age(parent), *_left_out(parent), *_compared(run_id, parent)]
    page = _mlflow_page(parent)
    report = page.replace("?", "/artifacts/report.html?") if page and first.startswith(VERDICTS) else ""
    pages = {"Report": report, "KFP": kfp_run.page(run_id), "MLflow": page}
    for line in told:
        log.info("%s", line)
    if parent and own_parent():
        _close_mlflow_run(outcome, run_name)
    _post(told, {name: address for name, address in pages.items() if address})
    return NotifyStats(int(outcome.state == kfp_run.SUCCEEDED), outcome.state)


def _judged(told: Outcome, seen: Outcome | None, wrote: Outcome | None) -> Outcome:
    """Return the outcome by what KFP ``told``, what was ``seen`` of the tasks in its API, and what the stages ``wrote``.

    Whoever reports a failure is believed; then whoever knows that all went well.
    """
    for state, witnesses in (
        (kfp_run.FAILED, (seen, wrote)),
        (kfp_run.CANCELED, (seen, told)),
        (kfp_run.FAILED, (told,)),
        (kfp_run.SUCCEEDED, (told, seen, wrote)),
    ):
        for each in witnesses:
            if each and each.state == state:
                return _reasoned(each, wrote)
    return told


def _reasoned(outcome: Outcome, wrote: Outcome | None) -> Outcome:
    """Return the outcome with the stages' own reasons where KFP gives none."""
    own = {each.task.partition(" ")[0]: each.reason for each in wrote.failures} if wrote else {}
    stages = [re.sub(r"(-\d+)?( #.*)?$", "", each.task).replace("-", "_") for each in outcome.failures]
    return Outcome(
        outcome.state,
        tuple(
            Failure(each.task, each.reason or own.get(stage, ""))
            for each, stage in zip(outcome.failures, stages, strict=True)
        ),
    )


def _mlflow() -> tuple[str, Outcome | None]:
    """Return the id of the run's parent in MLflow, and what the stages wrote there; nothing where it cannot be asked."""
    try:
        parent = parent_here() or (variables.parent_run() if variables.webhook() else "")
        ends = ends_of(parent)
    except Exception as error:  # MLflow's errors have no common base, and none of them may make the run red
        log.warning("the run in MLflow stays open: %s", redaction.line(error))
        return "", None
    failures = tuple(
        Failure(f"{each.stage} {each.dataset}".strip(), error_codes.with_row(each.reason, each.code))
        for each in ends
        if each.failed
    )
    if failures:
        return parent, Outcome(kfp_run.FAILED, failures)
    ended = {each.stage for each in ends}
    return parent, Outcome(kfp_run.SUCCEEDED) if ended & _LAST else None


def _mlflow_page(parent: str) -> str:
    try:
        return run_page(parent)
    except Exception as error:  # as below
        log.warning("no link to the run in MLflow: %s", redaction.line(error))
        return ""


def _verdict(outcome: Outcome, run_name: str) -> str:
    """Return ``FAILED NAME: TASK: REASON (ROW)`` in one line, with the row of the runbook."""
    told = [_with_row(": ".join(filter(None, (each.task, each.reason))) or "see its log") for each in outcome.failures]
    return ": ".join([f"{outcome.state} {run_name}", *(["; ".join(told)] if told else [])])


def _with_row(line: str) -> str:
    """Return a line about a failed task with its row: where no stage of ours gave one, what Kubernetes says decides."""
    if "docs/runbook.md#" in line:
        return line
    killed = re.search(r"OOMKilled|exit (code|status) 137", line)
    return f"{line} (docs/runbook.md#{'oom' if killed else 'on-a-cluster'})"


def _decided(parent: str) -> str:
    """Return what was decided in a line, with the time that the run took and what it reused; "" where MLflow has none."""
    if not parent:
        return ""
    try:
        line, seconds = outcomes.said(parent)
        return f"{line}; {duration(seconds)}{_reused(parent)}" if line else ""
    except Exception as error:  # as below
        log.warning("the verdict cannot be told: %s", redaction.line(error))
        return ""


def _reused(parent: str) -> str:
    """Return the device time that was found done, where the plan knows how much it would have been."""
    plan = read_plan(parent)
    rows = reality.compare(plan, stages_of(parent)) if plan else []
    for row in rows:
        if (row.stage, row.quantity) == ("total", "hours") and row.planned and row.reused:
            return f", {duration(3600 * row.planned * row.reused)} of {plan.get('device') or 'the device'} reused"
    return ""


def _age(parent: str) -> list[str]:
    """Return a line about the champion's age and the last good end, in a run of `retrain`."""
    try:
        model, alarm_days = retrained_by(parent)
        return [age.line(model, alarm_days)] if model else []
    except Exception as error:  # as below
        log.warning("the age of the champion cannot be told: %s", redaction.line(error))
        return []


def _left_out(parent: str) -> list[str]:
    """Return one line for each target that the run went without, as far as MLflow has it."""
    try:
        return [f"LEFT OUT: target {name}: {reason}" for name, reason in left_out_of(parent).items()]
    except Exception as error:  # as below
        log.warning("the targets that were left out cannot be told: %s", redaction.line(error))
        return []


def _compared(run_id: str, parent: str) -> list[str]:
    """Return the plan of the run beside the amounts that its stages computed, as far as MLflow has them."""
    if not parent:
        return []
    said = kfp_run.description(run_id)
    if not said:
        return []  # without the imports that the rest needs

    if not read_sentence(said):
        return []
    try:
        did = reality.done(stages_of(parent))
    except Exception as error:  # as below
        log.warning("what was planned is not compared: %s", redaction.line(error))
        return []
    return [said, f"computed in this run: {sentence_of(did)}"]


def _close_mlflow_run(outcome: Outcome, run_name: str) -> None:
    try:
        close_parent(own_parent(), _MLFLOW_STATES.get(outcome.state, "FAILED"), run_name)
    except Exception as error:  # as above
        log.warning("the run in MLflow stays open: %s", redaction.line(error))


def _message(lines: list[str], pages: Mapping[str, str], slack: bool) -> dict[str, Any]:
    """Return what is sent: the text, and for Slack blocks with its first word in bold and the pages as links."""
    # Slack reads &, < and > as markup.
    first, *others = (escape(redaction.redact(line), quote=False) for line in lines)
    addresses = {name: escape(redaction.redact(address), quote=False) for name, address in pages.items()}
    message: dict[str, Any] = {"text": "\n".join([first, *others, *addresses.values()])}
    if slack:
        word, _, rest = first.partition(" ")
        texts = [f"*{word}* {rest}", *(["\n".join(others)] if others else [])]
        blocks: list[dict[str, Any]] = [
            {"type": "section", "text": {"type": "mrkdwn", "text": text[:_BLOCK]}} for text in texts
        ]
        links = " · ".join(f"<{address}|{name}>" for name, address in addresses.items())
        if links:
            blocks.append({"type": "context", "elements": [{"type": "mrkdwn", "text": links}]})
        message["blocks"] = blocks
    return message


def _post(lines: list[str], pages: Mapping[str, str]) -> None:
    """Send the message to the webhook; its address is a secret and is in no message."""
    url = variables.webhook()
    if not url:
        return
    message = _message(lines, pages, bool(_SLACK.search(url)))
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
