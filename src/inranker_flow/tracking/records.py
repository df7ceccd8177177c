"""What was recorded of a pipeline run: its plan, its stages' numbers and ends, the targets that it went without, its page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inranker_flow import redaction
from inranker_flow.environment import variables
from inranker_flow.services import web
from inranker_flow.tracking import connection
from inranker_flow.tracking.mlflow_errors import explained, recording
from inranker_flow.tracking.parents import KFP_RUN, parent_here
from inranker_flow.tracking.values import hidden, metric_name, metrics

#: Tag of a stage's run, and ``inranker.ended.STAGE`` of the parent for a stage without a run: FINISHED, or FAILED or LEFT OUT
#: (its target) and why. A run's status is KFP's plugin's to set where that began it, and gives no reason.
ENDED = "inranker.ended"
#: Tag of a stage's run that failed: the code of its error (`error_codes.CODES`).
ERROR = "inranker.error"
LEFT_OUT_END = "LEFT OUT"
#: The pipeline that a schedule starts. Tags of its parent run: the model that it retrains, and the days until an alarm.
RETRAIN, RETRAINS, ALARM_DAYS = "retrain", "inranker.retrains", "inranker.alarm_days"
#: Tag of a parent run whose student was decided about: JSON of the targets that it was trained without -> why.
LEFT_OUT = "inranker.left_out"


def log_plan(run_id: str, plan: Mapping[str, Any], promised: Mapping[str, float]) -> None:
    """Keep a plan with the run that it was made for: plan.json, and a metric ``planned.NAME`` for each number."""
    mlflow_client = connection.client()
    with recording(run_id, "keep the plan"):
        mlflow_client.log_dict(run_id, hidden(dict(plan)), "plan.json")
        mlflow_client.log_batch(run_id, metrics=metrics({f"planned.{k}": v for k, v in promised.items()}))


def read_plan(run_id: str) -> dict[str, Any]:
    """Return the plan that :func:`log_plan` kept with a run; empty where there is none."""
    import tempfile

    mlflow_client = connection.client()
    with tempfile.TemporaryDirectory() as folder, explained(f"read the plan of run {run_id}"):
        if not any(name.startswith("planned.") for name in mlflow_client.get_run(run_id).data.metrics):
            return {}
        path = Path(mlflow_client.download_artifacts(run_id, "plan.json", folder))
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found


def stages_of(parent: str) -> list[tuple[str, str, dict[str, float]]]:
    """Return (stage, collection or "", its numbers) for every stage below the run ``parent`` that has ended well."""
    if not parent:
        return []
    mlflow_client = connection.client()
    children = f"tags.`mlflow.parentRunId` = '{parent}' and attributes.status = 'FINISHED'"
    with explained(f"read the stages of run {parent}"):
        found = mlflow_client.search_runs(
            [connection.experiment_id(mlflow_client)], filter_string=children, max_results=1000
        )
    told = [(run.data.tags, dict(run.data.metrics)) for run in found]
    return [(tags.get("inranker.stage", ""), tags.get("inranker.dataset", ""), numbers) for tags, numbers in told]


def run_that_wrote(output: str, content: str, first: bool = False) -> str:
    """Return the id of the last run (or the ``first``) that wrote an ``output`` of this ``content`` (`Manifest.content`); ""
    where none is left."""
    mlflow_client = connection.client()
    tag = metric_name(f"digest.{output}")
    with explained(f"look for the run that wrote a {output}"):
        found = mlflow_client.search_runs(
            [connection.experiment_id(mlflow_client)],
            f"tags.`{tag}` = '{content}'",
            max_results=1,
            order_by=[f"attributes.start_time {'ASC' if first else 'DESC'}"],
        )
    return str(found[0].info.run_id) if found else ""


@dataclass(frozen=True)
class End:
    """The last end of a stage of a pipeline run; ``dataset`` may be "". ``left_out``: it ended well, without its target;
    ``code``: of the error of one that failed (`error_codes.CODES`)."""

    stage: str
    dataset: str
    failed: bool
    reason: str
    left_out: bool = False
    code: str = ""


def ends_of(parent: str) -> list[End]:
    """Return the ends of the stages below the run ``parent``: each collection's last attempt that has ended."""
    if not parent:
        return []
    mlflow_client = connection.client()
    with explained(f"read the stages of run {parent}"):
        own = mlflow_client.get_run(parent)
        found = mlflow_client.search_runs(
            [own.info.experiment_id],
            filter_string=f"tags.`mlflow.parentRunId` = '{parent}'",
            order_by=["attributes.start_time ASC"],
            max_results=1000,
        )
    said = {
        (key.removeprefix(f"{ENDED}."), ""): text for key, text in own.data.tags.items() if key.startswith(f"{ENDED}.")
    }
    codes = {
        (key.removeprefix(f"{ERROR}."), ""): code for key, code in own.data.tags.items() if key.startswith(f"{ERROR}.")
    }
    for run in found:
        tags = run.data.tags
        key = tags.get("inranker.stage", ""), tags.get("inranker.dataset", "")
        said[key], codes[key] = tags.get(ENDED, ""), tags.get(ERROR, "")
    parted = {key: text.partition(": ") for key, text in said.items() if text and key[0]}
    return [
        End(*key, word == "FAILED", reason, word == LEFT_OUT_END, codes.get(key, ""))
        for key, (word, _, reason) in parted.items()
    ]


def note_left_out(parent: str, targets: Mapping[str, str]) -> None:
    """Tag the run ``parent`` with the ``targets`` (name -> why) that its student was trained without."""
    if parent and targets:
        room = 3000 // len(targets)  # MLflow takes 5,000 characters
        data = {name: redaction.line(why, room) for name, why in targets.items()}
        with recording(parent, "keep the targets that were left out"):
            connection.client().set_tag(parent, LEFT_OUT, json.dumps(data, ensure_ascii=False))


def left_out_of(parent: str) -> dict[str, str]:
    """Return targets of the run ``parent`` that were left out, and why: as its stages said, else as `promote` kept it."""
    if not parent:
        return {}
    found = {each.dataset: each.reason for each in ends_of(parent) if each.left_out}
    with explained(f"read run {parent}"):
        return found or _left_out_tag(connection.client().get_run(parent))


def left_out_by_kfp_run() -> dict[str, list[str]]:
    """Return the id of each KFP run of the experiment that went without targets -> their names."""
    mlflow_client = connection.client()
    with explained("look for runs without some of their targets"):
        runs = mlflow_client.search_runs(
            [connection.experiment_id(mlflow_client)], filter_string=f"tags.`{LEFT_OUT}` LIKE '{{%'", max_results=1000
        )
    return {run.data.tags[KFP_RUN]: list(_left_out_tag(run)) for run in runs if KFP_RUN in run.data.tags}


def _left_out_tag(run: Any) -> dict[str, str]:
    return dict(json.loads(run.data.tags.get(LEFT_OUT) or "{}"))


def note_end(stage: str, failure: str = "", code: str = "") -> None:
    """Tag the parent run with the end of a stage that has no run of its own; ``failure`` says why it failed."""
    parent = parent_here()
    if parent:
        with recording(parent, f"keep the end of {stage}"):
            text = f"FAILED: {redaction.line(failure, 1000)}" if failure else "FINISHED"
            connection.client().set_tag(parent, f"{ENDED}.{stage}", text)
            if code:
                connection.client().set_tag(parent, f"{ERROR}.{stage}", code)


def note_retrain(parent: str, model: str, alarm_days: int) -> None:
    """Tag the run ``parent`` as one of `retrain`, for those that look for the last (:func:`last_end`) and for `notify`."""
    if parent:
        with recording(parent, "keep what it retrains"):
            for key, value in ((RETRAINS, model), (ALARM_DAYS, str(alarm_days))):
                connection.client().set_tag(parent, key, value)


def retrained_by(parent: str) -> tuple[str, int]:
    """Return the model that the run ``parent`` retrains, and the days until an alarm; "" for a run of another pipeline."""
    if not parent:
        return "", 0
    with explained(f"read run {parent}"):
        tags = connection.client().get_run(parent).data.tags
    return tags.get(RETRAINS, ""), int(tags.get(ALARM_DAYS, 0))


def last_end() -> float:
    """Return when the last run of `retrain` ended well, in seconds of the epoch; 0 where none did."""
    mlflow_client = connection.client()
    with explained(f"look for runs of {RETRAIN}"):
        found = mlflow_client.search_runs(
            [connection.experiment_id(mlflow_client)],
            f"tags.`{RETRAINS}` LIKE '%' and attributes.status = 'FINISHED'",
            max_results=1,
            order_by=["attributes.end_time DESC"],
        )
    return float(found[0].info.end_time) / 1000 if found else 0.0


def ui() -> str:
    """Return where a browser finds MLflow's UI; "" where none does (a database, a service's name) or nothing may show it."""
    uri = variables.tracking_uri().rstrip("/")
    if not uri.startswith("http") or web.is_inside_cluster(uri) or redaction.credentials_in(uri):
        return ""
    return uri


def run_page(run_id: str) -> str:
    """Return the page of a run in MLflow's UI; "" where there is none."""
    base = ui()
    if not run_id or not base:
        return ""
    mlflow_client = connection.client()
    with explained(f"read run {run_id}"):
        experiment = mlflow_client.get_run(run_id).info.experiment_id
    # Without the last word MLflow's UI shows what it has of prompts and traces.
    return f"{base}/#/experiments/{experiment}/runs/{run_id}?workflowType=machine_learning"
