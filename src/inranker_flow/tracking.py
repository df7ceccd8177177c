"""MLflow runs: one parent for each pipeline run, one child for each stage.

Which run a stage logs into, in this order: the run that KFP's MLflow plugin injected (``MLFLOW_RUN_ID``); a new child
of the parent that `make run` started (``INRANKER_PARENT_RUN_ID``), or that `preflight` opened for the KFP run
(``INRANKER_KFP_RUN_ID``; found by its tag, closed by `notify`); else a run of its own. The server is
``MLFLOW_TRACKING_URI``, by default MLflow's own (SQLite). Only :class:`mlflow.MlflowClient` is used, because the fluent
API may overwrite an injected parent (mlflow#15713).
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import posixpath
import re
import shlex
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from inranker_flow import environment, lifeline, redaction
from inranker_flow.artifacts.manifest import read_manifest
from inranker_flow.errors import NoAnswer, UserError
from inranker_flow.services import kfp_run, web
from inranker_flow.storage import disk_errors

log = logging.getLogger(__name__)

T = TypeVar("T")

EXPERIMENT = "inranker"
#: Tag of a parent run: the KFP run that it stands for.
KFP_RUN = "inranker.kfp_run_id"
#: Tag of a parent run: the file of the local run that it stands for.
LOCAL_RUN = "inranker.local_run"
#: Tag of a stage's run: the device that its model was computed on.
DEVICE = "inranker.device"
#: Tag of a stage's run, and ``inranker.ended.STAGE`` of the parent for a stage without a run: FINISHED, or FAILED or LEFT OUT
#: (its target) and why. A run's status is KFP's plugin's to set where that began it, and gives no reason.
ENDED = "inranker.ended"
_LEFT_OUT_END = "LEFT OUT"
#: Tag of a parent run whose student was decided about: JSON of the targets that it was trained without -> why.
LEFT_OUT = "inranker.left_out"
#: MLflow's own defaults retry a dead server for more than four minutes. A server that has not answered yet gets seconds;
#: one that has is waited for, because what it is to record took long. What a person has set decides in both cases.
_FIRST = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    # A request that writes is a request that reads once it was redirected; so a redirect is an address to correct.
    "MLFLOW_ALLOW_HTTP_REDIRECTS": "false",
}
_LATER = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3", "MLFLOW_HTTP_REQUEST_TIMEOUT": "60"}
#: Entities that MLflow takes in one request.
_BATCH = 100
_NAME_LENGTH = 250

#: Addresses that have answered in this process.
_answered: set[str] = set()
_asking = threading.Lock()


def configured_uri() -> str:
    """``MLFLOW_TRACKING_URI``, or "" where it is not set or empty."""
    return os.environ.get("MLFLOW_TRACKING_URI", "").strip()


def database_uri(path: Path) -> str:
    """Address of MLflow's SQLite database at ``path``, whatever characters are in it; the one place that writes such."""
    name = str(path.expanduser().absolute())
    # MLflow makes the folders of an address as they are written, encoded or not: only what must be is encoded, and then
    # the driver is named, for which it makes none.
    odd = "%" in name or "?" in name
    return f"sqlite{'+pysqlite' if odd else ''}:///{name.replace('%', '%25').replace('?', '%3F')}"


def client() -> Any:
    """An :class:`mlflow.MlflowClient` for the configured server or database, which has answered once.

    MLflow's own client asks, so credentials, certificates and proxies are those that it knows. Raises
    :class:`UserError` in one line, within seconds, where nothing or something else answers.
    """
    environment.forget_blanks()
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    import mlflow

    _silence()
    uri = mlflow.get_tracking_uri()
    with _asking:
        if uri not in _answered:
            with explained("be used"), _first_request():
                _check_database(uri)
                made = mlflow.MlflowClient()
                _first_answer(made, uri)
            _answered.add(uri)
            return made
    with explained("be used"):
        return mlflow.MlflowClient()


@contextmanager
def _first_request() -> Iterator[None]:
    """Few attempts and a short wait, where nobody has set them."""
    before = {name: os.environ.get(name) for name in _FIRST}
    os.environ.update({name: value for name, value in _FIRST.items() if before[name] in (None, _LATER.get(name))})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        for name, value in _LATER.items():
            os.environ.setdefault(name, value)


def _first_answer(mlflow_client: Any, uri: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        mlflow_client.search_experiments(max_results=1)
    except MlflowException as error:
        if not re.search(r"error code 30[78]\b", str(error)) or os.environ["MLFLOW_ALLOW_HTTP_REDIRECTS"] != "false":
            raise
        # These two keep what is asked.
        os.environ["MLFLOW_ALLOW_HTTP_REDIRECTS"] = "true"
        mlflow_client.search_experiments(max_results=1)


def _check_database(uri: str) -> None:
    """Open a database once, where ``uri`` is one: MLflow itself tries for minutes."""
    if uri.startswith(("http:", "https:", "databricks", "file:")) or "://" not in uri:
        return
    import sqlalchemy

    address = sqlalchemy.make_url(uri)
    kind = address.get_backend_name()
    if kind == "sqlite":
        _check_sqlite(address.database or "", uri)
    elif kind in ("postgresql", "mysql"):
        engine = sqlalchemy.create_engine(address, connect_args={"connect_timeout": 5})
        engine.connect().close()
        engine.dispose()


def _check_sqlite(name: str, uri: str) -> None:
    import sqlite3
    import tempfile
    from urllib.parse import quote

    if name.startswith("file:"):  # SQLite's own form of an address
        return
    if not name or name == ":memory:":
        raise UserError(
            f"MLFLOW_TRACKING_URI: {uri} names no file, so nothing would be kept; give sqlite:////FOLDER/mlflow.db"
        )
    path = Path(name)
    if path.is_dir():
        raise UserError(f"MLFLOW_TRACKING_URI: {path} is a folder; give the database's file, such as {path}/mlflow.db")
    if not path.exists():
        folder = next(each for each in path.absolute().parents if each.exists())
        if not folder.is_dir():
            raise UserError(f"MLFLOW_TRACKING_URI: {path} cannot be made: {folder} is a file; give another path")
        try:  # what a file system says of rights is no promise: /proc, a mount for reading alone
            with tempfile.NamedTemporaryFile(dir=folder, prefix=".mlflow-"):
                return
        except OSError as error:
            raise UserError(
                f"MLFLOW_TRACKING_URI: {path} cannot be made in {folder}: {error.strerror}; give another path"
            ) from error
    if not path.is_file():
        raise UserError(f"MLFLOW_TRACKING_URI: {path} is no file; give the database's file")
    opened = sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True, timeout=3)
    try:
        opened.execute("SELECT count(*) FROM sqlite_master").fetchone()
    finally:
        opened.close()


def create_database(path: Path) -> str:
    """MLflow's SQLite database at ``path``, made aside and renamed; returns its URI.

    MLflow's own first migration is not atomic: killed in the middle it would leave a database that nothing can open.
    """
    if not path.exists():
        _silence()
        import mlflow

        _check_sqlite(str(path), database_uri(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.tmp")
        aside.unlink(missing_ok=True)
        with explained("be made", database_uri(path)), disk_errors(path):
            mlflow.MlflowClient(tracking_uri=database_uri(aside)).search_experiments(max_results=1)
        aside.replace(path)
    return database_uri(path)


def _silence() -> None:
    """A new database announces every migration; one that fails logs a traceback, and raises what it said as well."""
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


@contextmanager
def explained(action: str, uri: str = "") -> Iterator[None]:
    """Turn whatever goes wrong in an exchange with MLflow into one line: where, what was asked, what it said, a remedy.

    ``uri``: of what is asked, where it is not the configured one. Raises :class:`NoAnswer`.
    """
    try:
        yield
    except UserError:
        raise
    except (
        Exception
    ) as error:  # MLflow's, its HTTP library's, its database's and its object store's have no common base
        import mlflow

        where = redaction.redact(uri or mlflow.get_tracking_uri())
        text = _said(error)
        if action == "be used":
            where, action = f"MLFLOW_TRACKING_URI: {where}", "be used as MLflow's server"
            if unreachable := _unreachable(str(error)):
                raise NoAnswer(
                    f"MLFLOW_TRACKING_URI: no MLflow server answers at {where.partition(': ')[2]} ({unreachable}); start it, "
                    "correct the address, or unset it to use SQLite"
                ) from error
        raise NoAnswer(f"{where}: cannot {action}: {text}; {_remedy(text, action)}") from error


def _said(error: BaseException) -> str:
    """What MLflow said, without the query of its database, the page of a proxy or the frames of its HTTP library."""
    text = " ".join(redaction.redact(str(error)).split())
    text = re.sub(r" ?\[SQL: .*|\(Background on this error at: .*", "", text)
    text = re.sub(r"(Response body: '.{60}).*", r"\1...'", text)
    return text[:300] or type(error).__name__


def _unreachable(text: str) -> str:
    """Why nobody was reached at an address; "" where somebody answered."""
    for pattern, reason in (
        (r"Failed to resolve|NameResolutionError", "no such host"),
        (r"Connection refused", "connection refused"),
        (r"timed out", "no answer in time"),
        (r"No route to host|Network is unreachable", "no route to it"),
        (
            r"Connection aborted|RemoteDisconnected|Connection reset|IncompleteRead|ConnectionResetError",
            "connection cut",
        ),
    ):
        if re.search(pattern, text) and "ProxyError" not in text:
            return reason
    return ""


#: What is found in MLflow's message -> what to do.
_REMEDIES = (
    (r"Invalid Host header|DNS rebinding", "start the MLflow server with --allowed-hosts and the host of this address"),
    (
        r"error code 401|UNAUTHENTICATED",
        "correct MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN (on a cluster: Secret "
        "inranker-mlflow)",
    ),
    (
        r"PERMISSION_DENIED|Permission denied|error code 403",
        "grant it to the account of the runs (MLFLOW_TRACKING_TOKEN; on a cluster: Secret inranker-mlflow)",
    ),
    (r"readonly database", "grant it to the account of the runs"),  # SQLite; servers answer with a permission
    (
        r"error code 30\d",
        "it redirects, to https or to a login page: give the address that it leads to, and MLFLOW_TRACKING_TOKEN or user and "
        "password",
    ),
    (
        r"not in a valid JSON format",
        "what answers there is no MLflow: a login page, a proxy or another program. Correct the address, or log in "
        "(MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD)",
    ),
    (
        r"error code (404|405|501)|ENDPOINT_NOT_FOUND",
        "what answers there is no MLflow or an older one: correct the address (and its path), or update that server",
    ),
    (r"too many 429", "that server is asked too often: wait, and run again"),
    (r"too many 50\d", "that server, or a proxy in front of it, is in trouble: see its log, and run again"),
    (r"CERTIFICATE_VERIFY_FAILED|certificate verify failed",
     "set MLFLOW_TRACKING_SERVER_CERT_PATH to the file of your CA, or MLFLOW_TRACKING_INSECURE_TLS=true"),
    (r"WRONG_VERSION_NUMBER|wrong version number|record layer failure", "that server speaks http: give http://..."),
    (r"suitable TLS CA certificate|must not be set|Failed to convert|TLS certificate file|value must be|timeout to ",
     "correct that variable of the environment, or unset it"),
    (r"ProxyError", "correct HTTP_PROXY and HTTPS_PROXY, or name the host in NO_PROXY"),
    (r"maintenance mode|unsupported URI|Could not parse|Invalid url|Invalid URL|Invalid IPv6|No host supplied|not a valid uri|"
     r"not supported in the current version|No connection adapters",
     "give http://HOST:PORT of an MLflow server or sqlite:////FOLDER/mlflow.db, or unset it"),
    (r"No module named|Can't load plugin", "install that database's driver, or give the address of an MLflow server"),
    (r"Databricks", "configure Databricks as its client wants it, or give the address of another MLflow server"),
    (r"not a database|malformed|disk image|migration in unexpected state",
     "this file is damaged or no database: restore a copy of it, or move it away and a new one is made (without its runs and "
     "models)"),
    (r"out-of-date database schema|Can't locate revision",
     "another version of MLflow made it: `mlflow db upgrade` with this address if that was an older one, else use that version"),
    (r"disk is full|No space left", "make room there, and run again"),
    (r"database is locked", "another program holds it: wait for it or end it, and run again"),
    (r"unable to open database file", "give a file in a folder that this account may read and write"),
    (r"Max retries exceeded|Connection refused|Connection reset|Connection aborted", "start that server and run again"),
    (r"deleted|must be in the 'active' state|RESOURCE_DOES_NOT_EXIST", "restore it in MLflow, or run again"),
)  # fmt: skip


def _remedy(text: str, action: str) -> str:
    """What to do; for what a variable names and MLflow does not know, the variable."""
    named = re.search(r"\((MLFLOW_\w+)\)$", action)
    unsaid = f"correct {named[1]}, or unset it" if named else "see that server's log"
    if named and re.search(r"RESOURCE_DOES_NOT_EXIST|not found", text):
        return unsaid
    return next((remedy for pattern, remedy in _REMEDIES if re.search(pattern, text)), unsaid)


def experiment_name() -> str:
    """``MLFLOW_EXPERIMENT_NAME`` or "inranker"."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME", "").strip() or EXPERIMENT


def experiment_id(mlflow_client: Any) -> str:
    """The experiment that KFP injected, else ``MLFLOW_EXPERIMENT_NAME`` or "inranker", made on first use.

    Raises :class:`UserError` where it was deleted: MLflow keeps it, and its name, and takes no run for it.
    """
    from mlflow.exceptions import MlflowException

    injected = os.environ.get("MLFLOW_EXPERIMENT_ID", "").strip()
    name = experiment_name()
    if injected:
        with explained(f"find the experiment {injected} (MLFLOW_EXPERIMENT_ID)"):
            return _usable(mlflow_client.get_experiment(injected))
    with explained(f"read or create the experiment {name}"):
        found = mlflow_client.get_experiment_by_name(name)
        if found is not None:
            return _usable(found)
        # With a database instead of a server, artifacts go where the caller says; a server decides for itself.
        location = os.environ.get("INRANKER_ARTIFACT_ROOT")
        try:
            return str(mlflow_client.create_experiment(name, artifact_location=location))
        except MlflowException:  # another process was first, or it is refused
            found = mlflow_client.get_experiment_by_name(name)
            if found is None:
                raise
            return _usable(found)


def _usable(experiment: Any) -> str:
    """Id of an experiment; :class:`UserError` for a deleted one, or what is none."""
    import mlflow

    uri = redaction.redact(mlflow.get_tracking_uri())
    if not experiment.experiment_id:
        raise UserError(f"MLFLOW_TRACKING_URI: what answers at {uri} is no MLflow: it gave an experiment without id")
    if experiment.lifecycle_stage == "deleted":
        raise UserError(
            f"MLflow's experiment {experiment.name} is deleted: bring it back (MLFLOW_TRACKING_URI={shlex.quote(uri)} mlflow "
            f"experiments restore --experiment-id {experiment.experiment_id}), or set MLFLOW_EXPERIMENT_NAME to another"
        )
    return str(experiment.experiment_id)


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


@contextmanager
def _into(run_id: str, action: str) -> Iterator[None]:
    """As :func:`explained`; but what cannot be recorded because a person has deleted the run is a warning: work is done."""
    try:
        with explained(f"{action} in run {run_id}"):
            yield
    except NoAnswer as error:
        if not _is_deleted(error.__cause__):
            raise
        log.warning("run %s is deleted in MLflow: cannot %s in it; restore it to keep what follows", run_id, action)


def _is_deleted(error: BaseException | None) -> bool:
    """Whether MLflow refuses because the run (or its experiment) was deleted meanwhile."""
    said = str(error)
    return "'active' state" in said or bool(re.search(r"\bRun with id=?\S* not found|Run '\S+' not found", said))


def _metrics(numbers: Mapping[str, float]) -> list[Any]:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    return [Metric(metric_name(name), float(value), now, 0) for name, value in numbers.items()]


class StageRun:
    """What a stage's wrapper may record. Parameters, metrics and digests go to the stage's run, headlines also to its
    parent, so that the list of pipeline runs shows them."""

    def __init__(self, mlflow_client: Any, run_id: str, parent_id: str) -> None:
        self._client, self.run_id, self.parent_id = mlflow_client, run_id, parent_id
        #: What the run is tagged with when it ends well.
        self.ending = "FINISHED"

    def log_config(self, configs: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        flat = {metric_name(key): redaction.redact(str(value))[:6000] for key, value in _flatten(configs)}
        for part in _batches(flat.items()):
            with _into(self.run_id, "keep the settings"):
                self._client.log_batch(self.run_id, params=[Param(key, value) for key, value in part])

    def log_inputs(self, inputs: Mapping[str, Mapping[str, str]]) -> None:
        """``inputs``: parameter -> dataset name -> content digest. Shown as the run's datasets."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        datasets = [
            DatasetInput(
                Dataset(name=f"{dataset}.{key}"[:500], digest=digest[:36], source_type="local", source=key),
                tags=[InputTag("mlflow.data.context", key)],
            )
            for key, digests in inputs.items()
            for dataset, digest in digests.items()
        ]
        with _into(self.run_id, "keep the inputs"):
            self._client.log_inputs(self.run_id, datasets=datasets)

    def log_metrics(self, numbers: Mapping[str, float], headline: Mapping[str, float]) -> None:
        self._log_metrics(self.run_id, {**numbers, **headline})
        if headline and self.parent_id:
            self._log_metrics(self.parent_id, headline)

    def _log_metrics(self, run_id: str, numbers: Mapping[str, float]) -> None:
        with _into(run_id, "keep the numbers"):
            for part in _batches(_metrics(numbers)):
                self._client.log_batch(run_id, metrics=part)

    def leave_out(self, reason: str) -> None:
        """The run's collection was left out, which is how it ends."""
        self.ending = f"{_LEFT_OUT_END}: {redaction.line(reason, 1000)}"

    def log_device(self) -> None:
        """The device and how many of it, where this stage has computed with torch; others never import it."""
        if "torch" in sys.modules:
            from inranker_flow.rankers.devices import device_name

            with _into(self.run_id, "keep the device"):
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
                    with _into(run_id, f"keep {key}.html"):
                        log_file(run_id, path, f"{key}.html")
            elif (path / "manifest.json").is_file():
                with _into(self.run_id, "keep a digest"):
                    self._client.set_tag(self.run_id, metric_name(f"digest.{key}"), read_manifest(path).content)


@contextmanager
def stage_run(stage: str, dataset: str = "") -> Iterator[StageRun]:
    """The MLflow run of one stage; marked FINISHED, or FAILED when the body raises."""
    mlflow_client = client()
    injected = os.environ.get("MLFLOW_RUN_ID", "")
    tags = {"inranker.stage": stage, "inranker.dataset": dataset, "inranker.code": code_version()}
    if injected:
        with explained(f"write into run {injected} (MLFLOW_RUN_ID)"):
            for key, value in tags.items():
                mlflow_client.set_tag(injected, key, value)
        stage_here = StageRun(mlflow_client, injected, "")
        with _logging_into(injected), _ending(mlflow_client, stage_here):
            yield stage_here
        return
    parent = os.environ.get("INRANKER_PARENT_RUN_ID", "") or _kfp_parent(mlflow_client, own_parent())
    if parent:
        tags["mlflow.parentRunId"] = parent
    name = f"{stage} {dataset}".strip()
    with explained(f"start the run {name}"):
        run_id = mlflow_client.create_run(experiment_id(mlflow_client), tags=tags, run_name=name).info.run_id
    try:
        stage_here = StageRun(mlflow_client, run_id, parent)
        with _logging_into(run_id), _ending(mlflow_client, stage_here):
            yield stage_here
    except BaseException:
        with suppress(Exception):  # a server that has gone must not hide why the stage failed
            mlflow_client.set_terminated(run_id, "FAILED")
        raise
    with _into(run_id, "mark the end"):
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
        raise
    with _into(run_id, "mark the end"):
        mlflow_client.set_tag(run_id, ENDED, stage_here.ending)


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
    begun: Future[Any] | None = None
    try:
        experiment = experiment_id(mlflow_client)
        with explained(f"start the run {name}"), ThreadPoolExecutor(1) as beside:
            # A signal interrupts this thread and not that one: a run that MLflow has begun has an id here, and gets an end.
            begun = beside.submit(mlflow_client.create_run, experiment, tags=tags, run_name=name)
            run_id = begun.result().info.run_id
            mlflow_client.log_dict(run_id, _hidden(dict(parameters)), "parameters.json")
        StageRun(mlflow_client, run_id, "").log_config(parameters)
        os.environ["INRANKER_PARENT_RUN_ID"] = run_id
        yield run_id
    except BaseException:
        with suppress(Exception):  # as in `stage_run`
            if begun:
                mlflow_client.set_terminated(begun.result().info.run_id, "FAILED")
            close_killed(local_run())
        raise
    finally:
        os.environ.pop("INRANKER_PARENT_RUN_ID", None)
    with _into(run_id, "mark the end"):
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
    mlflow_client = client()
    with _into(run_id, "keep the plan"):
        mlflow_client.log_dict(run_id, _hidden(dict(plan)), "plan.json")
        mlflow_client.log_batch(run_id, metrics=_metrics({f"planned.{k}": v for k, v in promised.items()}))


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


@dataclass(frozen=True)
class End:
    """How a stage of a pipeline run ended last; ``dataset`` may be "". ``left_out``: it ended well, without its target."""

    stage: str
    dataset: str
    failed: bool
    reason: str
    left_out: bool = False


def ends_of(parent: str) -> list[End]:
    """How the stages below the run ``parent`` ended, each collection's last attempt; those that have not are left out."""
    if not parent:
        return []
    mlflow_client = client()
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
    for run in found:
        tags = run.data.tags
        said[tags.get("inranker.stage", ""), tags.get("inranker.dataset", "")] = tags.get(ENDED, "")
    parted = {key: text.partition(": ") for key, text in said.items() if text and key[0]}
    return [End(*key, word == "FAILED", reason, word == _LEFT_OUT_END) for key, (word, _, reason) in parted.items()]


def note_left_out(parent: str, targets: Mapping[str, str]) -> None:
    """Tag the run ``parent`` with the ``targets`` (name -> why) that its student was trained without."""
    if parent and targets:
        room = 3000 // len(targets)  # MLflow takes 5,000 characters
        data = {name: redaction.line(why, room) for name, why in targets.items()}
        with _into(parent, "keep the targets that were left out"):
            client().set_tag(parent, LEFT_OUT, json.dumps(data, ensure_ascii=False))


def left_out_of(parent: str) -> dict[str, str]:
    """Targets of the run ``parent`` that were left out, and why: as its stages said, else as `promote` kept it."""
    if not parent:
        return {}
    found = {each.dataset: each.reason for each in ends_of(parent) if each.left_out}
    with explained(f"read run {parent}"):
        return found or _left_out_tag(client().get_run(parent))


def left_out_by_kfp_run() -> dict[str, list[str]]:
    """Id of each KFP run of the experiment that went without targets -> their names."""
    mlflow_client = client()
    with explained("look for runs without some of their targets"):
        runs = mlflow_client.search_runs(
            [experiment_id(mlflow_client)], filter_string=f"tags.`{LEFT_OUT}` LIKE '{{%'", max_results=1000
        )
    return {run.data.tags[KFP_RUN]: list(_left_out_tag(run)) for run in runs if KFP_RUN in run.data.tags}


def _left_out_tag(run: Any) -> dict[str, str]:
    return dict(json.loads(run.data.tags.get(LEFT_OUT) or "{}"))


def note_end(stage: str, failure: str = "") -> None:
    """Tag the parent run with the end of a stage that has no run of its own; ``failure`` says why it failed."""
    parent = parent_here()
    if parent:
        with _into(parent, f"keep the end of {stage}"):
            text = f"FAILED: {redaction.line(failure, 1000)}" if failure else "FINISHED"
            client().set_tag(parent, f"{ENDED}.{stage}", text)


def parent_here() -> str:
    """Id of the run that stands for this pod's KFP run, ours or the one of KFP's plugin; "" where there is none."""
    injected, own = os.environ.get("MLFLOW_RUN_ID", ""), own_parent()
    if not configured_uri() or not (injected or own):
        return ""
    return parent_of(injected) if injected else parent_of_kfp(own)


def page(run_id: str) -> str:
    """The page of a run in MLflow's UI; "" where no browser finds it (a database, a service's name) or nothing may show it."""
    uri = configured_uri().rstrip("/")
    if not run_id or not uri.startswith("http") or web.is_inside_cluster(uri) or redaction.credentials_in(uri):
        return ""
    mlflow_client = client()
    with explained(f"read run {run_id}"):
        return f"{uri}/#/experiments/{mlflow_client.get_run(run_id).info.experiment_id}/runs/{run_id}"


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
    tags = {KFP_RUN: kfp_run_id, "inranker.code": code_version()}
    if address := kfp_run.page(kfp_run_id):
        tags["mlflow.note.content"] = f"[The run in Kubeflow Pipelines]({address})"
    experiment = experiment_id(mlflow_client)
    with explained(f"start the run {name}"):
        if run_id:
            mlflow_client.update_run(run_id, status="RUNNING")
            return run_id
        return str(mlflow_client.create_run(experiment, tags=tags, run_name=name).info.run_id)


def close_parent(kfp_run_id: str, status: str, name: str = "") -> None:
    """Give the parent run of a KFP run, where there is one, its end (FINISHED, FAILED, KILLED) and its real name."""
    mlflow_client = client()
    run_id = _kfp_parent(mlflow_client, kfp_run_id)
    if run_id:
        with _into(run_id, "mark the end"):
            if name:
                mlflow_client.update_run(run_id, name=redaction.redact(name))
            mlflow_client.set_terminated(run_id, status)


def _kfp_parent(mlflow_client: Any, kfp_run_id: str) -> str:
    if not kfp_run_id:
        return ""
    experiment = experiment_id(mlflow_client)
    with explained(f"look for the run of KFP's run {kfp_run_id}"):
        found = mlflow_client.search_runs(
            [experiment], filter_string=f"tags.`{KFP_RUN}` = '{kfp_run_id}'", max_results=1
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


def _hidden(data: Any) -> Any:
    """The same data with every secret in its texts replaced."""
    if isinstance(data, Mapping):
        return {key: _hidden(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_hidden(value) for value in data]
    return redaction.redact(data) if isinstance(data, str) else data


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    rest = iter(items)
    while part := list(itertools.islice(rest, _BATCH)):
        yield part


#: The parameters of a measure: ``(rel=2)`` of P(rel=2)@10.
_PARAMETERS = re.compile(r"(?<=\w)\(([\w.=,'\"-]*)\)(?=[@/]|$)")


def metric_name(name: str) -> str:
    """A name that MLflow takes, recognisable in its charts; other names stay different ones.

    nDCG@10 becomes nDCG_at_10, and P(rel=2)@10 becomes P_rel_2_at_10. MLflow refuses @ = ( ) and most other signs, names
    that are no tidy path, and long ones.
    """
    plain = _PARAMETERS.sub(lambda found: "_" + re.sub(r"[=,'\"]+", "_", found[1]).strip("_"), name).replace(
        "@", "_at_"
    )
    key = re.sub(r"[^/\w.\- :]", "_", plain)
    if posixpath.normpath(key) != key or key.startswith(("/", "..")) or key == ".":
        key = re.sub(r"^[./]+|/", "_", key) or "_"
    if key == plain and len(key) <= _NAME_LENGTH:
        return key
    return f"{key[: _NAME_LENGTH - 9]}_{sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
