"""MLflow runs: one parent for each pipeline run, one child for each stage.

Which run a stage logs into, in this order: the run that KFP's MLflow plugin injected (``MLFLOW_RUN_ID``); a new child
of the parent that `make run` started (``INRANKER_PARENT_RUN_ID``), or that `preflight` opened for the KFP run
(``INRANKER_KFP_RUN_ID``; found by its tag, closed by `notify`); else a run of its own.
"""

from __future__ import annotations

import getpass
import sys
from collections.abc import Container, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from inranker_flow import redaction
from inranker_flow.artifacts.manifest import read_manifest
from inranker_flow.environment import changes, variables
from inranker_flow.errors import UserError
from inranker_flow.rankers.devices import device_name
from inranker_flow.tracking import connection, curves
from inranker_flow.tracking.mlflow_errors import explained, recording
from inranker_flow.tracking.outcomes import COLLECTION, dataset_of
from inranker_flow.tracking.parents import code_tags, own_parent, parent_by_tag
from inranker_flow.tracking.records import ENDED, ERROR, LEFT_OUT_END
from inranker_flow.tracking.values import batches, flattened, hidden, metric_name, metrics

#: The file of a pipeline's run with all of its settings.
PARAMETERS = "parameters.json"
#: Tag of a parent run: the file of the local run that it stands for.
LOCAL_RUN = "inranker.local_run"
#: Tag of a stage's run: the device that its model was computed on.
DEVICE = "inranker.device"

#: The run that this process logs into, for what must be attached to it (a model, curves).
_current: ContextVar[str] = ContextVar("run_id", default="")


def run_here() -> str:
    """Return the id of the run that this process logs into, or ""."""
    return _current.get()


def current_run_id(name: str) -> str:
    """Return the id of the run that this process logs into; outside of one, a new run called ``name``."""
    if _current.get():
        return _current.get()
    mlflow_client = connection.client()
    with explained(f"start the run {name}"):
        run_id: str = mlflow_client.create_run(connection.experiment_id(mlflow_client), run_name=name).info.run_id
        mlflow_client.set_terminated(run_id, "FINISHED")
    return run_id


def log_file(run_id: str, path: Path, name: str) -> None:
    """Keep the file ``path`` in a run, under ``name``."""
    import shutil
    import tempfile

    with tempfile.TemporaryDirectory() as folder, explained(f"keep {name} in run {run_id}"):
        connection.client().log_artifact(run_id, shutil.copy(path, Path(folder) / name))


class StageRun:
    """The records that a stage's wrapper may make. Parameters, metrics and digests go to the stage's run, headlines also to
    its parent, so that the list of pipeline runs shows them."""

    def __init__(self, mlflow_client: Any, run_id: str, parent_id: str) -> None:
        self._client, self.run_id, self.parent_id = mlflow_client, run_id, parent_id
        #: What the run is tagged with when it ends well.
        self.ending = "FINISHED"

    def log_config(self, configs: Mapping[str, Any], known: Container[str] = ()) -> None:
        """Keep settings as parameters, but for those that are ``known``: what is written once may not be written otherwise."""
        from mlflow.entities import Param

        flat = {metric_name(key): redaction.redact(str(value))[:6000] for key, value in flattened(configs)}
        flat = {key: value for key, value in flat.items() if key not in known}
        for part in batches(flat.items()):
            with recording(self.run_id, "keep the settings"):
                self._client.log_batch(self.run_id, params=[Param(key, value) for key, value in part])

    def log_inputs(self, inputs: Mapping[str, Mapping[str, str]]) -> None:
        """``inputs``: parameter -> dataset name -> content digest. Shown as the run's datasets."""
        from mlflow.entities import Dataset

        self._log_datasets(
            (Dataset(name=f"{dataset}.{key}"[:500], digest=digest[:36], source_type="local", source=key), key)
            for key, digests in inputs.items()
            for dataset, digest in digests.items()
        )

    def _log_datasets(self, datasets: Iterable[tuple[Any, str]]) -> None:
        """``datasets``: each with the context that it is shown under."""
        from mlflow.entities import DatasetInput, InputTag

        given = [DatasetInput(each, tags=[InputTag("mlflow.data.context", context)]) for each, context in datasets]
        with recording(self.run_id, "keep the inputs"):
            self._client.log_inputs(self.run_id, datasets=given)

    def log_metrics(self, numbers: Mapping[str, float], headline: Mapping[str, float]) -> None:
        self._log_metrics(self.run_id, {**numbers, **headline})
        if headline and self.parent_id:
            self._log_metrics(self.parent_id, headline)

    def _log_metrics(self, run_id: str, numbers: Mapping[str, float]) -> None:
        with recording(run_id, "keep the numbers"):
            for part in batches(metrics(numbers)):
                self._client.log_batch(run_id, metrics=part)

    def leave_out(self, reason: str) -> None:
        """The run's collection was left out, which is how it ends."""
        self.ending = f"{LEFT_OUT_END}: {redaction.line(reason, 1000)}"

    def log_device(self) -> None:
        """The device and how many of it, where this stage has computed with torch; others never import it."""
        if "torch" in sys.modules:
            with recording(self.run_id, "keep the device"):
                self._client.set_tag(self.run_id, DEVICE, device_name())
                self._client.log_metric(self.run_id, "devices", max(1.0, sys.modules["torch"].cuda.device_count()))

    def log_outputs(self, outputs: Mapping[str, Path]) -> None:
        """Digests of artifact folders as tags, and their bytes; single files (the report) whole, on the parent too."""
        folders = [path for path in outputs.values() if path.is_dir()]
        stored = sum(each.stat().st_size for path in folders for each in path.rglob("*") if each.is_file())
        self._log_metrics(self.run_id, {"stored_bytes": float(stored)})
        for key, path in outputs.items():
            if path.is_file():
                for run_id in filter(None, (self.run_id, self.parent_id)):
                    with recording(run_id, f"keep {key}.html"):
                        log_file(run_id, path, f"{key}.html")
            elif (path / "manifest.json").is_file():
                manifest = read_manifest(path)
                with recording(self.run_id, "keep a digest"):
                    self._client.set_tag(self.run_id, metric_name(f"digest.{key}"), manifest.content)
                if manifest.stage == "prepare_corpus":
                    self._log_datasets([(dataset_of(manifest), COLLECTION)])


@contextmanager
def stage_run(stage: str, dataset: str = "") -> Iterator[StageRun]:
    """The MLflow run of one stage; marked FINISHED, or FAILED when the body raises."""
    mlflow_client = connection.client()
    injected = variables.injected_run()
    tags = {"inranker.stage": stage, **({"inranker.dataset": dataset} if dataset else {}), **code_tags(stage)}
    if injected:
        with explained(f"write into run {injected} (MLFLOW_RUN_ID)"):
            for key, value in tags.items():
                mlflow_client.set_tag(injected, key, value)
        stage_here = StageRun(mlflow_client, injected, "")
        with _logging_into(injected), _ending(mlflow_client, stage_here), _followed(injected):
            yield stage_here
        return
    parent = variables.parent_run() or parent_by_tag(mlflow_client, own_parent())
    if parent:
        tags["mlflow.parentRunId"] = parent
    name = f"{stage} {dataset}".strip()
    with explained(f"start the run {name}"):
        run_id = mlflow_client.create_run(connection.experiment_id(mlflow_client), tags=tags, run_name=name).info.run_id
    try:
        stage_here = StageRun(mlflow_client, run_id, parent)
        with _logging_into(run_id), _ending(mlflow_client, stage_here), _followed(run_id):
            yield stage_here
    except BaseException:
        with suppress(Exception):  # a server that has gone must not hide why the stage failed
            mlflow_client.set_terminated(run_id, "FAILED")
        raise
    with recording(run_id, "mark the end"):
        mlflow_client.set_terminated(run_id, "FINISHED")


@contextmanager
def _ending(mlflow_client: Any, stage_here: StageRun) -> Iterator[None]:
    """Tag a stage's run with its end."""
    run_id = stage_here.run_id
    try:
        yield
    except BaseException as error:
        with suppress(Exception):  # a server that has gone must not hide why the stage failed
            mlflow_client.set_tag(run_id, ENDED, f"FAILED: {redaction.line(str(error) or type(error).__name__, 1000)}")
            mlflow_client.set_tag(run_id, ERROR, error.code if isinstance(error, UserError) else "unexpected")
        raise
    with recording(run_id, "mark the end"):
        mlflow_client.set_tag(run_id, ENDED, stage_here.ending)


@contextmanager
def _followed(run_id: str) -> Iterator[None]:
    """Write the stage's curves within the block, and what the machine does."""
    with curves.written(run_id), curves.machine_watched(run_id):
        yield


@contextmanager
def _logging_into(run_id: str) -> Iterator[None]:
    before = _current.set(run_id)
    try:
        yield
    finally:
        _current.reset(before)


@contextmanager
def pipeline_run(name: str, parameters: Mapping[str, Any], chosen: Mapping[str, Any] | None = None) -> Iterator[str]:
    """The parent run of one local pipeline run, announced to the stages through the environment; yields its id.

    All ``parameters`` are kept in a file; those ``chosen``, by default all, are what the run's list shows.
    """
    chosen = parameters if chosen is None else chosen
    mlflow_client = connection.client()
    tags = {**code_tags("inranker run"), **({LOCAL_RUN: local_run()} if local_run() else {})}
    with suppress(Exception):  # a user without a name
        tags["mlflow.user"] = getpass.getuser()
    begun: Future[Any] | None = None
    try:
        experiment = connection.experiment_id(mlflow_client)
        with explained(f"start the run {name}"), ThreadPoolExecutor(1) as beside:
            # A signal interrupts this thread and not that one: a run that MLflow has begun has an id here, and gets an end.
            begun = beside.submit(mlflow_client.create_run, experiment, tags=tags, run_name=name)
            run_id = begun.result().info.run_id
        connection.mark_kind(mlflow_client, experiment)
        keep_parameters(run_id, parameters, chosen)
        changes.put(variables.PARENT_RUN, run_id)
        yield run_id
    except BaseException:
        with suppress(Exception):  # as in `stage_run`
            if begun:
                mlflow_client.set_terminated(begun.result().info.run_id, "FAILED")
            close_killed(local_run())
        raise
    finally:
        changes.drop(variables.PARENT_RUN)
    with recording(run_id, "mark the end"):
        mlflow_client.set_terminated(run_id, "FINISHED")


def keep_parameters(run_id: str, parameters: Mapping[str, Any], chosen: Mapping[str, Any]) -> None:
    """Keep all ``parameters`` of a pipeline's run in a file; those ``chosen`` are what the list of runs shows."""
    mlflow_client = connection.client()
    with explained(f"keep the parameters of run {run_id}"):
        known = mlflow_client.get_run(run_id).data.params
        mlflow_client.log_dict(run_id, hidden(dict(parameters)), PARAMETERS)
    StageRun(mlflow_client, run_id, "").log_config(chosen, known)


def settings_of(name: str) -> dict[str, Any]:
    """Return the whole settings of the newest pipeline run with this name, as MLflow keeps them; {} where it has none."""
    client = connection.client()
    with explained(f"read the settings of {name}"):
        wanted = f"attributes.run_name = '{name.replace(chr(39), '')}'"
        found = client.search_runs([connection.experiment_id(client)], wanted, max_results=1)
        return parameters_of(found[0]) if found else {}


def parameters_of(run: Any) -> dict[str, Any]:
    """Return what `keep_parameters` has kept with a pipeline's ``run``; MLflow's error where that is nothing."""
    import mlflow

    return dict(mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/{PARAMETERS}"))


def local_run() -> str:
    """Return the name of a local run: that of its file in the runs' folder."""
    return Path(variables.run_file()).name


def close_killed(name: str) -> int:
    """Mark as KILLED what a local run that has ended left RUNNING: its own run and those of its stages; returns how many."""
    if not name:
        return 0
    mlflow_client = connection.client()
    closed = 0
    with explained("close the runs of a run that was killed"):
        experiment = connection.experiment_id(mlflow_client)
        for parent in mlflow_client.search_runs([experiment], f"tags.`{LOCAL_RUN}` = '{name}'"):
            children = mlflow_client.search_runs(
                [experiment], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'", max_results=1000
            )
            for run in (parent, *children):
                if run.info.status == "RUNNING":
                    mlflow_client.set_terminated(run.info.run_id, "KILLED")
                    closed += 1
    return closed
