"""The connection to MLflow: its address, its client, and the experiment that runs are in.

The server is ``MLFLOW_TRACKING_URI``, by default MLflow's own (SQLite). Only :class:`mlflow.MlflowClient` is used, because
the fluent API may overwrite an injected parent (mlflow#15713).
"""

from __future__ import annotations

import logging
import re
import shlex
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from inranker_flow import redaction
from inranker_flow.environment import changes, mounted, variables
from inranker_flow.errors import UserError
from inranker_flow.storage.local import disk_errors
from inranker_flow.tracking.mlflow_errors import explained

#: MLflow's own defaults retry a dead server for more than four minutes. A server that has not answered yet gets seconds;
#: one that has is waited for, because what it is to record took long. What a person has set decides in both cases.
_FIRST = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    # A request that writes is a request that reads once it was redirected; so a redirect is an address to correct.
    "MLFLOW_ALLOW_HTTP_REDIRECTS": "false",
}
_LATER = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3", "MLFLOW_HTTP_REQUEST_TIMEOUT": "60"}

#: Tag of an experiment: MLflow's UI opens it where its runs and models are, and not among traces of prompts.
KIND = ("mlflow.experimentKind", "custom_model_development")

#: Addresses that have answered in this process.
_answered: set[str] = set()
_asking = threading.Lock()


def database_uri(path: Path) -> str:
    """Return the address of MLflow's SQLite database at ``path``, whatever characters are in it; the one place that writes
    such."""
    name = str(path.expanduser().absolute())
    # MLflow makes the folders of an address as they are written, encoded or not: only what must be is encoded, and then
    # the driver is named, for which it makes none.
    odd = "%" in name or "?" in name
    return f"sqlite{'+pysqlite' if odd else ''}:///{name.replace('%', '%25').replace('?', '%3F')}"


def load() -> Any:
    """Import and return MLflow, which is told first what it reads while it is imported."""
    changes.default("MLFLOW_DISABLE_TELEMETRY", "true")
    changes.default("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    changes.default("GIT_PYTHON_REFRESH", "quiet")
    import mlflow

    return mlflow


def client() -> Any:
    """Return an :class:`mlflow.MlflowClient` for the configured server or database, which has answered once.

    MLflow's own client asks, so credentials, certificates and proxies are those that it knows. Raises
    :class:`UserError` in one line, within seconds, where nothing or something else answers.
    """
    mounted.forget_blanks()
    mlflow = load()
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
    told = variables.everything()
    values = {
        name: first if told.get(name) in (None, _LATER.get(name)) else told[name] for name, first in _FIRST.items()
    }
    try:
        with changes.temporarily(values):
            yield
    finally:
        for name, value in _LATER.items():
            changes.default(name, value)


def _first_answer(mlflow_client: Any, uri: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        mlflow_client.search_experiments(max_results=1)
    except MlflowException as error:
        if not re.search(r"error code 30[78]\b", str(error)) or variables.follows_redirects():
            raise
        # These two keep what is asked.
        changes.put("MLFLOW_ALLOW_HTTP_REDIRECTS", "true")
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
            f"MLFLOW_TRACKING_URI: {uri} names no file, so nothing would be kept; give sqlite:////FOLDER/mlflow.db",
            code="registry-address",
        )
    path = Path(name)
    if path.is_dir():
        raise UserError(
            f"MLFLOW_TRACKING_URI: {path} is a folder; give the database's file, such as {path}/mlflow.db",
            code="registry-address",
        )
    if not path.exists():
        folder = next(each for each in path.absolute().parents if each.exists())
        if not folder.is_dir():
            raise UserError(
                f"MLFLOW_TRACKING_URI: {path} cannot be made: {folder} is a file; give another path",
                code="registry-address",
            )
        try:  # what a file system says of rights is no promise: /proc, a mount for reading alone
            with tempfile.NamedTemporaryFile(dir=folder, prefix=".mlflow-"):
                return
        except OSError as error:
            raise UserError(
                f"MLFLOW_TRACKING_URI: {path} cannot be made in {folder}: {error.strerror}; give another path",
                code="registry-address",
            ) from error
    if not path.is_file():
        raise UserError(f"MLFLOW_TRACKING_URI: {path} is no file; give the database's file", code="registry-address")
    opened = sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True, timeout=3)
    try:
        opened.execute("SELECT count(*) FROM sqlite_master").fetchone()
    finally:
        opened.close()


def create_database(path: Path) -> str:
    """Make MLflow's SQLite database at ``path``, aside and renamed; return its URI.

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


def experiment_id(mlflow_client: Any) -> str:
    """Return the experiment that KFP injected, else ``MLFLOW_EXPERIMENT_NAME`` or "inranker", made on first use.

    Raises :class:`UserError` where it was deleted: MLflow keeps it, and its name, and takes no run for it.
    """
    from mlflow.exceptions import MlflowException

    injected = variables.injected_experiment()
    name = variables.experiment()
    if injected:
        with explained(f"find the experiment {injected} (MLFLOW_EXPERIMENT_ID)"):
            return _usable(mlflow_client.get_experiment(injected))
    with explained(f"read or create the experiment {name}"):
        found = mlflow_client.get_experiment_by_name(name)
        if found is not None:
            return _usable(found)
        # With a database instead of a server, artifacts go where the caller says; a server decides for itself.
        location = variables.artifact_root()
        try:
            return str(mlflow_client.create_experiment(name, artifact_location=location, tags=dict([KIND])))
        except MlflowException:  # another process was first, or it is refused
            found = mlflow_client.get_experiment_by_name(name)
            if found is None:
                raise
            return _usable(found)


def mark_kind(mlflow_client: Any, experiment: str) -> None:
    """Tag an experiment that another made, such as KFP's plugin, with its kind, where it has none and that is allowed."""
    with suppress(Exception):
        if KIND[0] not in mlflow_client.get_experiment(experiment).tags:
            mlflow_client.set_experiment_tag(experiment, *KIND)


def _usable(experiment: Any) -> str:
    """Return the id of an experiment; :class:`UserError` for a deleted one, or what is none."""
    import mlflow

    uri = redaction.redact(mlflow.get_tracking_uri())
    if not experiment.experiment_id:
        raise UserError(
            f"MLFLOW_TRACKING_URI: what answers at {uri} is no MLflow: it gave an experiment without id",
            code="registry-misbehaves",
        )
    if experiment.lifecycle_stage == "deleted":
        raise UserError(
            f"MLflow's experiment {experiment.name} is deleted: bring it back (MLFLOW_TRACKING_URI={shlex.quote(uri)} mlflow "
            f"experiments restore --experiment-id {experiment.experiment_id}), or set MLFLOW_EXPERIMENT_NAME to another",
            code="experiment-deleted",
        )
    return str(experiment.experiment_id)
