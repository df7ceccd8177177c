"""`make mlflow`: MLflow's UI on the database of the local runs, on this machine alone."""

from __future__ import annotations

import os
import sys

from inranker_flow.commands import folder
from inranker_flow.commands.command import Parser, command
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
    print(f"MLflow's UI on {database}", flush=True)
    shown = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--backend-store-uri", uri]
    os.execv(sys.executable, shown)
