"""MLflow runs: one parent for each pipeline run, one child for each stage.

Which run a stage logs into, in this order: the run that KFP's MLflow plugin injected (``MLFLOW_RUN_ID``); a new child
of the parent that `make run` started (``INRANKER_PARENT_RUN_ID``), or that `preflight` opened for the KFP run
(``INRANKER_KFP_RUN_ID``; found by its tag, closed by `notify`); else a run of its own. The server is
``MLFLOW_TRACKING_URI``, by default MLflow's own (SQLite). Only :class:`mlflow.MlflowClient` is used, because the fluent
API may overwrite an injected parent (mlflow#15713).
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from inranker_flow import lifeline
from inranker_flow.errors import NoAnswer, UserError
from inranker_flow.manifest import read_manifest
from inranker_flow.storage import disk_errors

log = logging.getLogger(__name__)

EXPERIMENT = "inranker"
#: Tag of a parent run: the KFP run that it stands for.
KFP_RUN = "inranker.kfp_run_id"
#: Tag of a parent run: the file of the local run that it stands for.
LOCAL_RUN = "inranker.local_run"
#: Tag of a stage's run: the device that its model was computed on.
DEVICE = "inranker.device"
#: MLflow's own defaults retry a dead server for more than four minutes.
_QUICK = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}


def client() -> Any:
    """An :class:`mlflow.MlflowClient` for the configured server; a dead one raises within seconds.

    Raises :class:`UserError` naming the address.
    """
    for key, value in _QUICK.items():
        os.environ.setdefault(key, value)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    import mlflow

    _silence()

    uri = mlflow.get_tracking_uri()
    if uri.startswith("http"):
        _reach(uri)
    from mlflow.exceptions import MlflowException

    try:
        return mlflow.MlflowClient()
    except MlflowException as error:
        raise UserError(f"MLFLOW_TRACKING_URI: {uri}: {' '.join(str(error).split())[:200]}") from error


def create_database(path: Path) -> str:
    """MLflow's SQLite database at ``path``, made aside and renamed; returns its URI.

    MLflow's own first migration is not atomic: killed in the middle it would leave a database that nothing can open.
    """
    if not path.exists():
        _silence()
        import mlflow

        aside = path.with_name(f".{path.name}.tmp")
        aside.unlink(missing_ok=True)
        with disk_errors(path):
            mlflow.MlflowClient(tracking_uri=f"sqlite:///{aside}").search_experiments(max_results=1)
        aside.replace(path)
    return f"sqlite:///{path}"


def _silence() -> None:
    """A new database announces every migration."""
    for name in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _reach(uri: str) -> None:
    """One quick request, so that an unreachable server is told in seconds and in one line."""
    import urllib.error
    import urllib.request

    try:
        urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=5).close()
    except urllib.error.HTTPError:
        return  # it answers: proxies may guard /health
    except (OSError, ValueError) as error:
        raise NoAnswer(
            f"MLFLOW_TRACKING_URI: no MLflow server answers at {uri} ({error}); start it, correct the address, "
            "or unset it to use SQLite"
        ) from error


@contextmanager
def explained(action: str) -> Iterator[None]:
    """Turn whatever goes wrong in an exchange with MLflow into one line: where, what was asked, what it said, a remedy.

    Raises :class:`NoAnswer`.
    """
    try:
        yield
    except UserError:
        raise
    except (
        Exception
    ) as error:  # MLflow's, its HTTP library's, its database's and its object store's have no common base
        import mlflow

        text = " ".join(str(error).split())[:300]
        raise NoAnswer(f"{mlflow.get_tracking_uri()}: cannot {action}: {text}; {_remedy(text)}") from error


def _remedy(text: str) -> str:
    if "Invalid Host header" in text or "DNS rebinding" in text:
        return "start the MLflow server with --allowed-hosts and the host of this address"
    if any(word in text for word in ("PERMISSION_DENIED", "Permission denied", "401", "403", "UNAUTHENTICATED")):
        return "grant it to the account of the runs (MLFLOW_TRACKING_TOKEN; on a cluster: Secret inranker-mlflow)"
    if "readonly database" in text:  # SQLite; servers answer with a permission
        return "grant it to the account of the runs"
    if any(word in text for word in ("Max retries exceeded", "Connection refused", "Connection reset")):
        return "start that server and run again"
    return "see that server's log"


def experiment_id(mlflow_client: Any) -> str:
    """The experiment that KFP injected, else ``MLFLOW_EXPERIMENT_NAME`` or "inranker", made on first use."""
    injected = os.environ.get("MLFLOW_EXPERIMENT_ID")
    if injected:
        return injected
    from mlflow.exceptions import MlflowException

    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
    found = mlflow_client.get_experiment_by_name(name)
    if found is None:
        # With a database instead of a server, artifacts go where the caller says; a server decides for itself.
        location = os.environ.get("INRANKER_ARTIFACT_ROOT")
        try:
            return str(mlflow_client.create_experiment(name, artifact_location=location))
        except MlflowException:  # another process was first
            found = mlflow_client.get_experiment_by_name(name)
    return str(found.experiment_id)


#: The run that this process logs into, for what must be attached to it (a model).
_current: ContextVar[str] = ContextVar("run_id", default="")


def current_run_id(name: str) -> str:
    """Id of the run that this process logs into; outside of one, a new run called ``name``."""
    if _current.get():
        return _current.get()
    mlflow_client = client()
    with explained(f"start the run {name}"):
        run_id: str = mlflow_client.create_run(experiment_id(mlflow_client), run_name=name).info.run_id
        mlflow_client.set_terminated(run_id, "FINISHED")
    return run_id


def log_file(run_id: str, path: Path, name: str) -> None:
    """Keep the file ``path`` in a run, under ``name``."""
    import shutil
    import tempfile

    with tempfile.TemporaryDirectory() as folder, explained(f"keep {name} in run {run_id}"):
        client().log_artifact(run_id, shutil.copy(path, Path(folder) / name))


class StageRun:
    """What a stage's wrapper may record. Parameters, metrics and digests go to the stage's run, headlines also to its
    parent, so that the list of pipeline runs shows them."""

    def __init__(self, mlflow_client: Any, run_id: str, parent_id: str) -> None:
        self._client, self.run_id, self.parent_id = mlflow_client, run_id, parent_id

    def log_config(self, configs: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        flat = dict(_flatten(configs))
        self._client.log_batch(self.run_id, params=[Param(key, str(value)[:6000]) for key, value in flat.items()])

    def log_inputs(self, inputs: Mapping[str, Mapping[str, str]]) -> None:
        """``inputs``: parameter -> dataset name -> content digest. Shown as the run's datasets."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        self._client.log_inputs(
            self.run_id,
            datasets=[
                DatasetInput(
                    Dataset(name=f"{dataset}.{key}"[:500], digest=digest[:36], source_type="local", source=key),
                    tags=[InputTag("mlflow.data.context", key)],
                )
                for key, digests in inputs.items()
                for dataset, digest in digests.items()
            ],
        )

    def log_metrics(self, numbers: Mapping[str, float], headline: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        own = {**numbers, **headline}
        self._client.log_batch(self.run_id, metrics=[Metric(_key(k), float(v), now, 0) for k, v in own.items()])
        if headline and self.parent_id:
            self._client.log_batch(
                self.parent_id, metrics=[Metric(_key(k), float(v), now, 0) for k, v in headline.items()]
            )

    def log_device(self) -> None:
        """The device and how many of it, where this stage has computed with torch; others never import it."""
        if "torch" in sys.modules:
            from inranker_flow.rankers.devices import device_name

            self._client.set_tag(self.run_id, DEVICE, device_name())
            self._client.log_metric(self.run_id, "devices", max(1.0, sys.modules["torch"].cuda.device_count()))

    def log_outputs(self, outputs: Mapping[str, Path]) -> None:
        """Digests of artifact folders as tags, and their bytes; single files (the report) whole, on the parent too."""
        folders = [path for path in outputs.values() if path.is_dir()]
        stored = sum(each.stat().st_size for path in folders for each in path.rglob("*") if each.is_file())
        self._client.log_metric(self.run_id, "stored_bytes", float(stored))
        for key, path in outputs.items():
            if path.is_file():
                for run_id in filter(None, (self.run_id, self.parent_id)):
                    log_file(run_id, path, f"{key}.html")
            elif (path / "manifest.json").is_file():
                self._client.set_tag(self.run_id, f"digest.{key}", read_manifest(path).content)


@contextmanager
def stage_run(stage: str, dataset: str = "") -> Iterator[StageRun]:
    """The MLflow run of one stage; marked FINISHED, or FAILED when the body raises."""
    mlflow_client = client()
    injected = os.environ.get("MLFLOW_RUN_ID", "")
    tags = {"inranker.stage": stage, "inranker.dataset": dataset, "inranker.code": code_version()}
    if injected:
        for key, value in tags.items():
            mlflow_client.set_tag(injected, key, value)
        with _logging_into(injected):
            yield StageRun(mlflow_client, injected, "")
        return
    parent = os.environ.get("INRANKER_PARENT_RUN_ID", "") or _kfp_parent(mlflow_client, own_parent())
    if parent:
        tags["mlflow.parentRunId"] = parent
    name = f"{stage} {dataset}".strip()
    with explained(f"start the run {name}"):
        run_id = mlflow_client.create_run(experiment_id(mlflow_client), tags=tags, run_name=name).info.run_id
    try:
        with _logging_into(run_id):
            yield StageRun(mlflow_client, run_id, parent)
    except BaseException:
        with suppress(Exception):  # a server that has gone must not hide why the stage failed
            mlflow_client.set_terminated(run_id, "FAILED")
        raise
    mlflow_client.set_terminated(run_id, "FINISHED")


@contextmanager
def _logging_into(run_id: str) -> Iterator[None]:
    before = _current.set(run_id)
    try:
        yield
    finally:
        _current.reset(before)


@contextmanager
def pipeline_run(name: str, parameters: Mapping[str, Any]) -> Iterator[str]:
    """The parent run of one local pipeline run, announced to the stages through the environment; yields its id."""
    mlflow_client = client()
    tags = {"inranker.code": code_version(), **({LOCAL_RUN: local_run()} if local_run() else {})}
    run_id = ""
    try:
        run_id = mlflow_client.create_run(experiment_id(mlflow_client), tags=tags, run_name=name).info.run_id
        mlflow_client.log_dict(run_id, dict(parameters), "parameters.json")
        StageRun(mlflow_client, run_id, "").log_config(parameters)
        os.environ["INRANKER_PARENT_RUN_ID"] = run_id
        yield run_id
    except BaseException:
        with suppress(Exception):  # a server that has gone must not hide what happened
            if run_id:
                mlflow_client.set_terminated(run_id, "FAILED")
            close_killed(local_run())
        raise
    finally:
        os.environ.pop("INRANKER_PARENT_RUN_ID", None)
    mlflow_client.set_terminated(run_id, "FINISHED")


def local_run() -> str:
    """What a local run is known by: the name of its file in the runs' folder."""
    return Path(os.environ.get(lifeline.VARIABLE, "")).name


def close_killed(name: str) -> int:
    """Mark as KILLED what a local run that has ended left RUNNING: its own run and those of its stages; returns how many."""
    if not name:
        return 0
    mlflow_client = client()
    closed = 0
    with explained("close the runs of a run that was killed"):
        experiment = experiment_id(mlflow_client)
        for parent in mlflow_client.search_runs([experiment], f"tags.`{LOCAL_RUN}` = '{name}'"):
            children = mlflow_client.search_runs(
                [experiment], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'", max_results=1000
            )
            for run in (parent, *children):
                if run.info.status == "RUNNING":
                    mlflow_client.set_terminated(run.info.run_id, "KILLED")
                    closed += 1
    return closed


def log_plan(run_id: str, plan: Mapping[str, Any], promised: Mapping[str, float]) -> None:
    """Keep a plan with the run that it was made for: plan.json, and a metric ``planned.NAME`` for each number."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    with explained(f"keep the plan in run {run_id}"):
        client().log_dict(run_id, dict(plan), "plan.json")
        client().log_batch(run_id, metrics=[Metric(f"planned.{k}", float(v), now, 0) for k, v in promised.items()])


def read_plan(run_id: str) -> dict[str, Any]:
    """The plan that :func:`log_plan` kept with a run; empty where there is none."""
    import tempfile

    mlflow_client = client()
    with tempfile.TemporaryDirectory() as folder, explained(f"read the plan of run {run_id}"):
        if not any(name.startswith("planned.") for name in mlflow_client.get_run(run_id).data.metrics):
            return {}
        path = Path(mlflow_client.download_artifacts(run_id, "plan.json", folder))
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found


def stages_of(parent: str) -> list[tuple[str, str, dict[str, float]]]:
    """(stage, collection or "", its numbers) for every stage below the run ``parent`` that has ended well."""
    if not parent:
        return []
    mlflow_client = client()
    children = f"tags.`mlflow.parentRunId` = '{parent}' and attributes.status = 'FINISHED'"
    with explained(f"read the stages of run {parent}"):
        found = mlflow_client.search_runs([experiment_id(mlflow_client)], filter_string=children, max_results=1000)
    told = [(run.data.tags, dict(run.data.metrics)) for run in found]
    return [(tags.get("inranker.stage", ""), tags.get("inranker.dataset", ""), numbers) for tags, numbers in told]


def parent_of(run_id: str) -> str:
    """Id of the run that the run ``run_id`` is a stage of, or ""."""
    mlflow_client = client()
    with explained(f"read run {run_id}"):
        return str(mlflow_client.get_run(run_id).data.tags.get("mlflow.parentRunId", ""))


def parent_of_kfp(kfp_run_id: str) -> str:
    """Id of the parent run that `preflight` opened for a KFP run, or ""."""
    return _kfp_parent(client(), kfp_run_id)


def own_parent() -> str:
    """Id of the KFP run whose parent run in MLflow is ours to keep, or "": KFP's plugin and `make run` bring theirs."""
    if os.environ.get("MLFLOW_RUN_ID") or os.environ.get("INRANKER_PARENT_RUN_ID"):
        return ""
    return os.environ.get("INRANKER_KFP_RUN_ID", "")


def open_parent(kfp_run_id: str, name: str) -> str:
    """Id of the parent run of a KFP run: the one that is there (open again, for a run that is retried), or a new one."""
    mlflow_client = client()
    run_id = _kfp_parent(mlflow_client, kfp_run_id)
    if run_id:
        mlflow_client.update_run(run_id, status="RUNNING")
        return run_id
    tags = {KFP_RUN: kfp_run_id, "inranker.code": code_version()}
    return str(mlflow_client.create_run(experiment_id(mlflow_client), tags=tags, run_name=name).info.run_id)


def close_parent(kfp_run_id: str, status: str, name: str = "") -> None:
    """Give the parent run of a KFP run, where there is one, its end (FINISHED, FAILED, KILLED) and its real name."""
    mlflow_client = client()
    run_id = _kfp_parent(mlflow_client, kfp_run_id)
    if run_id:
        if name:
            mlflow_client.update_run(run_id, name=name)
        mlflow_client.set_terminated(run_id, status)


def _kfp_parent(mlflow_client: Any, kfp_run_id: str) -> str:
    if not kfp_run_id:
        return ""
    found = mlflow_client.search_runs(
        [experiment_id(mlflow_client)], filter_string=f"tags.`{KFP_RUN}` = '{kfp_run_id}'", max_results=1
    )
    return str(found[0].info.run_id) if found else ""


def code_version() -> str:
    """What code ran: the image's content tag when KFP or `make run` says it, else the package version."""
    from inranker_flow import __version__

    return os.environ.get("INRANKER_CODE_VERSION", __version__)


def _flatten(data: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(data, Mapping):
        for key, value in data.items():
            yield from _flatten(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, data if isinstance(data, str) else json.dumps(data)


def _key(name: str) -> str:
    """MLflow's metric names admit no @; the name in the charts stays recognisable (nDCG@10 -> nDCG_at_10)."""
    return name.replace("@", "_at_")
