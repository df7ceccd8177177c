"""The parent run of a KFP run: opened by `preflight`, found by its tag, closed by `notify`."""

from __future__ import annotations

from typing import Any

from inranker_flow import redaction
from inranker_flow.environment import variables
from inranker_flow.services import kfp_run
from inranker_flow.tracking import connection
from inranker_flow.tracking.mlflow_errors import explained, recording

#: Tag of a parent run: the KFP run that it stands for.
KFP_RUN = "inranker.kfp_run_id"


def code_tags(source: str) -> dict[str, str]:
    """Return the tags that say what code a run is of, the first by the names of MLflow's own columns."""
    commit = variables.git_revision().removesuffix("-dirty")
    told = {
        "mlflow.source.name": source,
        "mlflow.source.type": "JOB",
        "mlflow.source.git.commit": commit,
        "inranker.code": variables.code_version(),
    }
    return {name: value for name, value in told.items() if value}


def parent_here() -> str:
    """Return the id of the run that stands for this pod's KFP run, ours or the one of KFP's plugin; "" where there is none."""
    injected, own = variables.injected_run(), own_parent()
    if not variables.tracking_uri() or not (injected or own):
        return ""
    return parent_of(injected) if injected else parent_of_kfp(own)


def parent_of(run_id: str) -> str:
    """Return the id of the run that the run ``run_id`` is a stage of, or ""."""
    mlflow_client = connection.client()
    with explained(f"read run {run_id}"):
        return str(mlflow_client.get_run(run_id).data.tags.get("mlflow.parentRunId", ""))


def parent_of_kfp(kfp_run_id: str) -> str:
    """Return the id of the parent run that `preflight` opened for a KFP run, or ""."""
    return parent_by_tag(connection.client(), kfp_run_id)


def own_parent() -> str:
    """Return the id of the KFP run whose parent run in MLflow is ours to keep, or "": KFP's plugin and `make run` bring
    theirs."""
    if variables.injected_run() or variables.parent_run():
        return ""
    return variables.kfp_run()


def open_parent(kfp_run_id: str, name: str) -> str:
    """Return the id of the parent run of a KFP run: the one that is there (open again, for a run that is retried), or a new
    one."""
    mlflow_client = connection.client()
    run_id = parent_by_tag(mlflow_client, kfp_run_id)
    tags = {KFP_RUN: kfp_run_id, **code_tags(name)}
    if user := kfp_run.user(kfp_run_id):
        tags["mlflow.user"] = user
    if address := kfp_run.page(kfp_run_id):
        tags["mlflow.note.content"] = f"[The run in Kubeflow Pipelines]({address})"
    experiment = connection.experiment_id(mlflow_client)
    connection.mark_kind(mlflow_client, experiment)
    with explained(f"start the run {name}"):
        if run_id:
            mlflow_client.update_run(run_id, status="RUNNING")
            return run_id
        return str(mlflow_client.create_run(experiment, tags=tags, run_name=name).info.run_id)


def close_parent(kfp_run_id: str, status: str, name: str = "") -> None:
    """Give the parent run of a KFP run, where there is one, its end (FINISHED, FAILED, KILLED) and its real name."""
    mlflow_client = connection.client()
    run_id = parent_by_tag(mlflow_client, kfp_run_id)
    if run_id:
        with recording(run_id, "mark the end"):
            if name:
                mlflow_client.update_run(run_id, name=redaction.redact(name))
            mlflow_client.set_terminated(run_id, status)


def parent_by_tag(mlflow_client: Any, kfp_run_id: str) -> str:
    """Return the id of the run that has the tag of a KFP run, or ""."""
    if not kfp_run_id:
        return ""
    experiment = connection.experiment_id(mlflow_client)
    with explained(f"look for the run of KFP's run {kfp_run_id}"):
        found = mlflow_client.search_runs(
            [experiment], filter_string=f"tags.`{KFP_RUN}` = '{kfp_run_id}'", max_results=1
        )
    return str(found[0].info.run_id) if found else ""
