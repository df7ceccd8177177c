"""MLflow databases for tests: one is migrated in a process, which takes seconds, and the others are copies of it."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

from inranker_flow.tracking import connection
from tests import models


@cache
def _empty() -> Path:
    from mlflow.store.db import utils

    # With each database that MLflow opens it reads all of its migrations, for the number of the newest: a tenth of a second.
    utils._get_latest_schema_revision = cache(utils._get_latest_schema_revision)
    path = models.folder() / "mlflow.db"
    connection.create_database(path)
    return path


def new_database(path: Path) -> str:
    """What `connection.create_database` makes at ``path``; returns its address."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(_empty(), path)
    return connection.database_uri(path)
