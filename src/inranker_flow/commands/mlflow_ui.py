"""`make mlflow`: MLflow's UI on the database of the local runs, on this machine alone."""

from __future__ import annotations

import os
import sys

from inranker_flow.commands import folder
from inranker_flow.commands.command import Parser, command
from inranker_flow.environment import changes, variables
from inranker_flow.errors import UserError
from inranker_flow.tracking import connection


@command
def main(arguments: list[str] | None = None) -> int:
    """Become MLflow's server; returns only where there is nothing to show."""
    parser = Parser("inranker mlflow")
    parser.add_argument("--run-dir", default=str(folder.DEFAULT))
    database = folder.checked(parser.parse_args(arguments).run_dir) / "mlflow.db"
    if not database.is_file():
        raise UserError(
            f"RUN_DIR: no local run has made {database}; make run makes it, or give another RUN_DIR",
            code="registry-unset",
        )
    folder.check_database(database)
    uri = connection.database_uri(database)
    print(f"MLflow's UI on {database}, at http://127.0.0.1:5000/#/experiments{_experiment(uri)}", flush=True)
    # One person looks: MLflow's own four workers and its processes for jobs take a minute and a gigabyte.
    changes.default("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    shown = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--workers", "1", "--backend-store-uri", uri]
    os.execv(sys.executable, shown)


def _experiment(uri: str) -> str:
    """Return the rest of the address that opens the runs' experiment among runs and models; "" where there is none yet."""
    client = connection.load().MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name(variables.experiment())
    if found is None:
        return ""
    connection.mark_kind(client, found.experiment_id)
    return f"/{found.experiment_id}/runs?workflowType=machine_learning"
